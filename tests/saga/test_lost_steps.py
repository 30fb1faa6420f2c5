"""No step is lost in silence: under a decorator, without a name, in a list."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from standfast import Context, Saga, child, sleep, step, wait
from standfast.errors import DefinitionError
from standfast.resilience import Pipeline, Retry, Timeout
from standfast.saga.definition import Definition
from standfast.testing import run_saga


def traced(function: Any) -> Any:
    @functools.wraps(function)
    async def inner(*args: Any) -> Any:
        return await function(*args)

    return inner


def bare(function: Any) -> Any:
    async def inner(*args: Any) -> Any:
        return await function(*args)

    return inner


def swallowing(function: Any) -> Any:
    return 7


class Part(Saga[str]):
    @step(no_compensation="reads only")
    async def look(self, order: str, ctx: Context) -> str:
        return order


DECORATORS: dict[str, Any] = {
    "a Timeout": Timeout("1s"),
    "a Retry": Retry(),
    "a Pipeline": Pipeline(Timeout("1s")),
    "@staticmethod": staticmethod,
    "@classmethod": classmethod,
    "@property": property,
    "@cached_property": functools.cached_property,
    "@traced": traced,
    "@bare": bare,
}


@pytest.mark.parametrize("shown", DECORATORS)
def test_a_step_under_a_decorator_is_refused(shown: str) -> None:
    with pytest.raises(DefinitionError, match=f"'charge' stands under {shown}"):

        class Pay(Saga[str]):
            @DECORATORS[shown]
            @step(no_compensation="reads only")
            async def charge(self, order: str, ctx: Context) -> str:
                return order


def test_a_step_that_a_decorator_swallows_is_refused() -> None:
    with pytest.raises(DefinitionError, match="step 'charge' has no name in the class"):

        class Pay(Saga[str]):
            @swallowing
            @step(no_compensation="reads only")
            async def charge(self, order: str, ctx: Context) -> str:
                return order


@pytest.mark.parametrize("decorator", [traced, bare, staticmethod])
def test_so_is_one_in_a_mixin_that_is_no_saga(decorator: Any) -> None:
    class Mixin:
        @decorator
        @step(no_compensation="reads only")
        async def charge(self, order: str, ctx: Context) -> str:
            return order

    class Pay(Mixin, Part):
        pass

    with pytest.raises(DefinitionError, match="'charge' stands under"):
        Definition(Pay())


def test_and_a_list_of_steps_in_such_a_mixin() -> None:
    class Mixin:
        gates = [wait("boss"), wait("cfo")]  # noqa: RUF012

    class Pay(Mixin, Part):
        pass

    with pytest.raises(DefinitionError, match=r"Mixin: wait\('boss'\) stands in gates, a list"):
        Definition(Pay())


@pytest.mark.parametrize("decorator", [Timeout("1s"), traced, bare, staticmethod])
def test_a_compensation_under_a_decorator_is_refused(decorator: Any) -> None:
    class Pay(Saga[str]):
        @step
        async def reserve(self, order: str, ctx: Context) -> str:
            return order

        @decorator
        @reserve.compensation
        async def release(self, order: str, ctx: Context) -> None: ...

    class Later(Pay):
        pass

    for saga in (Pay(), Later()):
        with pytest.raises(DefinitionError, match=r"\.release stands under @"):
            Definition(saga)


def test_a_compensation_may_be_decorated_below_and_overridden_by_a_decorated_one() -> None:
    undone = []

    class Pay(Saga[str]):
        @step
        @Timeout("1s")
        async def reserve(self, order: str, ctx: Context) -> str:
            raise RuntimeError("no")

        @reserve.compensation
        @traced
        async def release(self, order: str, ctx: Context) -> None:
            undone.append(order)

    class Later(Pay):
        release = traced(Pay.release)

    for saga in (Pay(), Later()):
        undone.clear()
        assert run_saga(saga, "1").status == "compensated"
        assert undone == ["1"]


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: wait("approved"), r"wait\('approved'\) has no name"),
        (lambda: sleep("3d"), r"sleep\('3d'\) has no name"),
        (lambda: child(Part, lambda self, order, ctx: order), r"child\(Part, …\) has no name"),
    ],
)
def test_a_step_without_a_name_is_refused(make: Callable[[], Any], shown: str) -> None:
    with pytest.raises(DefinitionError, match=shown):

        class Pay(Part):
            make()


def test_so_are_steps_in_containers_and_in_arguments() -> None:
    with pytest.raises(DefinitionError, match=r"wait\('boss'\) stands in gates, a list"):

        class Listed(Part):
            gates = [wait("boss"), wait("cfo")]  # noqa: RUF012

    with pytest.raises(DefinitionError, match=r"wait\('boss'\) stands in gates, a dict"):

        class Named(Part):
            gates = {one: wait(one) for one in ("boss", "cfo")}  # noqa: RUF012

    with pytest.raises(DefinitionError, match=r"sleep\('1d'\) has no name in the class"):

        class Inline(Part):
            @step(after=sleep("1d"), no_compensation="reads only")
            async def pay(self, order: str, ctx: Context) -> str:
                return order


def approval(who: str, after: Any = None) -> Any:
    return wait(who, type=str, after=after)


SHARED = wait("shared", type=str)
CACHED = functools.cache(approval)


def test_steps_come_from_anywhere_as_long_as_they_have_a_name() -> None:
    class Pay(Part):
        boss = approval("boss")
        cfo, board = (approval(who) for who in ("cfo", "board"))
        gates = [boss, cfo]  # noqa: RUF012 — named already
        all_done = approval("done", after=gates)
        cached = CACHED("cached")
        shared = SHARED
        locals()["computed"] = sleep("1d")

        class Inner(Part):
            pause = sleep("1s")

        class Mixin:
            pause = sleep("1s")

    class Other(Part):
        cached = CACHED("cached")
        shared = SHARED

    names = ["look", "boss", "cfo", "board", "all_done", "cached", "shared", "computed"]
    assert list(Definition(Pay()).steps) == names
    assert list(Definition(Pay.Inner()).steps) == ["look", "pause"]
    assert list(Definition(Other()).steps) == ["look", "cached", "shared"]


def test_a_step_may_be_added_to_a_class_that_is_there() -> None:
    class Pay(Part):
        pass

    Pay.approved = approval("approved")  # type: ignore[attr-defined]
    assert list(Definition(Pay()).steps) == ["look", "approved"]


def test_a_class_body_that_failed_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError):

        class Broken(Part):
            gates = [wait("boss"), 1 / 0]  # noqa: RUF012

    assert wait("alone").name == ""
    Definition(Part())


def test_a_step_without_a_name_is_shown_by_what_made_it() -> None:
    assert repr(wait("boss")) == "<wait('boss')>"
    assert repr(sleep("1s")) == "<sleep('1s')>"
    assert repr(Part.look) == "<step look>"
