"""What ARCHITECTURE.md promises of the joints, as far as the source itself can tell."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import standfast
from standfast.ports.database import Database, StoreTransaction
from standfast.saga.runner import Runner

ROOT = Path(standfast.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.rglob("*.py")}
SHIPPED = {name: text for name, text in SOURCES.items() if not name.startswith("conformance/")}
SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|PRAGMA\s)", re.DOTALL
)


def methods(protocol: type) -> set[str]:
    return {name for name in vars(protocol) if not name.startswith("_")}


def strings(text: str) -> list[str]:
    """The string constants of a module, without its docstrings."""
    tree = ast.parse(text)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_a_transaction_is_sql_and_a_database_knows_no_pattern():
    assert methods(StoreTransaction) == {"dialect", "execute", "fetch", "fetch_one", "fetch_value"}
    assert methods(Database) == {
        *("url", "dialect", "capabilities", "port", "lines"),
        *("open", "close", "clock_offset", "transaction"),
    }


def test_the_app_is_short_and_speaks_no_patterns_protocol():
    assert len(SOURCES["app.py"].splitlines()) <= 250
    doors = (text for name, text in SOURCES.items() if name.startswith("doors/"))
    text = SOURCES["app.py"] + "".join(doors)
    imported = re.findall(r"^from (standfast\S*) import", text, re.MULTILINE)
    assert not [name for name in imported if name.startswith("standfast.idempotency")]
    assert not re.search(r"ports\.(journal|marks|rate_limit)", text)
    for word in ("Start(", "Mail(", "Append(", "Prepared", "events", "facts"):
        assert word not in text, word


def test_the_smallest_pattern_lives_in_few_files():
    """Its port, its package, a file of each backend, and the command that purges it."""
    homes = [
        name
        for name, text in SHIPPED.items()
        if re.search(r"ports\.marks import|idempotency\.pattern import", text)
        or name == "ports/marks.py"
    ]
    assert {"idempotency/barrier.py", "backends/sqlite/marks.py"} <= set(homes)
    assert len(homes) <= 8, homes


def test_sql_stands_in_the_backends_alone():
    """The suites of backend authors aside, which write rows of their own."""
    told = {
        name: [found for found in strings(text) if SQL.search(found)]
        for name, text in SHIPPED.items()
        if not name.startswith("backends/")
    }
    assert len(told) > 100
    assert not {name: found for name, found in told.items() if found}


def test_no_module_reaches_into_another():
    """Private names of others are used of Python's own library, where there is no other way."""
    fine = (
        "asyncio.coroutines._is_coroutine",
        "sys._current_frames",
        "sys._getframe",
        "lock._at_fork_reinit",
        "thread._threads_queues",
        "thread._worker",
        "threading._register_atexit",
        "tasks._current_tasks",
        "SLF001 - its own",
    )
    reaching = [
        f"{name}: {line.strip()}"
        for name, text in SHIPPED.items()
        for line in text.splitlines()
        if "noqa: SLF001" in line and not any(known in line for known in fine)
    ]
    assert not reaching


def test_a_runner_is_given_whom_it_works_for_rather_than_callbacks():
    parameters = inspect.signature(Runner).parameters
    assert list(parameters) == ["home", "desk"]


@pytest.mark.parametrize(
    ("added", "spared"),
    [
        ("", ("standfast.saga.machine", "standfast.idempotency", "asyncpg")),
        ("app.add(standfast.Barrier())", ("standfast.saga.machine", "asyncpg")),
    ],
)
def test_an_app_imports_the_patterns_that_it_uses(added, spared):
    script = f"""
import sys, standfast
app = standfast.Standfast("sqlite:///app.db")
{added}
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True
    )
    assert not set(spared) & set(done.stdout.split())
