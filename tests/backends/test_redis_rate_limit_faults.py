"""Rate limits in Redis when something is wrong: keys, the server, its place in a failover."""

import asyncio
import logging
import time
import traceback

import pytest
import redis
from redis.exceptions import ReadOnlyError, ResponseError
from tests.servers.redis import Redis

from standfast.backends.redis import RedisCircuitControl, RedisRateLimits
from standfast.backends.redis.errors import unavailable
from standfast.errors import ConfigurationError, StoreUnavailable, Unsupported
from standfast.ports.rate_limit import RateRequest
from standfast.rates import Rate
from standfast.resilience.deadline import remaining, within
from standfast.resilience.ratelimit import RateLimiter

PATIENCE = 30.0
RATE = Rate(10, "1h")
WINDOW = Rate(10, "30d", algorithm="sliding_window")
BAD_KEYS = ["\ud800", "nul\0", "x" * 8000, "ü" * 300, "\udfff" * 5000]


@pytest.fixture
async def store(redis_url):
    async with RedisRateLimits(redis_url) as store:
        yield store


# -- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["garbage", "", "nan", "1 2", "nan nan nan", "a b c"])
@pytest.mark.parametrize("rate", [RATE, WINDOW], ids=["gcra", "sliding_window"])
async def test_a_value_that_is_none_of_ours_starts_anew_and_fails_no_other(
    store, redis_url, rate, wrong
):
    kind = 1 if rate is RATE else 2
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"standfast:rate:{kind}:bad", wrong)
        keys = ["a", "bad", "b"] * 2
        answers = await asyncio.gather(*(store.check([RateRequest(key, rate)]) for key in keys))
        assert [decision.remaining for (decision,) in answers] == [9] * 3 + [8] * 3


@pytest.mark.parametrize("rate", [RATE, WINDOW], ids=["gcra", "sliding_window"])
async def test_a_key_of_another_type_starts_anew_and_fails_no_other(store, redis_url, rate):
    kind = 1 if rate is RATE else 2
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(f"standfast:rate:{kind}:bad", "x")
        answers = await asyncio.gather(
            *(store.check([RateRequest(key, rate)]) for key in ("a", "bad", "b"))
        )
        assert [decision.remaining for (decision,) in answers] == [9] * 3


async def test_long_keys_take_little_room(store, redis_url):
    await store.check([RateRequest(key, RATE) for key in BAD_KEYS])
    with redis.Redis.from_url(redis_url) as client:
        assert all(len(key) < 100 for key in client.scan_iter())
        assert client.dbsize() == len(BAD_KEYS)


@pytest.mark.parametrize("algorithm", ["gcra", "sliding_window"])
async def test_a_fast_rate(store, algorithm):
    """Its state lives for less than a millisecond, the shortest that Redis knows."""
    rate = Rate(100_000 if algorithm == "gcra" else 1, 1.0 if algorithm == "gcra" else 0.0002)
    for _ in range(20):
        (decision,) = await store.check([RateRequest("k", rate)])
        assert decision.counted


# -- a server that is slow, or refuses ----------------------------------------------------------


async def test_a_redis_that_hangs_answers_within_the_timeout_for_all(redis_url, tcp_proxy):
    """Also for those who wait behind the call that hangs."""
    proxy = await tcp_proxy(redis_url)
    async with RedisRateLimits(proxy.through(redis_url), timeout=0.5) as store:
        limiter = RateLimiter(10, "1h", store=store, name="n", on_store_failure="deny")
        await limiter.check()
        proxy.blackhole()
        took = []

        async def check(after):
            await asyncio.sleep(after)
            began = time.monotonic()
            decision = await limiter.check()
            took.append(time.monotonic() - began)
            assert not decision.counted

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(check(n * 0.1) for n in range(10)))
        assert max(took) < 0.85, "a machine that is busy gets some more than the half second"
        await proxy.restore()
        async with asyncio.timeout(PATIENCE):
            while not (await limiter.check()).counted:
                pass


async def test_many_requests_at_once_are_answered_within_the_timeout(redis_url, tcp_proxy):
    proxy = await tcp_proxy(redis_url)
    async with RedisRateLimits(proxy.through(redis_url), timeout=0.3, max_batch=10) as store:
        await store.check([RateRequest("k", RATE)])
        proxy.blackhole()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"within 0\.3 s: check that it answers"):
            await store.check([RateRequest(str(n), RATE) for n in range(100)])
        assert time.monotonic() - began < 0.6


async def test_a_wrong_password_is_logged_once_with_the_remedy(redis_server, caplog):
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("requirepass", "right")
        wrong = redis_server.url.replace("redis://", "redis://:secret-that-is-wrong@")
        async with RedisRateLimits(wrong, timeout=5) as store:
            limiter = RateLimiter(10, "1h", store=store, name="n", on_store_failure="allow")
            decisions = [await limiter.check() for _ in range(3)]
            assert all(decision and not decision.counted for decision in decisions)
            (record,) = caplog.records
            assert record.levelno == logging.ERROR
            text = record.getMessage()
            assert "rate limiter 'n'" in text
            assert "check the user and password" in text
            assert "every check is allowed" in text
            assert "secret" not in text
            caplog.clear()
            client.config_set("requirepass", "secret-that-is-wrong")
            assert (await limiter.check()).counted
            assert "answers again" in caplog.text
    redis_server.kill()


async def test_an_outage_is_logged_once(redis_server, caplog):
    async with RedisRateLimits(redis_server.url, timeout=5) as store:
        limiter = RateLimiter(10, "1h", store=store, name="n", on_store_failure="deny")
        await limiter.check()
        redis_server.kill()
        for _ in range(3):
            assert not await limiter.check()
        redis_server.start()
        assert (await limiter.check()).counted
        assert [
            (record.levelname, "every check is denied" in record.getMessage())
            for record in caplog.records
        ] == [("WARNING", True), ("WARNING", False)]


class Cluster(Redis):
    def command(self):
        return [*super().command(), "--cluster-enabled", "yes"]


async def test_a_cluster_is_refused_when_it_is_found():
    with Cluster() as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            await eventually(lambda: "ok" in str(client.execute_command("CLUSTER INFO")))
        async with RedisRateLimits(server.url, timeout=5) as store:
            limiter = RateLimiter(2, "1h", store=store, name="n", on_store_failure="allow")
            for _ in range(2):
                with pytest.raises(Unsupported, match="belongs to a Redis Cluster"):
                    await limiter.check("a")


# -- a failover behind one address --------------------------------------------------------------


@pytest.fixture
async def pair(redis_server, tcp_proxy):
    """A master behind an address, its replica, and how to fail over."""
    with (
        Redis() as other,
        redis.Redis.from_url(redis_server.url) as old,
        redis.Redis.from_url(other.url) as new,
    ):
        new.config_set("repl-diskless-sync-delay", 0)
        old.config_set("repl-diskless-sync-delay", 0)
        new.replicaof("127.0.0.1", redis_server.port)
        await eventually(lambda: new.info("replication")["master_link_status"] == "up")
        proxy = await tcp_proxy(redis_server.url)

        def fail_over():
            """The old master keeps its connections, as a replica of the new one."""
            new.replicaof("NO", "ONE")
            proxy.redirect("127.0.0.1", other.port)
            old.replicaof("127.0.0.1", other.port)

        yield proxy.through(redis_server.url), fail_over, new


async def test_a_failover_behind_the_address_is_followed(pair):
    url, fail_over, _ = pair
    async with RedisRateLimits(url, timeout=5) as store:
        limiter = RateLimiter(1000, "1h", store=store, name="n", on_store_failure="deny")
        assert await limiter.check("k")
        fail_over()
        assert (await limiter.check("k")).counted, "the first check after it"
        answers = await asyncio.gather(*(limiter.check("k") for _ in range(20)))
        assert all(decision.counted for decision in answers)


async def test_a_replica_is_told_and_left_when_the_address_leads_elsewhere(pair, caplog):
    url, fail_over, new = pair
    async with RedisRateLimits(url, timeout=5) as store:
        limiter = RateLimiter(1000, "1h", store=store, name="n", on_store_failure="deny")
        assert await limiter.check("k")
        fail_over()
        port = new.connection_pool.connection_kwargs["port"]
        new.replicaof("127.0.0.1", str(port - 1))  # now nobody takes writes
        assert not await limiter.check("k")
        assert "the address leads to a replica" in caplog.text
        new.replicaof("NO", "ONE")
        assert (await limiter.check("k")).counted


async def test_orders_to_breakers_follow_a_failover(pair):
    url, fail_over, new = pair
    control = RedisCircuitControl(url)
    await control.order("payments", "open")
    fail_over()
    await control.order("payments", "close")
    assert new.hget("standfast:circuits", "payments") == b"close"
    await control.close()


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RedisRateLimits, RedisCircuitControl])
@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret#word@host:6379",
        "redis://:secret/word@host",
        "redis://user:secret@[host",
        "redis://host:secret",
    ],
)
def test_an_address_that_can_not_be_read_is_refused_without_its_password(kind, url):
    with pytest.raises(ConfigurationError, match="by their codes") as told:
        kind(url)
    assert "secret" not in "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize("kind", [RedisRateLimits, RedisCircuitControl])
def test_another_scheme_is_refused(kind):
    with pytest.raises(ConfigurationError, match="scheme 'http': a Redis URL begins with"):
        kind("http://localhost")


def test_options_in_the_address_are_checked():
    with pytest.raises(ConfigurationError, match="the URL of Redis at host:6379"):
        RedisRateLimits("redis://host?health_check_interval=often")


@pytest.mark.parametrize(
    ("error", "for_good", "remedy"),
    [
        (redis.exceptions.ClusterCrossSlotError("x"), True, "without cluster mode"),
        (redis.exceptions.MovedError("1 127.0.0.1:7"), True, "without cluster mode"),
        (redis.exceptions.NoPermissionError("x"), True, "what that user may do"),
        (redis.exceptions.ReadOnlyError("READONLY x"), False, "leads to a replica"),
        (redis.exceptions.ResponseError("@user_script: 3: -READONLY x"), False, "to a replica"),
        (redis.exceptions.ConnectionError("x"), False, "check that it answers"),
        (TimeoutError(), False, "(TimeoutError): check that it answers"),
    ],
)
def test_errors_say_what_to_do(error, for_good, remedy):
    found = unavailable("host:6379", "doesn't answer", error)
    assert found.for_good == for_good
    assert remedy in str(found)


# -- event loops --------------------------------------------------------------------------------


async def test_another_threads_event_loop_is_refused(redis_url):
    async with RedisRateLimits(redis_url) as store:
        await store.check([RateRequest("k", RATE)])

        async def elsewhere():
            with pytest.raises(ConfigurationError, match="was opened in another event loop"):
                await store.check([RateRequest("k", RATE)])

        async with asyncio.timeout(PATIENCE):
            await asyncio.to_thread(asyncio.run, elsewhere())


async def eventually(holds):
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.02)


# -- what is asked of the driver -----------------------------------------------------------------


class Driver:
    """In place of a store's: what it answers, or raises, in turn, and what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0
        self.disconnected = 0
        self.left = []
        """The time that the deadline around each call left."""
        self.connection_pool = self

    def in_place(self):
        store = RedisRateLimits("redis://127.0.0.1:1", timeout=5)
        store._redis = self
        return store

    async def info(self, section):
        raise ResponseError("unknown command")

    async def disconnect(self):
        self.disconnected += 1

    async def aclose(self):
        pass

    async def evalsha(self, *_):
        self.asked += 1
        self.left.append(remaining())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


DEMOTED = ReadOnlyError("READONLY it is a replica now")
ALLOWED = b"1 9 0 360000000"


@pytest.mark.parametrize(
    ("answers", "asked", "disconnected"),
    [
        ([ALLOWED], 1, 0),
        ([DEMOTED, ALLOWED], 2, 1),
        ([DEMOTED, DEMOTED], 2, 2),
        ([redis.exceptions.ConnectionError("reset")], 1, 0),
        ([TimeoutError("it hangs")], 1, 0),
    ],
)
async def test_only_a_connection_that_leads_to_a_replica_is_dropped(answers, asked, disconnected):
    """And a server that doesn't tell of clusters is taken for one that belongs to none."""
    driver = Driver(*answers)
    async with driver.in_place() as store:
        if answers[-1] is ALLOWED:
            assert await store.check([RateRequest("k", RATE)]) == [(True, 9, 0.0, 360.0, True)]
        else:
            with pytest.raises(StoreUnavailable, match=r"at 127\.0\.0\.1:1 didn't decide a rate"):
                await store.check([RateRequest("k", RATE)])
    assert (driver.asked, driver.disconnected) == (asked, disconnected)


async def test_the_deadline_of_who_asks_first_isnt_that_of_all():
    driver = Driver(ALLOWED, ALLOWED + b" " + ALLOWED)
    async with driver.in_place() as store:
        with within("1h"):
            await store.check([RateRequest("k", RATE)])
            await store.check([RateRequest("k", RATE)] * 2)
    assert driver.left[0] is None
    assert driver.left[1] is not None, "several at once are one caller's"
