"""Roles with no more than the rights that they need, as the docs list them, and with less."""

import re
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from standfast import Barrier, Context, Saga, Standfast, step
from standfast.backends.postgres import PostgresDatabase
from standfast.errors import StoreError
from standfast.ports.journal import Filter
from standfast.resilience.ratelimit import DatabaseRateLimits
from standfast.saga.operations import Operations


class Note(Saga[str]):
    @step(no_compensation="a note")
    async def note(self, text: str, ctx: Context) -> str:
        return text


@pytest.fixture
async def roles(postgres_dsn, direct):
    """Addresses by role: ``migrates``, ``works``, ``reads``. They have no rights at all."""
    name = urlsplit(postgres_dsn).path[1:]
    mark = uuid.uuid4().hex[:8]
    await direct.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
    addresses = {}
    for role in ("migrates", "works", "reads"):
        await direct.execute(f"CREATE ROLE {role}_{mark} LOGIN")
        await direct.execute(f'GRANT CONNECT ON DATABASE "{name}" TO {role}_{mark}')
        addresses[role] = postgres_dsn.replace("postgres@", f"{role}_{mark}@")
    yield addresses | {"mark": mark}
    for role in ("migrates", "works", "reads"):
        await direct.execute(f"DROP OWNED BY {role}_{mark} CASCADE")
        await direct.execute(f"DROP ROLE {role}_{mark}")


def app_at(url: str, *, migrate: bool = False) -> Standfast:
    return Standfast(url, migrate=migrate).add(Note(), Barrier(), DatabaseRateLimits())


def granted(mark: str) -> list[str]:
    """The statements of the how-to, for the roles of this test."""
    page = (Path(__file__).parents[2] / "docs/how-to/connect-databases.md").read_text()
    (block,) = re.findall(r"```sql\n(-- Once.*?)```", page, re.S)
    for role in ("migrates", "works", "reads"):
        block = re.sub(rf"\bstandfast_{role}\b", f"{role}_{mark}", block)
    return [one for one in re.sub("--.*", "", block).split(";") if one.strip()]


async def test_what_the_docs_grant_is_enough(roles, direct):
    """The schema's owner couldn't migrate without CREATE on the database."""
    for statement in granted(roles["mark"]):
        await direct.execute(statement)
    async with app_at(roles["migrates"], migrate=True):
        pass
    works = app_at(roles["works"])
    async with works.running(lease="2s"):
        assert (await (await works.start(Note, "x", key="k")).result(timeout=10)).as_dict()
        async with works.transaction() as tx:
            await tx.start(Note, "y")
    reads = app_at(f"{roles['reads']}?target_session_attrs=any")
    async with reads:
        look = Operations(reads.sagas)
        assert (await look.counts())[("note", "completed")] >= 1
        assert (await look.page(Filter())).instances
        assert await (await reads.saga(Note, "k")).result(timeout=5)
        with pytest.raises(StoreError, match="permission denied"):
            await reads.start(Note, "z")
    # And again, when there is nothing to do.
    async with app_at(roles["migrates"], migrate=True):
        pass


async def test_who_may_not_make_the_schema(roles):
    role = f"migrates_{roles['mark']}"
    with pytest.raises(StoreError, match=f"CREATE SCHEMA standfast AUTHORIZATION {role}`"):
        async with app_at(roles["migrates"], migrate=True):
            pass


async def test_who_may_not_make_tables(roles, direct):
    role = f"migrates_{roles['mark']}"
    await direct.execute(f"CREATE SCHEMA standfast; GRANT USAGE ON SCHEMA standfast TO {role}")
    with pytest.raises(StoreError, match=f"GRANT USAGE, CREATE ON SCHEMA standfast TO {role}`"):
        async with app_at(roles["migrates"], migrate=True):
            pass


async def test_who_does_not_own_the_tables(roles, direct, postgres_dsn, monkeypatch):
    database = PostgresDatabase(roles["migrates"])
    async with app_at(postgres_dsn, migrate=True):
        pass
    role = f"migrates_{roles['mark']}"
    await direct.execute(
        f"GRANT USAGE, CREATE ON SCHEMA standfast TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA standfast TO {role};"
        "DELETE FROM standfast.schema_migrations WHERE line = 'journal' AND number = 3;"
        "DROP INDEX standfast.instances_stuck"
    )
    with pytest.raises(StoreError, match="role that owns the tables"):
        async with app_at(roles["migrates"], migrate=True):
            pass
    await database.close()


async def test_who_may_not_work(roles, direct, postgres_dsn):
    async with app_at(postgres_dsn, migrate=True):
        pass
    role = f"works_{roles['mark']}"
    with pytest.raises(StoreError, match=f"GRANT USAGE ON SCHEMA standfast TO {role}`"):
        async with app_at(roles["works"]):
            pass
    await direct.execute(
        f"GRANT USAGE ON SCHEMA standfast TO {role};"
        f"GRANT SELECT ON ALL TABLES IN SCHEMA standfast TO {role}"
    )
    async with app_at(roles["works"]) as app:
        with pytest.raises(StoreError, match=f"GRANT SELECT, INSERT, UPDATE, DELETE .* {role}`"):
            await app.start(Note, "x")
        # A table of the user's own is the user's own matter.
        await direct.execute("CREATE TABLE orders (n int)")
        with pytest.raises(StoreError, match="permission denied for table orders") as caught:
            async with app.transaction() as tx:
                await tx.execute("INSERT INTO orders VALUES (1)")
        assert "standfast" not in str(caught.value).partition("permission")[2]
