"""SQL taken apart: into its statements, and which would end the transaction that it is run in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from standfast.errors import StoreError
from standfast.ports.providing import Dialect

# Nearly no statement has one of these words, and then nothing has to be taken apart.
_SUSPECT = re.compile(r"\b(?:BEGIN|START|COMMIT|END|ROLLBACK|ABORT|PREPARE)\b", re.I)
_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* )
  | (?P<nested> /\* )
  | (?P<string> [eE]'(?:[^'\\]|\\.|'')*'? | '(?:[^']|'')*'? | "(?:[^"]|"")*"? | `[^`]*`?
              | \$(?P<tag>(?:[^\W\d]\w*)?)\$ .*? (?:\$(?P=tag)\$|\Z) )
  | (?P<word> [^\W\d][\w$]* )
  | (?P<end> ; )
    """,
    re.X | re.S,
)
_COMMENT = re.compile(r"/\*|\*/")
_ENDING = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "ABORT"})
_FILLING = frozenset({"WORK", "TRANSACTION"})


def refuse_control(sql: str, dialect: Dialect) -> None:
    """Raise `StoreError` for SQL that begins, ends or prepares a transaction.

    SAVEPOINT, RELEASE and ROLLBACK TO a savepoint stay inside of theirs: they are the user's own.
    """
    if _SUSPECT.search(sql):
        found = _control(sql, dialect)
        if found:
            raise StoreError(
                f"{found} in a transaction: the block ends its transaction itself. Leave it to "
                "commit, raise to roll back; for a part of it use SAVEPOINT and ROLLBACK TO"
            )


@lru_cache(maxsize=512)
def _control(sql: str, dialect: Dialect) -> str:
    """The first statement that controls the transaction, as its first words; "" for none."""
    for words, _ in _statements(sql, dialect):
        first, *rest = words
        told = " ".join(words[:2]) if rest else first
        if first in ("START", "PREPARE"):
            if rest and rest[0] == "TRANSACTION":
                return told
        elif first in _ENDING:
            to = rest[1:] if rest and rest[0] in _FILLING else rest
            if not (first == "ROLLBACK" and to and to[0] == "TO"):
                return first
        if dialect == "sqlite":
            break  # its driver runs one statement at a time, in which a trigger's have a place
    return ""


def statements(sql: str) -> list[str]:
    """The statements of a script for PostgreSQL, each without the semicolon that ends it."""
    return [one.text.strip().removesuffix(";") for one in _statements(sql, "postgresql")]


class _Statement(NamedTuple):
    """The first words of a statement, in capitals; comments and what is quoted are no words."""

    words: list[str]
    text: str


def _statements(sql: str, dialect: Dialect) -> Iterator[_Statement]:
    words: list[str] = []
    began = 0
    depth, before, at = 0, "", 0  # depth: inside the body of a function, BEGIN ATOMIC … END
    while (token := _TOKEN.search(sql, at)) is not None:
        at = token.end()
        kind = token.lastgroup
        if kind == "nested":
            at = _after_comment(sql, at, nests=dialect == "postgresql")
        elif kind == "word":
            word = token[0].upper()
            if word == "ATOMIC" and before == "BEGIN":
                depth = 1
            elif depth and word in ("CASE", "END"):
                depth += 1 if word == "CASE" else -1
            if len(words) < 3:
                words.append(word)
            before = word
        elif kind == "end" and not depth and words:
            yield _Statement(words, sql[began:at])
            words, began = [], at
    if words:
        yield _Statement(words, sql[began:])


def _after_comment(sql: str, at: int, *, nests: bool) -> int:
    depth = 1
    while depth:
        found = _COMMENT.search(sql, at)
        if found is None:
            return len(sql)
        at = found.end()
        if found[0] == "*/":
            depth -= 1
        elif nests:
            depth += 1
    return at
