"""What a test asserts of a saga's end. What fails tells the saga's whole story."""

from __future__ import annotations

from typing import NoReturn

from standfast.durations import Duration
from standfast.errors import ConfigurationError, SagaCompensated, SagaParked
from standfast.saga.handle import SagaHandle, SagaResult
from standfast.saga.saga import S
from standfast.saga.timeline import Timeline


async def assert_completed(handle: SagaHandle[S], *, timeout: Duration = 5.0) -> SagaResult[S]:
    """Wait until the saga has completed, and answer with its steps' results.

    `timeout` is real time, also where a test moves the clock. Raises ``AssertionError`` with the
    saga's timeline where it ends otherwise or isn't at its end by then, `SagaNotFound`, and
    `ConfigurationError` for what is no handle.
    """
    __tracebackhide__ = True
    _check(handle)
    try:
        return await handle.result(timeout)
    except (SagaCompensated, SagaParked, TimeoutError) as error:
        return await _fail(handle, "completed", f"{error}")


async def assert_compensated(
    handle: SagaHandle[S], *, because: str = "", timeout: Duration = 5.0
) -> str:
    """Wait until the saga is undone, and answer with the cause, in which `because` must occur.

    Raises as `assert_completed` does.
    """
    __tracebackhide__ = True
    return await _assert_ended(handle, "compensated", SagaCompensated, because, timeout)


async def assert_parked(
    handle: SagaHandle[S], *, because: str = "", timeout: Duration = 5.0
) -> str:
    """Wait until the saga waits for an operator, and answer with the cause, in which `because`
    must occur.

    Raises as `assert_completed` does.
    """
    __tracebackhide__ = True
    return await _assert_ended(handle, "parked", SagaParked, because, timeout)


async def _assert_ended(
    handle: SagaHandle[S],
    wanted: str,
    error_of: type[SagaCompensated | SagaParked],
    because: str,
    timeout: Duration,
) -> str:
    __tracebackhide__ = True
    _check(handle)
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


def _check(handle: object) -> None:
    __tracebackhide__ = True
    if not isinstance(handle, SagaHandle):
        raise ConfigurationError(
            f"{handle!r} isn't a SagaHandle: give what `await app.start(…)` answers, or "
            "`await app.saga(SAGA, KEY)`"
        )


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
