"""Standfast beside Alembic: ``alembic revision --autogenerate`` leaves its tables alone."""

from __future__ import annotations

from collections.abc import Mapping


def include_name(name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
    """Whether Alembic is to look at what has this name in the database: not at Standfast's tables.

    They stand in no model, so that autogenerate would write a revision that drops them. Give it to
    ``context.configure(include_name=include_name, …)``, or ask it in a function of your own. It
    leaves out the schema ``standfast`` of PostgreSQL, and tables named ``standfast_…``, which
    SQLite has in its place.
    """
    if type_ == "schema":
        return name != "standfast"
    if type_ == "table":
        return not (name or "").startswith("standfast_")
    return True
