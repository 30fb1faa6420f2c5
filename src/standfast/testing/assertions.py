"""What a test asserts of a saga's end. What fails tells the saga's whole story."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar, overload

from standfast.doors.blocking_handle import BlockingSagaHandle
from standfast.durations import Duration
from standfast.errors import ConfigurationError, SagaCompensated, SagaParked
from standfast.saga.handle import SagaHandle, SagaResult
from standfast.saga.saga import S
from standfast.saga.timeline import Timeline

R = TypeVar("R")


@overload
def assert_completed(
    handle: SagaHandle[S], *, timeout: Duration = 5.0
) -> Coroutine[Any, Any, SagaResult[S]]: ...
@overload
def assert_completed(
    handle: BlockingSagaHandle[S], *, timeout: Duration = 5.0
) -> SagaResult[S]: ...
def assert_completed(handle: Any, *, timeout: Duration = 5.0) -> Any:
    """Wait until the saga has completed, and answer with its steps' results.

    To be awaited for a `SagaHandle`; for a `BlockingSagaHandle` it is done at once. `timeout` is
    real time, also where a test moves the clock. Raises ``AssertionError`` with the saga's timeline
    where it ends otherwise or isn't at its end by then, `SagaNotFound`, and `ConfigurationError`
    for what is no handle.
    """
    __tracebackhide__ = True
    return _judged(handle, lambda handle: _completed(handle, timeout))


@overload
def assert_compensated(
    handle: SagaHandle[S], *, because: str = "", timeout: Duration = 5.0
) -> Coroutine[Any, Any, str]: ...
@overload
def assert_compensated(
    handle: BlockingSagaHandle[S], *, because: str = "", timeout: Duration = 5.0
) -> str: ...
def assert_compensated(handle: Any, *, because: str = "", timeout: Duration = 5.0) -> Any:
    """Wait until the saga is undone, and answer with the cause, in which `because` must occur.

    To be awaited, and raises, as `assert_completed`.
    """
    __tracebackhide__ = True
    return _judged(
        handle, lambda handle: _ended(handle, "compensated", SagaCompensated, because, timeout)
    )


@overload
def assert_parked(
    handle: SagaHandle[S], *, because: str = "", timeout: Duration = 5.0
) -> Coroutine[Any, Any, str]: ...
@overload
def assert_parked(
    handle: BlockingSagaHandle[S], *, because: str = "", timeout: Duration = 5.0
) -> str: ...
def assert_parked(handle: Any, *, because: str = "", timeout: Duration = 5.0) -> Any:
    """Wait until the saga waits for an operator, and answer with the cause, in which `because`
    must occur.

    To be awaited, and raises, as `assert_completed`.
    """
    __tracebackhide__ = True
    return _judged(handle, lambda handle: _ended(handle, "parked", SagaParked, because, timeout))


def _judged(handle: object, judge: Callable[[SagaHandle[Any]], Coroutine[Any, Any, R]]) -> Any:
    """What `judge` finds, to be awaited unless the handle is one for sync code."""
    __tracebackhide__ = True
    if isinstance(handle, SagaHandle):
        return judge(handle)
    if not isinstance(handle, BlockingSagaHandle):
        raise ConfigurationError(
            f"{handle!r} isn't a SagaHandle: give what `await app.start(…)` answers, or "
            "`await app.saga(SAGA, KEY)`; in sync code what `app.blocking.start(…)` answers"
        )
    try:
        return handle.complete(judge)
    except AssertionError as error:
        raise error.with_traceback(None) from None  # it ends in the test


async def _completed(handle: SagaHandle[S], timeout: Duration) -> SagaResult[S]:
    __tracebackhide__ = True
    try:
        return await handle.result(timeout)
    except (SagaCompensated, SagaParked, TimeoutError) as error:
        return await _fail(handle, "completed", f"{error}")


async def _ended(
    handle: SagaHandle[S],
    wanted: str,
    error_of: type[SagaCompensated | SagaParked],
    because: str,
    timeout: Duration,
) -> str:
    __tracebackhide__ = True
    try:
        await handle.result(timeout)
        why = "it completed"
    except error_of as error:
        if because in error.cause:
            return error.cause
        wanted, why = f"{wanted} because of {because!r}", f"{error}"
    except (SagaCompensated, SagaParked, TimeoutError) as error:
        why = f"{error}"
    return await _fail(handle, wanted, why)


async def _fail(handle: SagaHandle[S], wanted: str, why: str) -> NoReturn:
    __tracebackhide__ = True
    story = story_of(await handle.timeline())
    raise AssertionError(f"not {wanted}: {why}\n\n{story}") from None


def story_of(timeline: Timeline) -> str:
    """A timeline for the report of a test: how the saga stands, what happened, what it waits for.

    ::

        place-order 'order-7' is compensated (0199…)
          …
    """
    head = f"{timeline.saga} {timeline.key!r} is {timeline.status} ({timeline.id})"
    lines = f"{timeline}".splitlines()
    lines += [f"now: {one.told(timeline.read_at)}" for one in timeline.pending]
    if timeline.problem:
        lines.append(f"the rest can't be read: {timeline.problem}")
    return "\n".join([head, *(f"  {line}" for line in lines)])
