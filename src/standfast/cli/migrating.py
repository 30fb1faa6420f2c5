"""``standfast migrate``: lines of migrations, applied, told, or printed for someone else to run."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module

from standfast import ports
from standfast.app import Standfast
from standfast.cli.loading import is_absent, is_foreign, is_url, load, must_be_shared, must_be_there
from standfast.cli.output import as_json, note, say, table
from standfast.errors import ConfigurationError, Unsupported
from standfast.ports.database import Database
from standfast.ports.schema import AppliedMigration, Schema, SchemaLine, SchemaMigration
from standfast.tables import LineStatus

# -- which lines there are -------------------------------------------------------------------


def known_ports() -> Iterator[type]:
    """What the modules of `standfast.ports` define, among it all ports."""
    for module in pkgutil.iter_modules(ports.__path__, f"{ports.__name__}."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name:
                yield value


def lines_of(database: Database, kinds: Iterable[type]) -> dict[str, Sequence[SchemaLine]]:
    """The lines of these ports by name, each behind those that it builds on.

    What the database has no port for is left out.
    """
    found: dict[str, Sequence[SchemaLine]] = {}
    for kind in kinds:
        try:
            needed = database.lines([kind])
        except Unsupported:
            continue
        for number, line in enumerate(needed, 1):
            known = found.get(line.name)
            if known is None or number < len(known):
                found[line.name] = needed[:number]
    return found


def _together(lines: Mapping[str, Sequence[SchemaLine]], names: Iterable[str]) -> list[SchemaLine]:
    """The lines with these names and those that they build on, in the order in which to make them.

    Raises `ConfigurationError` for a name that isn't among them.
    """
    chosen: dict[str, SchemaLine] = {}
    for name in names:
        if name not in lines:
            raise ConfigurationError(f"--line {name}: choose from {_named(lines)}")
        for line in lines[name]:
            chosen.setdefault(line.name, line)
    return list(chosen.values())


def _named(lines: Iterable[str]) -> str:
    return ", ".join(sorted(lines)) or "none: what was added needs no tables"


# -- the command -----------------------------------------------------------------------------


class Migrating:
    """One call of ``standfast migrate``: the database, and the lines that it is about.

    `target`: an app, for the lines of its patterns, or a URL, for all that its database has.
    `names`: only these lines, and those that they build on.
    """

    def __init__(self, target: str, names: Sequence[str]) -> None:
        self.app: Standfast = load(target)
        self.database: Database = self.app.database
        self.named: bool = bool(names) or not is_url(target)
        must_be_shared(self.database)
        kinds: Iterable[type] = known_ports()
        if not is_url(target):
            kinds = self.app.patterns.ports
            self.database.lines(kinds)  # raises for what the app needs and the database lacks
        self.lines: Mapping[str, Sequence[SchemaLine]] = lines_of(self.database, kinds)
        self.chosen: list[SchemaLine] = _together(self.lines, names or self.lines)

    def script(self, after: Mapping[str, int]) -> None:
        """Print the SQL of all migrations, but those up to the number that `after` has of a line.

        Raises `ConfigurationError`.
        """
        if not self.named:
            raise ConfigurationError(
                f"--sql connects nowhere, so say which tables: --line {' --line '.join(self.lines)}"
            )
        for name in after:
            if name not in [line.name for line in self.chosen]:
                raise ConfigurationError(
                    f"--after {name}={after[name]}: choose from "
                    f"{_named(line.name for line in self.chosen)}"
                )
        schema = self.database.port(Schema)
        for line in self.chosen:
            for migration in line.migrations:
                if migration.number > after.get(line.name, 0):
                    say(f"-- {_told(line.name, migration)}")
                    say(f"BEGIN;\n{schema.script(line, migration).rstrip()}\nCOMMIT;\n")

    async def status(self, as_values: bool) -> bool:
        """Print how far the lines have come; whether they are complete. Changes nothing."""
        if is_absent(self.database):
            must_be_there(self.database)
        versions = await self._versions()
        stands = self._stand(versions)
        if as_values:
            say(as_json([_as_values(one) for one in stands]))
        else:
            table(["LINE", "APPLIED", "NEWEST", "NEXT"], [_as_row(one) for one in stands])
            others = sorted(set(versions) - set(self.lines))
            if others and not self.named:
                note(f"there are others, which an app of theirs must tell of: {', '.join(others)}")
        return all(one.is_complete for one in stands)

    async def apply(self, *, dry_run: bool, as_values: bool) -> None:
        """Apply what is missing, or only say what would be; in one transaction.

        Raises `ConfigurationError` where it isn't known which lines.
        """
        if dry_run:
            versions = await self._versions()
            missing = [
                AppliedMigration(one.line.name, migration)
                for one in self._to_apply(versions)
                for migration in _missing(one)
            ]
            self._tell("would apply", missing, as_values)
            return
        if not self.named and (is_absent(self.database) or is_foreign(self.database)):
            raise self._which()
        await self.database.open()
        try:
            schema = self.database.port(Schema)
            before = await schema.versions()
            # Takes over a database of the version before the lines, whatever lines are wanted.
            await schema.migrate([])
            versions = await schema.versions()
            if versions and not before:
                note("took over the tables of an older version: its workers can't write any more")
            wanted = [one.line for one in self._to_apply(versions)]
            done = await schema.migrate(wanted)
            stands = self._stand(await schema.versions(), wanted)
        finally:
            await self.database.close()
        self._tell("applied", done, as_values)
        if not as_values:
            at = ", ".join(f"{one.line.name} {one.applied}" for one in stands)
            say(f"{self.database.url} is at {at or 'nothing: the app needs no tables'}")

    # -- how far they are --------------------------------------------------------------------

    async def _versions(self) -> Mapping[str, int]:
        """How far each line has come, in a file that isn't changed by that."""
        if is_absent(self.database) or is_foreign(self.database):
            return {}
        await self.database.open()
        try:
            return await self.database.port(Schema).versions()
        finally:
            await self.database.close()

    def _stand(
        self, versions: Mapping[str, int], lines: Sequence[SchemaLine] | None = None
    ) -> list[LineStatus]:
        """How far the chosen lines are; of a URL, those that it has, or all if it has none."""
        if lines is None:
            lines = self.chosen
            if not self.named and any(line.name in versions for line in lines):
                lines = _together(self.lines, [one.name for one in lines if one.name in versions])
        return [LineStatus(line, versions.get(line.name, 0)) for line in lines]

    def _to_apply(self, versions: Mapping[str, int]) -> list[LineStatus]:
        if not self.named and not any(line.name in versions for line in self.chosen):
            raise self._which()
        return self._stand(versions)

    def _which(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self.database.url} has no tables of Standfast's yet: migrate it with the app that "
            f"uses it, or say which it is to have: --line {' --line '.join(self.lines)}"
        )

    def _tell(self, verb: str, migrations: Sequence[AppliedMigration], as_values: bool) -> None:
        if as_values:
            say(
                as_json(
                    [
                        {
                            "line": one.line,
                            "number": one.migration.number,
                            "name": one.migration.name,
                        }
                        for one in migrations
                    ]
                )
            )
            return
        for one in migrations:
            say(f"{verb} {_told(one.line, one.migration)}")
        if not migrations and verb != "applied":
            say(f"{verb} nothing: nothing is missing")


def parse_after(texts: Sequence[str]) -> dict[str, int]:
    """The numbers that ``LINE=NUMBER`` gives to lines. Raises `ConfigurationError`."""
    found: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not (name and number.isdecimal()):
            raise ConfigurationError(f"--after {text!r}: write LINE=NUMBER, such as journal=1")
        found[name] = int(number)
    return found


def _told(line: str, migration: SchemaMigration) -> str:
    return f"{line} {migration.number}: {migration.name}"


def _missing(one: LineStatus) -> list[SchemaMigration]:
    return [each for each in one.line.migrations if each.number > one.applied]


def _as_row(one: LineStatus) -> tuple[str, str, str, str]:
    missing = _missing(one)
    following = missing[0].name if missing else ""
    if one.applied > one.line.newest:
        following = "(a newer version of Standfast made it)"
    return one.line.name, str(one.applied), str(one.line.newest), following


def _as_values(one: LineStatus) -> dict[str, object]:
    missing = _missing(one)
    return {
        "line": one.line.name,
        "applied": one.applied,
        "newest": one.line.newest,
        "next": missing[0].name if missing else None,
    }
