"""What can be added to an app, what comes with it, and how its services are chosen."""

from typing import Any

import pytest

from standfast import Barrier, ConfigurationError, Context, Saga, Standfast, step
from standfast.app import DRAIN
from standfast.coordination import Duty
from standfast.coordination.supervisor import Supervisor
from standfast.errors import MigrationNeeded, SagaNotFound, Unsupported
from standfast.pattern import Pattern
from standfast.ports import Capabilities
from standfast.ports.leases import LeaseStore
from standfast.ports.schema import Schema
from standfast.resilience import DatabaseRateLimits, RateLimiter
from standfast.saga.sagas import Sagas
from standfast.tables import status_of


class Short(Saga[int]):
    @step(no_compensation="nothing to undo")
    async def go(self, number: int, ctx: Context) -> int:
        return number


class Other(Saga[int]):
    @step(no_compensation="nothing to undo")
    async def go(self, number: int, ctx: Context) -> int:
        return number


class Bell:
    """A pattern of a user's own: one service, no tables."""

    ports = (LeaseStore,)

    def __init__(self) -> None:
        self.told: list[str] = []

    def attach(self, host: Any) -> None:
        self.told.append("attach")

    def add(self, part: Any) -> None:
        raise ConfigurationError("a bell takes no parts")

    async def open(self) -> None:
        self.told.append("open")

    async def close(self) -> None:
        self.told.append("close")

    def services(self, options: Any) -> list[Any]:
        return [self]

    name = "bell"
    exclusive = False

    async def run(self, duty: Duty) -> None:
        self.told.append("run")
        duty.ready()
        await duty.stopping.wait()
        self.told.append("stop")


async def tables(app: Standfast) -> set[str]:
    async with app, app.transaction() as tx:
        rows = await tx.fetch("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {row[0] for row in rows if not row[0].startswith("sqlite_")}


SAGAS = {"instances", "journal", "mail"}
ALWAYS = {"schema_migrations"}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((), set()),
        ((Short(),), ALWAYS | SAGAS | {"leases"}),
        ((Barrier(),), ALWAYS | {"marks"}),
        ((Short(), Barrier()), ALWAYS | SAGAS | {"leases", "marks"}),
        ((Bell(),), ALWAYS | {"leases"}),
    ],
    ids=lambda given: "+".join(type(one).__name__ for one in given) or "nothing",
)
async def test_an_app_gets_the_tables_of_what_was_added_and_no_others(tmp_path, parts, expected):
    app = Standfast(f"sqlite:///{tmp_path}/app.db").add(*parts)
    assert await tables(app) == {f"standfast_{name}" for name in expected}


async def test_a_pattern_that_is_added_later_gets_its_tables_then(tmp_path):
    url = f"sqlite:///{tmp_path}/app.db"
    await tables(Standfast(url).add(Barrier()))
    app = Standfast(url, migrate=False).add(Barrier(), Short())
    with pytest.raises(MigrationNeeded, match=r"coordination is at 0, journal is at 0.*migrate"):
        await app.__aenter__()
    async with Standfast(url).add(Barrier(), Short()) as app:
        status = await status_of(app.database, app.patterns.ports)
        assert {(one.line.name, one.is_complete) for one in status} == {
            ("coordination", True),
            ("journal", True),
            ("marks", True),
        }
        assert set(await app.database.port(Schema).applied()) == {
            "coordination",
            "journal",
            "marks",
        }


@pytest.mark.parametrize("wrong", [Short, object(), "short", None, Barrier])
def test_what_is_neither_a_saga_nor_a_pattern_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="give an instance of a Saga subclass"):
        Standfast("memory://").add(wrong)


def test_a_pattern_is_there_once():
    with pytest.raises(ConfigurationError, match="has a Barrier already"):
        Standfast("memory://").add(Barrier(), Barrier())


def test_a_pattern_that_the_database_cant_keep_is_refused():
    with pytest.raises(Unsupported, match="has no RateLimitStore"):
        Standfast("sqlite:///app.db").add(DatabaseRateLimits())


async def test_a_pattern_lives_with_its_app():
    bell = Bell()
    app = Standfast("memory://").add(bell)
    async with app.running():
        pass
    assert bell.told == ["attach", "open", "run", "stop", "close"]


async def test_only_some_services_run():
    bell = Bell()
    app = Standfast("memory://").add(bell, Short())
    async with app.running() as supervisor:
        assert [one.name for one in supervisor.services] == ["bell", "sagas"]
    async with app.running(only=["bell"]) as supervisor:
        assert [(one.name, one.state) for one in supervisor.services] == [("bell", "running")]
        handle = await app.start(Short, 1)
        assert await handle.status() == "running", "nobody runs sagas here"
    async with app.running(only=["sagas"]):
        assert (await handle.result(timeout=10))["go"] == 1
    async with app.running(only=["sagas", "bell"]) as supervisor:
        assert [one.name for one in supervisor.services] == ["bell", "sagas"], "as they were added"


async def test_what_is_said_of_the_running_reaches_those_who_go_by_it(monkeypatch):
    drains: list[float] = []

    async def stop(supervisor: Supervisor, drain: float) -> None:
        drains.append(drain)
        await stops(supervisor, drain)

    stops = Supervisor.stop
    monkeypatch.setattr(Supervisor, "stop", stop)
    app = Standfast("memory://").add(Short())
    given = {"name": "n", "lease": "2s", "max_in_flight": 7, "threads": 3, "poll": "3s"}
    for options, found in (
        ({}, (10.0, 1000, 40, 2.0, 1.0)),
        ({**given, "linger": "500ms", "drain": 0}, (2.0, 7, 3, 3.0, 0.5)),
    ):
        async with app.running(**options) as supervisor:
            assert app.supervisor is supervisor
            worker: Any = supervisor._posts[0].service
            lease, limit = supervisor.membership.lease, worker.slots.limit
            assert (lease, limit, app.sagas.threads.limit, worker._poll, worker.linger) == found
            assert supervisor.membership._keep_time == app._keep_time
            assert (supervisor.membership.name == "n") == bool(options)
        assert app.supervisor is None
    assert drains == [DRAIN, 0.0]
    for wrong, why in (
        ({"lease": 0.09}, "lease=0.09: must be 0.1 s or more"),
        ({"name": "x" * 501}, "has 501 characters: give 1 to 500"),
        ({"name": ""}, "has 0 characters"),
        ({"drain": -1}, "drain=-1: .* zero or more"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            app.running(**wrong)
    app.running(lease=0.1, name="x" * 500)


async def test_it_is_open_until_the_last_block_has_ended():
    bell = Bell()
    app = Standfast("memory://").add(bell)
    async with app:
        async with app, app.transaction():
            pass
        app.check_open()
        assert bell.told == ["attach", "open"]
    assert bell.told == ["attach", "open", "close"]
    for ask in (app.check_open, lambda: app.sagas.journal):
        with pytest.raises(ConfigurationError, match="the app isn't open: use `async with app:`"):
            ask()
    async with app.transaction():  # which opens it
        app.check_open()
    assert bell.told[3:] == ["open", "close"]


@pytest.mark.parametrize(
    ("only", "told"),
    [
        (["bel"], "only=bel: there is no such service; this app has bell"),
        ("bell", "only='bell': give a list of names"),
        ([5], "give a list of names"),
    ],
)
async def test_an_unknown_service_is_told_with_the_choices(only, told):
    app = Standfast("memory://").add(Bell())
    with pytest.raises(ConfigurationError, match=told):
        async with app.running(only=only):
            pass
    assert app.supervisor is None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": ""}, "a service is named ''"),
        ({"name": None}, "a service is named None"),
        ({"name": "a\0b"}, "NUL"),
        ({"exclusive": "no"}, "service 'bell': exclusive must be True or False"),
        ({"exclusive": None}, "exclusive must be"),
        ({"run": lambda duty: None}, "async def run"),
        ({"run": None}, "async def run"),
        ({"services": lambda options: None}, "it must answer a list of services"),
        ({"services": lambda options: "bell"}, "it must answer a list of services"),
    ],
)
async def test_a_service_that_cant_be_run_is_refused_before_anything_begins(wrong, told):
    bell = Bell()
    for name, value in wrong.items():
        setattr(bell, name, value)
    with pytest.raises(ConfigurationError, match=told):
        async with Standfast("memory://").add(bell).running():
            pass
    assert bell.told == ["attach"]


def test_what_is_nearly_a_pattern_is_told_what_it_lacks():
    class Nearly:
        ports = ()

        def attach(self, host: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="has no add, open, close, services: subclass"):
        Standfast("memory://").add(Nearly())


class Sad(Pattern):
    """It fails to open or to close."""

    def __init__(self, told: list[str], fails: str) -> None:
        self.told, self.fails = told, fails

    async def open(self) -> None:
        if self.fails == "open":
            raise OSError("no")
        self.told.append("sad open")

    async def close(self) -> None:
        self.told.append("sad close")
        if self.fails == "close":
            raise OSError("no")


@pytest.mark.parametrize(
    ("fails", "expected"),
    [("open", ["open", "close"]), ("close", ["open", "sad open", "sad close", "close"])],
)
async def test_what_was_opened_is_closed_whatever_another_pattern_raises(fails, expected):
    bell, told = Bell(), []
    bell.told = told
    app = Standfast("memory://").add(bell, Sad(told, fails))
    with pytest.raises(OSError, match="no"):
        async with app:
            pass
    assert told == ["attach", *expected]


async def test_adding_to_an_app_that_is_open_is_refused():
    app = Standfast("memory://")
    async with app:
        for part in (Short(), Barrier(), Bell()):
            with pytest.raises(ConfigurationError, match="the app is open"):
                app.add(part)
        assert app.patterns.all == []  # so the next opening needs no tables for them
    async with app.add(Short(), Barrier()):
        app.add(Other())  # its pattern is there


async def test_an_app_without_sagas_says_so_when_one_is_started():
    async with Standfast("memory://") as app:
        with pytest.raises(ConfigurationError, match="no saga is named 'short'"):
            await app.start("short", 1)
        with pytest.raises(SagaNotFound):
            await app.saga("short", "key")


async def test_an_app_with_nothing_to_run_says_so():
    with pytest.raises(ConfigurationError, match="nothing to run"):
        async with Standfast("memory://").add(Barrier()).running():
            pass
    app = Standfast("memory://")
    assert app.operations  # which takes the pattern of sagas, to look
    with pytest.raises(ConfigurationError, match="nothing to run"):
        async with app.running():
            pass


async def test_rate_limits_in_the_apps_own_database(postgres_dsn):
    limits = DatabaseRateLimits()
    app = Standfast(postgres_dsn, migrate=True).add(limits)
    limiter = RateLimiter(2, "1h", store=limits, name="api", on_store_failure="deny")
    async with app:
        got = [(await limiter.check("ann")).allowed for _ in range(3)]
        assert got == [True, True, False]
        versions = await app.database.port(Schema).applied()
        assert set(versions) == {"rate_limits"}


async def test_rate_limits_of_no_app_say_so():
    limiter = RateLimiter(2, store=DatabaseRateLimits(), name="api", on_store_failure="deny")
    with pytest.raises(ConfigurationError, match=r"app\.add\(limits\)"):
        await limiter.check("ann")


def test_capabilities_decide_whether_tables_are_made_by_themselves():
    """Documented in `Standfast`: not where many share a durable database."""
    assert Standfast("postgresql://localhost/x").database.capabilities == Capabilities(
        durable=True, many_workers=True, many_processes=True, write_lanes=2
    )


async def test_what_was_refused_isnt_part_of_the_app(tmp_path):
    """Its ports were asked for when the app was opened, and it couldn't be added."""
    app = Standfast(f"sqlite:///{tmp_path}/app.db")
    for _ in range(2):
        with pytest.raises(Unsupported):
            app.add(DatabaseRateLimits())
    assert app.patterns.all == []
    async with app:
        pass


class Own(Sagas):
    """The pattern of sagas, with something of a user's own."""


async def test_a_pattern_of_ones_own_that_is_a_kind_of_another_takes_its_parts():
    """A second one joined beside it, with a worker of the same name."""
    own = Own()
    app = Standfast("memory://").add(own, Short())
    assert app.patterns.all == [own]
    assert app.sagas is own
    async with app.running():
        assert (await (await app.start(Short, 1)).result(timeout=5))["go"] == 1


async def test_a_pattern_that_doesnt_open_is_named():
    class Stuck(Pattern):
        async def open(self) -> None:
            raise OSError("no route")

    with pytest.raises(OSError, match="no route") as caught:
        async with Standfast("memory://").add(Stuck()):
            pass
    assert caught.value.__notes__ == ["standfast: pattern 'Stuck' failed at its start"]


class _Host:
    def __init__(self, database) -> None:
        self.database = database


class _Database:
    """One that counts rates, and says which one it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def port(self, protocol):
        return self

    async def check(self, requests):
        return [self.name]


async def test_rate_limits_count_in_the_database_of_the_app_they_were_added_to_last():
    """They went on in the first one's, which may be closed."""
    limits = DatabaseRateLimits()
    for name in ("first", "second"):
        limits.attach(_Host(_Database(name)))
        assert await limits.check([None]) == [name]
