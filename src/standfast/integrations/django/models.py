"""The rows of sagas as a model that nobody migrates: for the admin, and for looking."""

from __future__ import annotations

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


class Instances(models.Manager["Instance"]):
    """The instances in the app's own database, whatever routers say."""

    def get_queryset(self) -> models.QuerySet[Instance]:
        """See `Manager.get_queryset`."""
        return super().get_queryset().using(alias())


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

    class Meta:
        """Nothing of it is Django's to make."""

        managed = False
        db_table = _table()
        default_permissions = ("view",)
        ordering = ("-id",)
        verbose_name = "saga"

    def __str__(self) -> str:
        return f"{self.name}/{self.key}"
