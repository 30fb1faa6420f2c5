"""Durations as people write them, and as they are told."""

import pytest

from standfast.durations import human, seconds
from standfast.errors import ConfigurationError


@pytest.mark.parametrize("given", ["-5s", "- 1h30m", -5, -0.5])
def test_a_negative_one_is_told_so(given):
    with pytest.raises(ConfigurationError, match="must be finite and more than zero"):
        seconds(given)
    with pytest.raises(ConfigurationError, match="must be finite and zero or more"):
        seconds(given, positive=False)


def test_just_below_a_minute_it_is_a_minute():
    assert (human(59.94), human(59.96), human(60)) == ("59.9s", "1m", "1m")


@pytest.mark.parametrize("given", ["-", "--5s", "-x", "5"])
def test_what_is_none_is_told_so(given):
    with pytest.raises(ConfigurationError, match=r"not a duration|must be finite"):
        seconds(given)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0s"), (3.06e-05, "31us"), (1e-12, "0s"), (0.0001, "0.0001s"), (0.25, "0.25s")],
)
def test_short_ones_are_told_without_powers_of_ten(value, text):
    assert human(value) == text
