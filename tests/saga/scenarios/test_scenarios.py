"""Plays every scenario of this folder. ``STANDFAST_UPDATE=1`` writes them anew instead."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from standfast.testing import check_scenario
from tests.saga.scenarios.sagas import SAGAS

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path):
    check_scenario(path, *SAGAS, update=os.environ.get("STANDFAST_UPDATE") == "1")


def test_they_are_all_there():
    assert len(SCENARIOS) >= 25
