"""A folder with an app in it, and the command line in this process or in one of its own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from standfast.cli.commands import cli

SHOP = '''\
import os
from dataclasses import dataclass

from standfast import Barrier, Constant, Context, Refused, Retry, Saga, Standfast, step, wait

SOON = Retry(attempts=2, backoff=Constant(0.01))


@dataclass(frozen=True)
class Order:
    id: str
    amount: int = 1
    trouble: str = ""


class PlaceOrder(Saga[Order]):
    """Sells one thing."""

    @step(retry=SOON)
    async def reserve(self, order: Order, ctx: Context) -> str:
        if order.trouble == "sold out":
            raise Refused("sold out")
        return f"r-{order.id}"

    @reserve.compensation(retry=SOON)
    async def release(self, order: Order, ctx: Context) -> None:
        if order.trouble == "undo":
            raise OSError("the shelf is away")

    @step(retry=SOON, on_exhausted="park")
    async def charge(self, order: Order, ctx: Context) -> int:
        if order.trouble in ("charge", "undo") and not os.path.exists("bank-is-back"):
            raise OSError("the bank is away")
        return order.amount

    @charge.compensation(retry=SOON)
    async def refund(self, order: Order, ctx: Context) -> None:
        pass

    approval = wait("approved", type=str, when=lambda saga, order, ctx: order.trouble == "wait")

    @step(pivot=True, retry=SOON)
    async def ship(self, order: Order, ctx: Context) -> str:
        return f"s-{order.id}"


app = Standfast(os.environ["SHOP_DATABASE"]).add(PlaceOrder(), Barrier())


def make() -> Standfast:
    return Standfast(os.environ["SHOP_DATABASE"]).add(PlaceOrder(), Barrier())


def broken() -> Standfast:
    raise RuntimeError("no\\nluck")
'''

STANDFAST = Path(sys.executable).with_name("standfast")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: empty, with modules of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("SHOP_DATABASE", "sqlite:///shop.db")
    monkeypatch.delenv("STANDFAST_APP", raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def shop(folder: Path) -> Path:
    """The current folder, with shop.py."""
    (folder / "shop.py").write_text(SHOP)
    return folder


@pytest.fixture
def standfast(folder: Path) -> Callable[..., Result]:
    """``standfast("sagas", "list", …, code=0)``: in this process, not on a terminal."""

    def run(*arguments: str, code: int = 0, input: str | None = None) -> Result:
        result = CliRunner().invoke(
            cli, list(arguments), input=input, catch_exceptions=False, prog_name="standfast"
        )
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(params=["sqlite", "postgres"])
def shared_shop(
    shop: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The shop on each database that processes share."""
    if request.param == "postgres":
        monkeypatch.setenv("SHOP_DATABASE", request.getfixturevalue("postgres_dsn"))
    return shop


def in_process(*arguments: str) -> "subprocess.Popen[str]":
    """The command in a process of its own, with its output in two pipes."""
    return subprocess.Popen(
        [STANDFAST, *arguments],
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def played(shop: Path, standfast: Callable[..., Result]) -> Callable[..., Any]:
    """``played(plan)``: run ``await plan(app)`` while the shop's worker works."""
    standfast("migrate", "--app", "shop:app")

    def play(plan: Callable[[Any], Awaitable[Any]]) -> Any:
        import importlib

        sys.path.insert(0, str(shop))
        module = importlib.import_module("shop")

        async def work() -> Any:
            app = module.make()
            async with app.running(drain=2):
                return await plan(app)

        return asyncio.run(work())

    return play
