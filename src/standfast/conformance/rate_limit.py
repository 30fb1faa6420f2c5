"""The contract of `RateLimitStore`, as tests."""

from __future__ import annotations

import asyncio

import pytest

from standfast.ports.rate_limit import RateLimitStore, RateRequest
from standfast.rates import Decision, Rate

# So slow that nothing comes back while a test runs.
SLOW = Rate(10, "1h")
SLOW_WINDOW = Rate(10, "30d", algorithm="sliding_window")
BOTH = pytest.mark.parametrize("rate", [SLOW, SLOW_WINDOW], ids=["gcra", "sliding_window"])


class RateLimitSuite:
    """Override the fixture `store`: a `RateLimitStore` where nothing was taken yet."""

    @pytest.fixture
    def store(self) -> RateLimitStore:
        """The store to test."""
        raise NotImplementedError("override the fixture `store`")

    async def take(
        self, store: RateLimitStore, rate: Rate, cost: int = 1, key: str = "k"
    ) -> Decision:
        """One check."""
        return (await store.check([RateRequest(key, rate, cost)]))[0]

    async def test_nothing(self, store: RateLimitStore) -> None:
        """No requests, no decisions."""
        assert await store.check([]) == []

    @BOTH
    async def test_as_many_as_the_limit(self, store: RateLimitStore, rate: Rate) -> None:
        """Pass, one by one; then a denial tells when to come back."""
        seen = [await self.take(store, rate) for _ in range(12)]
        assert [d.allowed for d in seen] == [True] * 10 + [False] * 2
        assert [d.remaining for d in seen] == [*range(9, -1, -1), 0, 0]
        assert all(d.retry_after == 0 for d in seen[:10])
        assert all(0 < d.retry_after <= 2 * rate.window for d in seen[10:])
        assert all(0 < d.reset_after <= 2 * rate.window for d in seen)

    async def test_times_of_gcra(self, store: RateLimitStore) -> None:
        """In seconds: a unit comes back every six minutes."""
        assert (await self.take(store, SLOW, 10)).reset_after == pytest.approx(3600, abs=30)
        denied = await self.take(store, SLOW)
        assert denied.retry_after == pytest.approx(360, abs=30)
        assert (await self.take(store, SLOW, 5)).retry_after == pytest.approx(1800, abs=30)

    async def test_burst(self, store: RateLimitStore) -> None:
        """Bounds what goes at once, above or below the limit."""
        assert (await self.take(store, Rate(10, "1h", 25), 25, "wide")).allowed
        assert not (await self.take(store, Rate(10, "1h", 25), 1, "wide")).allowed
        assert not (await self.take(store, Rate(10, "1h", 3), 4, "narrow")).allowed
        assert (await self.take(store, Rate(10, "1h", 3), 3, "narrow")).remaining == 0

    @BOTH
    async def test_a_batch_is_decided_in_order(self, store: RateLimitStore, rate: Rate) -> None:
        """Each request sees what those before it took; a denied one takes nothing."""
        costs = [4, 4, 4, 2, 1]
        decisions = await store.check([RateRequest("k", rate, cost) for cost in costs])
        assert [d.allowed for d in decisions] == [True, True, False, True, False]
        assert [d.remaining for d in decisions] == [6, 2, 2, 0, 0]

    async def test_a_large_batch(self, store: RateLimitStore) -> None:
        """Of thousands, over many keys, is answered in its order."""
        requests = [RateRequest(f"k{n % 1500}", SLOW, 1 + n % 3) for n in range(3000)]
        answers = await store.check(requests)
        assert [d.remaining for d in answers[:1500]] == [9 - n % 3 for n in range(1500)]
        assert [d.remaining for d in answers[1500:]] == [8 - 2 * (n % 3) for n in range(1500)]

    @BOTH
    async def test_keys_are_apart(self, store: RateLimitStore, rate: Rate) -> None:
        """In one batch too, mixed; whatever stands in them."""
        keys = ["a", "b:c", "ü ☃", "", "x" * 300, 'it\'s "quoted" \\ {brackets}']
        requests = [RateRequest(key, rate, 6) for key in keys for _ in range(2)]
        decisions = await store.check(requests)
        assert [d.allowed for d in decisions] == [True, False] * len(keys)

    @BOTH
    async def test_bad_keys_fail_no_other(self, store: RateLimitStore, rate: Rate) -> None:
        """Halves of surrogate pairs, NUL, 8 kB: they count like others, and beside others."""
        bad = ["\ud800", "\udfff", "nul\0", "\0", "x" * 8000, "y" * 8000, "ü" * 8000]
        keys = ["good", *bad, "also good"]
        for allowed in (True, False):
            answers = await asyncio.gather(
                *(store.check([RateRequest(key, rate, 6)]) for key in keys)
            )
            assert [one.allowed for (one,) in answers] == [allowed] * len(keys)

    @pytest.mark.parametrize("limit", [1_000, 1_001, 999_999, 1_000_000])
    async def test_the_fastest_rates(self, store: RateLimitStore, limit: int) -> None:
        """Of which a unit comes back in less time than some stores can tell."""
        for burst in (1, 10):
            decision = await self.take(store, Rate(limit, 1.0, burst), 1, f"k{burst}")
            assert (decision.allowed, decision.retry_after) == (True, 0)
        async with asyncio.timeout(10):
            while not (await self.take(store, Rate(limit, 1.0, 1), 1, "k1")).allowed:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.001)

    @BOTH
    async def test_give_back(self, store: RateLimitStore, rate: Rate) -> None:
        """A negative cost is always allowed; too much of it only fills the capacity."""
        await self.take(store, rate, 10)
        back = await self.take(store, rate, -3)
        assert (back.allowed, back.remaining) == (True, 3)
        assert (await self.take(store, rate, -100)).remaining == 10
        assert (await self.take(store, rate, 10)).allowed
        assert not (await self.take(store, rate)).allowed

    async def test_algorithms_are_apart(self, store: RateLimitStore) -> None:
        """Another algorithm starts anew."""
        assert (await self.take(store, SLOW, 10)).allowed
        assert (await self.take(store, SLOW_WINDOW, 10)).allowed

    async def test_another_rate(self, store: RateLimitStore) -> None:
        """Keeps what was taken: a lower limit doesn't open the gate."""
        await self.take(store, SLOW, 10)
        assert not (await self.take(store, Rate(5, "1h"))).allowed

    @pytest.mark.parametrize("algorithm", ["gcra", "sliding_window"])
    async def test_units_come_back(self, store: RateLimitStore, algorithm: str) -> None:
        """After `retry_after`, by the store's own clock."""
        rate = Rate(5, 0.5, algorithm=algorithm)  # type: ignore[arg-type]
        assert (await self.take(store, rate, 5)).allowed
        denied = await self.take(store, rate, 3)
        # On a machine that stood still meanwhile, everything may be back already.
        if not denied.allowed:
            assert denied.retry_after <= 1.0
            await asyncio.sleep(denied.retry_after + 0.01)
            assert (await self.take(store, rate, 3)).allowed
        await asyncio.sleep(1.01)
        full = await self.take(store, rate, -1)
        assert (full.remaining, full.reset_after) == (5, 0)

    @BOTH
    async def test_many_at_once(self, store: RateLimitStore, rate: Rate) -> None:
        """However checks are spread over batches, exactly the limit passes."""
        batches = [[RateRequest("k", rate)] * size for size in (1, 5, 1, 7, 2, 1, 9, 3)]
        answers = await asyncio.gather(*(store.check(batch) for batch in batches))
        assert [len(a) for a in answers] == [len(b) for b in batches]
        assert sum(d.allowed for answer in answers for d in answer) == 10
