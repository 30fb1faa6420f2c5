"""Random sagas' shapes, and the chance by which tests draw: Hypothesis's, or plain dice."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from standfast.resilience import backoff, retry
from standfast.saga.plan import Plan, StepPlan


class Chance:
    """Draws by Hypothesis, which shrinks what it finds to the smallest story."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def choose(self, among: Sequence[Any]) -> Any:
        return self._data.draw(st.sampled_from(among))

    def coin(self) -> bool:
        return self._data.draw(st.booleans())

    def rare(self) -> bool:
        return self.coin() and self.coin() and self.coin()

    def some(self, among: Sequence[Any], most: int) -> list[Any]:
        return self._data.draw(st.lists(st.sampled_from(among), unique=True, max_size=most))


class Dice(Chance):
    """Draws evenly, so that walks get to the far corners, which Hypothesis seldom does."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def choose(self, among: Sequence[Any]) -> Any:
        return self.random.choice(among)

    def coin(self) -> bool:
        return self.random.random() < 0.5

    def some(self, among: Sequence[Any], most: int) -> list[Any]:
        return self.random.sample(among, self.random.randint(0, min(most, len(among))))


def _retry(attempts: int, total: float | None = None) -> retry.Retry:
    return retry.Retry(attempts=attempts, backoff=backoff.Constant(2.0), total=total)


def _step(chance: Chance, index: int, before: list[str], past_pivot: bool) -> StepPlan:
    name = f"s{index}"
    if past_pivot and "pivot" not in before:
        before = ["pivot", *before]
    after = chance.some(before, 3) if before else []
    if past_pivot and "pivot" not in after:
        after = ["pivot", *after]
    form = chance.choose(["action", "action", "action", "wait", "child", "sleep"])
    forward = past_pivot
    common: dict[str, Any] = {
        "name": name,
        "form": form,
        "after": tuple(after),
        "conditional": chance.coin() and chance.coin(),
        "on_exhausted": "park" if forward or chance.coin() else "compensate",
    }
    if form == "wait":
        return StepPlan(
            **common,
            signal=chance.choose(["a", "b"]),
            timeout=chance.choose([None, 5.0]),
            on_timeout=chance.choose(["park", "continue"] + ([] if forward else ["compensate"])),
        )
    if form == "sleep":
        return StepPlan(**common, duration=chance.choose([None, 3.0, 9.0]))
    fans_out = chance.coin() and chance.coin()
    if form == "child":
        return StepPlan(
            **common,
            no_compensation=chance.choose(["", "why not"]),
            fans_out=fans_out,
            limit=chance.choose([None, 1, 2]) if fans_out else None,
        )
    undo = not forward and chance.choose([True, True, False])
    return StepPlan(
        **common,
        fans_out=fans_out,
        limit=chance.choose([None, 1, 2]) if fans_out else None,
        retry=_retry(chance.choose([3, 2, 1]), chance.choose([None, None, 3.0])),
        undo=undo,
        no_compensation="" if undo else "none needed",
        undo_retry=_retry(chance.choose([3, 2, 1])),
    )


def random_plan(chance: Chance) -> Plan:
    steps: list[StepPlan] = []
    for index in range(chance.choose([3, 4, 2, 1, 0])):
        steps.append(_step(chance, index, [s.name for s in steps], False))
    if chance.coin() or not steps:
        before = tuple(s.name for s in steps)
        steps.append(
            StepPlan(
                "pivot",
                after=before,
                pivot=True,
                on_exhausted="park",
                conditional=chance.coin(),
                retry=_retry(chance.choose(range(1, 3))),
            )
        )
        past: list[str] = []
        for index in range(10, 10 + chance.choose(range(3))):
            steps.append(_step(chance, index, past, True))
            past.append(f"s{index}")
    return Plan("random", 1, steps, chance.choose([None, None, 12.0]))
