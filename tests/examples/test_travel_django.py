"""The travel agency on Django, from outside: web and two workers, one of which is killed."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from urllib.request import Request, urlopen

import pytest

from tests.docs.blocks import ROOT

pytestmark = [pytest.mark.crash, pytest.mark.slow]

TRIPS = 30
WITHIN = 120.0
MANAGE = (sys.executable, "-m", "examples.travel_django.manage")
WEB = (sys.executable, "-m", "examples.travel_django.web")


@pytest.fixture(params=["sqlite", "postgres"])
def environment(request, tmp_path):
    named = str(tmp_path / "travel.sqlite3")
    if request.param == "postgres":
        named = request.getfixturevalue("postgres_dsn")
    return {**os.environ, "TRAVEL_DATABASE": named}


def manage(environment, *arguments):
    done = subprocess.run(
        [*MANAGE, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def begin(stack, environment, command, until):
    """A process that is killed at the end; once it has printed `until`, and that line."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    stack.callback(process.stdout.close)
    stack.callback(process.wait)
    stack.callback(process.kill)
    told = []
    for line in process.stdout:
        if until in line:
            return process, line.strip()
        told.append(line)
    pytest.fail("".join(told))


def work(stack, environment):
    options = ("--lease", "2s", "--health", "0", "--log-level", "error")
    return begin(stack, environment, [*MANAGE, "standfast", "run", *options], "health: ")[0]


def ask(url, wish=None):
    request = Request(url, None if wish is None else json.dumps(wish).encode())
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait_until(url, holds):
    until = time.monotonic() + WITHIN
    while not holds(counts := ask(url)):
        assert time.monotonic() < until, counts
        time.sleep(0.05)


LATE = """
from examples.travel_django.booking.models import Booking, Trip
from examples.travel_django.booking.sagas import release, reserve
trip = Trip.objects.create(traveller="ann", destination="Rome").pk
for early in (True, False):
    if early:
        reserve(trip, "flight")
    release(trip, "flight")
    release(trip, "flight")
    reserve(trip, "flight")
    print("booked", Booking.objects.filter(trip=trip, cancelled=False).count())
    Booking.objects.all().delete()
"""


@pytest.mark.parametrize("environment", ["sqlite"], indirect=True)
def test_what_is_reserved_after_it_was_released_stays_cancelled(environment):
    manage(environment, "migrate")
    told = manage(environment, "shell", "-c", LATE)
    assert re.findall(r"booked \d", told) == ["booked 0", "booked 0"]


def test_no_trip_is_lost_or_half_booked(environment):
    manage(environment, "migrate")
    stands = json.loads(manage(environment, "standfast", "migrate", "--status", "--json"))
    assert all(one["applied"] == one["newest"] for one in stands)
    manage(environment, "makemigrations", "--check")
    with ExitStack() as stack:
        web, url = begin(stack, environment, WEB, "http://")
        first = work(stack, environment)
        second = work(stack, environment)
        wishes = [
            {"traveller": f"t{number}", "destination": "Venice" if number % 5 == 0 else "Rome"}
            for number in range(TRIPS)
        ]
        numbers = [ask(f"{url}/trips", wish)["trip"] for wish in wishes]
        wait_until(f"{url}/trips", lambda counts: sum(counts.values()) - counts.get("running", 0))
        first.kill()
        numbers.append(ask(f"{url}/trips", {"traveller": "late", "destination": "Rome"})["trip"])
        wishes.append({"destination": "Rome"})

        wait_until(
            f"{url}/trips",
            lambda counts: (
                counts.get("completed", 0) + counts.get("compensated", 0) == len(numbers)
            ),
        )
        for number, wish in zip(numbers, wishes, strict=True):
            whole = {
                "status": "completed",
                "confirmed": True,
                "booked": ["flight", "room", "car"],
                "cancelled": [],
            }
            nothing = {
                "status": "compensated",
                "confirmed": False,
                "booked": [],
                "cancelled": ["flight", "room"],
            }
            expected = nothing if wish["destination"] == "Venice" else whole
            assert ask(f"{url}/trips/{number}") == expected
        assert first.wait() != 0
        assert second.poll() is None
        assert web.poll() is None
