"""Migrations as revisions of the user's own tool: Alembic's, or those of a Django app.

A revision holds plain SQL, so that it can be read and outlives the version that wrote it. What it
applies it also notes, in the same transaction, so ``migrate --status`` and the app know of it. A
comment in the file says which migrations it holds, and for which kind of database: on any other
kind it does nothing, so that a project that develops on SQLite may have both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, indent
from tomllib import loads
from typing import Any, Protocol

from standfast.errors import ConfigurationError
from standfast.ports.providing import Dialect
from standfast.text import named

_MARK = re.compile(r"^\s*# standfast (\w+): (\S+) (\d+): ", re.MULTILINE)

_FORWARD = (
    "Standfast's migrations only go forward, for their tables hold sagas that are under way: to go "
    "back, restore a backup"
)


@dataclass(frozen=True, slots=True)
class Revision:
    """What a revision is to hold: `steps` are the statements of each migration, by what tells it.

    `preparation` comes before all of them.
    """

    dialect: Dialect
    preparation: Sequence[str]
    steps: Mapping[str, Sequence[str]]

    @property
    def groups(self) -> Iterable[tuple[str, Sequence[str]]]:
        """A comment, and the statements that it is for."""
        yield "makes the table of what was applied", self.preparation
        for told, statements in self.steps.items():
            yield f"standfast {self.dialect}: {told}", statements


class RevisionTool(Protocol):
    """A tool that has revisions."""

    option: str
    applied_by: str

    @property
    def hint(self) -> str:
        """What else is to be done once a revision is written; "" if nothing."""
        ...

    def written(self, dialect: Dialect) -> set[tuple[str, int]]:
        """The lines and numbers of the migrations that its revisions hold for that dialect."""
        ...

    def write(self, revision: Revision) -> Path:
        """Write a revision behind all others; its file. Raises `ConfigurationError`."""
        ...


def revision_tool(alembic: str | None, django: str | None) -> RevisionTool:
    """The tool that one of the two options names. Raises `ConfigurationError`."""
    return Alembic(Path(alembic)) if alembic is not None else Django(django or "")


def _held(texts: Iterable[str], dialect: Dialect) -> set[tuple[str, int]]:
    return {
        (line, int(number))
        for text in texts
        for kind, line, number in _MARK.findall(text)
        if kind == dialect
    }


def _quoted(sql: str) -> str:
    """A string literal of Python that can be read as SQL."""
    inner = sql.replace("\\", "\\\\").replace('"""', '\\"""')
    return f'"""\\\n{inner}\n"""'


class Alembic:
    """The revisions in Alembic's folder, by way of its own template."""

    option = "--alembic"
    applied_by = "alembic upgrade head"

    def __init__(self, folder: Path) -> None:
        try:
            from alembic.script import ScriptDirectory
        except ImportError as error:
            raise ConfigurationError("--alembic needs it: pip install alembic") from error
        self._told = f"--alembic {folder}"
        ini, toml = folder / "alembic.ini", folder / "pyproject.toml"
        with self._telling("reading its settings", "relative paths begin where you are; "):
            in_toml = toml.is_file() and "alembic" in loads(toml.read_text("utf-8")).get("tool", {})
            if ini.is_file() or in_toml:
                config = self._config(ini, toml if in_toml else None)
                self._scripts = ScriptDirectory.from_config(config)
            elif (folder / "env.py").is_file():
                self._scripts = ScriptDirectory(str(folder))
            else:
                raise ConfigurationError(
                    f"{self._told}: there is neither alembic.ini, nor a pyproject.toml with "
                    "[tool.alembic], nor env.py in it: give the folder of one of them, or make "
                    "them with `alembic init`"
                )

    def _config(self, ini: Path, toml: Path | None) -> Any:
        from alembic.config import Config

        options: dict[str, Any] = (
            {} if toml is None else {"toml_file": str(toml)}
        )  # since Alembic 1.16
        config = Config(str(ini) if ini.is_file() else None, **options)
        having = [
            one
            for one in config.file_config.sections()
            if config.file_config.has_option(one, "script_location")
        ]
        if having and toml is None and "alembic" not in having:
            sections = ", ".join(f"[{one}]" for one in having)
            raise ConfigurationError(
                f"{self._told}: alembic.ini has no script_location in [alembic], but in {sections}:"
                " give the folder of its env.py instead"
            )
        return config

    @contextmanager
    def _telling(self, act: str, note: str = "") -> Iterator[None]:
        """Tell what the user's files raise as `ConfigurationError`, with its cause."""
        try:
            yield
        except ConfigurationError:
            raise
        except Exception as error:  # anything may happen in a user's files
            raise ConfigurationError(
                f"{self._told}: {act} raised {named(error)} ({note}standfast --debug … shows where)"
            ) from error

    @property
    def hint(self) -> str:
        """See `RevisionTool.hint`."""
        environment = Path(self._scripts.dir) / "env.py"
        if environment.is_file() and "standfast.integrations" in environment.read_text("utf-8"):
            return ""
        return (
            "`alembic revision --autogenerate` would drop these tables: give "
            f"standfast.integrations.alembic.include_name to context.configure in {environment}"
        )

    def written(self, dialect: Dialect) -> set[tuple[str, int]]:
        """See `RevisionTool.written`."""
        with self._telling("reading its revisions"):
            try:
                paths = [Path(one.path) for one in self._scripts.walk_revisions()]
            except KeyError as error:
                raise ConfigurationError(
                    f"{self._told}: there is no revision {error}, which a down_revision names"
                ) from error
            return _held((path.read_text("utf-8") for path in paths), dialect)

    def write(self, revision: Revision) -> Path:
        """See `RevisionTool.write`."""
        with self._telling("writing a revision"):
            return self._write(revision)

    def _write(self, revision: Revision) -> Path:
        from alembic.util import rev_id

        heads = self._scripts.get_heads()
        if len(heads) > 1:
            raise ConfigurationError(
                f"--alembic: there are several heads ({', '.join(heads)}): join them first, with "
                "`alembic merge heads`"
            )
        script: Any = self._scripts.generate_revision(
            rev_id(),
            "standfast",
            refresh=True,
            upgrades=_upgrade(revision),
            downgrades=f"raise NotImplementedError(\n        {_FORWARD!r}\n    )",
        )
        path = Path(script.path)
        if not _held([path.read_text("utf-8")], revision.dialect):
            path.unlink()
            raise ConfigurationError(
                f"--alembic: {self._scripts.dir}/script.py.mako has no ${{upgrades}}, where the "
                "statements would go: add it as in Alembic's own templates"
            )
        return path


def _upgrade(revision: Revision) -> str:
    lines = [f'if op.get_context().dialect.name != "{revision.dialect}":', "        return"]
    for told, statements in revision.groups:
        lines.append(f"    # {told}")
        # Alembic takes a colon with a word behind it for a parameter.
        escaped = [re.sub(r"(?<![:\w\\]):(?=\w)", r"\\:", sql) for sql in statements]
        lines += [f"    op.execute({_quoted(sql)})" for sql in escaped]
    return "\n".join(lines)


class Django:
    """The migrations of one of the project's Django apps."""

    option = "--django"
    hint = ""

    def __init__(self, label: str) -> None:
        try:
            import django
            from django.apps import apps
            from django.core.exceptions import ImproperlyConfigured
        except ImportError as error:
            raise ConfigurationError("--django needs it: pip install django") from error
        try:
            if not apps.ready:
                django.setup()
            apps.get_app_config(label)
        except ImproperlyConfigured as error:
            raise ConfigurationError(
                f"--django {label}: Django isn't set up ({error}): run `manage.py standfast "
                f"migrate --django {label}`, or set DJANGO_SETTINGS_MODULE"
            ) from error
        except LookupError as error:
            known = ", ".join(sorted(config.label for config in apps.get_app_configs()))
            raise ConfigurationError(
                f"--django {label}: settings.INSTALLED_APPS has no app of that label; there are "
                f"{known}"
            ) from error
        self._label = label
        self.applied_by = f"manage.py migrate {label}"

    def written(self, dialect: Dialect) -> set[tuple[str, int]]:
        """See `RevisionTool.written`."""
        folder = self._folder()
        return _held((path.read_text("utf-8") for path in sorted(folder.glob("*.py"))), dialect)

    def _folder(self) -> Path:
        from django.db.migrations import Migration
        from django.db.migrations.writer import MigrationWriter

        # It also makes the package, where there is none.
        return Path(MigrationWriter(Migration("standfast", self._label)).basedir)

    def write(self, revision: Revision) -> Path:
        """See `RevisionTool.write`."""
        from django.db.migrations.autodetector import MigrationAutodetector
        from django.db.migrations.loader import MigrationLoader

        leaves = [
            name
            for label, name in MigrationLoader(None, ignore_no_migrations=True).graph.leaf_nodes(
                self._label
            )
        ]
        if len(leaves) > 1:
            raise ConfigurationError(
                f"--django {self._label}: there are several last migrations "
                f"({', '.join(leaves)}): join them first, with `manage.py makemigrations --merge`"
            )
        number = 1 + max(
            (MigrationAutodetector.parse_number(name) or 0 for name in leaves), default=0
        )
        path = self._folder() / f"{number:04}_standfast.py"
        path.write_text(_migration(self._label, leaves, revision), "utf-8")
        return path


def _migration(label: str, leaves: Sequence[str], revision: Revision) -> str:
    operations = []
    for told, statements in revision.groups:
        listed = "".join(f"                {_quoted(sql)},\n" for sql in statements)
        run = f"        _RunSQL(\n            [\n{listed}            ],\n        ),\n"
        operations.append(f"        # {told}\n{run}")
    return f'''"""Tables of Standfast, written by `standfast migrate --django {label}`."""

from django.db import migrations


class _RunSQL(migrations.RunSQL):
    """On {revision.dialect} only, whose SQL it is. There is no way back.

{indent(fill(_FORWARD, 90), "    ")}.
    """

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        if schema_editor.connection.vendor == "{revision.dialect}":
            super().database_forwards(app_label, schema_editor, from_state, to_state)


class Migration(migrations.Migration):
    dependencies = {[(label, name) for name in leaves]!r}

    operations = [
{"".join(operations)}    ]
'''
