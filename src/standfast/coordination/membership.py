"""A process's membership: its lease among all that share a database, and those it holds beside it.

A process has one, however many services it runs, and renews all its leases in one go. A lease that
can't be renewed was ended by somebody: what was done under it belongs to others.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from standfast.clock import Clock
from standfast.errors import StoreError
from standfast.ids import new_id
from standfast.ports.leases import Kind, LeaseStore
from standfast.shielding import shielded

log = logging.getLogger("standfast.coordination")

MEMBER = "member:"
"""What the names of memberships begin with."""
BEAT = 1 / 4
"""Of a lease: how often it is renewed, and how often a process looks for those that ran out.

In the store a lease holds for all beats but one. So what a process had that dies just after a beat
is taken over at the last beat of its lease at the latest, and one that is late by up to two beats
(half the lease) keeps what it has.
"""
_LEAVES_WITHIN = 5.0
"""Seconds for the store to take leases back; a hung transaction may keep it from that."""


class Membership:
    """This process's lease, and the named leases renewed with it.

    `lease`: seconds within which others, whose own isn't longer, take over when this process is
    dead. Stuck for less than half of it, this one keeps what it has. `keep_time()` sets the clock
    right, with every beat.
    """

    def __init__(
        self,
        leases: LeaseStore,
        *,
        clock: Clock,
        lease: float,
        name: str | None = None,
        keep_time: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.leases: LeaseStore = leases
        self.lease: float = lease
        self.name: str = name or f"{socket.gethostname()}:{os.getpid()}"
        self.token: int | None = None
        self.sure_until: float = 0.0
        """Until when, in monotonic seconds, the lease holds whatever others do."""
        self._clock = clock
        self._keep_time = keep_time
        self._ttl = lease * (1 - BEAT)
        self._held: dict[str, int] = {}
        self._lost: list[str] = []
        self._note: dict[str, Any] = {}
        self._told: tuple[int | None, str] = (None, "")
        """The note as the store has it, and of which lease."""
        self._kinds: dict[str, list[Kind]] = {}
        self._fingerprints: dict[Kind, str] = {}
        self._slots: dict[str, Any] = {}
        self._takeovers: list[Callable[[], None]] = []
        self._renewing = asyncio.Lock()
        self._telling = asyncio.Lock()
        self._suspected = asyncio.Event()

    @property
    def beats_every(self) -> float:
        """Seconds between two beats."""
        return self.lease * BEAT

    @property
    def is_held(self) -> bool:
        """Whether the lease is surely this process's at this moment."""
        return self.token is not None and self._clock.monotonic() < self.sure_until

    # -- joining and leaving -----------------------------------------------------------------

    async def join(self) -> int:
        """Take a lease; its token. Raises `StoreError`."""
        await self._end_overdue()
        asked, note = self._clock.monotonic(), json.dumps(self._note)
        (token,) = await self.leases.acquire(
            [f"{MEMBER}{new_id()}"], self.name, ttl=self._ttl, note=note
        )
        assert token is not None  # nobody else has that name
        self.token, self.sure_until = token, asked + self._ttl
        self._told = token, note
        return token

    async def leave(self) -> None:
        """Release all leases.

        A `StoreError` is logged, not raised, and so is a store that doesn't answer within 5 s: then
        they expire after their time to live.
        """
        tokens = [*self._held.values()] + ([] if self.token is None else [self.token])
        self.forget()
        await shielded(self._release(tokens, "the lease"))

    def forget(self) -> None:
        """Drop the local state without releasing in the store."""
        self.token = None
        self._held.clear()
        self._lost.clear()

    # -- leases beside it --------------------------------------------------------------------

    async def hold(self, name: str) -> int | None:
        """Acquire a named lease, which the heartbeat renews; its fencing token.

        None while another holder has it. Raises `StoreError`.
        """
        await self._end_overdue()
        (token,) = await self.leases.acquire([name], self.name, ttl=self._ttl)
        if token is not None:
            self._held[name] = token
        return token

    def held(self, name: str) -> int | None:
        """The token of a lease that is held, None if it isn't, or not any more."""
        return self._held.get(name)

    async def let_go(self, name: str) -> None:
        """Release a named lease, if it is held. A `StoreError` is logged, as by `leave`."""
        token = self._held.pop(name, None)
        if token is not None:
            await shielded(self._release([token], f"lease {name!r}"))

    async def _release(self, tokens: Sequence[int], what: str) -> None:
        try:
            async with asyncio.timeout(_LEAVES_WITHIN):
                await self.leases.release(tokens)
        except TimeoutError:
            log.warning(
                "%s couldn't be given up within %g s, so it will run out", what, _LEAVES_WITHIN
            )
        except StoreError as error:
            log.warning("%s couldn't be given up, so it will run out: %s", what, error)

    def take_lost(self) -> list[str]:
        """The names of held leases that were found lost since this was last asked."""
        lost, self._lost = self._lost, []
        return lost

    # -- the heartbeat -----------------------------------------------------------------------

    async def check(self) -> bool:
        """Renew all leases now; whether the process's own is still held. Raises `StoreError`."""
        async with self._renewing:
            token = self.token
            if token is None:  # lost, and the store went away before there was a new one
                return False
            held = dict(self._held)
            asked = self._clock.monotonic()
            stands, *others = await self.leases.renew([token, *held.values()], ttl=self._ttl)
            for (name, its), stands_too in zip(held.items(), others, strict=True):
                if not stands_too and self._held.get(name) == its:
                    del self._held[name]
                    self._lost.append(name)
            if self.token == token:
                self.sure_until = asked + self._ttl if stands else asked
            return stands

    def suspect(self) -> None:
        """Trigger a heartbeat immediately: something says that a lease was lost."""
        self._suspected.set()

    async def until_beat(self, seconds: float) -> None:
        """Return after that many seconds, or as soon as somebody suspects a loss."""
        try:
            async with asyncio.timeout(seconds):
                await self._suspected.wait()
        except TimeoutError:
            pass
        self._suspected.clear()

    async def tend(self) -> None:
        """Synchronise the clock and expire overdue leases of others, as every beat does.

        Raises `StoreError`.
        """
        if self._keep_time is not None:
            await self._keep_time()
        await self._end_overdue()

    async def _end_overdue(self) -> None:
        """Expire overdue leases, and tell of it: `acquire` alone would end them in silence."""
        ended = await self.leases.expire()
        if ended:
            log.warning("took over from the dead: %d lease(s) ran out", len(ended))
            for act in tuple(self._takeovers):
                act()

    def on_takeover(self, act: Callable[[], None]) -> Callable[[], None]:
        """Call `act` after leases of others were ended here: there may be work that they left.

        Returns a function that ends it.
        """
        self._takeovers.append(act)

        def unsubscribe() -> None:
            if act in self._takeovers:
                self._takeovers.remove(act)

        return unsubscribe

    # -- the note ----------------------------------------------------------------------------

    async def tell(self, **facts: Any) -> None:
        """Merge facts, JSON values by name, into the lease's note. Raises `StoreError`."""
        self._note = {**self._note, **facts}
        async with self._telling:  # so that the last told is the last written
            token, note = self.token, json.dumps(self._note)
            if token is not None and (token, note) != self._told:
                await self.leases.annotate(token, note)
                self._told = token, note

    async def can_run(
        self,
        service: str,
        kinds: Sequence[Kind],
        fingerprints: Mapping[Kind, str] | None = None,
        slots: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish which kinds, (pattern, name, version), a service of this process can run.

        `fingerprints` are hashes of what a kind is here, by which others see whether they have the
        same; `slots` says how many instances it has at once, as `slots_note` makes it. Raises
        `StoreError`.
        """
        self._kinds[service] = list(kinds)
        self._fingerprints.update(fingerprints or {})
        self._slots.update(slots or {})
        every = [kind for some in self._kinds.values() for kind in some]
        told: dict[str, Any] = {"kinds": [list(kind) for kind in every]}
        prints = self._fingerprints
        if prints:
            told["fingerprints"] = [[*kind, prints[kind]] for kind in every if kind in prints]
        if self._slots:
            told["slots"] = self._slots
        await self.tell(**told)

    async def others(self) -> list[tuple[str, str]]:
        """The names of the other processes, each with its note. Raises `StoreError`."""
        found = await self.leases.leases(MEMBER)
        return [(one.holder, one.note) for one in found if one.token != self.token]
