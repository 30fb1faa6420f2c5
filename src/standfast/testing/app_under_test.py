"""A test's app: how it is made, how it works around a test, and what a failed one tells of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from standfast.affinity import not_open
from standfast.app import Standfast
from standfast.clock import Clock
from standfast.errors import ConfigurationError, StandfastError
from standfast.ports.journal import Filter, Instance
from standfast.testing.assertions import story_of

MOST = 20
"""Sagas whose timelines a failed test shows, the newest."""


def made(factory: Any, url: str, clock: Clock) -> Standfast:
    """The app that a user's function makes. Fails the test where it makes another thing."""
    try:
        inspect.signature(factory).bind(url, clock)
    except (TypeError, ValueError) as error:
        pytest.fail(
            f"standfast_app_factory returned {factory!r}, which can't be called with a database's "
            f"address and a clock ({error}): return a function, as in lambda url, clock: "
            "Standfast(url, clock=clock, migrate=True).add(…)",
            pytrace=False,
        )
    app = factory(url, clock)
    if not isinstance(app, Standfast):
        pytest.fail(
            f"the function that standfast_app_factory returned made {app!r}: it is to return a "
            "Standfast(…)",
            pytrace=False,
        )
    if _place(app.database.url) != _place(url):
        from standfast.backends.postgres.options import redact  # not for tests that need none of it

        pytest.fail(
            f"standfast_app_factory was given the database {redact(url)} and "
            f"made an app on {app.database.url}: make it on the one that it is given",
            pytrace=False,
        )
    return app


def _place(url: str) -> tuple[str | None, int | None, str]:
    """What an address names, whatever its options are."""
    parts = urlsplit(url)
    return parts.hostname, parts.port, parts.path


def note_what_to_do(app: Standfast, error: BaseException) -> None:
    """Add to an error of the library's own what it can't know: that the app is a test's."""
    if not isinstance(error, ConfigurationError):
        return
    if f"{error}" == f"{not_open()}":
        error.add_note(
            "standfast_app is open while an `async def` test runs. In a fixture, `async with "
            "standfast_app.transaction() as tx:` opens it for a while, for `tx.start(…)` say; a "
            "`def` fixture takes standfast_app.blocking"
        )
    elif not app.sagas.definitions.by_kind:
        error.add_note(
            "standfast_app has no sagas: override the fixture `standfast_sagas` in conftest.py "
            "with one that returns yours, as in [PlaceOrder()]"
        )


def within(
    app: Standfast, test: Callable[..., Any], tell: Callable[[str], None], *, examples: bool
) -> Callable[..., Any]:
    """A test's coroutine function, with the app at work around it.

    `tell` is given the stories of a failed one's sagas. `examples`: it is called several times.
    """

    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pytest.fail("standfast needs asyncio: run this test on no other backend", pytrace=False)
        async with app.running(name="pytest", drain=1.0):
            # Hypothesis calls this for each example, in one database: the last's are told.
            before = {one.id for one in await newest(app)} if examples else ()
            try:
                return await test(*args, **kwargs)
            except (Exception, pytest.fail.Exception) as error:
                tell(await stories(app, before, error))
                raise

    return run


async def newest(app: Standfast) -> list[Instance]:
    """The newest sagas of an app, one more than are told."""
    return await app.sagas.journal.find(Filter(), limit=MOST + 1)


async def stories(app: Standfast, before: Collection[UUID], error: BaseException) -> str:
    """The timelines of the app's sagas, oldest first: of those that weren't there `before`, and
    that `error` doesn't tell already.
    """
    try:
        async with asyncio.timeout(5):
            found = [one for one in await newest(app) if one.id not in before]
            untold = [one for one in found if f"({one.id})\n" not in f"{error}"]
            told = [story_of(await app.sagas.timeline(one.id)) for one in untold[:MOST]]
    except Exception as problem:  # noqa: BLE001 - the test's own failure is what counts
        return f"they can't be read: {type(problem).__name__}: {problem}"
    if len(untold) > MOST:
        told.append(f"(and those before the newest {MOST})")
    if not found:
        return "none was started"
    return "\n\n".join(reversed(told))


def stories_of_sync_code(app: Standfast, error: BaseException) -> str:
    """As `stories`, for a test that has no event loop."""
    try:
        return app.blocking.complete(stories(app, (), error))
    except StandfastError as problem:
        return f"they can't be read: {problem}"
