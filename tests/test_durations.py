"""Durations as people write them, and as they are told."""

import pytest

from standfast.durations import age, human, seconds, time_limit
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


def test_of_one_that_is_too_long_is_told_what_can_be_given_instead():
    with pytest.raises(ConfigurationError, match=r"sleep='40000d': .* years\. Give a shorter one$"):
        seconds("40000d", name="sleep")
    with pytest.raises(ConfigurationError, match=r"older_than=.* years\. Give a shorter one$"):
        age("40000d", name="older_than")
    with pytest.raises(ConfigurationError, match=r"timeout=.* years\. Give None for no limit$"):
        time_limit("40000d", name="timeout")
    assert time_limit(None, name="timeout") is None
    assert time_limit("0s", name="max_wait", positive=False) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0s"), (3.06e-05, "31us"), (1e-12, "0s"), (0.0001, "0.0001s"), (0.25, "0.25s")],
)
def test_short_ones_are_told_without_powers_of_ten(value, text):
    assert human(value) == text
