"""A row as large as what a start writes, and the tables that are written to."""

import time
from typing import Any, NamedTuple

from standfast.ids import new_id
from standfast.ports.providing import Dialect


class Row(NamedTuple):
    """The columns of an instance, and its first fact."""

    id: Any
    pattern: str
    name: str
    version: int
    key: str
    correlation_id: str
    input_hash: str
    status: str
    step: str
    cause: str
    owner: int | None
    wake_at: float
    deadline_at: float | None
    created_at: float
    updated_at: float
    finished_at: float | None
    fact: str


COLUMNS = Row._fields

_TYPES: dict[Dialect, dict[str, str]] = {
    "sqlite": {"id": "BLOB", "version": "INTEGER", "owner": "INTEGER", "at": "REAL"},
    "postgresql": {"id": "uuid", "version": "int", "owner": "bigint", "at": "float8"},
}


def tables(dialect: Dialect) -> list[str]:
    """The statements that make them."""
    types = _TYPES[dialect]
    columns = [
        f"{name} {types.get('at' if name.endswith('_at') else name, 'text')}" for name in COLUMNS
    ]
    return [
        "CREATE TABLE rows (id bigint, note text)",
        f"CREATE TABLE one_more ({', '.join(columns)}, PRIMARY KEY (id), UNIQUE (name, key))",
    ]


def one_more(dialect: Dialect) -> Row:
    """A new one."""
    id, now = new_id(), time.time()
    key = str(id)
    return Row(
        id=id.bytes if dialect == "sqlite" else id,
        pattern="saga",
        name="trivial",
        version=1,
        key=key,
        correlation_id=key,
        input_hash="0123456789abcdef01234567",
        status="running",
        step="",
        cause="",
        owner=None,
        wake_at=now,
        deadline_at=None,
        created_at=now,
        updated_at=now,
        finished_at=None,
        fact=f'{{"type":"started","at":{now},"input":{{"number":1}},"version":1,"key":"{key}"}}',
    )
