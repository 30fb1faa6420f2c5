"""The travel agency as it is deployed: its processes, one of them killed, looked at over HTTP."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from standfast import Standfast
from standfast.ports.journal import JournalStore
from standfast.ports.leases import LeaseStore
from tests.docs.blocks import ROOT
from tests.saga.engine.world import until

pytestmark = [pytest.mark.slow, pytest.mark.crash]

PARTNERS = ("flight", "hotel", "car", "payment")
BATCH, BATCHES = 12, 10
WITHIN = 90.0


class Processes:
    """Real processes, each with its log; none is left behind."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.env = {**os.environ, **settings}
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [Path(sys.executable).with_name(command[0]), *command[1:]],
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    async def serve(self, name: str, api: str) -> str:
        """Serve an API by uvicorn, on a free port; its address once it answers there."""
        process = self.start(name, "uvicorn", api, "--port", "0")
        log = self.folder / f"{name}.log"

        def address() -> str:
            assert process.poll() is None, log.read_text()
            found = re.search(r"running on (http://\S+)", log.read_text())
            return found[1] if found else ""

        await until(address, within=WITHIN)
        return address()

    def work(self, name: str) -> subprocess.Popen[bytes]:
        app = ("-a", "examples.travel.app:travel")
        return self.start(name, "standfast", "run", *app, "--name", name, "--lease", "2s")

    def close(self) -> None:
        for process in self.running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def processes(tmp_path: Path, postgres_dsn: str) -> Iterator[Processes]:
    made = Processes(
        tmp_path,
        TRAVEL_DATABASE=postgres_dsn,
        PARTNERS_DATABASE=f"sqlite:///{tmp_path}/partners.db",
        PARTNERS_TAKE="0.2",
    )
    yield made
    made.close()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=WITHIN) as client:
        yield client


def trip(number: int) -> dict[str, Any]:
    """Every fourth can't be had, for want of a hotel or of money."""
    return {
        "id": f"{number:03}",
        "traveller": "Ann",
        "city": "Atlantis" if number % 8 == 1 else "Lisbon",
        "cents": 300_000 if number % 8 == 5 else 90_000,
    }


def expected(number: int) -> str:
    return "undone" if number % 4 == 1 else "booked"


async def in_hand(database: str, worker: str) -> int:
    """How many sagas a worker has in hand."""
    async with Standfast(database) as look:
        leases = await look.database.port(LeaseStore).leases()
        owned = await look.database.port(JournalStore).owned()
    return sum(owned.get(lease.token, 0) for lease in leases if lease.holder == worker)


async def kill_in_the_middle(
    process: subprocess.Popen[bytes], database: str, worker: str, book: Callable[[], Any]
) -> None:
    """Kill a worker while it has sagas in hand; `book` gives it some."""
    for _ in range(BATCHES):
        await book()
        process.send_signal(signal.SIGSTOP)  # so that what is seen is still so when it is killed
        if await in_hand(database, worker):
            process.kill()
            process.wait()
            return
        process.send_signal(signal.SIGCONT)
    pytest.fail(f"worker {worker} never had anything in hand")


async def events(http: httpx.AsyncClient, url: str, **headers: str) -> list[dict[str, Any]]:
    async with http.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200
        lines = [line async for line in answer.aiter_lines()]
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


async def test_every_trip_is_booked_or_undone_though_a_worker_is_killed(
    processes: Processes, postgres_dsn: str, http: httpx.AsyncClient
) -> None:
    partners = await processes.serve("partners", "examples.travel.partners:api")
    processes.env["PARTNERS"] = partners
    web = await processes.serve("web", "examples.travel.api:api")
    victim, _ = processes.work("first"), processes.work("second")

    async def post(wish: dict[str, Any]) -> int:
        return (await http.post(f"{web}/bookings", json=wish)).status_code

    wishes: list[dict[str, Any]] = []

    async def book() -> None:
        batch = [trip(number) for number in range(len(wishes), len(wishes) + BATCH)]
        wishes.extend(batch)
        twice = [*batch, *batch]  # travellers are impatient
        assert set(await asyncio.gather(*map(post, twice))) == {202}

    await kill_in_the_middle(victim, postgres_dsn, "first", book)
    following = asyncio.create_task(events(http, f"{web}/bookings/{wishes[-1]['id']}/progress"))

    async def ended() -> bool:
        found = (await http.get(f"{web}/bookings")).json()
        return {one["status"] for one in found} <= {"booked", "undone"}

    await until(ended, within=WITHIN)

    stand = {one["id"]: one["status"] for one in (await http.get(f"{web}/bookings")).json()}
    assert stand == {wish["id"]: expected(n) for n, wish in enumerate(wishes)}

    # Nothing twice: whatever was booked is booked once, and cancelled once if the trip is undone.
    entries = (await http.get(f"{partners}/ledger")).json()
    done = Counter((one["trip"], one["partner"], one["kind"]) for one in entries)
    assert set(done.values()) == {1}
    for id, status in stand.items():
        booked = {partner for partner in PARTNERS if (id, partner, "book") in done}
        cancelled = {partner for partner in PARTNERS if (id, partner, "cancel") in done}
        assert booked == (set(PARTNERS) if status == "booked" else cancelled), (id, status)
        assert not (cancelled if status == "booked" else booked & {"payment"}), (id, status)

    told = await following
    assert told[-1]["at_rest"]
    assert told[-1]["status"] in ("completed", "compensated")

    assert await post({**wishes[0], "city": "Porto"}) == 409
    assert (await http.get(f"{web}/bookings/none")).status_code == 404
    assert (await http.get(f"{web}/bookings/none/progress")).status_code == 404
