"""Operator control through a real Redis: orders, late joiners, hints, and a Redis that dies."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import pytest
import redis.asyncio as redis
from redis.exceptions import ReadOnlyError
from tests.servers.redis import Redis
from tests.test_shielding import cancel_again_and_again

from standfast.backends.redis.circuit_control import RedisCircuitControl, _hint
from standfast.clock import SystemClock
from standfast.errors import CircuitOpen, StoreUnavailable
from standfast.ports.circuit_control import Hint, Order
from standfast.resilience.breaker import CircuitBreaker, CircuitRegistry, State
from standfast.resilience.breaker.control import OperatorControl


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


class Instance:
    """One process's worth: a registry and a breaker in it."""

    def __init__(self, url: str, name: str = "payments") -> None:
        self.registry = CircuitRegistry()
        self.breaker = self.make(name)
        self.control = OperatorControl(
            RedisCircuitControl(url, refresh="200ms", timeout="2s"),
            registry=self.registry,
            retry="50ms",
        )

    def make(self, name: str) -> CircuitBreaker:
        return CircuitBreaker(
            name,
            registry=self.registry,
            failure_rate=None,
            consecutive_failures=4,
            half_open_calls=1,
            wait="10m",
        )

    def fail(self) -> None:
        def fails() -> None:
            raise OSError("down")

        with pytest.raises(OSError, match="down"):
            self.breaker.call(fails)


async def test_an_order_reaches_every_instance_and_late_joiners(redis_url: str) -> None:
    one, other, late = Instance(redis_url), Instance(redis_url), Instance(redis_url)
    async with one.control as operator, other.control:
        await operator.open("payments")
        await until(lambda: other.breaker.state is State.FORCED_OPEN)
        await until(lambda: one.breaker.state is State.FORCED_OPEN)
        with pytest.raises(CircuitOpen):
            other.breaker.call(lambda: None)
        async with late.control:
            await until(lambda: late.breaker.state is State.FORCED_OPEN)
            assert late.make("payments").state is State.FORCED_OPEN, "one made later obeys too"
            await operator.close("payments")
            await until(lambda: late.breaker.state is State.METRICS_ONLY)
            await operator.auto("payments")
            await until(lambda: late.breaker.state is State.CLOSED)
            await until(lambda: one.breaker.state is other.breaker.state is State.CLOSED)


async def test_an_order_is_told_at_once_to_those_that_follow(redis_url: str) -> None:
    """None has to wait until the orders are read anew."""
    one, other = (RedisCircuitControl(redis_url, refresh="1h") for _ in range(2))
    told: asyncio.Queue[Hint | None] = asyncio.Queue()
    orders: tuple[Order | None, ...] = ("open", None)

    async def follow() -> None:
        async for message in other.follow():
            await told.put(message)

    following = asyncio.create_task(follow())
    try:
        for order in orders:
            async with asyncio.timeout(10):
                await told.get()  # it follows; or the order before
            await asyncio.sleep(0.2)  # Redis confirms the subscription, too
            while not told.empty():
                told.get_nowait()
            await one.order("payments", order)
        async with asyncio.timeout(10):
            assert await told.get() is None
    finally:
        following.cancel()
        await asyncio.wait([following])
        await one.close()
        await other.close()


async def test_a_prefix_of_its_own_keeps_an_application_s_orders_apart(redis_url: str) -> None:
    one, other = (RedisCircuitControl(redis_url, prefix=prefix) for prefix in ("shop", "bank"))
    try:
        await one.order("payments", "open")
        assert await one.orders() == {"payments": "open"}
        assert await other.orders() == {}
    finally:
        await one.close()
        await other.close()


async def test_an_order_for_one_name_goes_before_that_for_all(redis_url: str) -> None:
    instance = Instance(redis_url)
    stock = instance.make("stock")
    async with instance.control as operator:
        await operator.open()
        await operator.close("stock")
        await until(lambda: instance.breaker.state is State.FORCED_OPEN)
        await until(lambda: stock.state is State.METRICS_ONLY)
        await operator.auto("stock")
        await until(lambda: stock.state is State.FORCED_OPEN)
        await operator.auto()
        await until(lambda: stock.state is instance.breaker.state is State.CLOSED)


async def test_a_breaker_decides_for_itself_for_good_once_an_order_has_ended(
    redis_url: str,
) -> None:
    """Orders are read again and again; that there is none now resets it once only."""
    instance = Instance(redis_url)
    async with instance.control as operator:
        await operator.close("payments")
        await until(lambda: instance.breaker.state is State.METRICS_ONLY)
        await operator.auto("payments")
        await until(lambda: instance.breaker.state is State.CLOSED)
        for _ in range(4):
            instance.fail()
        assert instance.breaker.state is State.OPEN
        await asyncio.sleep(1.0)  # five times the refresh
        assert instance.breaker.state is State.OPEN


async def test_what_was_disabled_by_hand_is_left_alone_without_an_order(redis_url: str) -> None:
    instance = Instance(redis_url)
    instance.breaker.disable()
    stock = instance.make("stock")
    async with instance.control as operator:
        await operator.open("stock")
        await until(lambda: stock.state is State.FORCED_OPEN)
        assert instance.breaker.state is State.DISABLED


async def test_an_instance_that_opens_puts_others_on_alert(redis_url: str) -> None:
    one, other = Instance(redis_url), Instance(redis_url)
    async with one.control, other.control:
        other.breaker.alert("1ms")  # what is watched below is set, and over at once

        def on_alert() -> bool:
            return other.breaker._machine._alert_until > time.monotonic() + 1

        end = time.monotonic() + 60
        while not on_alert():  # a hint goes only to those who listen already
            assert time.monotonic() < end
            one.breaker.reset()
            for _ in range(4):
                one.fail()
            assert one.breaker.state is State.OPEN
            await asyncio.sleep(0.1)
        assert other.breaker.state is State.CLOSED, "a hint opens nothing by itself"
        other.fail()
        assert other.breaker.state is State.CLOSED
        other.fail()
        assert other.breaker.state is State.OPEN, "half of four failures"
        assert one.breaker._machine._alert_until < time.monotonic(), "not by its own hint"


async def test_an_instance_that_closes_lets_others_probe(redis_url: str) -> None:
    one, other = Instance(redis_url), Instance(redis_url)
    async with one.control, other.control:
        other.breaker.open()
        end = time.monotonic() + 60
        while other.breaker.state is not State.HALF_OPEN:
            assert time.monotonic() < end
            one.breaker.open()
            one.breaker.probe_early()
            one.breaker.call(lambda: None)
            assert one.breaker.state is State.CLOSED
            await asyncio.sleep(0.1)


async def test_calls_and_orders_survive_a_redis_that_is_killed(redis_server: Redis) -> None:
    instance = Instance(redis_server.url)
    async with instance.control as operator:
        await operator.open("payments")
        await until(lambda: instance.breaker.state is State.FORCED_OPEN)
        redis_server.kill()
        await asyncio.sleep(0.5)
        assert instance.breaker.state is State.FORCED_OPEN, "the order is kept"
        with pytest.raises(StoreUnavailable):
            await operator.auto("payments")
        instance.breaker.reset()
        for _ in range(4):
            instance.fail()
        assert instance.breaker.state is State.OPEN, "it still decides for itself"
        redis_server.start()
        await until(lambda: instance.breaker.state is State.FORCED_OPEN)


async def test_a_redis_that_is_away_at_the_start_delays_nothing(redis_server: Redis) -> None:
    url = redis_server.url
    redis_server.stop()
    instance = Instance(url)
    async with instance.control as operator:
        assert instance.breaker.call(lambda: 1) == 1
        redis_server.start()

        async def ordered() -> None:
            while True:
                try:
                    return await operator.open()
                except StoreUnavailable:
                    await asyncio.sleep(0.05)

        await asyncio.wait_for(ordered(), 60)
        await until(lambda: instance.breaker.state is State.FORCED_OPEN)


class Forgetful:
    """A control whose `follow` forgets the first cancellation."""

    forgotten = False

    async def follow(self) -> AsyncGenerator[Hint | None, None]:
        yield None
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if self.forgotten:
                    raise
                self.forgotten = True

    async def orders(self) -> Mapping[str, Order]:
        return {}

    async def order(self, name: str, order: Order | None) -> None: ...

    async def hint(self, hint: Hint) -> None: ...

    async def close(self) -> None: ...


async def test_it_ends_though_the_driver_forgets_a_cancellation() -> None:
    """As redis-py does now and then, through `asyncio.wait_for` before Python 3.12."""
    forgetful = Forgetful()
    async with asyncio.timeout(10):
        async with OperatorControl(forgetful, registry=CircuitRegistry()):
            await asyncio.sleep(0.01)
    assert forgetful.forgotten


async def test_what_is_no_text_is_told_and_ends_nothing(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Anybody may write there, with redis-cli say."""
    instance = Instance(redis_url)
    async with instance.control, redis.Redis.from_url(redis_url) as direct:
        await direct.hset("standfast:circuits", mapping={b"\xff": b"open", "payments": "open"})
        await until(lambda: instance.breaker.state is State.FORCED_OPEN)
        await direct.publish("standfast:circuits", b"\xff\xfe")
        await until(lambda: "is no hint" in caplog.text)
        await direct.hset("standfast:circuits", "payments", b"\xff")
        await until(lambda: instance.breaker.state is State.CLOSED)
        await instance.control.open("payments")
        await until(lambda: instance.breaker.state is State.FORCED_OPEN)
    assert "is no order" in caplog.text


class Faulty(Forgetful):
    """A port of somebody's own, with bugs in it."""

    calls = hints = 0

    async def orders(self) -> Mapping[str, Order]:
        self.calls += 1
        if self.calls < 3:
            raise ZeroDivisionError
        return {"payments": "open"}

    async def follow(self) -> AsyncGenerator[Hint | None, None]:
        yield None

    async def hint(self, hint: Hint) -> None:
        self.hints += 1
        raise ZeroDivisionError


async def test_bugs_of_a_port_are_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> None:
        raise OSError("down")

    registry, faulty = CircuitRegistry(), Faulty()
    one = CircuitBreaker("one", registry=registry, failure_rate=None, consecutive_failures=1)
    held = CircuitBreaker("payments", registry=registry)
    async with OperatorControl(faulty, registry=registry, retry="10ms"):
        await until(lambda: held.state is State.FORCED_OPEN)
        for hints in (1, 2):
            with pytest.raises(OSError, match="down"):
                one.call(fails)
            await until(lambda hints=hints: faulty.hints == hints)  # type: ignore[misc]
            one.reset()
    assert "circuit control failed; trying again" in caplog.text
    assert "a hint couldn't be sent" in caplog.text


class Remembers(Forgetful):
    """Keeps the hints that it is given."""

    def __init__(self) -> None:
        self.hints: list[Hint] = []

    async def hint(self, hint: Hint) -> None:
        self.hints.append(hint)


def test_no_hint_goes_out_late_because_the_event_loop_stood_still() -> None:
    registry, control = CircuitRegistry(), Remembers()
    operator = OperatorControl(control, registry=registry)
    breaker = CircuitBreaker("payments", registry=registry)
    with asyncio.Runner() as runner:
        runner.run(operator.__aenter__())
        breaker.open()

        async def goes_on() -> None:
            await asyncio.sleep(0.01)
            assert control.hints == []
            breaker.reset()
            breaker.open()
            await until(lambda: len(control.hints) == 1)
            await operator.__aexit__(None, None, None)

        runner.run(goes_on())


async def test_it_ends_to_the_last_however_often_that_is_cancelled() -> None:
    closed = []

    class Slow(Forgetful):
        async def close(self) -> None:
            await asyncio.sleep(0.01)
            closed.append(True)

    is_inside = asyncio.Event()

    async def use() -> None:
        async with OperatorControl(Slow(), registry=CircuitRegistry()):
            is_inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(use())
    await is_inside.wait()
    before = asyncio.all_tasks() - {task}
    await cancel_again_and_again(task)
    assert closed
    assert len(asyncio.all_tasks() & before) == 1, "this one"


class Told(Remembers):
    """A control that follows a script: hints, None for orders, errors, and changes of orders."""

    def __init__(self, *script: Hint | Exception | Mapping[str, Order] | None) -> None:
        super().__init__()
        self.script = list(script)
        self.ordered: Mapping[str, Order] = {}
        self.is_over = asyncio.Event()

    async def follow(self) -> AsyncGenerator[Hint | None, None]:
        while self.script:
            told = self.script.pop(0)
            if isinstance(told, Exception):
                raise told
            if isinstance(told, Mapping):
                self.ordered = told
                told = None
            yield told
        self.is_over.set()
        await asyncio.sleep(60)

    async def orders(self) -> Mapping[str, Order]:
        return self.ordered


async def test_an_outage_is_told_once_and_again_when_it_had_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = StoreUnavailable("gone")
    control = Told(away, away, None, away, ValueError("bug"), ValueError("bug"))
    async with (
        asyncio.timeout(10),
        OperatorControl(control, registry=CircuitRegistry(), retry="1ms"),
    ):
        await control.is_over.wait()
    said = [(one.levelname, one.getMessage()) for one in caplog.records]
    assert said == [("WARNING", "circuit control is away, calls go on: gone")] * 2


async def test_hints_concern_the_breakers_of_that_name_elsewhere() -> None:
    registry = CircuitRegistry()
    breakers = {
        name: CircuitBreaker(name, registry=registry, failure_rate=None, failure_count=4)
        for name in ("payments", "stock")
    }
    control = Told()
    operator = OperatorControl(control, registry=registry)
    own = operator._instance
    control.script += [Hint("payments", "open", own), Hint("stock", "open", "another")]

    def fails() -> None:
        raise OSError("down")

    async with asyncio.timeout(10), operator:
        await control.is_over.wait()
        for name, breaker in breakers.items():
            for _ in range(2):
                with pytest.raises(OSError, match="down"):
                    breaker.call(fails)
            assert (breaker.state is State.OPEN) is (name == "stock"), "on alert, half is enough"
        await until(lambda: bool(control.hints))
        breakers["payments"].force_open()
        breakers["payments"].reset()
        breakers["payments"].open()
        await until(lambda: len(control.hints) == 2)
    assert control.hints == [Hint("stock", "open", own), Hint("payments", "open", own)]
    breakers["stock"].reset()
    breakers["stock"].open()
    CircuitBreaker("later", registry=registry).open()
    assert not operator._hints, "it listens no more"


async def test_whom_an_order_holds() -> None:
    registry = CircuitRegistry()
    payments, stock = (CircuitBreaker(name, registry=registry) for name in ("payments", "stock"))
    control = Told({"*": "open", "payments": "close"}, {"payments": "open"}, {})
    seen: list[tuple[State, State]] = []
    read = control.orders

    async def orders() -> Mapping[str, Order]:
        seen.append((payments.state, stock.state))
        return await read()

    control.orders = orders  # type: ignore[method-assign]
    async with asyncio.timeout(10), OperatorControl(control, registry=registry):
        await control.is_over.wait()
        seen.append((payments.state, stock.state))
    assert seen == [
        (State.CLOSED, State.CLOSED),
        (State.METRICS_ONLY, State.FORCED_OPEN),
        (State.FORCED_OPEN, State.CLOSED),
        (State.CLOSED, State.CLOSED),
    ]


async def test_who_follows_hears_first_that_nothing_can_be_missed(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    control = RedisCircuitControl(redis_url, refresh="1h")
    try:
        async with asyncio.timeout(10), aclosing(control.follow()) as following:
            assert await anext(following) is None
            hint = Hint("payments", "closed", "one")
            await control.hint(hint)
            while (told := await anext(following)) is None:
                pass  # as Redis confirms the subscription
            assert told == hint
            await control.order("payments", "open")
            assert await anext(following) is None
        assert await control.orders() == {"payments": "open"}
    finally:
        await control.close()
    assert caplog.messages == []


@pytest.mark.parametrize(
    "said",
    [
        "[]",
        "7",
        "{",
        '{"name": "a", "state": "open"}',
        '{"name": "a", "state": "half", "instance": "b"}',
    ],
)
def test_what_is_no_hint_is_told(said: str, caplog: pytest.LogCaptureFixture) -> None:
    assert _hint(said) is None
    assert caplog.messages == [f"{said!r} is no hint"]


async def test_an_order_follows_a_failover(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that leads to the old master is dropped, and the order is given once more."""
    control = RedisCircuitControl("redis://127.0.0.1:1")
    errors: list[Exception] = [ReadOnlyError("READONLY it is a replica now")]
    given: list[Order | None] = []
    dropped: list[bool] = []

    async def write(name: str, order: Order | None) -> None:
        given.append(order)
        if errors:
            raise errors.pop(0)

    async def disconnect() -> None:
        dropped.append(True)

    monkeypatch.setattr(control, "_write", write)
    monkeypatch.setattr(control._redis.connection_pool, "disconnect", disconnect)
    await control.order("payments", "open")
    assert (given, dropped) == (["open", "open"], [True])
    errors.append(ConnectionError("it was reset"))
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1 doesn't answer; .*it was reset"):
        await control.order("payments", None)
    assert (given, dropped) == (["open", "open", None], [True])


async def test_that_no_order_arrives_any_more_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SystemClock):
        async def sleep(self, seconds: float) -> None:
            raise ZeroDivisionError

    control = Told(StoreUnavailable("gone"))
    async with OperatorControl(control, registry=CircuitRegistry(), clock=Broken()):
        await until(lambda: len(caplog.records) == 2)
    assert caplog.messages[1] == "circuit control ended, orders no longer arrive"
    assert caplog.records[1].exc_info is not None
