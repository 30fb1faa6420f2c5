"""What a subclass of a saga overrides: it counts, or it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from standfast import Context, Refused, Saga, Standfast, child, step
from standfast.errors import DefinitionError
from standfast.saga.definition import Definition
from standfast.testing import run_saga
from tests.saga.classes import saga_class


class Shop(Saga[int]):
    name = "shop"

    def is_big(self, amount: int, ctx: Context) -> bool:
        return amount > 10

    def parcels(self, amount: int, ctx: Context) -> list[str]:
        return ["one"]

    @step
    async def charge(self, amount: int, ctx: Context) -> str:
        return "base charge"

    @charge.compensation
    async def refund(self, amount: int, ctx: Context) -> None:
        self.refunded = "base refund"

    @step(when=is_big, no_compensation="a look")
    async def look(self, amount: int, ctx: Context) -> str:
        return "looked"

    @step(each=parcels, no_compensation="paper")
    async def pack(self, amount: int, ctx: Context, parcel: str) -> str:
        return parcel

    @step(no_compensation="it is the last")
    async def ship(self, amount: int, ctx: Context) -> str:
        if amount == 13:
            raise Refused("no")
        return "shipped"


class Overridden(Shop):
    def is_big(self, amount: int, ctx: Context) -> bool:
        return True

    def parcels(self, amount: int, ctx: Context) -> list[str]:
        return ["one", "two"]

    async def refund(self, amount: int, ctx: Context) -> None:
        self.refunded = "own refund"

    @step(no_compensation="it is free here")
    async def ship(self, amount: int, ctx: Context) -> str:
        if amount == 13:
            raise Refused("no")
        return "picked up"


def test_what_a_subclass_overrides_is_what_runs():
    run = run_saga(Overridden(), 1)
    assert run.results == {
        "charge": "base charge",
        "look": "looked",
        "pack": ["one", "two"],
        "ship": "picked up",
    }
    saga = Overridden()
    assert run_saga(saga, 13).status == "compensated"
    assert saga.refunded == "own refund"
    assert list(Definition(Overridden()).plan.steps) == ["charge", "look", "pack", "ship"]


def test_the_base_class_keeps_its_own():
    Definition(Overridden())
    saga = Shop()
    run = run_saga(saga, 13)
    assert saga.refunded == "base refund"
    assert "look" in run.results
    assert run.results["pack"] == ["one"]
    assert "look" not in run_saga(Shop(), 1).results


class Inner(Saga[int]):
    @step(no_compensation="none")
    async def act(self, amount: int, ctx: Context) -> int:
        return amount


class Outer(Saga[int]):
    def its_input(self, amount: int, ctx: Context) -> int:
        return amount

    inner = child(Inner, its_input, no_compensation="none")


class OtherInput(Outer):
    def its_input(self, amount: int, ctx: Context) -> int:
        return amount * 100


def test_a_childs_input_can_be_overridden():
    assert run_saga([OtherInput(), Inner()], 3).results["inner"] == {"act": 300}


def plainly(name: str, value: Any) -> type[Saga[Any]]:
    return type("Fake", (Shop,), {name: value})


async def a_coroutine(self: Any, amount: int, ctx: Context) -> str:
    return "fake"


def a_function(self: Any, amount: int, ctx: Context) -> str:
    return "fake"


@pytest.mark.parametrize(
    ("saga", "match"),
    [
        (plainly("charge", a_coroutine), r"Fake\.charge overrides a step by what isn't one.*@step"),
        (plainly("charge", a_function), r"Fake\.charge overrides a step by what isn't one"),
        (plainly("charge", None), r"Fake\.charge overrides a step by what isn't one"),
        (plainly("is_big", a_coroutine), "step 'look': when= must be a plain function"),
        (plainly("is_big", True), r"step 'look': when= must be a function of \(self, input, ctx\)"),
        (plainly("parcels", a_coroutine), "step 'pack': each= must be a plain function"),
    ],
)
def test_an_override_that_wouldnt_run_is_refused(saga, match):
    with pytest.raises(DefinitionError, match=match):
        Standfast("memory://").add(saga())


class Stub:
    async def charge(self, amount: int, ctx: Context) -> str:
        return "stub"


def test_a_mixin_that_hides_a_step_is_refused():
    class Mixed(Stub, Shop):
        pass

    with pytest.raises(DefinitionError, match=r"Stub\.charge overrides a step"):
        Standfast("memory://").add(Mixed())


@pytest.mark.parametrize("name", ["name", "version", "deadline", "max_in_flight", "migrations"])
def test_a_step_cant_have_the_name_of_an_option(name):
    saga = saga_class(Saga[int], {name: step(no_compensation="none")(a_coroutine)}, "Odd")
    with pytest.raises(DefinitionError, match=f"a step can't be called '{name}', for that is an"):
        Standfast("memory://").add(saga())


def test_an_attribute_that_hides_a_step_or_an_option_is_refused():
    class Hides(Shop):
        def __init__(self) -> None:
            self.charge = "a service"

    class Ignored(Shop):
        def __init__(self) -> None:
            self.deadline = "5s"

    with pytest.raises(DefinitionError, match=r"self\.charge = … hides the step: rename"):
        Standfast("memory://").add(Hides())
    with pytest.raises(DefinitionError, match=r"self\.deadline = … .* or set deadline in the body"):
        Standfast("memory://").add(Ignored())
