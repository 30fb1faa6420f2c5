"""What a saga takes as its input, and what it refuses."""

from dataclasses import dataclass
from typing import Any, TypedDict

import pytest

from standfast import ConfigurationError, Context, Saga, Standfast, child, step


class Parcel(TypedDict):
    weight: int


@dataclass(frozen=True)
class Letter:
    pages: int


class SendParcel(Saga[Parcel]):
    @step(no_compensation="it only weighs")
    async def weigh(self, parcel: Parcel, ctx: Context) -> int:
        return parcel["weight"]


class SendLetters(Saga[list[Letter]]):
    @step(no_compensation="it only counts")
    async def count(self, letters: list[Letter], ctx: Context) -> int:
        return sum(letter.pages for letter in letters)


class SendLetter(Saga[Letter]):
    @step(no_compensation="it only counts")
    async def count(self, letter: Letter, ctx: Context) -> int:
        return letter.pages


class Send(Saga[Any]):
    @step(no_compensation="it only looks")
    async def look(self, thing: Any, ctx: Context) -> str:
        return f"{thing}"


class SendUntyped(Saga):  # type: ignore[type-arg]
    @step(no_compensation="it only looks")
    async def look(self, thing, ctx):  # type: ignore[no-untyped-def]
        return f"{thing}"


def again(kind: type, module: str) -> Any:
    """A class as its code makes it, when it is run again in a module."""
    made = type(kind.__name__, kind.__bases__, dict(vars(kind)))
    made.__module__ = module
    return made


@pytest.mark.parametrize(
    ("module", "told"),
    [(__name__, "run again.*make the app anew"), ("__main__", f"of __main__.*of {__name__}")],
)
async def test_a_class_that_is_there_twice_is_told_from_its_namesake(
    module: str, told: str
) -> None:
    class Parent(Saga[Letter]):
        sent = child(again(SendLetter, module), input=lambda self, letter, ctx: letter)

    async with Standfast("memory://").add(SendLetter()) as app:
        with pytest.raises(ConfigurationError, match=f"SendLetter isn't known here: .*{told}"):
            await app.start(again(SendLetter, module), Letter(1))
        with pytest.raises(ConfigurationError, match=f"takes a Letter, not a Letter: .*{told}"):
            await app.start(SendLetter, again(Letter, module)(1))
        app.add(Parent())
        with pytest.raises(ConfigurationError, match=f"starts a SendLetter, which .*{told}"):
            async with app.running():
                pass


@pytest.mark.parametrize(
    ("saga", "input", "step_name", "answer"),
    [
        (SendParcel, {"weight": 3}, "weigh", 3),
        (SendLetters, [Letter(1), Letter(2)], "count", 3),
        (SendLetter, Letter(2), "count", 2),
        (Send, 7, "look", "7"),
        (SendUntyped, ["a"], "look", "['a']"),
    ],
)
async def test_inputs_of_many_types(
    saga: type[Saga[Any]], input: Any, step_name: str, answer: int
) -> None:
    app = Standfast("memory://").add(saga())
    async with app.running():
        handle = await app.start(saga, input)
        assert (await handle.result("5s"))[step_name] == answer


async def test_an_input_of_another_type_is_refused() -> None:
    app = Standfast("memory://").add(SendLetter())
    async with app:
        with pytest.raises(ConfigurationError, match="takes a Letter, not a dict"):
            await app.start(SendLetter, {"pages": 2})
