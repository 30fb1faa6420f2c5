"""Acts on many: asked on a terminal, stopped between batches; and one story from start to end."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from standfast import Standfast
from standfast.cli.batches import carry_out
from standfast.errors import StoreUnavailable
from standfast.saga.operations import Operations
from tests.cli.conftest import STANDFAST, in_process
from tests.saga.engine.world import until

pytestmark = pytest.mark.slow  # many processes, or databases of files


def stored(url, number):
    """Start so many orders; nobody works."""
    sys.path.insert(0, os.getcwd())
    import shop

    async def start():
        async with Standfast(url).add(shop.PlaceOrder()) as app:
            await asyncio.gather(
                *(app.start("place-order", shop.Order(str(n)), key=str(n)) for n in range(number))
            )

    asyncio.run(start())


@pytest.mark.parametrize(("answer", "code", "mails"), [("y", 0, 2), ("n", 1, 0)])
def test_a_terminal_is_asked(shop, standfast, answer, code, mails):
    standfast("migrate", "--app", "shop:app")
    stored("sqlite:///shop.db", 2)
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [STANDFAST, "sagas", "cancel", "--app", "shop:app", "--all", "--json"],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.write(ours, f"{answer}\n".encode())
        out, err = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code, err
    assert "cancel: touch 2 sagas? [y/N]" in err
    if mails:
        assert json.loads(out)["asked"] == 2
    else:
        assert "nothing was done" in err
    exported = standfast("sagas", "export", "--app", "shop:app").stdout.splitlines()
    assert sum(len(json.loads(line)["mails"]) for line in exported) == mails


def test_ctrl_c_stops_between_batches(shop, standfast, monkeypatch):
    standfast("migrate", "--app", "shop:app")
    stored("sqlite:///shop.db", 5)
    original = Operations.tell
    stops = [True]

    async def tell(self, act, where, **options):
        async for progress in original(self, act, where, **options, batch=2):
            if progress.done == 2 and stops:
                stops.clear()
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(0.1)  # the loop hears of it
            yield progress

    def mails():
        exported = standfast("sagas", "export", "--app", "shop:app").stdout.splitlines()
        return [len(json.loads(line)["mails"]) for line in exported]

    monkeypatch.setattr(Operations, "tell", tell)
    cancel = ["sagas", "cancel", "--app", "shop:app", "--all", "--yes"]
    told = standfast(*cancel, code=1)
    assert "stopped after 2 of 5: go on with the same command and --after " in told.stderr
    assert mails() == [1, 1, 0, 0, 0]
    after = told.stderr.split()[-1]
    dry = standfast(*cancel, "--after", after, "--dry-run", "--json")
    assert len(json.loads(dry.stdout)) == 3
    assert standfast(*cancel, "--after", after).stdout.startswith("cancel: asked 3 sagas")
    assert mails() == [1] * 5, "each once"


def test_an_error_in_the_middle_says_how_far_it_came(shop, standfast, monkeypatch):
    standfast("migrate", "--app", "shop:app")
    stored("sqlite:///shop.db", 5)
    original = Operations.tell

    async def tell(self, act, where, **options):
        async for progress in original(self, act, where, **options, batch=2):
            yield progress
            raise StoreUnavailable("it went away")

    monkeypatch.setattr(Operations, "tell", tell)
    told = standfast("sagas", "cancel", "--app", "shop:app", "--all", "--yes", code=1)
    assert "failed after 2 of 5: go on with the same command and --after " in told.stderr
    assert "error: it went away\n" in told.stderr


def test_a_second_ctrl_c_doesnt_wait_for_the_batch(shop, standfast, monkeypatch):
    standfast("migrate", "--app", "shop:app")
    stored("sqlite:///shop.db", 5)
    original = Operations.tell

    async def tell(self, act, where, **options):
        async for progress in original(self, act, where, **options, batch=2):
            yield progress
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(0.05)
            await asyncio.sleep(60)  # a database that hangs

    monkeypatch.setattr(Operations, "tell", tell)
    told = standfast("sagas", "cancel", "--app", "shop:app", "--all", "--yes", code=1)
    assert "stopped in the middle of a batch, after 2 of 5" in told.stderr


@pytest.mark.parametrize("fails", [False, True])
def test_ctrl_c_after_the_last_batch_ends_the_command_at_once(fails, capsys):
    """What it stops else is over, and the app may take long to leave its database."""

    async def counts():
        yield 7
        if fails:
            raise StoreUnavailable("it went away")

    async def command():
        with suppress(StoreUnavailable):
            assert await carry_out(counts(), "work") == 7
        assert ("failed after 7: run it again to go on" in capsys.readouterr().err) is fails
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(command())


def test_acts_hold_a_page_and_not_all(shop, standfast, monkeypatch):
    """Rows of instances are dropped when they were told."""
    import gc

    from standfast.ports.journal import Instance
    from standfast.saga import finding

    standfast("migrate", "--app", "shop:app")
    stored("sqlite:///shop.db", 60)
    monkeypatch.setattr(finding, "PAGE", 10)
    most = 0
    original = Operations.tell

    async def tell(self, act, where, **options):
        nonlocal most
        async for progress in original(self, act, where, **options, batch=10):
            most = max(most, sum(type(one) is Instance for one in gc.get_objects()))
            yield progress

    monkeypatch.setattr(Operations, "tell", tell)
    told = standfast("sagas", "cancel", "--app", "shop:app", "--all", "--yes", "--json")
    assert json.loads(told.stdout)["asked"] == len(json.loads(told.stdout)["ids"]) == 60
    assert 0 < most < 30


@pytest.mark.slow
def test_one_story_from_start_to_end(shared_shop, monkeypatch):
    """Everything in processes of their own: a parked saga is retried and ends well."""
    monkeypatch.setenv("STANDFAST_APP", "shop:app")

    def ask(*arguments, code=0):
        process = in_process(*arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        return out

    ask("migrate")
    order = '{"id": "7", "amount": 3, "trouble": "charge"}'
    id = ask("sagas", "start", "place-order", "--input", order, "--key", "7").strip()
    worker = in_process("run", "--lease", "5s", "--drain", "10s")
    try:

        async def comes_to(status):
            await until(lambda: status in ask("sagas", "list", "--key", "7"), within=60)

        asyncio.run(comes_to("parked"))
        (shared_shop / "bank-is-back").touch()
        ask("sagas", "retry", "place-order/7", "--by", "ann")
        asyncio.run(comes_to("completed"))
        shown = ask("sagas", "show", id[:-1])
        assert "charge    resumed by ann" in shown
        assert 'ship      completed: "s-7"' in shown
        assert ask("sagas", "check-compat", "--status", "completed") == ""
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=60)
        assert worker.returncode == 0, err
    finally:
        worker.kill()
        worker.communicate()
    assert "deleted 1 saga" in ask("sagas", "purge", "--finished-for", "0s", "--yes")
    assert json.loads(ask("sagas", "list", "--json")) == []


def test_a_saga_is_started_to_begin_later(shop, standfast):
    standfast("migrate", "shop:app")

    def start(key, *options, then="when its time has come, it waits until"):
        told = standfast(
            *("sagas", "start", "place-order", "--app", "shop:app", "--input", '{"id": "1"}'),
            *("--key", key, *options),
        )
        assert f"no live worker has place-order v1: {then} one runs (standfast run)" in told.stderr
        id = told.stdout.strip()
        return json.loads(standfast("sagas", "show", id, "--app", "shop:app", "--json").stdout)

    at_once = "it begins when"
    start("c", then=at_once)
    start("d", "--after", "0s", then=at_once)
    start("e", "--at", "2020-01-31T09:00Z", then=at_once)
    later = start("a", "--after", "3d")
    assert later["instance"]["status"] == "waiting"
    at = start("b", "--at", "2090-01-31T09:00+01:00")
    assert at["facts"][0]["begins_at"] == datetime(2090, 1, 31, 8, tzinfo=UTC).timestamp()
    shown = standfast("sagas", "show", "place-order/a", "--app", "shop:app").stdout
    assert "begins in 3d" in shown
    assert "wakes:" in shown


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--at", "2090-01-31T09:00"], "has no time zone"),
        (["--at", "tomorrow"], "--at 'tomorrow': write a time with its zone"),
        (["--after", "3"], "give 3 a unit"),
        (
            ["--after", "3d", "--at", "2090-01-31T09:00Z"],
            "--at 2090-01-31T09:00Z and --after 3d: give one of the two",
        ),
    ],
)
def test_a_beginning_that_cant_be_understood_is_refused(shop, standfast, options, complaint):
    standfast("migrate", "shop:app")
    told = standfast(
        *("sagas", "start", "place-order", "--app", "shop:app", "--input", '{"id": "1"}'),
        *options,
        code=2,
    )
    assert complaint in told.stderr


def test_json_that_isnt_utf_8(shop, standfast):
    standfast("migrate", "--app", "shop:app")
    (shop / "latin.json").write_bytes(b'{"id": "\xfc"}')
    for given in ("@latin.json", "-"):
        process = subprocess.run(
            [STANDFAST, "sagas", "start", "place-order", "--app", "shop:app", "--input", given],
            input=(shop / "latin.json").read_bytes(),
            capture_output=True,
            check=False,
        )
        assert process.returncode == 2
        assert process.stderr.count(b"\n") == 1
        assert b"JSON is UTF-8, and this isn't" in process.stderr


def test_json_with_a_byte_order_mark(shop, standfast):
    standfast("migrate", "--app", "shop:app")
    (shop / "bom.json").write_bytes(b'\xef\xbb\xbf{"id": "1"}')
    options = ("--app", "shop:app", "--input", "@bom.json", "--key", "1")
    standfast("sagas", "start", "place-order", *options)
    standfast("sagas", "show", "place-order/1", "--app", "shop:app")


def test_json_that_is_nested_too_deep(shop, standfast):
    standfast("migrate", "--app", "shop:app")
    (shop / "deep.json").write_text("[" * 5000 + "]" * 5000)
    standfast(
        *("sagas", "start", "place-order", "--app", "shop:app"),
        *("--input", '{"id": "1"}', "--key", "1"),
    )
    one = ("place-order/1", "--app", "shop:app")
    for command in (
        ("start", "place-order", "--app", "shop:app", "--input", "@deep.json"),
        ("signal", "resume", *one, "--payload", "@deep.json"),
        ("fork", *one, "--set", "id=" + (shop / "deep.json").read_text()),
    ):
        told = standfast("sagas", *command, code=2)
        assert told.stderr.count("\n") == 1
        assert "nested too deep" in told.stderr
