"""A definition with one of everything, as Markdown and as a flowchart."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from standfast import Context, Retry, Saga, child, sleep, step, wait
from standfast.saga.definition import Definition
from standfast.saga.description import describe
from standfast.saga.diagram import mermaid


@dataclass(frozen=True)
class Order:
    id: str


class Parcel(Saga[Order]):
    @step(no_compensation="nothing")
    async def send(self, order: Order, ctx: Context) -> None:
        pass


class Everything(Saga[Order]):
    """Has one step of each kind.

    And a second paragraph.
    """

    version = 3
    deadline = "2d"
    max_in_flight = 5

    @step(timeout="5s", retry=Retry(attempts=None, total="1h"))
    async def reserve(self, order: Order, ctx: Context) -> str:
        """Holds a place | of stock.

        Not shown.
        """
        return ""

    @reserve.compensation(timeout="1m", retry=Retry(attempts=7), transactional=True)
    async def release(self, order: Order, ctx: Context, tx: object) -> None:
        pass

    @step(after=reserve, each=lambda saga, order, ctx: [1], limit=2, no_compensation="cardboard")
    async def pack(self, order: Order, ctx: Context, item: int) -> None:
        pass

    @step(
        after=reserve,
        transactional=True,
        when=lambda saga, order, ctx: True,
        no_compensation="rows | only",
        on_exhausted="park",
    )
    async def book(self, order: Order, ctx: Context, tx: object) -> None:
        pass

    parcel = child(Parcel, lambda saga, order, ctx: order, after=[pack, book])
    approved = wait("approved", timeout="1d")

    @step(pivot=True)
    async def charge(self, order: Order, ctx: Context) -> None:
        pass

    @step
    async def thank(self, order: Order, ctx: Context) -> None:
        pass


GOLDEN = """\
# everything, version 3

Has one step of each kind.

And a second paragraph.

- input: `Order`
- deadline: 2d
- point of no return: `charge`
- at most 5 in flight per worker

## Steps

| step | what | after | timeout | retry | when exhausted |
|---|---|---|---|---|---|
| `reserve` | Holds a place \\| of stock. |  | 5s | for up to 1h | compensate |
| `pack` | (each item, 2 at a time) | `reserve` |  | 30 attempts | compensate |
| `book` | (conditional, transactional) | `reserve` |  | 30 attempts | park |
| `parcel` | runs the saga `parcel` | `pack`, `book` |  |  |  |
| `approved` | waits for the signal `approved` | `parcel` | 1d |  | compensate |
| `charge` | (pivot) | `approved` |  | 30 attempts | park |
| `thank` |  | `charge` |  | 30 attempts | park |

## Compensations

| step | undone by | timeout | retry |
|---|---|---|---|
| `reserve` | `release` (transactional) | 1m | 7 attempts |
| `pack` | needs none: cardboard |  |  |
| `book` | needs none: rows \\| only |  |  |
| `parcel` | asking the child saga to undo itself |  |  |
| `approved` | nothing to undo |  |  |
| `charge` | the point of no return |  |  |
| `thank` | never: it comes after the pivot `charge` |  |  |
"""


def test_description():
    assert describe(Definition(Everything())) == GOLDEN


class Explained(Saga[Order]):
    @step(retry=Retry(attempts=1), no_compensation="nobody\nwaits | for it")
    async def note(self, order: Order, ctx: Context) -> None: ...


def test_a_row_is_one_line_whatever_stands_in_it():
    rows = [line for line in describe(Definition(Explained())).splitlines() if "`note`" in line]
    assert rows == [
        "| `note` |  |  |  | 1 attempt | compensate |",
        "| `note` | needs none: nobody waits \\| for it |  |  |",
    ]


def test_a_diagram_has_the_plan_s_nodes_and_edges():
    plan = Definition(Everything()).plan
    lines = mermaid(plan).splitlines()
    assert lines[0] == "flowchart TD"
    edges = {
        tuple(m) for line in lines for m in re.findall(r"^ +(\w+) -.*->(?:\|.*\|)? (\w+)$", line)
    }
    wanted = {(f"s_{before}", f"s_{s.name}") for s in plan.steps.values() for before in s.after}
    wanted |= {("begin", "s_reserve"), ("s_thank", "finish")}
    wanted |= {("s_reserve", "u_reserve"), ("s_parcel", "u_parcel")}
    assert edges == wanted
    declared = {m[1] for line in lines if (m := re.match(r"^ +(\w+)[\[({]", line))}
    assert declared == {node for edge in edges for node in edge}
    assert '    s_pack["pack (each item, 2 at a time)"]' in lines
    assert '    s_approved{{"wait for approved within 1d"}}' in lines
    assert '    s_parcel[["parcel"]]' in lines
    assert '    s_reserve -. "if its condition holds" .-> s_book' in lines
    assert [line for line in lines if line.startswith("    class ")] == ["    class s_charge pivot"]


class Patient(Saga[Order]):
    """Sleeps, and starts many."""

    cool_off = sleep("3d")
    opening = sleep(until=lambda self, order, ctx: datetime(2030, 1, 1, tzinfo=UTC))
    parcels = child(
        Parcel,
        lambda self, order, ctx, item: order,
        each=lambda self, order, ctx: [1, 2],
        limit=2,
        no_compensation="parcels stay",
    )


def test_sleeps_and_many_children_are_drawn_and_described():
    definition = Definition(Patient())
    drawn = mermaid(definition.plan)
    assert 's_cool_off(["sleep 3d"])' in drawn
    assert 's_opening(["opening"])' in drawn
    assert 's_parcels[["parcels (each item, 2 at a time)"]]' in drawn
    told = describe(definition)
    assert "| `cool_off` | sleeps for 3d |  |  |  |  |" in told
    assert "| `opening` | sleeps until a time | `cool_off` |  |  |  |" in told
    assert "runs the saga `parcel` (each item, 2 at a time)" in told
    assert "| `cool_off` | nothing to undo |  |  |" in told
