"""The rows of sagas as a model that nobody migrates: for the admin, and for looking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db import connections, models

from standfast.errors import ConfigurationError
from standfast.integrations.django.current import alias
from standfast.saga.status import STATUSES


class InstanceId(models.Field):  # type: ignore[type-arg]
    """A UUID as the journal keeps it: PostgreSQL's own type, and 16 bytes on SQLite."""

    def from_db_value(self, value: Any, *_: Any) -> UUID | None:
        """See `Field.from_db_value`."""
        return UUID(bytes=bytes(value)) if isinstance(value, bytes) else value

    def to_python(self, value: Any) -> UUID | None:
        """See `Field.to_python`."""
        return value if value is None or isinstance(value, UUID) else UUID(str(value))

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        """See `Field.get_db_prep_value`."""
        id = self.to_python(value)
        return id.bytes if id is not None and connection.vendor == "sqlite" else id


def _refused(act: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ConfigurationError(
            f"Instance, {act}: sagas are only read through it, for their rows, journal and mail "
            "belong together. What acts on them is app.adopt() and app.blocking (start, signal, "
            "cancel), app.operations, and `manage.py standfast sagas`"
        )

    refuse.__name__, refuse.__doc__ = act, "Raise `ConfigurationError`: sagas are only read here."
    return refuse


class ReadOnly(models.QuerySet["Instance"]):
    """What can be asked of instances: all that a `QuerySet` can, but writing."""

    create = _refused("create")
    bulk_create = _refused("bulk_create")
    bulk_update = _refused("bulk_update")
    get_or_create = _refused("get_or_create")
    update_or_create = _refused("update_or_create")
    update = _refused("update")
    delete = _refused("delete")
    # Django's async ones call these, and so do its deletions in bulk.
    _update = _refused("update")
    _raw_delete = _refused("delete")


class Instances(models.Manager.from_queryset(ReadOnly)):  # type: ignore[misc]
    """The instances in the app's own database, whatever routers say."""

    def get_queryset(self) -> models.QuerySet[Instance]:
        """See `Manager.get_queryset`."""
        found: models.QuerySet[Instance] = super().get_queryset().using(alias())
        return found


def _table() -> str:
    try:
        on_postgres = connections[alias()].vendor == "postgresql"
    except ConfigurationError:
        on_postgres = False  # `check_settings` tells of it, which imports this first
    # Django leaves a name in quotes as it is.
    return '"standfast"."instances"' if on_postgres else "standfast_instances"


class Instance(models.Model):
    """One saga that was started. Only to be read: what changes it goes through the app."""

    id = InstanceId(primary_key=True)
    name: models.TextField[str, str] = models.TextField("saga")
    version: models.IntegerField[int, int] = models.IntegerField()
    key: models.TextField[str, str] = models.TextField()
    status: models.TextField[str, str] = models.TextField(
        choices=[(word, word) for word in STATUSES]
    )
    step: models.TextField[str, str] = models.TextField()
    cause: models.TextField[str, str] = models.TextField()
    correlation_id: models.TextField[str, str] = models.TextField()
    created_at: models.FloatField[float, float] = models.FloatField()
    updated_at: models.FloatField[float, float] = models.FloatField()
    finished_at: models.FloatField[float | None, float | None] = models.FloatField(null=True)

    objects = Instances()
    save = _refused("save")
    save_base = _refused("save")
    delete = _refused("delete")

    class Meta:
        """Nothing of it is Django's to make."""

        managed = False
        base_manager_name = "objects"
        db_table = _table()
        default_permissions = ("view",)
        ordering = ("-id",)
        verbose_name = "saga"

    def __str__(self) -> str:
        return f"{self.name}/{self.key}"
