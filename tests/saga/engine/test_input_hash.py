"""The same start is the same, whichever process sends it, and however its input is written down."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import msgspec
import pydantic
import pytest

from standfast import Context, Saga, Standfast, step
from standfast.errors import SagaConflict
from tests.saga.classes import saga_class


async def act(self: Any, thing: Any, ctx: Context) -> None: ...


def saga_of(type_: Any) -> Saga[Any]:
    return saga_class(Saga[type_], {"name": "one", "act": step(no_compensation="none")(act)})()


@dataclass(frozen=True)
class Tagged:
    tags: frozenset[str] = frozenset()
    prices: tuple[Decimal, ...] = ()
    rate: float = 1.0
    by_name: dict[str, int] | None = None
    pairs: set[tuple[int, str]] | None = None  # type: ignore[assignment]


class Model(pydantic.BaseModel):
    tags: set[str] = set()
    nested: list[frozenset[str]] = []


TAGS = frozenset({"a", "b", "c", "d", "e", "f", "g"})

PROGRAM = """
import asyncio, sys
from standfast import Standfast
from tests.saga.engine.test_input_hash import Model, TAGS, Tagged, saga_of

async def main(url):
    for type_, input in (
        (Tagged, Tagged(TAGS, pairs={(1, tag) for tag in TAGS})),
        (Model, Model(tags=set(TAGS), nested=[TAGS])),
        (set[str], set(TAGS)),
    ):
        app = Standfast(url).add(saga_of(type_))
        async with app:
            print((await app.start("one", input, key=str(type_))).created, end=" ")

asyncio.run(main(sys.argv[1]))
"""


def test_sets_are_the_same_in_every_process(tmp_path):
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path}/x.db"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout.split()
        for seed in ("1", "2", "3")
    ]
    assert said == [["True"] * 3, ["False"] * 3, ["False"] * 3]


SAME: list[tuple[Any, Any, Any]] = [
    (Tagged, Tagged(by_name={"a": 1, "b": 2}), Tagged(by_name={"b": 2, "a": 1})),
    (Tagged, Tagged(prices=(Decimal("10"),)), Tagged(prices=(Decimal("10.00"),))),
    (Tagged, Tagged(prices=(Decimal("1e1"),)), Tagged(prices=(Decimal("10"),))),
    (Tagged, Tagged(prices=(Decimal("-0.0"),)), Tagged(prices=(Decimal("0"),))),
    (dict[Decimal, int], {Decimal("1.10"): 2}, {Decimal("1.1"): 2}),
    (Tagged, Tagged(rate=3), Tagged(rate=3.0)),
    (dict[str, Any], {"a": {"x": 1, "y": 2}, "b": 1}, {"b": 1, "a": {"y": 2, "x": 1}}),
    (Any, {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (float, 3, 3.0),
]


@pytest.mark.parametrize(("type_", "first", "second"), SAME)
async def test_what_means_the_same_is_the_same_start(type_, first, second):
    app = Standfast("memory://").add(saga_of(type_))
    async with app:
        assert (await app.start("one", first, key="1")).created
        assert not (await app.start("one", second, key="1")).created


OTHER: list[tuple[Any, Any, Any]] = [
    (Tagged, Tagged(prices=(Decimal("10"),)), Tagged(prices=(Decimal("1"),))),
    (
        Tagged,
        Tagged(prices=(Decimal("1.0000000000000000000000000000000000001"),)),
        Tagged(prices=(Decimal("1.0000000000000000000000000000000000002"),)),
    ),
    (Tagged, Tagged(frozenset({"a"})), Tagged(frozenset({"b"}))),
    (Tagged, Tagged(rate=-1.0), Tagged(rate=1.0)),
    (list[int], [1, 2], [2, 1]),
    (Any, {"a": 1}, {"a": "1"}),
]


@pytest.mark.parametrize(("type_", "first", "second"), OTHER)
async def test_another_input_is_another_start(type_, first, second):
    app = Standfast("memory://").add(saga_of(type_))
    async with app:
        assert (await app.start("one", first, key="1")).created
        with pytest.raises(SagaConflict, match="was started with another input"):
            await app.start("one", second, key="1")


async def test_what_an_older_release_started_is_the_same_start(tmp_path):
    """Its hash is of the input as it was encoded, with a dict's and a set's own order."""
    url = f"sqlite:///{tmp_path}/x.db"
    input = Tagged(TAGS, by_name={"b": 1, "a": 2})
    app = Standfast(url).add(saga_of(Tagged))
    async with app:
        handle = await app.start("one", input, key="1")
        old = blake2b(msgspec.json.encode(input), digest_size=12).hexdigest()
        async with app.transaction() as tx:
            await tx.execute(
                "UPDATE standfast_instances SET input_hash = $1 WHERE id = $2", old, handle.id.bytes
            )
        assert not (await app.start("one", input, key="1")).created
        with pytest.raises(SagaConflict):
            await app.start("one", Tagged(TAGS), key="1")
