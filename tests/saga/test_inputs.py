"""What a saga takes as its input, and what it refuses."""

from dataclasses import dataclass
from typing import Any, TypedDict

import pytest

from standfast import ConfigurationError, Context, Saga, Standfast, step


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
