"""What ``manage.py check`` tells: settings, tables, and sagas that nobody added."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from asgiref.sync import async_to_sync
from django.apps import AppConfig, apps
from django.core import checks
from django.core.checks import CheckMessage, Error, Info
from django.db import connections

from standfast.errors import ConfigurationError, DefinitionError, StandfastError
from standfast.integrations.django.current import CurrentApp, alias, app, given
from standfast.saga import Saga


def check_settings(
    app_configs: Sequence[AppConfig] | None = None, **_: Any
) -> Sequence[CheckMessage]:
    """Whether the app can be made of the settings, and all sagas were added."""
    try:
        current().current()
    except (ConfigurationError, DefinitionError) as error:
        return [Error(str(error), id="standfast.E001")]
    return [*_forgotten(), *_deferred()]


def check_tables(databases: Sequence[str] | None = None, **_: Any) -> Sequence[CheckMessage]:
    """Whether the tables are there: with ``manage.py check --database ALIAS``, and `migrate`."""
    try:
        if alias() not in (databases or ()):
            return []
        made = current().current()
    except (ConfigurationError, DefinitionError):
        return []  # told by `check_settings`
    from standfast.cli.loading import reading
    from standfast.integrations.django.project import InMemoryDatabase

    async def look() -> None:
        async with reading(made.database, made.patterns.ports):
            pass

    if isinstance(made.database, InMemoryDatabase):
        return []
    try:
        async_to_sync(look)()
    except StandfastError as error:
        hint = "manage.py standfast migrate, or manage.py migrate if its revisions make them"
        return [checks.Warning(str(error), hint=hint, id="standfast.W002")]
    return []


def check_requests(
    app_configs: Sequence[AppConfig] | None = None, **_: Any
) -> Sequence[CheckMessage]:
    """Whether views have a transaction to adopt without asking for one."""
    try:
        found = alias()
    except ConfigurationError:
        return []  # told by `check_settings`
    if connections.settings[found].get("ATOMIC_REQUESTS"):
        return []
    text = f"Views have no transaction on {found!r} by themselves."
    hint = (
        "Adopt inside `with transaction.atomic():`, or set ATOMIC_REQUESTS: then each sync view "
        "has one, and app.adopt() rides it."
    )
    return [Info(text, hint=hint, id="standfast.I004")]


def current() -> CurrentApp:
    """The app as what it is, rather than as what it stands for."""
    found: Any = app
    return found  # type: ignore[no-any-return]


def _forgotten() -> Iterator[CheckMessage]:
    """Sagas in a module that is looked through, and that nobody added."""
    added = {type(part) for part in current().parts}
    named = [f"{config.name}.sagas" for config in apps.get_app_configs()]
    for name in (*named, *given().get("SAGAS", ())):
        for kind in vars(sys.modules.get(name, object)).values():
            if (
                isinstance(kind, type)
                and issubclass(kind, Saga)
                and kind.__module__ == name
                and not any(issubclass(one, kind) for one in added)
            ):
                yield checks.Warning(
                    f"{name}.{kind.__name__} is a saga, and was never added.",
                    hint=f"Write app.add({kind.__name__}(…)) in {name}.",
                    id="standfast.W001",
                )


def _deferred() -> Iterator[CheckMessage]:
    """SQLite transactions that begin as readers."""
    found = connections.settings[alias()]
    if connections[alias()].vendor != "sqlite":
        return
    if str(found.get("OPTIONS", {}).get("transaction_mode") or "").upper() == "IMMEDIATE":
        return
    yield checks.Warning(
        "On SQLite a transaction that begins by reading can't always write afterwards: it fails "
        "with 'database is locked' when a worker wrote meanwhile.",
        hint='Set DATABASES[…]["OPTIONS"] = {"transaction_mode": "IMMEDIATE"} (Django 5.1).',
        id="standfast.W003",
    )
