"""A rate-limit store, and what is answered while it is away."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal, TypeAlias

from standfast.errors import StoreUnavailable
from standfast.ports.rate_limit import RateLimitStore, RateRequest
from standfast.rates import Decision, Rate
from standfast.resilience.deadline import without_deadline

OnStoreFailure: TypeAlias = Literal["allow", "deny"]

_log = logging.getLogger("standfast.resilience.ratelimit")


class WatchedStore:
    """Asks `store` one thing at a time; while it is away, `policy` answers.

    An outage is logged once, as a warning, or as an error if it won't pass by itself; and its end.
    """

    __slots__ = ("_logged", "_name", "_policy", "_store", "failures")

    def __init__(self, store: RateLimitStore, policy: OnStoreFailure | None, name: str) -> None:
        self._store = store
        self._policy = policy
        self._name = name
        self._logged = 0
        self.failures: int = 0
        """Checks that `policy` answered."""

    async def ask(self, key: str, rate: Rate, cost: int) -> Decision:
        """The store's decision, or the policy's."""
        try:
            decision = (await self._store.check([RateRequest(key, rate, cost)]))[0]
        except StoreUnavailable as error:
            self.failures += 1
            self._note(error)
            if self._policy == "allow":
                return Decision(True, 0, 0.0, 0.0, counted=False)
            return Decision(False, 0, min(1.0, rate.window), rate.window, counted=False)
        if self._logged:
            self._logged = 0
            _log.warning("rate limiter %r: its store answers again", self._name)
        return decision

    async def ask_safely(self, key: str, rate: Rate, cost: int) -> Decision:
        """As `ask`; when cancelled, what the store hands out nevertheless is given back."""
        asked = asyncio.ensure_future(self.ask(key, rate, cost))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            with without_deadline():  # it passed, maybe, and that is why this caller goes
                task = asyncio.ensure_future(self._give_back(asked, key, rate, cost))
            _returning.add(task)
            task.add_done_callback(_returning.discard)
            raise

    async def _give_back(
        self, asked: asyncio.Future[Decision], key: str, rate: Rate, cost: int
    ) -> None:
        decision = await asked
        if decision.allowed and decision.counted:
            await self.ask(key, rate, -cost)

    def _note(self, error: StoreUnavailable) -> None:
        level = logging.ERROR if error.for_good else logging.WARNING
        if level > self._logged:  # Once, and once more if it turns out to be for good.
            self._logged = level
            answer = "allowed" if self._policy == "allow" else "denied"
            _log.log(
                level,
                "rate limiter %r: %s. Until it answers, every check is %s",
                self._name,
                error,
                answer,
            )


_returning: set[asyncio.Future[None]] = set()
"""Keeps the tasks that give units back from being collected."""
