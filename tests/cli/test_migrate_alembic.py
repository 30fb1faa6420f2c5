"""``standfast migrate --alembic``: revisions of the user's own, and an autogenerate that leaves
our tables alone."""

import io
import os
import re
import sys

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from standfast.integrations.alembic import include_name

ENV = """\
import os

from alembic import context
from sqlalchemy import Column, Integer, MetaData, Table, create_engine

from standfast.integrations.alembic import include_name

url = os.environ["SHOP_DATABASE"].replace("postgresql://", "postgresql+psycopg://")
metadata = MetaData()
Table("orders", metadata, Column("id", Integer, primary_key=True))
options = {
    "target_metadata": metadata,
    "include_schemas": True,
    "include_name": include_name if os.path.exists("env.d/hook") else None,
}
if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(url).connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
"""


@pytest.fixture
def alembic(shared_shop, monkeypatch):
    """Alembic's command of a name, in a project that has a revision of its own already."""
    monkeypatch.setattr(sys, "argv", ["alembic"])
    command.init(Config("alembic.ini"), "migrations")
    (shared_shop / "migrations" / "env.py").write_text(ENV)
    (shared_shop / "env.d").mkdir()
    (shared_shop / "env.d" / "hook").touch()

    def run(name, *arguments, **options):
        told = io.StringIO()
        config = Config("alembic.ini", stdout=told, output_buffer=told)
        getattr(command, name)(config, *arguments, **options)
        return told.getvalue()

    run("revision", "orders", autogenerate=True)
    return run


def scripts():
    return ScriptDirectory.from_config(Config("alembic.ini"))


def newest():
    return scripts().get_revision("head")


def text(revision):
    with open(revision.path, encoding="utf-8") as file:
        return file.read()


def is_complete(standfast):
    return "coordination" in standfast("migrate", "-a", "shop:app", "--status").stdout


def test_the_tables_come_with_the_users_own(alembic, standfast):
    own = newest()
    told = standfast("migrate", "-a", "shop:app", "--alembic", ".")
    written = newest()
    assert written.down_revision == own.revision
    assert f"wrote {written.path}\n    coordination 1: leases\n" in told.stdout
    assert "alembic upgrade head" in told.stderr
    standfast("migrate", "-a", "shop:app", "--status", code=1)
    alembic("upgrade", "head")
    assert is_complete(standfast)
    # Nobody has anything to do any more.
    assert "applied" not in standfast("migrate", "-a", "shop:app").stdout
    again = standfast("migrate", "-a", "shop:app", "--alembic", "migrations")
    assert again.stdout == "wrote nothing: no migration is missing there\n"
    assert newest().path == written.path
    # The app works on them.
    standfast("sagas", "start", "place-order", "--input", '{"id": "1"}', "-a", "shop:app")
    assert "place-order" in standfast("sagas", "list", "-a", "shop:app").stdout


def test_only_what_is_missing_and_behind_the_head(alembic, standfast):
    standfast("migrate", "-a", "shop:app", "--line", "marks", "--alembic", ".")
    first = newest()
    assert re.findall(r"# standfast \w+: (.*)", text(first)) == ["marks 1: marks"]
    standfast("migrate", "-a", "shop:app", "--alembic", ".", "--after", "journal=1")
    second = newest()
    assert second.down_revision == first.revision
    held = re.findall(r"# standfast \w+: (.*)", text(second))
    assert held[0] == "coordination 1: leases"
    assert not {"marks 1: marks", "journal 1: instances, journal and mail"} & set(held)
    standfast("migrate", "-a", "shop:app", "--alembic", ".")
    assert "journal 1: instances, journal and mail" in text(newest())


def test_autogenerate_leaves_them_alone(alembic, standfast, shared_shop):
    standfast("migrate", "-a", "shop:app", "--alembic", ".")
    alembic("upgrade", "head")
    alembic("check")
    alembic("revision", "nothing", autogenerate=True)
    assert "op." not in text(newest()).partition("def upgrade")[2]
    alembic("upgrade", "head")
    # Without the hook it would drop them: so it is the hook that works.
    (shared_shop / "env.d" / "hook").unlink()
    alembic("revision", "harm", autogenerate=True)
    assert "op.drop_table" in text(newest())


def test_the_hook():
    assert include_name("orders", "table", {"schema_name": None})
    assert include_name(None, "schema", {})
    assert include_name("public", "schema", {})
    assert include_name("standfast_id", "column", {"table_name": "orders"})
    assert not include_name("standfast", "schema", {})
    assert not include_name("standfast_leases", "table", {"schema_name": None})


def test_for_another_kind_of_database_it_does_nothing(alembic, standfast, monkeypatch):
    own = os.environ["SHOP_DATABASE"]
    here = "sqlite" if own.startswith("sqlite") else "postgresql"
    other = "postgresql://u@h/d" if here == "sqlite" else "sqlite:///other.db"
    lines = [f"--line={line}" for line in ("coordination", "journal", "marks")]
    for url in (other, own):
        standfast("migrate", "-a", url, *lines, "--alembic", ".")
    assert f'dialect.name != "{here}"' in text(newest())
    assert len(list(scripts().walk_revisions())) == 3
    alembic("upgrade", "head")
    assert is_complete(standfast)


def test_the_sql_for_someone_else(alembic, standfast):
    standfast("migrate", "-a", "shop:app", "--alembic", ".")
    printed = alembic("upgrade", "head", sql=True)
    assert "schema_migrations" in printed
    assert "\\:" not in printed
    assert ";;" not in printed


def test_there_is_no_way_back(alembic, standfast):
    standfast("migrate", "-a", "shop:app", "--alembic", ".")
    alembic("upgrade", "head")
    with pytest.raises(NotImplementedError, match=r"only go forward.*restore a backup"):
        alembic("downgrade", "-1")
    assert is_complete(standfast)


def test_a_database_that_has_them_already(alembic, standfast):
    standfast("migrate", "-a", "shop:app")
    standfast("migrate", "-a", "shop:app", "--alembic", ".")
    with pytest.raises(Exception, match="already exists"):
        alembic("upgrade", "head")
    alembic("stamp", "head")
    alembic("upgrade", "head")
    assert is_complete(standfast)


def test_what_cant_be_written(alembic, standfast, shared_shop):
    def refused(*arguments):
        return standfast("migrate", *arguments, code=2).stderr

    assert "neither alembic.ini, nor a pyproject.toml" in refused(
        "-a", "shop:app", "--alembic", "env.d"
    )
    assert "give one of" in refused("-a", "shop:app", "--alembic", ".", "--sql")
    assert "no JSON" in refused("-a", "shop:app", "--alembic", ".", "--json")
    url = os.environ["SHOP_DATABASE"]
    assert "connects nowhere" in refused("-a", url, "--alembic", ".")
    assert "choose from" in refused("-a", "shop:app", "--alembic", ".", "--after", "x=1")
    assert "DJANGO_SETTINGS_MODULE" in refused("-a", "shop:app", "--django", "shop")
    before = set((shared_shop / "migrations" / "versions").iterdir())
    template = shared_shop / "migrations" / "script.py.mako"
    template.write_text(template.read_text().replace("${upgrades", "${None and upgrades"))
    assert "${upgrades}" in refused("-a", "shop:app", "--alembic", ".")
    after = set((shared_shop / "migrations" / "versions").iterdir())
    assert {one for one in after if one.suffix == ".py"} == {
        one for one in before if one.suffix == ".py"
    }
    alembic("revision", "a second head", head="base", splice=True)
    assert "alembic merge heads" in refused("-a", "shop:app", "--alembic", ".")


# -- projects of other forms, and broken ones ----------------------------------------------------


@pytest.fixture
def project(shop, monkeypatch):
    """Alembic's template of a name, made here: ``project("generic")``."""
    monkeypatch.setattr(sys, "argv", ["alembic"])

    def init(template):
        config = Config("alembic.ini", toml_file="pyproject.toml")
        command.init(config, "migrations", template=template)
        return shop

    return init


def test_the_settings_may_be_in_pyproject(project, standfast):
    folder = project("pyproject")
    first = standfast("migrate", "-a", "shop:app", "--alembic", ".")
    assert "wrote " in first.stdout
    (folder / "alembic.ini").unlink()
    again = standfast("migrate", "-a", "shop:app", "--alembic", ".")
    assert again.stdout == "wrote nothing: no migration is missing there\n"
    (folder / "pyproject.toml").write_text("[project]\nname = 'shop'\n")
    told = standfast("migrate", "-a", "shop:app", "--alembic", ".", code=2).stderr
    assert "pyproject.toml with [tool.alembic]" in told


def rewritten(path, pattern, by):
    path.write_text(re.sub(pattern, by, path.read_text(), count=1, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("pattern", "by", "message"),
    [
        (r"^\[alembic\]", "[one]", "no script_location in [alembic], but in [one]"),
        (r"^script_location.*", "script_location = gone", "relative paths begin where you are"),
        (r"^script_location.*", "script_location = gone:m", "ModuleNotFoundError: No module named"),
        (r"^script_location.*", "", "No 'script_location' key found"),
        (r"^\[alembic\]", "alembic", "MissingSectionHeaderError"),
    ],
)
def test_settings_that_cant_be_read(project, standfast, pattern, by, message):
    folder = project("generic")
    rewritten(folder / "alembic.ini", pattern, by)
    told = standfast("migrate", "-a", "shop:app", "--alembic", ".", code=2).stderr
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.filterwarnings("ignore:Revision gone referenced")
def test_revisions_that_cant_be_read(project, standfast):
    folder = project("generic")

    def refused():
        return standfast("migrate", "-a", "shop:app", "--alembic", ".", code=2).stderr

    revision = folder / "migrations" / "versions" / "own.py"
    revision.write_text("revision = 'own'\ndown_revision = 'gone'\n")
    assert "no revision 'gone', which a down_revision names" in refused()
    revision.write_text("def (\n")
    assert "reading its revisions raised SyntaxError" in refused()
    revision.write_text("import gone_for_good\n")
    assert "ModuleNotFoundError: No module named 'gone_for_good'" in refused()
    revision.unlink()
    (folder / "migrations" / "script.py.mako").write_text("${gone()}")
    assert "writing a revision raised CommandError" in refused()


def test_it_tells_what_keeps_autogenerate_from_dropping_the_tables(project, standfast):
    folder = project("generic")
    line = ("migrate", "-a", "shop:app", "--alembic", ".", "--line")
    assert "alembic.include_name to context.configure" in standfast(*line, "marks").stderr
    assert "include_name" not in standfast(*line, "marks").stderr  # nothing was written
    rewritten(
        folder / "migrations" / "env.py",
        "^from alembic import context",
        "from alembic import context\nfrom standfast.integrations.alembic import include_name",
    )
    assert "include_name" not in standfast(*line, "journal").stderr


def test_an_app_to_which_nothing_was_added(project, standfast):
    folder = project("generic")
    (folder / "empty.py").write_text(
        "from standfast import Standfast\n\napp = Standfast('sqlite:///shop.db')\n"
    )
    told = standfast("migrate", "-a", "empty:app", "--alembic", ".")
    assert told.stdout == "wrote nothing: the app needs no tables\n"
    assert "nothing was added to this app" in told.stderr
    for how in ([], ["--status"], ["--sql"], ["--dry-run"]):
        assert "nothing was added" in standfast("migrate", "-a", "empty:app", *how).stderr
