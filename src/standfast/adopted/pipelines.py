"""psycopg's pipelines, in which a statement is answered later, and until then with nothing."""

from __future__ import annotations

from typing import Any

from standfast.errors import ConfigurationError


def refuse_pipeline(driver: Any) -> None:
    """Raise `ConfigurationError` if `driver` is a connection of psycopg in pipeline mode."""
    if getattr(getattr(driver, "pgconn", None), "pipeline_status", 0):
        raise ConfigurationError(
            "adopt(…): the connection is in pipeline mode, in which a statement isn't answered at "
            "once: do this outside of `with connection.pipeline():`"
        )
