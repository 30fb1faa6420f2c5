"""What the ledgers say: whether anything was lost, doubled or done in a wrong order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.crash.voyage import ACTIONS
from tests.soak.load.told import Told, cancelled, expected

TOLD_AT_MOST = 20
Allowed = tuple[list[str], ...]
NEVER: Allowed = ([],)
DONE: Allowed = (["action"],)
UNDONE: Allowed = (["action", "compensation"],)


@dataclass
class Ledgers:
    """Effects in their order, as (saga, branch, operation), and what transactional steps left."""

    effects: Iterable[tuple[str, str, str]]
    stamps: Iterable[str]


@dataclass
class Books:
    """The faults that were found: each is a text that names its saga."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """All of them, but not more than can be read."""
        found = [
            f"{name}: {text}"
            for name in ("lost", "doubled", "wrong")
            for text in getattr(self, name)[:TOLD_AT_MOST]
        ]
        left = len(self.lost) + len(self.doubled) + len(self.wrong) - len(found)
        return [*found, f"and {left} more"] if left else found


def audit(told: Told, ledgers: Ledgers) -> Books:
    """Compare what was started with what the participants wrote down."""
    books = Books()
    seen: dict[str, dict[str, list[str]]] = {}
    for saga, branch, operation in ledgers.effects:
        seen.setdefault(saga, {}).setdefault(branch, []).append(operation)
    stamps = Counter(ledgers.stamps)
    for number in sorted(told.started):
        name = str(number)
        outcome = told.ended.get(number)
        branches, stamped = seen.pop(name, {}), stamps.pop(name, 0)
        if outcome is None:
            books.lost.append(f"saga {name} was started and never ended")
        elif outcome not in expected(number):
            books.wrong.append(f"saga {name} ended {outcome}")
        else:
            _branches(books, number, outcome, branches)
            _stamps(books, number, outcome, stamped)
    for name in seen.keys() | stamps.keys():
        books.wrong.append(f"saga {name} had an effect, and nobody is known to have started it")
    return books


def _branches(books: Books, number: int, outcome: str, branches: dict[str, list[str]]) -> None:
    if outcome == "completed":
        wanted = dict.fromkeys((*ACTIONS, "end"), DONE)
    elif cancelled(number):
        # How far it came isn't known, but nothing may be left.
        wanted = dict.fromkeys(ACTIONS, NEVER + UNDONE)
    else:
        wanted = dict.fromkeys(ACTIONS, UNDONE)
    for branch in branches.keys() | wanted.keys():
        operations = branches.get(branch, [])
        if operations in wanted.get(branch, NEVER):
            continue
        text = f"saga {number} ({outcome}), {branch}: {', '.join(operations) or 'no effect'}"
        if max(Counter(operations).values(), default=0) > 1:
            books.doubled.append(text)
        elif operations in ([], ["action"]):
            books.lost.append(text)
        else:
            books.wrong.append(text)


def _stamps(books: Books, number: int, outcome: str, stamped: int) -> None:
    if stamped > 1:
        books.doubled.append(f"saga {number}: its transactional step was done {stamped} times")
    elif not stamped and (outcome == "completed" or not cancelled(number)):
        books.lost.append(f"saga {number}: its transactional step left nothing")
