"""Django's transactions, adopted: tests of a Django project, run by Django, on each database."""

import re

import pytest

from tests.integrations.django.conftest import PSYCOPG, PSYCOPG2

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("database", ["sqlite", "in memory", PSYCOPG, PSYCOPG2], indirect=True)
def test_adopting(manage):
    # The tables stand in the project's own migrations: so the tests' database has them.
    manage("standfast", "migrate", "--django", "shop")
    told = manage("test", "shop", "--pattern", "cases_adopt*.py", "--noinput")
    assert int(re.search(r"Ran (\d+) tests", told)[1]) > 30, told
