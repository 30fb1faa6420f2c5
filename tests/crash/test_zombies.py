"""Three workers on one PostgreSQL, of which one is killed or frozen every 2 s.

That no stale worker's write was accepted is shown by the database itself. Triggers, made by the
test, write down in one order each lease's begin and end, each change of an instance's owner, and
each fact with the process that wrote it.
"""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import asyncpg
import pytest

from standfast import Barrier, Standfast
from standfast.saga import FINISHED
from tests.crash.crew import LEASE, Haul, Job

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SAGAS = 2000
EVERY = 2.0
SEED = 7

AUDIT = """
CREATE TABLE effects (n bigserial PRIMARY KEY, job int, step text, op text);
CREATE TABLE stamps (job int);
CREATE TABLE audit (n bigserial PRIMARY KEY, what text, id uuid, number bigint, tx bigint,
                    writer text);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    writer text := current_setting('audit.worker', true);
BEGIN
    IF TG_TABLE_NAME = 'leases' AND TG_OP = 'INSERT' THEN
        INSERT INTO audit (what, number, tx, writer)
        VALUES ('lease begins', NEW.token, txid_current(), writer);
    ELSIF TG_TABLE_NAME = 'leases' THEN
        INSERT INTO audit (what, number, tx, writer)
        VALUES ('lease ends', OLD.token, txid_current(), writer);
    ELSIF TG_TABLE_NAME = 'instances' THEN
        INSERT INTO audit (what, id, number, tx, writer)
        VALUES ('owner', NEW.id, NEW.owner, txid_current(), writer);
    ELSE
        INSERT INTO audit (what, id, number, tx, writer)
        VALUES ('fact', NEW.id, NEW.seq, txid_current(), writer);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT OR DELETE ON standfast.leases
    FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER audit_start AFTER INSERT ON standfast.instances
    FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER audit AFTER UPDATE ON standfast.instances
    FOR EACH ROW WHEN (OLD.owner IS DISTINCT FROM NEW.owner) EXECUTE FUNCTION audit();
CREATE TRIGGER audit AFTER INSERT ON standfast.journal FOR EACH ROW EXECUTE FUNCTION audit();
"""


class Crew:
    """The worker processes; one that was killed is replaced."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = dsn
        self.folder = folder
        self.members: list[subprocess.Popen[bytes]] = []
        self.hired = 0

    def hire(self) -> None:
        self.hired += 1
        name = f"w{self.hired}"
        log = (self.folder / f"{name}.log").open("wb")
        member = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.crew", self.dsn, name, str(self.refusals)],
            stdout=subprocess.PIPE,
            stderr=log,
        )
        log.close()
        self.members.append(member)

    @property
    def refusals(self) -> Path:
        return self.folder / "refused"

    async def ready(self) -> None:
        for member in self.members:
            assert member.stdout is not None
            assert await asyncio.to_thread(member.stdout.readline) == b"ready\n"

    def kill(self, member: subprocess.Popen[bytes]) -> None:
        member.kill()
        member.wait()
        if member.stdout is not None:
            member.stdout.close()
        self.members.remove(member)

    def dismiss(self) -> None:
        for member in list(self.members):
            self.kill(member)


@pytest.fixture
def crew(postgres_dsn, tmp_path):
    crew = Crew(postgres_dsn, tmp_path)
    yield crew
    crew.dismiss()


@pytest.mark.timeout(240)
async def test_workers_killed_and_frozen(crew, postgres_dsn):
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    app = Standfast(postgres_dsn, migrate=True).add(Haul(), Barrier())
    async with app:
        direct = await asyncpg.connect(postgres_dsn)
        await direct.execute(AUDIT)
        for _ in range(3):
            crew.hire()
        await crew.ready()
        blows: Counter[str] = Counter()

        async def arrive() -> None:
            for number in range(0, SAGAS, 100):
                jobs = [Job(n) for n in range(number, number + 100)]
                await asyncio.gather(*(app.start(Haul, job, key=str(job.number)) for job in jobs))

        async def strike() -> None:
            while True:
                await asyncio.sleep(EVERY)
                member = rng.choice(crew.members)
                how = "killed" if blows["killed"] <= blows["frozen"] else "frozen"
                blows[how] += 1
                if how == "killed":
                    crew.kill(member)
                    crew.hire()
                else:
                    member.send_signal(signal.SIGSTOP)
                    # One that is killed meanwhile gets no signal: Popen knows that it has gone.
                    asyncio.get_running_loop().call_later(
                        2 * LEASE, member.send_signal, signal.SIGCONT
                    )

        async def end() -> None:
            async with asyncio.timeout(200):
                while True:
                    count = await app.sagas.store.count("saga")
                    if sum(n for (_, status), n in count.items() if status in FINISHED) == SAGAS:
                        return
                    await asyncio.sleep(0.3)

        striking = asyncio.create_task(strike())
        begun = time.monotonic()
        try:
            await arrive()
            await end()
            took = time.monotonic() - begun
        finally:
            striking.cancel()
            await asyncio.wait([striking])
            for member in crew.members:
                member.send_signal(signal.SIGCONT)
        if not striking.cancelled():
            striking.result()  # it raised, so the crew wasn't struck as it should
        refused = len(crew.refusals.read_text().splitlines())
        crew.dismiss()
        await _nothing_is_lost_or_done_twice(app, direct)
        facts = await _no_stale_write(direct)
        await direct.close()
    print(f"{dict(blows)}, {refused} stale writes refused, {facts} facts audited, {took:.1f} s")
    assert blows["killed"] >= 4
    assert blows["frozen"] >= 4
    assert refused > 0, "no frozen worker tried to write: the test shows nothing"


async def _nothing_is_lost_or_done_twice(app, direct):
    ends = Counter()
    for (name, status), number in (await app.sagas.store.count("saga")).items():
        assert name == "haul"
        ends[status] += number
    assert ends == {"completed": SAGAS * 9 // 10, "compensated": SAGAS // 10}
    effects = defaultdict(list)
    for job, step, operation in await direct.fetch("SELECT job, step, op FROM effects ORDER BY n"):
        effects[job, step].append(operation)
    for number in range(SAGAS):
        fails = Job(number).fails
        assert effects.pop((number, "load")) == ["action", "compensation"][: 1 + fails]
        if not fails:
            assert effects.pop((number, "ship")) == ["action"]
    assert not effects
    stamps = Counter(row[0] for row in await direct.fetch("SELECT job FROM stamps"))
    assert stamps == Counter(range(SAGAS)), "a transactional step wasn't exactly once"


async def _no_stale_write(direct) -> int:
    """Each fact but the first was written by the process that held the lease of its owner."""
    holder: dict[int, str] = {}
    ended: set[int] = set()
    # Per instance: (transaction, owner) of each change. What one transaction does has no order.
    owners: dict[object, list[tuple[int, int | None]]] = defaultdict(list)
    numbers: dict[object, int] = defaultdict(int)
    facts = 0
    for row in await direct.fetch("SELECT * FROM audit ORDER BY n"):
        if row["what"] == "lease begins":
            holder[row["number"]] = row["writer"]
        elif row["what"] == "lease ends":
            ended.add(row["number"])
        elif row["what"] == "owner":
            owners[row["id"]].append((row["tx"], row["number"]))
        else:
            facts += 1
            assert row["number"] == numbers[row["id"]], "the journal has a gap"
            numbers[row["id"]] += 1
            if row["number"] == 0:
                continue
            owner = next(o for tx, o in reversed(owners[row["id"]]) if tx != row["tx"])
            assert owner is not None, "nobody owned it"
            assert owner not in ended, "its lease had ended"
            assert holder[owner] == row["writer"], "another one wrote"
    assert len(numbers) == SAGAS
    assert ended, "no lease was ever lost"
    return facts
