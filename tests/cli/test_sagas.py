"""Each command of `standfast sagas`, on a shop that has sold some things."""

import json
import re
import sqlite3

import pytest

from standfast.errors import SagaParked
from standfast.ports.marks import MarkStore
from standfast.saga import facts as fx
from standfast.saga.acts import operating_user
from tests.saga.engine.world import until

pytestmark = pytest.mark.slow  # many processes, or databases of files


async def history(app):
    """One completed, one compensated, one parked, one that waits."""
    import shop

    await (await app.start(shop.PlaceOrder, shop.Order("1", 5), key="done/1")).result(timeout=30)
    refused = await app.start(shop.PlaceOrder, shop.Order("2", 1, "sold out"), key="refused")
    parked = await app.start(shop.PlaceOrder, shop.Order("3", 1, "charge"), key="parked")
    with pytest.raises(SagaParked):
        await parked.result(timeout=30)
    waiting = await app.start(shop.PlaceOrder, shop.Order("4", 1, "wait"), key="waiting")

    async def settled():
        statuses = [await one.status() for one in (refused, waiting)]
        return statuses == ["compensated", "waiting"]

    await until(settled, within=30)


@pytest.fixture
def sagas(played, standfast):
    played(history)

    def run(command, *arguments, **options):
        return standfast("sagas", command, "--app", "shop:app", *arguments, **options)

    return run


def keys(result):
    return [one["key"] for one in json.loads(result.stdout)]


def test_list_filters_pages_and_counts(sagas, standfast):
    assert keys(sagas("list", "--json")) == ["waiting", "parked", "refused", "done/1"]
    assert keys(sagas("list", "--json", "--status", "parked", "--status", "waiting")) == [
        "waiting",
        "parked",
    ]
    assert keys(sagas("list", "--json", "--step", "charge")) == ["parked"]
    assert keys(sagas("list", "--json", "--key", "refused")) == ["refused"]
    assert keys(sagas("list", "--json", "--name", "other")) == []
    assert keys(sagas("list", "--json", "--version", "2")) == []
    assert keys(sagas("list", "--json", "--older-than", "1h")) == []
    assert len(keys(sagas("list", "--json", "--newer-than", "1h"))) == 4
    assert keys(sagas("list", "--json", "--newer-than", "0s")) == []
    assert len(keys(sagas("list", "--json", "--older-than", "0s"))) == 4
    first = sagas("list", "--json", "--limit", "3")
    following = re.search(r"--after (\S+)", first.stderr)[1]
    rest = sagas("list", "--json", "--after", following)
    assert keys(first) + keys(rest) == ["waiting", "parked", "refused", "done/1"]
    assert rest.stderr == ""

    lines = sagas("list").stdout.splitlines()
    assert lines[0].split() == ["ID", "SAGA", "KEY", "AGE", "STATUS"]
    assert "place-order v1" in lines[2]
    assert "parked: charge: OSError: the bank is away" in lines[2]
    assert "waiting: approval: waits for signal 'approved' for " in lines[1]
    (waiting,) = json.loads(sagas("list", "--json", "--status", "waiting").stdout)
    assert [one["signal"] for one in waiting["pending"]] == ["approved"]
    # A database's URL will do.
    by_url = standfast("sagas", "list", "--app", "sqlite:///shop.db", "--json")
    assert len(keys(by_url)) == 4

    counted = json.loads(sagas("list", "--count", "--json").stdout)
    assert {(one["status"], one["count"]) for one in counted} == {
        ("completed", 1),
        ("compensated", 1),
        ("parked", 1),
        ("waiting", 1),
    }
    assert "SAGA" in sagas("list", "--count").stdout


@pytest.mark.parametrize(
    ("command", "arguments", "code", "said"),
    [
        ("list", ["--status", "stuck"], 2, "status='stuck': choose from"),
        ("list", ["--older-than", "long"], 2, "--older-than='long'"),
        ("list", ["--limit", "0"], 2, "limit=0"),
        ("list", ["--after", "x"], 2, "give a whole id"),
        ("list", ["--count", "--key", "x"], 2, "leave the other filters out"),
        ("list", ["--stuck", "--status", "parked"], 2, "leave --status and --after out"),
        ("show", ["place-order/none"], 1, "has the key 'none'"),
        ("show", ["zzz"], 1, "is no address"),
        ("start", ["no-saga"], 2, "no saga is named 'no-saga'"),
        ("start", ["place-order", "--input", "{"], 2, "the input of saga 'place-order'"),
        ("start", ["place-order", "--input", '{"amount": 1}'], 2, "missing required field `id`"),
        ("start", ["place-order"], 2, "was started without an input: give an Order"),
        ("start", ["place-order", "--input", "ann"], 2, "text needs quotes, as in '\"ann\"'"),
        ("start", ["place-order", "--input", "@none.json"], 2, "No such file"),
        ("start", ["place-order", "--key", "done/1", "--input", '{"id": "x"}'], 1, "another input"),
        ("signal", ["aproved", "place-order/waiting"], 2, "choose from approved"),
        ("signal", ["approved", "place-order/waiting", "--payload", "7"], 2, "Expected `str`"),
        ("signal", ["approved", "place-order/waiting", "--payload", "x"], 2, "isn't JSON"),
        ("signal", ["approved", "place-order/done/1"], 1, "is completed"),
        ("signal", ["place-order/waiting", "approved"], 2, "signal approved place-order/waiting\n"),
        ("signal", ["a/1", "b/2", "approved"], 2, "signal approved a/1 b/2\n"),
        ("signal", ["waiting", "approved"], 2, "signal approved waiting\n"),
        ("signal", ["01a21d45", "aproved"], 2, "signal aproved 01a21d45\n"),
        ("signal", ["place-order/waiting"], 2, "signal NAME place-order/waiting\n"),
        ("signal", ["aproved"], 2, "say which sagas"),
        ("signal", ["a/1", "--all", "--yes"], 2, "waits for no signal 'a/1'"),
        ("cancel", [], 2, "say which sagas"),
        ("cancel", ["place-order/parked", "--all"], 2, "say which sagas"),
        ("cancel", ["--all"], 2, "give --yes"),
        ("cancel", ["--status", "waiting"], 2, "touch 1 saga? There is no terminal to ask on"),
        ("retry", ["--step", "charge"], 2, "touch 1 saga? There is no terminal to ask on"),
        ("cancel", ["--after", "0190b5a1-0000-7000-8000-000000000000"], 2, "say which sagas"),
        ("cancel", ["--all", "--after", "x"], 2, "give a whole id"),
        ("cancel", ["place-order/refused"], 1, "is compensated"),
        ("retry", ["place-order/waiting"], 1, "retry is for sagas that are parked"),
        ("skip", ["place-order/parked"], 2, "--reason"),
        ("skip", ["place-order/parked", "--reason", " "], 2, "a reason is needed"),
        ("resolve", ["place-order/parked", "--as", "lost", "--reason", "x"], 2, "outcome='lost'"),
        ("migrate", ["place-order/waiting", "--to", "0"], 2, "version 0"),
        ("migrate", ["place-order/done/1", "--to", "2"], 1, "is completed"),
        ("fork", ["place-order/done/1", "--set", "amount"], 2, "write FIELD=JSON"),
        ("fork", ["place-order/done/1", "--set", "amount=x"], 2, "isn't JSON"),
        ("fork", ["place-order/done/1", "--set", 'amount="x"'], 2, "Expected `int`"),
        ("fork", ["place-order/done/1", "--set", "prise=1"], 2, "no field 'prise'"),
        ("export", ["--to", "shop.py"], 2, "File exists"),
        ("purge", ["--finished-for", "ages"], 2, "--finished-for='ages'"),
        ("purge", ["--finished-for", "0s"], 2, "give --yes"),
        ("diagram", ["no-saga"], 1, "is no address"),
        ("describe", ["no-saga"], 2, "no saga is named"),
    ],
)
def test_bad_input_is_told(sagas, command, arguments, code, said):
    result = sagas(command, *arguments, code=code)
    assert said in result.output
    assert keys(sagas("list", "--json")) == ["waiting", "parked", "refused", "done/1"]


def test_show_tells_the_story(sagas, standfast):
    shown = sagas("show", "place-order/parked").stdout
    assert shown.startswith("place-order version 1, parked\n")
    assert re.search(r"charge +parked after 2 attempts: OSError: the bank is away", shown)
    record = json.loads(sagas("show", "place-order/parked", "--json").stdout)
    assert record["instance"]["status"] == "parked"
    assert [fact["kind"] for fact in record["facts"]] == [
        "started",
        "step_completed",
        "attempt_failed",
        "step_parked",
    ]
    assert record["problem"] == ""
    assert [one["kind"] for one in record["timeline"]] == [one["kind"] for one in record["facts"]]
    assert [one["kind"] for one in record["pending"]] == ["operator"]
    waits = sagas("show", "place-order/waiting").stdout
    assert re.search(r"^now: +approval: waits for signal 'approved' for ", waits, re.MULTILINE)
    sagas("retry", "place-order/parked", "--by", "ann")
    later = sagas("show", "place-order/parked").stdout
    assert 'not acted on yet: retry {"step":"","by":"ann"}' in later
    by_url = standfast("sagas", "show", "--app", "sqlite:///shop.db", "place-order/done/1")
    assert "parked" not in by_url.stdout
    assert by_url.stderr == ""


def test_show_tells_where_errors_were_raised_if_asked(sagas):
    assert "Traceback" not in sagas("show", "place-order/parked").stdout
    shown = sagas("show", "place-order/parked", "--traceback").stdout.splitlines()
    heads = [n for n, line in enumerate(shown) if re.fullmatch(r"\+\S+ charge:", line)]
    assert len(heads) == 1, "once for the same"
    told = shown[heads[0] + 1 :]
    assert told[0] == "  Traceback (most recent call last):"
    assert any(line.startswith("    File ") and "in charge" in line for line in told)
    assert told.count("  OSError: the bank is away") == 1


def test_acts_reach_the_journal_with_the_one_who_asked(sagas, played, standfast):
    (waiting, parked) = json.loads(
        sagas("list", "--json", "--status", "waiting", "--status", "parked").stdout
    )
    dry = sagas("retry", "--status", "parked", "--dry-run", "--json")
    assert [one["id"] for one in json.loads(dry.stdout)] == [parked["id"]]
    assert "nothing was done" in dry.stderr
    shown = sagas("retry", "--all", "--dry-run")
    assert parked["id"] in shown.stdout
    assert "more" not in shown.stderr, "the table has all of them"
    assert json.loads(sagas("show", parked["id"], "--json").stdout)["mails"] == []
    sagas("skip", parked["id"][:-2], "--at", "charge", "--reason", "paid in cash")
    for _ in range(2):
        sagas("signal", "approved", waiting["id"], "--payload", '"ann"', "--id", "once")
    assert len(json.loads(sagas("show", waiting["id"], "--json").stdout)["mails"]) == 1

    async def work(app):
        for one in (waiting, parked):
            await app.handle(one["id"]).result(timeout=30)

    played(work)
    facts = json.loads(sagas("show", parked["id"], "--json").stdout)["facts"]
    (skipped,) = [f for f in facts if f["kind"] == "step_skipped" and "by" in f]
    assert (skipped["by"], skipped["reason"]) == (operating_user(), "paid in cash")
    facts = json.loads(sagas("show", waiting["id"], "--json").stdout)["facts"]
    assert [f["payload"] for f in facts if f["kind"] == "signal_received"] == ["ann"]


def test_cancel_and_resolve_in_bulk(sagas, played):
    done = json.loads(
        sagas(
            "resolve", "--status", "parked", "--as", "completed", "--reason", "x", "--yes", "--json"
        ).stdout
    )
    assert done["asked"] == 1
    told = sagas("cancel", "--status", "waiting", "--reason", "too late", "--by", "eve", "-y")
    assert told.stdout == "cancel: asked 1 saga; a worker acts on it\n"

    async def work(app):
        async def ended():
            found = await app.sagas.store.count("saga")
            return {status for _, status in found} == {"completed", "compensated"}

        await until(ended, within=30)

    played(work)
    facts = json.loads(sagas("show", "place-order/waiting", "--json").stdout)["facts"]
    (asked,) = [f for f in facts if f["kind"] == "cancel_requested"]
    assert (asked["by"], asked["reason"]) == ("eve", "too late")
    (resolved,) = [
        f
        for f in json.loads(sagas("show", "place-order/parked", "--json").stdout)["facts"]
        if f["kind"] == "resolved"
    ]
    assert resolved["outcome"] == "completed"


def test_start_is_idempotent_and_fork_remembers(sagas, shop):
    (shop / "order.json").write_text('{"id": "9"}')
    first = sagas("start", "place-order", "--input", "@order.json", "--key", "k")
    again = sagas(
        "start", "place-order", "--input", "-", "--key", "k", "--json", input='{"id": "9"}'
    )
    assert json.loads(again.stdout) == {"id": first.stdout.strip(), "created": False}
    assert (
        "started before"
        in sagas("start", "place-order", "--input", "@order.json", "--key", "k").stderr
    )
    forked = sagas("fork", "place-order/done/1", "--set", "amount=9", "--key", "k2").stdout.strip()
    record = json.loads(sagas("show", "place-order/k2", "--json").stdout)
    origin = json.loads(sagas("show", "place-order/done/1", "--json").stdout)["instance"]["id"]
    assert record["instance"]["id"] == forked
    assert record["instance"]["correlation_id"] == f"fork of {origin}"
    assert record["facts"][0]["input"] == {"id": "1", "amount": 9, "trouble": ""}


def test_export_takes_corrupt_journals_along(sagas, standfast, shop):
    connection = sqlite3.connect("shop.db")
    (id,) = connection.execute("SELECT id FROM standfast_instances WHERE key = 'parked'").fetchone()
    connection.execute(
        "UPDATE standfast_journal SET fact = CAST(x'7bff' AS TEXT) WHERE id = ? AND seq = 2", (id,)
    )
    connection.commit()
    connection.close()
    result = sagas("export")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["instance"]["key"] for one in lines] == ["waiting", "parked", "refused", "done/1"]
    assert [one["unreadable"] for one in lines] == [0, 1, 0, 0]
    assert lines[1]["facts"][2] == "{\udcff"
    assert lines[1]["facts"][3]["kind"] == "step_parked"
    assert result.stderr == "exported 4 sagas, 1 with something unreadable\n"
    assert "exported 1 saga\n" in sagas("export", "--key", "waiting", "--to", "out.jsonl").stderr
    assert json.loads((shop / "out.jsonl").read_text())["instance"]["key"] == "waiting"

    assert "row 2 can't be read" in sagas("show", "place-order/parked").stderr
    assert sagas("fork", "place-order/parked").stdout.strip()
    told = standfast(
        "sagas", "check-compat", "--app", "shop:app", "--key", "parked", "--json", code=1
    )
    (problem,) = json.loads(told.stdout)["problems"]
    assert problem["problem"] == "journal"


def test_an_export_that_was_asked_for_wrongly_makes_no_file(sagas, shop):
    """Or the command, once it is right, would find one there."""
    assert "choose from" in sagas("export", "--status", "odd", "--to", "out.jsonl", code=2).stderr
    assert not (shop / "out.jsonl").exists()
    assert "whole id" in sagas("export", "--after", "x", "--to", "out.jsonl", code=2).stderr
    assert not (shop / "out.jsonl").exists()


def test_purge_deletes_what_finished(sagas):
    told = sagas("purge", "--finished-for", "0s", "--dry-run", "--json")
    assert json.loads(told.stdout) == {"would_delete": 2}
    assert sagas("purge", "--finished-for", "1h", "--yes").stdout == "deleted 0 sagas\n"
    refused = sagas("purge", "--finished-for", "0s", code=2)
    assert "Delete 2 sagas for good? There is no terminal to ask on" in refused.stderr
    assert sagas("purge", "--finished-for", "0s", "--yes").stdout == "deleted 2 sagas\n"
    assert keys(sagas("list", "--json")) == ["waiting", "parked"]


def test_marks_are_purged(sagas, standfast, played):
    async def mark(app):
        async with app.transaction() as tx:
            for key in ("a", "b"):
                await tx.within(MarkStore).set(key, "do", "x", at=1.0)

    played(mark)

    def purge(*arguments, **options):
        return standfast(
            "purge-marks", "--app", "shop:app", "--older-than", "1d", *arguments, **options
        )

    assert json.loads(purge("--dry-run", "--json").stdout) == {"would_delete": 2}
    assert purge("--dry-run").stdout == "would delete 2 marks\n"
    by_url = standfast(
        "purge-marks", "--app", "sqlite:///shop.db", "--older-than", "1d", "--dry-run"
    )
    assert by_url.stdout == "would delete 2 marks\n"
    assert "Delete 2 marks for good? There is no terminal to ask on" in purge(code=2).stderr
    assert json.loads(purge("--yes", "--json").stdout) == {"deleted": 2}
    assert purge().stdout == "deleted 0 marks\n"
    standfast("purge-marks", "--app", "shop:app", "--older-than", "x", "--yes", code=2)


def test_diagrams(sagas):
    plan = sagas("diagram", "place-order").stdout.splitlines()
    assert plan[0] == "flowchart TD"
    assert "    s_reserve --> s_charge" in plan
    assert "    s_charge -. compensation .-> u_charge" in plan
    assert "    class s_ship pivot" in plan
    assert not [line for line in plan if line.startswith("    class s_charge")]
    drawn = sagas("diagram", "place-order/parked").stdout.splitlines()
    assert "    class s_reserve completed" in drawn
    assert "    class s_charge parked" in drawn
    assert "    class s_ship unreached" in drawn


def test_describe(sagas):
    told = sagas("describe").stdout
    assert told == sagas("describe", "place-order").stdout
    assert told.startswith("# place-order, version 1\n\nSells one thing.\n")
    assert "| `reserve` | `release` |  | 2 attempts |" in told
    assert "| `ship` | the point of no return |  |  |" in told
    assert "| `approval` | waits for the signal `approved` (conditional) | `charge` |" in told


def test_check_compat_says_what_would_break(sagas, standfast, shop):
    fine = standfast("sagas", "check-compat", "--app", "shop:app")
    assert (fine.stdout, fine.stderr) == ("", "checked 2: 0 would break\n")
    newest = json.loads(sagas("list", "--json", "--limit", "1").stdout)[0]["id"]
    rest = standfast("sagas", "check-compat", "--app", "shop:app", "--after", newest)
    assert rest.stderr == "checked 1: 0 would break\n"
    code = (shop / "shop.py").read_text()
    (shop / "newer.py").write_text(code.replace('"""Sells one thing."""', "version = 2"))
    (shop / "gone.py").write_text(code.replace("charge", "bill"))
    (shop / "typed.py").write_text(code.replace("id: str", "id: int"))

    told = standfast("sagas", "check-compat", "--app", "newer:app", "--json", code=1)
    answer = json.loads(told.stdout)
    assert (answer["checked"], answer["broken"]) == (2, 2)
    assert {one["problem"] for one in answer["problems"]} == {"version"}
    assert {one["key"] for one in answer["problems"]} == {"parked", "waiting"}

    gone = standfast("sagas", "check-compat", "--app", "gone:app", "--key", "waiting", code=1)
    assert "step 'charge' is gone from the code" in gone.stdout
    assert gone.stderr == "checked 1: 1 would break\n"
    typed = standfast(
        "sagas", "check-compat", "--app", "typed:app", "--status", "completed", code=1
    )
    assert "Expected `int`, got `str`" in typed.stdout
    assert (
        "status='x'"
        in standfast("sagas", "check-compat", "--app", "shop:app", "--status", "x", code=2).stderr
    )
    # Nothing was changed by all that.
    assert standfast("sagas", "check-compat", "--app", "shop:app").exit_code == 0


def test_sagas_move_to_the_version_that_they_have(sagas, played):
    seen = sagas("migrate", "--status", "waiting", "--to", "1", "--dry-run")
    assert "migrate to version 1: would touch 1 saga; nothing was done" in seen.stderr
    sagas("migrate", "--status", "waiting", "--to", "1", "--by", "eve", "--yes")

    async def work(app):
        async def told():
            story = await (await app.saga("place-order", "waiting")).story()
            return any(isinstance(fact, fx.Ignored) for fact in story.facts)

        await until(told, within=30)

    played(work)
    facts = json.loads(sagas("show", "place-order/waiting", "--json").stdout)["facts"]
    (ignored,) = [f for f in facts if f["kind"] == "ignored"]
    assert "at version 1 already" in ignored["why"]


NASTY = (
    "Client error '404'\nFor more:\thttps://x\x1b[31m [red]x[/red] [/] \x07漢字 \u202e"
    + "long " * 200
)


def _damage(cause):
    connection = sqlite3.connect("shop.db")
    fact = json.dumps({"kind": "step_parked", "at": 1.0, "branch": "charge", "error": cause})
    connection.execute("UPDATE standfast_instances SET cause = ? WHERE status = 'parked'", (cause,))
    connection.execute(
        "UPDATE standfast_journal SET fact = ? WHERE fact LIKE '%step_parked%'", (fact,)
    )
    connection.commit()
    connection.close()


def test_errors_of_any_shape_are_shown_folded(sagas, standfast):
    _damage(NASTY)
    for command in (
        ["list"],
        ["list", "--stuck"],
        ["show", "place-order/parked"],
        ["retry", "--all", "--dry-run"],
        ["diagram", "place-order/parked"],
    ):
        told = sagas(*command).output
        assert "\x1b" not in told, command
        assert "\x07" not in told, command
        if command[0] != "diagram":
            (line, *_) = [line for line in told.splitlines() if "Client error" in line]
            assert "For more: https://x\\x1b[31m [red]x[/red] [/] \\x07漢字 \\u202e" in line or (
                "<value> For more" in line
            )
    record = json.loads(sagas("show", "place-order/parked", "--json").stdout)
    assert record["timeline"][-1]["error"] == NASTY
    # Names of signals and reasons come from foreign hands, too.
    told = sagas("signal", "no[/]such\n\x1bsignal", "place-order/waiting", code=2).stderr
    assert told.count("\n") == 1
    assert "\x1b" not in told
    by_url = standfast("sagas", "signal", "-a", "sqlite:///shop.db", "no[/]such", "--all", "--yes")
    assert by_url.stdout == "signal 'no[/]such': asked 2 sagas; a worker acts on it\n"


def test_what_is_stuck_comes_in_groups(sagas, played):
    async def more(app):
        import shop

        for key in ("4711", "4712"):
            order = shop.Order(key, 1, "charge")
            with pytest.raises(SagaParked):
                await (await app.start(shop.PlaceOrder, order, key=key)).result(timeout=30)

    played(more)
    (group,) = json.loads(sagas("list", "--stuck", "--json").stdout)
    assert (group["count"], group["saga"], group["step"]) == (3, "place-order", "charge")
    assert group["error"] == "charge: OSError: the bank is away"
    assert sagas("show", group["example"][-8:]).stdout.startswith("place-order version 1, parked")
    listed = sagas("list", "--stuck")
    assert listed.stderr == ""
    header, line = listed.stdout.splitlines()
    assert header.split() == ["COUNT", "SAGA", "STEP", "OLDEST", "EXAMPLE", "ERROR"]
    assert line.startswith("3      place-order  charge")
    assert "nothing is stuck" in sagas("list", "--stuck", "--name", "other").stderr
    assert json.loads(sagas("list", "--stuck", "--key", "4711", "--json").stdout)[0]["count"] == 1


def test_it_fits_in_eighty_columns(sagas, played, monkeypatch):
    """On a terminal nothing is broken but at the edges of words, and short ids are addresses."""

    async def more(app):
        import shop

        for key in ("a-key-that-nobody-would-ever-want-to-type-17", "b"):
            order = shop.Order(key, 1, "charge")
            with pytest.raises(SagaParked):
                await (await app.start(shop.PlaceOrder, order, key=key)).result(timeout=30)

    played(more)
    _damage("charge: OSError: the bank is away, and nobody knows when it will come back to us")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    plain = re.compile(r"\x1b\[[0-9;]*m")
    told = plain.sub("", sagas("list").stdout)
    lines = told.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["ID", "SAGA", "KEY", "AGE", "STATUS"]
    assert "a-key-that-…ype-17" in told
    for word in ("place-order v1", "nobody", "approved", "compensated:", "completed", "waiting:"):
        assert word in told
    ids = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert len(ids) == 6
    for id in ids:
        assert "place-order" in sagas("show", id).stdout
    parked = next(line.split()[0] for line in lines if " parked:" in line)
    assert "asked 1 saga" in plain.sub("", sagas("retry", parked).stdout)
    shown = plain.sub("", sagas("show", ids[-1]).stdout)
    assert max(map(len, shown.splitlines())) <= 80
    stuck = plain.sub("", sagas("list", "--stuck").stdout)
    assert max(map(len, stuck.splitlines())) <= 80
    assert "nobody knows" in " ".join(stuck.split())


def test_lists_of_dry_runs_are_whole_json(sagas):
    assert json.loads(sagas("cancel", "--all", "--dry-run", "--json").stdout) != []
    assert json.loads(sagas("cancel", "--name", "none", "--dry-run", "--json").stdout) == []
    asked = sagas("cancel", "--name", "none", "--yes")
    assert asked.stdout == "cancel: asked 0 sagas: nothing that it could change\n"


def test_a_wide_terminal_isnt_needed_for_damaged_text(sagas):
    """Text that isn't UTF-8 comes with half characters, which no terminal takes."""
    connection = sqlite3.connect("shop.db")
    connection.execute(
        "UPDATE standfast_journal SET fact = CAST(X'7BFF' AS TEXT) WHERE fact LIKE '%step_parked%'"
    )
    connection.commit()
    connection.close()
    assert "can't be read" in sagas("show", "place-order/parked").output


def test_what_cant_be_stored_is_refused_in_the_same_words(shared_shop, standfast):
    """A byte that isn't UTF-8 comes as half a character, from the shell as from a script."""
    standfast("migrate", "--app", "shop:app")
    app, bad = ("--app", "shop:app"), "k\udcff"
    for arguments in (
        ("show", f"place-order/{bad}"),
        ("list", "--name", bad),
        ("list", "--key", bad),
        ("cancel", f"place-order/{bad}"),
        ("export", "--key", bad),
        ("start", "place-order", "--input", f'"{bad}"'),
        ("start", "place-order", "--input", '{"id": "1"}', "--key", bad),
        ("signal", "go", "--all", "--payload", f'"{bad}"'),
        ("fork", "0", "--set", f'id="{bad}"'),
    ):
        said = standfast("sagas", *arguments, *app, code=2).output
        assert "holds a NUL character or a lone surrogate" in said, arguments
