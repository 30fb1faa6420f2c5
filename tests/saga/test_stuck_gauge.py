"""How many sagas wait for an operator, and for how long: told once, by whichever process counts."""

import asyncio

import pytest
from opentelemetry import metrics
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from standfast import Context, Retry, Saga, Standfast, step
from standfast.resilience import telemetry
from standfast.saga import stuck
from tests.saga.engine.world import until

ONCE = Retry(attempts=1)


class Broken(Saga[str]):
    @step(retry=ONCE, on_exhausted="park", no_compensation="a note")
    async def parks(self, text: str, ctx: Context) -> None:
        raise OSError("away")


class Fine(Saga[str]):
    @step
    async def write(self, text: str, ctx: Context) -> None: ...

    @write.compensation
    async def wipe(self, text: str, ctx: Context) -> None: ...


@pytest.fixture
def meters(monkeypatch):
    """As many SDKs as processes: ``provider()`` sets a new one and answers how to read it."""
    providers = []

    def provider():
        reader = InMemoryMetricReader()
        made = MeterProvider([reader])
        providers.append(made)
        monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", made)
        assert metrics.get_meter_provider() is made

        def read():
            data = reader.get_metrics_data()
            return {
                (metric.name.removeprefix("standfast.saga."), *sorted(point.attributes.values())): (
                    point
                )
                for resource in (data.resource_metrics if data else ())
                for scope in resource.scope_metrics
                for metric in scope.metrics
                for point in metric.data.data_points
            }

        return read

    yield provider
    for made in providers:
        made.shutdown()


@pytest.mark.parametrize("backend", ["memory", "sqlite", "postgres"])
async def test_what_is_stuck_is_told_with_its_age(backend, request, tmp_path, meters, monkeypatch):
    monkeypatch.setattr(stuck, "EVERY", 0.05)
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/app.db"}.get(backend)
    url = url or request.getfixturevalue("postgres_dsn")
    read = meters()
    app = Standfast(url, migrate=True).add(Broken(), Fine())
    async with app.running(drain=2) as supervisor:
        assert {one.name for one in supervisor.services} == {"sagas", "sagas-stuck"}
        await until(lambda: ("stuck", "broken", "parked") in read())
        # At 0 from the beginning, for all that may come.
        assert read()["stuck", "broken", "parked"].value == 0
        assert read()["stuck", "compensation_failed", "fine"].value == 0
        assert read()["stuck.age", "broken", "parked"].value == 0
        for n in range(2):
            await app.start(Broken, f"{n}")
        await until(lambda: read()["stuck", "broken", "parked"].value == 2)
        await asyncio.sleep(0.2)
        age = read()["stuck.age", "broken", "parked"].value
        assert 0.1 < age < 30
        assert isinstance(age, float), "not how many they are"
        assert read()["stuck", "fine", "parked"].value == 0
    assert ("stuck", "broken", "parked") not in read(), "of a process that doesn't count any more"


async def test_one_process_counts_at_a_time(postgres_dsn, meters, monkeypatch):
    """Two that tell the same would be added up; and when it goes, the other takes over."""
    monkeypatch.setattr(stuck, "EVERY", 0.05)
    first, second = Standfast(postgres_dsn, migrate=True), Standfast(postgres_dsn)
    reads = [meters()]
    async with first.add(Broken()).running(drain=2, lease="1s"):
        reads.append(meters())
        async with second.add(Broken()).running(drain=2, lease="1s"):
            await (await first.start(Broken, "x")).status()
            telling = ("stuck", "broken", "parked")
            await until(lambda: any(telling in read() for read in reads))
            for _ in range(10):
                assert sum(telling in read() for read in reads) == 1
                await asyncio.sleep(0.02)
    assert not any(telling in read() for read in reads)


async def test_where_nobody_measures_nothing_is_counted(tmp_path):
    """A process without an SDK would keep it from one that has one."""
    app = Standfast(f"sqlite:///{tmp_path}/app.db").add(Fine())
    async with app.running(drain=2) as supervisor:
        assert [one.name for one in supervisor.services] == ["sagas"]


async def test_counters_begin_at_zero(tmp_path, meters):
    """Born at 1, a first event was none to `increase()`."""
    read = meters()
    app = Standfast(f"sqlite:///{tmp_path}/app.db").add(Broken(), Fine())
    async with app:
        found = read()
    for name in (
        ("started", "fine"),
        ("finished", "compensated", "fine"),
        ("finished", "completed", "broken"),
        *(("step.failures", "fine", how, "write") for how in ("parked", "refused", "retried")),
        ("step.failures", "exhausted", "fine", "write"),
        *(("compensations", how, "fine", "write") for how in ("completed", "failed")),
        ("parked", "broken", "parks"),
    ):
        assert found[(name[0], *sorted(name[1:]))].value == 0, name
    assert not [key for key in found if key[0] == "compensations" and "parks" in key]


async def test_buckets_fit_what_is_measured(tmp_path, meters, monkeypatch):
    """All from 0 to 5 s fell into one."""
    read = meters()
    app = Standfast(f"sqlite:///{tmp_path}/app.db").add(Fine())
    async with app.running(drain=2):
        await (await app.start(Fine, "x")).result(timeout=10)
    duration = read()["duration", "completed", "fine"]
    assert duration.explicit_bounds[0] <= 0.01
    assert duration.explicit_bounds[-1] >= 30 * 86400
    assert sum(1 for bound in duration.explicit_bounds if bound <= 5) >= 8
    monkeypatch.setattr(telemetry, "_histograms", {})
    telemetry.record("standfast.test.wait", 0.003, {"name": "n"}, description="a wait")
    wait = read()["standfast.test.wait", "n"]
    assert wait.explicit_bounds[0] <= 0.001
    assert wait.explicit_bounds[-1] >= 60
