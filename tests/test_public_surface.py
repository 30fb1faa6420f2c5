"""What Standfast offers is decided, not accidental: tests/public_surface.txt lists it."""

import difflib
from importlib import import_module

import pytest
from tools.public_surface import EXPECTED, Surface

import standfast

PUBLIC = Surface().names


def test_the_surface_is_the_one_we_decided_on() -> None:
    expected = EXPECTED.read_text(encoding="utf-8").splitlines()
    offered = Surface().text().splitlines()
    changes = list(difflib.unified_diff(expected, offered, "decided on", "in the source", n=2))
    if changes:
        pytest.fail(
            "the public surface has changed:\n\n"
            + "\n".join(line.rstrip("\n") for line in changes)
            + "\n\nIf that is meant, accept it by `make surface`, and tell users in CHANGELOG.md.",
            pytrace=False,
        )


@pytest.mark.parametrize("module", PUBLIC)
def test_every_name_resolves(module: str) -> None:
    loaded = import_module(module)
    for name in PUBLIC[module]:
        assert getattr(loaded, name) is not None, name
    assert set(PUBLIC[module]) <= set(dir(loaded))


def test_the_names_are_in_order() -> None:
    assert list(standfast.__all__) == sorted(standfast.__all__)
