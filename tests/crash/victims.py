"""Processes that die at a given write, and one that recovers what they left.

`python -m tests.crash.victims kill` reads a `Job` as JSON and forks a victim for each of its tags:
``7-before.3-after`` is killed just before the 7th write of its first life, and in its second, when
it recovers from that, just after the 3rd; ``1-claim`` just after its first claim. Kinds of writes
are `WRITES` and ``transaction``. It says on its output at what kind of write each died, and how it
ended. `… recover` reads the same and finishes what they left.

The victims' database is wrapped here: the product has no hooks for this.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from standfast import Barrier, SagaCompensated, SagaHandle, Standfast
from standfast.backends import open_database
from standfast.ports.journal import JournalStore
from standfast.ports.leases import LeaseStore
from tests.crash.voyage import BAD, GOOD, Participant, Plan, sagas

LEASE = 1.0

WRITES: Mapping[type, Mapping[str, str]] = {
    JournalStore: {
        "start": "start",
        "append": "append",
        "send": "send",
        "claim": "claim",
        "release": "give_back",
        "reclaim": "reclaim",
    },
    LeaseStore: {
        "acquire": "acquire",
        "renew": "renew",
        "annotate": "annotate",
        "release": "release",
        "expire": "expire",
    },
}
"""What writes, by port and method, and what that kind of write is called here."""
COMMITS = frozenset({"start", "append", "send"})
"""Those that are commits to the journal of an instance."""
SOMETIMES = frozenset({"claim", "reclaim", "acquire", "expire"})
"""Those that may find nothing to do, and then don't write."""


@dataclass(frozen=True)
class Job:
    """`app` and `shop` are URLs; ``{tag}`` in them is filled in: a database for each victim.

    `life` is 0 for the victims' first, 1 for their second.
    """

    app: str
    shop: str
    tags: tuple[str, ...] = ()
    life: int = 0
    at_once: int = 4

    def urls(self, tag: str) -> tuple[str, str]:
        return self.app.replace("{tag}", tag), self.shop.replace("{tag}", tag)


class Doomed:
    """A `Database` that counts its commits to the journal, and dies at one of them.

    With a `tag` it counts all `WRITES`, those to leases too, and says at what it dies.
    """

    def __init__(self, url: str, at: int, when: str, *, tag: str = "") -> None:
        self._inner = open_database(url)
        self._tag = tag
        self._at = at
        self._when = when
        self.writes = 0
        self._of_kind: Counter[str] = Counter()
        self._ports: dict[type, _Doomed] = {}
        for port, names in WRITES.items():
            counted = {m: kind for m, kind in names.items() if tag or kind in COMMITS}
            self._ports[port] = _Doomed(self._inner.port(port), self, counted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def port(self, kind: Any) -> Any:
        return self._ports.get(kind) or self._inner.port(kind)

    def begin(self, kind: str) -> int:
        """A write is about to be made; its number."""
        self.writes += 1
        if self.writes == self._at and self._when == "before":
            self._die(kind)
        return self.writes

    def end(self, kind: str, number: int) -> None:
        """Write `number` is committed."""
        self._of_kind[kind] += 1
        if self._at == (number if self._when == "after" else self._of_kind[kind]) and (
            self._when in ("after", kind)
        ):
            self._die(kind)

    def _die(self, kind: str) -> None:
        if self._tag:
            say({"tag": self._tag, "died": kind})
        os.kill(os.getpid(), signal.SIGKILL)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        number = 0
        async with self._inner.transaction() as tx:
            yield tx
            number = self.begin("transaction")
        self.end("transaction", number)


class _Doomed:
    """One of its ports. `kinds`: the methods that count, and what a write of theirs is called."""

    def __init__(self, inner: Any, doomed: Doomed, kinds: Mapping[str, str]) -> None:
        self._inner = inner
        self._doomed = doomed
        self._kinds = kinds

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)
        doomed, kind = self._doomed, self._kinds.get(name)
        if kind is None:
            return call

        async def write(*args: Any, **options: Any) -> Any:
            number = doomed.begin(kind)
            answer = await call(*args, **options)
            doomed.end(kind, number)
            return answer

        async def take(*args: Any, **options: Any) -> Any:
            answer = await call(*args, **options)
            wrote = any(answer) if isinstance(answer, list) else answer
            if wrote:  # and "before" it is just after the one that came before
                doomed.end(kind, doomed.begin(kind))
            return answer

        return take if kind in SOMETIMES else write


async def _finish(app: Standfast, tag: str, plan: Plan) -> str:
    """Start (again), give the word (again), and see it to its end."""
    handle: SagaHandle[Any] = await app.start(f"voyage-{tag}", plan, key=plan.name)
    await handle.signal("go", id="the word")
    try:
        await handle.result(timeout=100)
    except SagaCompensated:
        return "compensated"
    return "completed"


async def _live(app: Standfast, tag: str) -> dict[str, str]:
    plans = (GOOD, BAD)
    ends = await asyncio.gather(*(_finish(app, tag, plan) for plan in plans))
    return {plan.name: end for plan, end in zip(plans, ends, strict=True)}


async def victim(job: Job, tag: str, at: int, when: str) -> None:
    """One life: it ends by SIGKILL at write `at`, or says how many writes there were."""
    app_url, shop_url = job.urls(tag)
    # What expires must not have done so before the next life has joined.
    lease = 4 * LEASE if tag.endswith("expire") and not job.life else LEASE
    doomed: Any = Doomed(app_url, at, when, tag=tag)
    async with Standfast(shop_url, migrate=True).add(Barrier()) as shop:
        app = Standfast(doomed, migrate=True).add(*sagas(tag, Participant(shop, tag)))
        async with app.running(lease=lease, poll=0.2, linger=0.005):
            ends = await _live(app, tag)
            if when == "renew":
                await asyncio.sleep(LEASE)
    say({"tag": tag, "ends": ends, "writes": doomed.writes})


async def recover(job: Job) -> None:
    """A new process: one app for each database, that knows the sagas of all who died there."""
    by_url: dict[tuple[str, str], list[str]] = {}
    for tag in job.tags:
        by_url.setdefault(job.urls(tag), []).append(tag)
    room = asyncio.Semaphore(12)

    async def one(app_url: str, shop_url: str, tags: Sequence[str]) -> None:
        async with room, Standfast(shop_url, migrate=True).add(Barrier()) as shop:
            app = Standfast(app_url, migrate=True)
            for tag in tags:
                app.add(*sagas(tag, Participant(shop, tag)))
            async with app.running(lease=LEASE, poll=0.2, linger=0.005):
                for tag, ends in zip(
                    tags, await asyncio.gather(*(_live(app, tag) for tag in tags)), strict=True
                ):
                    say({"tag": tag, "ends": ends})

    await asyncio.gather(*(one(*urls, tags) for urls, tags in by_url.items()))


def say(what: dict[str, Any]) -> None:
    os.write(1, f"{json.dumps(what)}\n".encode())  # in one piece


def kill(job: Job) -> None:
    """Fork a victim for each tag, some at once; tell how each ended."""
    lives: dict[int, str] = {}
    for tag in job.tags:
        if len(lives) == job.at_once:
            _bury(lives)
        at, when = tag.split(".")[job.life].split("-")
        # One thread and no event loop yet, so that forking is safe and costs no import.
        pid = os.fork()
        if not pid:
            try:
                asyncio.run(victim(job, tag, int(at), when))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        lives[pid] = tag
    while lives:
        _bury(lives)


def _bury(lives: dict[int, str]) -> None:
    pid, status = os.wait()
    say({"tag": lives.pop(pid), "code": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    order = Job(**json.load(sys.stdin))
    if sys.argv[1] == "kill":
        kill(order)
    elif sys.argv[1] == "recover":
        asyncio.run(recover(order))
