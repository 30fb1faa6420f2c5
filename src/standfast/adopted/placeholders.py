"""Statements in ``$1, $2 …`` as other drivers take them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from standfast.backends.sqlite.driver import check_arguments

# What may hold a ``$1`` that is none comes first: quoted text and names, comments, words.
_TOKEN = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'? | '[^']*(?:'|\Z) | "[^"]*(?:"|\Z)
      | \$(?P<tag>(?:[^\W\d]\w*)?)\$ .*? (?:\$(?P=tag)\$|\Z)
      | --[^\n]* | /\*.*?(?:\*/|\Z) | [^\W\d][\w$]* | \$(?P<number>[1-9]\d*)(?![\w$]) | %""",
    re.DOTALL | re.VERBOSE,
)


class Named(NamedTuple):
    """A statement whose placeholders have names, as ``%(p1)s``; `numbers` are those it has."""

    sql: str
    numbers: frozenset[int]


@lru_cache(maxsize=1024)
def named(sql: str) -> Named:
    """A statement of PostgreSQL for a driver that has ``%(name)s``; all other ``%`` are doubled."""
    numbers: set[int] = set()

    def replace(token: re.Match[str]) -> str:
        if token["number"] is None:
            return token[0].replace("%", "%%")
        numbers.add(int(token["number"]))
        return f"%(p{token['number']})s"

    return Named(_TOKEN.sub(replace, sql), frozenset(numbers))


def by_name(sql: str, args: Sequence[Any]) -> tuple[Any, Mapping[str, Any]]:
    """A statement and its arguments in that form. Raises `StoreError` if they don't match."""
    text, numbers = named(sql)
    check_arguments(sql, numbers, len(args))
    return text, {f"p{number}": arg for number, arg in enumerate(args, 1)}
