"""Durations as people write them, and as they are told."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest

from standfast.durations import LONGEST, age, epoch, human, moment, seconds, time_left, time_limit
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


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (0.25, 0.25),
        ("250ms", 0.25),
        ("3us", 3e-6),
        (" 1h 30m ", 5400.0),
        ("1w2d", 777600.0),
        ("1.5s", 1.5),
        (timedelta(minutes=2), 120.0),
        (LONGEST, LONGEST),
    ],
)
def test_all_the_ways_to_write_one(given, found):
    assert seconds(given) == pytest.approx(found)
    assert time_left(given, name="left") == pytest.approx(found)
    assert time_limit(given, name="limit") == pytest.approx(found)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (float("inf"), "must be finite"),
        (float("nan"), "must be finite"),
        (10**400, "must be finite and more than zero"),
        (-(10**400), "must be finite and more than zero"),
        pytest.param(10**5000, "t=a number of thousands of digits: a duration", id="huge"),
        (True, "t=True: not a duration"),
        (None, "not a duration"),
        ("1s!", "not a duration"),
        ("x" * 70, f"t='{'x' * 58}…: not a duration"),
        ("x" * 58, f"t='{'x' * 58}': not a duration"),
        (LONGEST + 1, "longer than a hundred years. Give a shorter one"),
    ],
)
def test_what_is_no_duration_is_told_as_far_as_it_can_be(given, why):
    with pytest.raises(ConfigurationError) as caught:
        seconds(given, name="t")
    assert why in str(caught.value)


def test_zero_is_one_where_it_may_be():
    assert seconds(0, positive=False) == 0
    assert (time_left(0, name="t"), time_left("-5s", name="t")) == (0.0, 0.0)
    assert time_left(-(10**400), name="t") == 0.0
    for refused in (seconds, time_limit):
        with pytest.raises(ConfigurationError, match=r"t=0: .* more than zero"):
            refused(0, name="t")
    with pytest.raises(ConfigurationError, match="finite"):
        time_left(10**400, name="t")


def test_an_age_has_a_unit():
    for given in (30, 0.5, "30", " 30 ", "1.5"):
        number = str(given).strip()
        with pytest.raises(ConfigurationError, match=f"give {number} a unit, such as '{number}d'"):
            age(given, name="older_than")
    for given in (True, "30x", "1.2.3"):
        with pytest.raises(ConfigurationError, match="not a duration"):
            age(given, name="older_than")
    assert age("30d", name="t") == age(timedelta(days=30), name="t") == 2592000.0
    assert age("0s", name="t") == 0
    with pytest.raises(ConfigurationError, match="more than zero"):
        age("0s", name="t", positive=True)
    with pytest.raises(ConfigurationError, match="Give None to keep for ever"):
        age("40000d", name="t", without="to keep for ever")


def test_a_moment_has_a_zone():
    noon = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=1)))
    assert epoch(noon, name="at") == datetime(2030, 1, 1, 11, tzinfo=UTC).timestamp()

    class Nowhere(tzinfo):
        def utcoffset(self, when):
            return None

    for given in (datetime(2030, 1, 1), datetime(2030, 1, 1, tzinfo=Nowhere())):
        with pytest.raises(ConfigurationError, match="has no time zone"):
            epoch(given, name="at")
    with pytest.raises(ConfigurationError, match="at='noon': give a datetime with a time zone"):
        epoch("noon", name="at")
    assert (moment(None), moment(0)) == ("", "1970-01-01 00:00:00Z")
    assert moment(1795798263.9) == "2026-11-27 16:51:03Z"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00009999, "100us"),
        (1e-7, "0.1us"),
        (90, "1m30s"),
        (90061, "1d1h"),
        (86400 + 61, "1d1m"),
        (3600, "1h"),
        (LONGEST, "36500d"),
        (LONGEST * 2, "6.31e+09s"),
    ],
)
def test_others_are_told_by_their_two_largest_units(value, text):
    assert human(value) == text
