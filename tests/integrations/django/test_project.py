"""A Django project with Standfast among its installed apps."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from urllib.request import urlopen

import pytest

from tests.integrations.django.conftest import PSYCOPG

pytestmark = pytest.mark.slow


@contextmanager
def process(*arguments, until):
    """A program while the block runs; `until` is found in what it prints first."""
    running = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        told = []
        while not (found := re.search(until, line := running.stdout.readline())):
            told.append(line)
            assert line, "".join(told)
        yield found
    finally:
        running.terminate()
        running.communicate(timeout=60)


def start(manage, key):
    code = f"""
from django.db import transaction
from shop.models import Trip
from shop.sagas import BookTrip
from standfast.integrations.django import app
with transaction.atomic():
    Trip.objects.create(key={key!r})
    print(app.adopt().start(BookTrip, {key!r}, key={key!r}).id)
"""
    return manage("shell", "--no-imports", "-c", code).strip()


RESULT = """
import asyncio
from shop.sagas import BookTrip
from standfast.integrations.django import app
async def wait():
    async with app:
        return await app.handle({id!r}).result(timeout=60)
result = asyncio.run(wait())
print("result", result[BookTrip.book], result[BookTrip.look], result[BookTrip.look_again])
"""


def test_the_admin(manage):
    manage("standfast", "migrate", "--django", "shop")
    told = manage("test", "shop", "--pattern", "cases_admin.py", "--noinput")
    assert int(re.search(r"Ran (\d+) tests", told)[1]) == 9, told


@pytest.mark.parametrize("database", ["sqlite", "in memory", PSYCOPG], indirect=True)
def test_what_django_does_to_a_whole_database(manage, database):
    manage("standfast", "migrate", "--django", "shop")
    cases = "test", "shop", "--pattern", "cases_whole.py", "--noinput"
    assert "Ran 4 tests" in manage(*cases)
    if database != "in memory":
        assert "Ran 4 tests" in manage(*cases, "--parallel", "2")


MIGRATED = """
import importlib
from django.core.management import call_command
def step(*command):
    print("#", *command, flush=True)
    importlib.invalidate_caches()
    call_command(*command)
step("check", "--database", "default")
step("standfast", "migrate", "--django", "shop")
step("standfast", "migrate", "--django", "shop")
step("makemigrations", "--check")
step("migrate")
step("standfast", "migrate", "--status", "--json")
step("check", "--database", "default")
step("standfast", "migrate")
step("makemigrations", "--check", "--dry-run")
step("standfast", "sagas", "list", "--stuck")
"""
SQUASHED = """
import importlib
from django.core.management import call_command
call_command("standfast", "migrate", "--django", "shop")
importlib.invalidate_caches()
call_command("squashmigrations", "shop", "0002", "--noinput")
importlib.invalidate_caches()
call_command("migrate", verbosity=0)
"""
OLD_FORM = """
from django.db import migrations
class _RunSQL(migrations.RunSQL):
    pass
class Migration(migrations.Migration):
    dependencies = [("more", "0001_initial")]
    operations = [_RunSQL(["INSERT INTO standfast_schema_migrations (line, number, name)\
 VALUES ('coordination', 1, 'leases');\\n"])]
"""
IRREVERSIBLE = """
from django.core.management import call_command
from django.db.migrations.exceptions import IrreversibleError
try:
    call_command("migrate", "shop", "0001")
except IrreversibleError as error:
    print("no way back")
"""


def test_from_no_tables_to_a_saga_that_is_done(manage, database):
    told = manage("shell", "--no-imports", "-c", MIGRATED)
    _, before, written, again, _, _, status, after, nothing, _, stuck = re.split("(?m)^# ", told)
    assert "standfast.W002" in before
    assert "standfast migrate" in before
    assert "0002_standfast.py" in written
    assert "journal 1: " in written
    assert "wrote nothing" in again
    stands = json.loads(status.partition("\n")[2])
    assert stands
    assert all(one["applied"] == one["newest"] for one in stands)
    assert "standfast.W002" not in after
    assert "applied " not in nothing
    assert "nothing is stuck" in stuck
    id = start(manage, "first")
    with process("manage.py", "standfast", "run", "--health", "0", until="health: "):
        told = manage("shell", "--no-imports", "-c", RESULT.format(id=id) + IRREVERSIBLE)
    assert "result 1 True True" in told
    assert "no way back" in told


def test_squashing(manage, project):
    manage("shell", "--no-imports", "-c", SQUASHED)
    for file in (project / "shop" / "migrations").glob("000[12]_*.py"):
        if "squashed" not in file.name:
            file.unlink()
    assert "wrote nothing" in manage("standfast", "migrate", "--django", "shop")
    told = manage("standfast", "migrate", "--status", "--json")
    assert all(one["applied"] == one["newest"] for one in json.loads(told))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_whose_migrations_they_are(manage, project):
    for label in ("auth", "standfast"):
        told = manage("standfast", "migrate", "--django", label, code=2)
        assert "isn't your project's: give an app of your own (shop)" in told
    # What is in another app, in the form of before, isn't written once more.
    shutil.copytree(project / "shop" / "migrations", project / "more" / "migrations")
    (project / "more" / "__init__.py").touch()
    (project / "more" / "models.py").write_text((project / "shop" / "models.py").read_text())
    old = project / "more" / "migrations" / "0002_standfast.py"
    old.write_text(OLD_FORM)
    with (project / "config" / "settings.py").open("a") as settings:
        settings.write("\nINSTALLED_APPS += ['more']\n")
    told = manage("standfast", "migrate", "--django", "shop")
    assert "journal 1: " in told
    assert "coordination" not in told
    assert "wrote nothing" in manage("standfast", "migrate", "--django", "more")
    old.write_text(OLD_FORM.replace("0001_initial", "0001_gone"))
    told = manage("standfast", "migrate", "--django", "shop", code=2)
    assert "can't be loaded: NodeNotFoundError" in told
    assert "Traceback" not in told


def test_the_logs_of_a_worker_are_as_the_settings_say(manage, monkeypatch):
    monkeypatch.setenv("SHOP_LOGS", "mine: %(message)s")
    manage("standfast", "migrate")
    with process("manage.py", "standfast", "run", until="^mine: ") as found:
        assert found


def test_the_command(manage, project):
    assert "Usage: manage.py standfast" in manage("standfast", "--help")
    settings = "--settings=config.settings"
    # What somebody's shell has set isn't meant for this project.
    told = manage("standfast", "migrate", "--dry-run", settings, STANDFAST_APP="other:app")
    assert "journal" in told
    assert "no module" in manage("standfast", "migrate", "-a", "other:app", code=2)
    assert "no such service" in manage("standfast", "run", "--only", "nothing", code=2)
    call = (
        "from django.core.management import CommandError, call_command\n"
        "call_command('standfast', 'migrate')\n"
        "try:\n    call_command('standfast', 'sagas', 'show', 'book-trip/none')\n"
        "except CommandError as error:\n    print('told', error.returncode, error)\n"
    )
    told = manage("shell", "--no-imports", "-c", call)
    assert "applied journal" in told
    assert "told 1 standfast sagas show book-trip/none failed" in told
    # And the other way round: the command line finds the project.
    standfast = [
        sys.executable, "-m", "standfast.cli.main", "sagas", "list", "--app",
        "standfast.integrations.django:app",
    ]  # fmt: skip
    done = subprocess.run(standfast, capture_output=True, text=True)
    assert done.returncode == 2
    assert "DJANGO_SETTINGS_MODULE" in done.stderr


WRONG = {
    "{'DATABASE': 'nowhere'}": "speaks unknown here.*PostgreSQL or SQLite",
    "{'DATABASE': 'elsewhere'}": "settings.DATABASES has 'default'",
    "{'DATABASE': ['default']}": "settings.DATABASES has 'default'",
    "{'DATABSE': 'default'}": "there are DATABASE, SAGAS, OPTIONS only",
    "{'OPTIONS': {'readers': 'x'}}": "readers='x': must be a whole number",
    "['default']": "must be a dictionary",
    "{'SAGAS': 'shop.more'}": "'SAGAS'.='shop.more': must be a list of modules",
}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_settings_that_are_wrong(manage, project):
    with (project / "config" / "settings.py").open("a") as settings:
        settings.write("\nSTANDFAST = eval(os.environ.get('SHOP_STANDFAST', '{}'))\n")
    for wrong, told in WRONG.items():
        said = manage("check", code=1, SHOP_STANDFAST=wrong)
        assert re.search(rf"\?: \(standfast.E001\) .*{told}", said), said
        assert "Traceback" not in said
    with (project / "config" / "settings.py").open("a") as settings:
        settings.write("\nSTANDFAST = {'SAGAS': ['shop.moresagas']}\n")
    told = manage("check", code=1)
    assert "settings.STANDFAST['SAGAS'] has 'shop.moresagas': No module named" in told
    with (project / "shop" / "models.py").open("a") as models:
        models.write("\nfrom standfast.integrations.django import app\napp.operations\n")
    assert "used while Django loads its apps" in manage("check", code=1)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_another_alias_for_the_sagas(manage, project):
    with (project / "config" / "settings.py").open("a") as settings:
        settings.write("\nSTANDFAST = {'DATABASE': 'other', 'OPTIONS': {'readers': 3}}\n")
    manage("standfast", "migrate")
    code = """
from django.db import transaction
from shop.sagas import BookTrip
from standfast import Standfast
from standfast.errors import ConfigurationError
from standfast.integrations.django import app
from standfast.integrations.django.models import Instance
assert isinstance(app, Standfast)
with transaction.atomic("other"):
    app.adopt().start(BookTrip, "x", key="x")
print("found", Instance.objects.get(key="x").status, app.database.url[-10:])
try:
    with transaction.atomic():
        app.adopt("default")
except ConfigurationError as error:
    print(error)
"""
    told = manage("shell", "--no-imports", "-c", code)
    assert "found running ?readers=3" in told
    assert "use transaction.atomic('other') and adopt() without an alias" in told


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_check_advises(manage, project):
    (project / "shop" / "moresagas.py").write_text(
        "from shop.sagas import BookTrip\n"
        "from standfast import Saga, wait\n"
        "class Forgotten(Saga[str]):\n"
        "    approval = wait('approved', type=str)\n"
        "class Ask(Saga[str]):\n"
        "    approval = wait('approved', type=str)\n"
        "class AskTwice(Ask):\n"
        "    again = wait('again', type=str)\n"
        "from standfast.integrations.django import app\n"
        "app.add(AskTwice())\n"
    )
    with (project / "config" / "settings.py").open("a") as settings:
        settings.write("\nSTANDFAST = {'SAGAS': ['shop.moresagas']}\n")
        settings.write("DATABASES['default']['OPTIONS'] = {}\n")
        settings.write("DATABASES['default']['ATOMIC_REQUESTS'] = False\n")
    told = manage("check", "--deploy")
    assert "standfast.W001) shop.moresagas.Forgotten is a saga" in told
    assert "BookTrip" not in told
    assert "moresagas.Ask" not in told  # one that only others inherit from
    assert "standfast.W003" in told
    assert "standfast.I004" in told
    assert "standfast.I004" not in manage("check")


def test_async_views_with_a_lifespan(manage, project):
    manage("standfast", "migrate", "--django", "shop")
    manage("migrate")
    start(manage, "async")
    with process(
        *("-m", "uvicorn", "config.asgi:application", "--port", "0"),
        until=r"running on (http://[\d.:]+)",
    ) as found:
        with urlopen(f"{found[1]}/start/async", timeout=60) as answer:
            assert json.load(answer) == {"updated": 1}
        with urlopen(f"{found[1]}/book-async/more", timeout=60) as answer:
            assert answer.status == 202


@pytest.mark.parametrize("database", [PSYCOPG], indirect=True)
def test_a_server_without_tables_doesnt_start(manage, project):
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "config.asgi:application", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "run `standfast migrate`" in done.stderr


FOLLOWS = """
from django.test.runner import DiscoverRunner
from standfast.integrations.django import app
before = app.database.url
runner = DiscoverRunner(verbosity=0, interactive=False)
old = runner.setup_databases()
during = app.database.url
runner.teardown_databases(old)
print("follows", during != before, app.database.url == before)
"""
ADDED_LATE = """
from standfast import Saga, wait
from standfast.integrations.django import app
assert app.sagas
class Late(Saga[str]):
    approval = wait("approved", type=str)
app.add(Late())
print("knows", [one.name for one in app.sagas.definitions.by_kind.values() if one.name == "late"])
"""
CLOSES = """
import asyncio
from asgiref.sync import sync_to_async
from django.db import connection
from shop.models import Trip
from standfast.integrations.django import database_sync_to_async
def fails():
    assert Trip.objects.count() == 0
    raise ZeroDivisionError
async def look():
    print("counted", await database_sync_to_async(Trip.objects.count)())
    print("open", await sync_to_async(lambda: connection.connection is not None)())
    try:
        await database_sync_to_async(fails)()
    except ZeroDivisionError:
        print("still open", await sync_to_async(lambda: connection.connection is not None)())
asyncio.run(look())
"""
GROWS_OLD = """
import time
from django.db import connection
from standfast.integrations.django import app
step = app.sagas.threads.wrap(lambda: connection.connection)
connection.ensure_connection()
connection.close_at = time.monotonic() + 60
print("young:", step() is None, connection.connection is None)
connection.close_at = time.monotonic()
print("old:", step() is None)
"""


def test_an_app_that_was_used_before_follows_into_the_tests_database_and_back(manage):
    assert "follows True True" in manage("shell", "--no-imports", "-c", FOLLOWS)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_is_added_after_the_app_was_used_is_known_too(manage):
    assert "knows ['late']" in manage("shell", "--no-imports", "-c", ADDED_LATE)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_no_connection_stays_open_after_what_a_step_does_with_the_orm(manage):
    manage("migrate")
    told = manage("shell", "--no-imports", "-c", CLOSES)
    assert "counted 0" in told
    assert "open False" in told
    assert "still open False" in told


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_step_is_given_no_connection_that_grew_too_old_meanwhile(manage):
    told = manage("shell", "--no-imports", "-c", GROWS_OLD)
    assert "young: False False" in told
    assert "old: True" in told
