"""Stands between the engine and the user's functions: counts calls, and makes them go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from standfast.errors import Refused
from standfast.groups import some
from standfast.saga.attempt import is_refusal
from standfast.saga.blocking import AsyncFunction
from standfast.saga.context import Context
from standfast.saga.definition import Definition
from standfast.saga.step import Step
from standfast.testing.simulation.call import Call
from standfast.testing.simulation.scene import Scene
from standfast.text import class_of, named, told

FORWARD = (
    ("refused", "refused"),
    ("unknown", "request lost"),
    ("unknown", "answer lost"),
    ("timeout", "timeout before"),
    ("timeout", "timeout after"),
    ("duplicate", "duplicate"),
    ("late", "late"),
)
BACKWARD = (
    ("undo", "request lost"),
    ("undo", "answer lost"),
    ("timeout", "timeout before"),
    ("timeout", "timeout after"),
    ("duplicate", "duplicate"),
    ("late", "late"),
)


class Stage:
    """Where the scene that runs just now is found by the functions that were wrapped once."""

    def __init__(self) -> None:
        self.scene: Scene = None  # type: ignore[assignment]  # set before anything is called


def wrap(definition: Definition, stage: Stage) -> None:
    """Let every action and compensation of a definition go through the scene on stage."""
    for functions in (definition.actions, definition.undos):
        for name, function in functions.items():
            functions[name] = _wrapped(definition.steps[name], function, stage)


def _wrapped(step: Step[Any, Any], function: AsyncFunction, stage: Stage) -> AsyncFunction:
    async def on_stage(saga: Any, input: Any, ctx: Context, *rest: Any) -> Any:
        return await call(stage.scene, step, lambda: function(saga, input, ctx, *rest), ctx)

    return on_stage


UserFunction = Callable[[], Awaitable[Any]]


async def call(scene: Scene, step: Step[Any, Any], function: UserFunction, ctx: Context) -> Any:
    """Call the user's function as a network of its own moods would."""
    one = scene.begin_call(ctx)
    number = scene.tally(f"{one.instance} {one.branch} {one.operation}")
    place = f"{one.branch} {one.operation} {number}"
    try:
        await scene.pass_time(f"{place} begins", one.branch, "crash before the call")
        error = scene.told_to_raise(one, number)
        if one.late and scene.has_refused(one):
            error = Refused("simulated: the participant has said no before")
        if error is not None:
            raise error
        value = await _answered(scene, step, function, one, place, ctx)
        await scene.pass_time(f"{place} ends", one.branch, "crash after the call")
    except BaseException as raised:
        task = asyncio.current_task()
        if isinstance(raised, asyncio.CancelledError) and task is not None and task.cancelling():
            one.ended = "cut off"
            scene.tell(f"{one} was cut off")
            raise
        one.ended = "refused" if is_refusal(raised) else named(raised)
        scene.tell(f"{one} failed: {one.ended}")
        raise
    one.ended = "done"
    scene.tell(f"{one} done{'' if value is None else f' -> {_shown(value)}'}")
    return value


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 — the user's class: the call was made all the same
        return class_of(value)


async def _answered(
    scene: Scene, step: Step[Any, Any], function: UserFunction, one: Call, place: str, ctx: Context
) -> Any:
    fault = _fault(scene, step, one, place, ctx)
    if fault:
        scene.strike(one, fault)
    if fault == "refused":
        raise Refused("simulated: the participant says no")
    if fault == "outage":
        raise ConnectionError("simulated: the participant is down")
    if fault == "request lost":
        raise ConnectionError("simulated: the request was lost")
    if fault == "late":
        delay = 600 * scene.chance.draw(f"{place}: how late") ** 3
        scene.spawn(_arrive_late(scene, function, one, delay))
        raise ConnectionError("simulated: no answer")
    if fault == "timeout before":
        await asyncio.sleep(10**6)
    value = await _perform(scene, function, one)
    if fault == "answer lost":
        raise ConnectionError("simulated: the answer was lost")
    if fault == "timeout after":
        await asyncio.sleep(10**6)
    if fault == "duplicate":
        # Both requests are answered, and either answer may be the one that is heard.
        heard = scene.chance.choose(f"{place}: which answer", 2)
        try:
            second = await _perform(scene, function, one)
        except BaseException as error:
            if heard or some(error, (AssertionError, asyncio.CancelledError)):
                raise
        else:
            value = second if heard else value
    return value


def _fault(scene: Scene, step: Step[Any, Any], one: Call, place: str, ctx: Context) -> str:
    forward = one.operation == "action"
    never = set()
    options = step.options if forward else step.undo_options
    if ctx.deadline is None:
        never |= {"timeout before", "timeout after"}
    if options.get("transactional"):
        never |= {"late", "duplicate"}  # its effect is in the transaction, which comes once
    if not scene.is_untried(one):
        never.add("refused")
    if _is_down(scene, one, place):
        return "outage"
    for kind, name in FORWARD if forward else BACKWARD:
        if name not in never and scene.chance.strikes(kind, f"{place}: {name}"):
            return name
    return ""


def _is_down(scene: Scene, one: Call, place: str) -> bool:
    """Whether the participant can't be reached, for up to half an hour."""
    now, who = scene.loop.elapsed, f"{one.branch} {one.operation}"
    if scene.down_until.get(who, 0.0) > now:
        return not scene.chance.healed
    if not scene.chance.strikes("outage", f"{place}: outage"):
        return False
    scene.down_until[who] = now + 2000 * scene.chance.draw(f"{place}: outage ends") ** 2
    return True


async def _perform(scene: Scene, function: UserFunction, one: Call) -> Any:
    one.began = True
    try:
        value = await function()
    except BaseException as error:
        if some(error, AssertionError):
            scene.violated("assertion", f"in {one}: {told(error) or 'an assertion failed'}")
        raise
    one.returned = True
    scene.touched()
    return value


async def _arrive_late(scene: Scene, function: UserFunction, one: Call, delay: float) -> None:
    late = scene.repeat_call(one)
    await asyncio.sleep(delay)
    if scene.has_refused(one):
        return  # the participant has promised not to do it
    scene.tell(f"the request of {one} arrives late")
    try:
        await _perform(scene, function, late)
        late.ended = "done"
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 — as for any participant: nobody waits for it
        late.ended = named(error)
    scene.tell(f"{late}, late: {late.ended}, and nobody listens")
    late.at = scene.clock.now()
