"""``standfast run``: the services of an app, until a signal ends them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

from standfast.app import Standfast
from standfast.cli.health import observe, serving
from standfast.cli.leaving import run_and_leave
from standfast.cli.loading import load_app, must_be_there
from standfast.cli.output import note
from standfast.coordination.service import ServiceOptions
from standfast.coordination.signals import until_signalled
from standfast.coordination.supervisor import Supervisor
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, StandfastError
from standfast.text import class_name, on_one_line, printable, told

log = logging.getLogger("standfast")

WHOSE = re.compile(r"standfast: (.+ failed at its start)")
"""The note that the library adds to an error, so that one knows which part of the app raised it."""


def run(target: str, *, migrate: bool, log_level: str, health: str | None, **options: Any) -> None:
    """Run what was added to an app. `options` as in `Standfast.running`."""
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise ConfigurationError(f"--log-level {log_level!r}: choose debug, info, warning or error")
    handler = logging.StreamHandler()
    handler.setFormatter(Printable("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    # Which leaves alone what is there already: under manage.py, what settings.LOGGING says.
    logging.basicConfig(level=level, handlers=[handler])
    for name in ("lease", "drain", "poll"):
        options[name] = duration(options[name])
    drain = seconds(options["drain"], name="drain", positive=False)
    app = load_app(target)
    _must_be_services(app, options["only"])
    if migrate:
        app.migrate = True
    elif app.migrate is None and app.database.capabilities.durable:
        app.migrate = False
    if not app.migrate:
        must_be_there(app.database)
    run_and_leave(until_signalled(_working(app, health, options), drain=drain), _loop_factory())


class Printable(logging.Formatter):
    """Spells out what a terminal would obey: what is logged has texts of others in it."""

    def format(self, record: logging.LogRecord) -> str:
        """As text of one line or several."""
        return printable(super().format(record))


def duration(text: str) -> Duration:
    """A duration as it was typed: a plain number is in seconds."""
    try:
        return float(text)
    except ValueError:
        return text


def _must_be_services(app: Standfast, only: Collection[str]) -> None:
    """Raise `ConfigurationError` where the app has no services, or none of a name in `only`."""
    names = [service.name for service in app.patterns.services(ServiceOptions(), ())]
    for name in only:
        if name not in names:
            raise ConfigurationError(
                f"--only {name!r}: there is no such service; this app has {', '.join(names)}. For "
                "several, repeat the option: --only NAME --only NAME"
            )


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
    async with AsyncExitStack() as stack:
        if health is not None:
            # The app knows its supervisor until the stop is over; `begun` tells while it closes.
            url = stack.enter_context(
                serving(health, lambda: observe(begun or app.supervisor, lease))
            )
            note(f"health: {url}/healthz and {url}/readyz")
        try:
            begun = await stack.enter_async_context(app.running(**options))
        except Exception as error:  # a user's service or pattern may raise anything
            whose = _whose(error)
            if isinstance(error, StandfastError) and not whose:
                raise
            said = on_one_line(f"{class_name(error)}: {told(error)}")
            raise StandfastError(
                f"{whose or 'the app failed at its start'}: {said.removesuffix(':')} "
                "(standfast --debug … shows where)"
            ) from error
        yield begun


def _whose(error: Exception) -> str:
    """Which part of the app raised it, as the library noted; "" where it didn't."""
    for text in getattr(error, "__notes__", ()):
        found = WHOSE.fullmatch(text)
        if found:
            return found[1]
    return ""
