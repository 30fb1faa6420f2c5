"""What a run keeps for the next one: how far the seeds came, what the starter told."""

import pytest

from standfast.testing import InvariantViolated, SimulationReport
from tests.soak.load.told import Teller, Told
from tests.soak.postgres import count
from tests.soak.seeds.campaigns import CAMPAIGNS
from tests.soak.seeds.player import run
from tests.soak.seeds.resume import Block, Progress


def test_blocks_are_given_once_each():
    progress = Progress({"a": 100})
    assert progress.take("a", 50) == Block("a", 100, 150)
    assert progress.take("a", 50) == Block("a", 150, 200)
    assert progress.take("b", 50) == Block("b", 0, 50)


def test_what_is_done_is_done_without_gaps():
    progress = Progress()
    first, second, third = (progress.take("a", 10) for _ in range(3))
    progress.finish(second, [])
    progress.finish(third, [])
    assert progress.done.get("a", 0) == 0
    progress.finish(first, [])
    assert progress.done == {"a": 30}


def test_it_goes_on_where_it_was(tmp_path):
    file = tmp_path / "deeper" / "seeds.json"
    assert Progress.load(file).done == {}
    progress = Progress()
    first, second = progress.take("a", 10), progress.take("a", 10)
    progress.finish(first, [3])
    progress.save(file)
    progress.finish(second, [])
    again = Progress.load(file)
    assert again.take("a", 10) == second
    assert again.again() == [Block("a", 3, 4)]


def test_a_failed_seed_is_run_again_until_it_holds():
    progress = Progress()
    progress.finish(progress.take("a", 10), [3, 5])
    for block in progress.again():
        progress.finish(block, [3] if block.first == 3 else [])
    assert progress.failed == {"a": [3]}
    assert progress.done == {"a": 10}
    progress.finish(Block("a", 3, 4), [])
    assert progress.failed == {}


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_each_campaign_runs(name):
    said = run(name, 0, 8)
    assert sum(said["outcomes"].values()) == 8
    assert said["failed"] == []


def test_a_block_goes_on_after_a_seed_that_failed(monkeypatch):
    def odd(seeds):
        report = SimulationReport("odd")
        for seed in seeds:
            if seed in (2, 5):
                world = None
                raise InvariantViolated(f"seed {seed}", seed=seed, story="", world=world)
            report.outcomes["completed"] += 1
        return report

    monkeypatch.setitem(CAMPAIGNS, "odd", odd)
    said = run("odd", 0, 8)
    assert said["failed"] == [(2, "seed 2"), (5, "seed 5")]
    assert said["outcomes"]["completed"] == 2  # of those runs that came to their end


def test_what_was_told_is_read_again(tmp_path):
    file = tmp_path / "told"
    teller = Teller(file)
    teller.tell("begun", 0)
    teller.tell("started", 0)
    teller.tell("begun", 1)
    teller.tell("begun", 2)
    teller.tell("started", 2)
    teller.tell("ended", 0, "completed")
    teller.tell("fault", 2, "OSError: two\nlines")
    told = Told.read_file(file)
    assert told.started == {0, 2}
    assert told.ended == {0: "completed"}
    assert told.unfinished == [1, 2]
    assert told.next == 3
    assert told.faults == ["saga 2: OSError: two lines"]


def test_a_line_that_was_cut_short_says_nothing(tmp_path):
    file = tmp_path / "told"
    file.write_text("begun 1\nstarted 1\nended 1 comp")
    assert Told.read_file(file).ended == {}
    teller = Teller(file)
    assert Told.read_file(file).unfinished == [1]
    teller.tell("ended", 1, "completed")
    assert Told.read_file(file).ended == {1: "completed"}


def test_nothing_was_told_yet(tmp_path):
    told = Told.read_file(tmp_path / "told")
    assert told.unfinished == []
    assert told.next == 0


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("3 passed in 1.0s", {"passed": 3}),
        ("x\n1 failed, 375 passed, 2 skipped in 3s\n", {"failed": 1, "passed": 375, "skipped": 2}),
        ("no tests ran in 0.1s", {}),
        ("", {}),
    ],
)
def test_what_pytest_counted(text, counted):
    assert count(text) == counted
