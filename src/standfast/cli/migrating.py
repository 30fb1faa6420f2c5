"""``standfast migrate``: lines of migrations, applied, told, or written for someone else to run."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from standfast import ports
from standfast.app import Standfast
from standfast.cli.loading import is_absent, is_foreign, is_url, load, must_be_shared, must_be_there
from standfast.cli.output import as_json, note, say, table
from standfast.errors import ConfigurationError, Unsupported
from standfast.ports.database import Database
from standfast.ports.schema import AppliedMigration, Schema, SchemaLine, SchemaMigration
from standfast.tables import LineStatus

if TYPE_CHECKING:  # the tools are loaded by who asks for one
    from standfast.cli.revisions import RevisionTool

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

_HOW = {
    "sqlite": """\
-- Run it with: sqlite3 -bail -cmd '.timeout 10000' DATABASE.db < THIS_FILE
-- Without -bail the shell would go on after an error, and note as applied what failed.
""",
    "postgresql": """\
-- Run it with: psql -v ON_ERROR_STOP=1 -f THIS_FILE URL
-- Without ON_ERROR_STOP it would go on after an error, and exit as if there had been none.
-- A migration waits for a lock for a second at most, since others wait behind it. After a lock
-- timeout run the rest again: `--sql --after LINE=NUMBER` leaves out what was applied by then.
""",
}
"""By dialect, how a script is run."""

_TO_BE_TAKEN_OVER = (
    "an older version made this database: `standfast migrate` will take it over with all it holds, "
    "and workers of that version can't write any more then, so end them first"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What there is in a database: the numbers applied, and what taking it over will make of it.

    Of a database that is to be taken over nothing counts as applied.
    """

    applied: Mapping[str, frozenset[int]] = field(default_factory=dict)
    to_take_over: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def then(self) -> Mapping[str, frozenset[int]]:
        """What will count as applied once it is taken over, if it has to be."""
        return self.to_take_over or self.applied


class Migrating:
    """One call of ``standfast migrate``: the database, and the lines that it is about.

    `target`: an app, for the lines of its patterns, or a URL, for all that its database has.
    `names`: only these lines, and those that they build on.
    """

    def __init__(self, target: str, names: Sequence[str]) -> None:
        self.target: str = target
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
        schema = self.database.port(Schema)
        steps = [
            f"-- {_told(line.name, migration)}\n{schema.script(line, migration)}"
            for line, migration in self._beyond(after, "--sql")
        ]
        if steps:
            say("\n".join([_HOW[self.database.dialect], *steps]))
        self._note_nothing_added()

    def revision(self, tool: RevisionTool, after: Mapping[str, int]) -> None:
        """Write what the tool's revisions lack as another one. Raises `ConfigurationError`."""
        from standfast.cli.revisions import Revision

        written = tool.written(self.database.dialect)
        lacking = [
            (line, migration)
            for line, migration in self._beyond(after, tool.option)
            if (line.name, migration.number) not in written
        ]
        if not lacking:
            missing = "no migration is missing there" if self.chosen else "the app needs no tables"
            say(f"wrote nothing: {missing}")
            self._note_nothing_added()
            return
        schema = self.database.port(Schema)
        steps = {
            _told(line.name, migration): schema.statements(line, migration)
            for line, migration in lacking
        }
        path = tool.write(Revision(self.database.dialect, schema.preparation(), steps))
        say(f"wrote {path}")
        for told in steps:
            say(f"    {told}")
        note(f"apply it with `{tool.applied_by}`")
        if tool.hint:
            note(tool.hint)

    def _beyond(
        self, after: Mapping[str, int], option: str
    ) -> list[tuple[SchemaLine, SchemaMigration]]:
        """The migrations of the chosen lines beyond `after`. Raises `ConfigurationError`."""
        if not self.named:
            raise ConfigurationError(
                f"{option} connects nowhere, so say which tables: --line "
                f"{' --line '.join(self.lines)}"
            )
        for name in after:
            if name not in [line.name for line in self.chosen]:
                raise ConfigurationError(
                    f"--after {name}={after[name]}: choose from "
                    f"{_named(line.name for line in self.chosen)}"
                )
        return [
            (line, migration)
            for line in self.chosen
            for migration in line.migrations
            if migration.number > after.get(line.name, 0)
        ]

    def taking_over(self) -> None:
        """Print the SQL that takes over a database from before there were lines."""
        told = "-- takes over a database that an older version of Standfast made\n"
        sql = self.database.port(Schema).taking_over()
        say(f"{_HOW[self.database.dialect]}\n{told}{sql}")

    async def status(self, as_values: bool) -> bool:
        """Print how far the lines have come; whether they are complete. Changes nothing."""
        if is_absent(self.database):
            must_be_there(self.database)
        found = await self._look()
        stands = self._stand(found.applied, found.then)
        if as_values:
            say(as_json([_as_values(one, found) for one in stands]))
        else:
            table(["LINE", "APPLIED", "NEWEST", "NEXT"], [_as_row(one, found) for one in stands])
            others = sorted(set(found.then) - set(self.lines))
            if others and not self.named:
                note(f"there are others, which an app of theirs must tell of: {', '.join(others)}")
            if found.to_take_over:
                note(_TO_BE_TAKEN_OVER)
            self._note_nothing_added()
        return all(one.is_complete for one in stands)

    async def apply(self, *, dry_run: bool, as_values: bool) -> None:
        """Apply what is missing, or only say what would be; in one transaction.

        Raises `ConfigurationError` where it isn't known which lines.
        """
        if dry_run:
            found = await self._look()
            missing = [
                AppliedMigration(one.line.name, migration)
                for one in self._to_apply(found.then)
                for migration in one.missing
            ]
            self._tell("would apply", missing, found, as_values)
            if not as_values:
                self._note_nothing_added()
            return
        if not self.named and (is_absent(self.database) or is_foreign(self.database)):
            raise self._which()
        await self.database.open()
        try:
            schema = self.database.port(Schema)
            found = Found(to_take_over=await schema.to_take_over())
            # Takes over a database of the version before the lines, whatever lines are wanted.
            await schema.migrate([])
            wanted = [one.line for one in self._to_apply(await schema.applied())]
            done = await schema.migrate(wanted)
            applied = await schema.applied()
            stands = self._stand(applied, applied, wanted)
        finally:
            await self.database.close()
        self._tell("applied", done, found, as_values)
        if not as_values:
            at = ", ".join(f"{one.line.name} {one.applied}" for one in stands)
            say(f"{self.database.url} is at {at or 'nothing: the app needs no tables'}")
            self._note_nothing_added()

    def _note_nothing_added(self) -> None:
        """Say so of an app that needs no tables because it has no patterns."""
        if not is_url(self.target) and not self.app.patterns.all:
            note("nothing was added to this app: app.add(PlaceOrder(…)), then migrate again")

    # -- how far they are --------------------------------------------------------------------

    async def _look(self) -> Found:
        """What there is in a file, which isn't changed by that."""
        if is_absent(self.database) or is_foreign(self.database):
            return Found()
        await self.database.open()
        try:
            schema = self.database.port(Schema)
            to_take_over = await schema.to_take_over()
            applied = await schema.applied()  # not empty if it was taken over between the two
            return Found(applied, {} if applied else to_take_over)
        finally:
            await self.database.close()

    def _stand(
        self,
        applied: Mapping[str, frozenset[int]],
        has: Mapping[str, frozenset[int]],
        lines: Sequence[SchemaLine] | None = None,
    ) -> list[LineStatus]:
        """How far the chosen lines are; of a URL, those that it `has`, or all if it has none."""
        if lines is None:
            lines = self.chosen
            if not self.named and any(line.name in has for line in lines):
                lines = _together(self.lines, [one.name for one in lines if one.name in has])
        return [LineStatus(line, applied.get(line.name, frozenset())) for line in lines]

    def _to_apply(self, applied: Mapping[str, frozenset[int]]) -> list[LineStatus]:
        if not self.named and not any(line.name in applied for line in self.chosen):
            raise self._which()
        return self._stand(applied, applied)

    def _which(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self.database.url} has no tables of Standfast's yet: migrate it with the app that "
            f"uses it, or say which it is to have: --line {' --line '.join(self.lines)}"
        )

    def _tell(
        self, verb: str, migrations: Sequence[AppliedMigration], found: Found, as_values: bool
    ) -> None:
        """What is applied, or would be, and what is taken over before."""
        taken_over = self._taken_over(found)
        if as_values:
            values = [
                {
                    "line": one.line,
                    "number": one.migration.number,
                    "name": one.migration.name,
                    "taken_over": one in taken_over,
                }
                for one in (*taken_over, *migrations)
            ]
            say(as_json(values))
        if verb == "applied":
            if taken_over:
                note("took over the tables of an older version: its workers can't write any more")
        elif taken_over:
            note(_TO_BE_TAKEN_OVER)
        if as_values:
            return
        if verb != "applied":
            for one in taken_over:
                say(f"will be taken over: {_told(one.line, one.migration)}")
        for one in migrations:
            say(f"{verb} {_told(one.line, one.migration)}")
        if not (migrations or taken_over or verb == "applied"):
            say(f"{verb} nothing: nothing is missing")

    def _taken_over(self, found: Found) -> list[AppliedMigration]:
        """What is taken over, whatever lines were asked for."""
        if not found.to_take_over:
            return []
        known = lines_of(self.database, known_ports())
        return [
            AppliedMigration(name, migration)
            for name in known
            for migration in known[name][-1].migrations
            if migration.number in found.to_take_over.get(name, ())
        ]


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


def _as_row(one: LineStatus, found: Found) -> tuple[str, str, str, str]:
    following = one.missing[0].name if one.missing else ""
    if one.line.name in found.to_take_over:
        following = "(will be taken over)"
    elif one.is_newer and one.is_complete:
        following = "(a newer version of Standfast made it)"
    return one.line.name, str(one.applied), str(one.line.newest), following


def _as_values(one: LineStatus, found: Found) -> dict[str, object]:
    return {
        "line": one.line.name,
        "applied": one.applied,
        "newest": one.line.newest,
        "next": one.missing[0].name if one.missing else None,
        "missing": [each.number for each in one.missing],
        "to_be_taken_over": one.line.name in found.to_take_over,
    }
