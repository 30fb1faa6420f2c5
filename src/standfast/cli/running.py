"""``standfast run``: the services of an app, until a signal ends them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

from standfast.app import Standfast
from standfast.cli.health import observe, serving
from standfast.cli.loading import load_app, must_be_there
from standfast.cli.output import note
from standfast.coordination.signals import until_signalled
from standfast.coordination.supervisor import Supervisor
from standfast.durations import seconds
from standfast.errors import ConfigurationError

log = logging.getLogger("standfast")


def run(target: str, *, migrate: bool, log_level: str, health: str | None, **options: Any) -> None:
    """Run what was added to an app. `options` as in `Standfast.running`."""
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise ConfigurationError(f"--log-level {log_level!r}: choose debug, info, warning or error")
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True
    )
    app = load_app(target)
    if migrate:
        app.migrate = True
    elif app.migrate is None and app.database.capabilities.durable:
        app.migrate = False
    if not app.migrate:
        must_be_there(app.database)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(until_signalled(_working(app, health, options)))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The event loop of uvloop where it is installed, else asyncio's own."""
    try:
        uvloop = import_module("uvloop")
    except ImportError:
        log.debug("the event loop is asyncio's own; the extra `uvloop` brings a faster one")
        return None
    log.debug("the event loop is uvloop's")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@asynccontextmanager
async def _working(
    app: Standfast, health: str | None, options: dict[str, Any]
) -> AsyncIterator[Supervisor]:
    """The app at work, and the health server from before it begins until after it has drained."""
    lease = seconds(options["lease"], name="lease")
    begun: Supervisor | None = None
    with ExitStack() as stack:
        if health is not None:
            # The app knows its supervisor while it works, and forgets it when it begins to drain.
            url = stack.enter_context(
                serving(health, lambda: observe(begun or app.supervisor, lease))
            )
            note(f"health: {url}/healthz and {url}/readyz")
        async with app.running(**options) as begun:
            yield begun
