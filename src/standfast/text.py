"""Text that every database can hold: valid Unicode, without NUL.

What a caller names something by is refused with a clear error; text of others that is only told,
such as an exception's message, is cleaned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from standfast.errors import ConfigurationError
from standfast.groups import leaves

_MOST_TOLD = 10
"""How many of the exceptions in a group are told."""

_name: Callable[[type], str] = type.__dict__["__name__"].__get__
_qualified_name: Callable[[type], str] = type.__dict__["__qualname__"].__get__

NAME_LENGTH = 500
"""Characters, at most, of what a caller names something by."""

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal would obey or choke on: control characters, changes of the writing's direction,
and halves of characters."""


def checked(text: str, *, name: str, longest: int | None = None) -> str:
    """`text`, if it can be stored. Raises `ConfigurationError` that speaks of it as `name`."""
    if not isinstance(text, str):
        raise ConfigurationError(f"{name}={text!r}: must be text, not {type(text).__name__}")
    if longest is not None and not 0 < len(text) <= longest:
        raise ConfigurationError(
            f"{name}={text[:40]!r} has {len(text)} characters: give 1 to {longest}"
        )
    if not is_storable(text):
        raise ConfigurationError(
            f"{name}={text[:40]!r} holds a NUL character or a lone surrogate, which no database "
            "stores: remove or escape it"
        )
    return text


def cleaned(text: str) -> str:
    """`text` with what can't be stored spelled out as an escape."""
    if is_storable(text):
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def told(error: BaseException) -> str:
    """An exception's message, cleaned; "" if it has none, or none that can be had.

    Of a group, what is in it: its own message mostly says just that it is one.
    """
    if isinstance(error, BaseExceptionGroup):
        inside = leaves(error)
        more = len(inside) - _MOST_TOLD
        texts = [named(one) for one in inside[:_MOST_TOLD]]
        return "; ".join(texts) + (f"; and {more} more" if more > 0 else "")
    try:
        return cleaned(str(error))
    except BaseException as broken:  # noqa: BLE001 — it must not hide the error whose message it is
        return f"(its message can't be read: {class_name(broken)})"


def named(error: BaseException) -> str:
    """An exception's class and message; of a group of one, those of that one."""
    inside = leaves(error)
    if isinstance(error, BaseExceptionGroup) and len(inside) == 1:
        return named(inside[0])
    message = told(error)
    return f"{class_name(error)}: {message}" if message else class_name(error)


def class_name(error: BaseException) -> str:
    """The name of an exception's class, which every database can hold: Python checks it.

    Not by the attribute, which a metaclass may define otherwise.
    """
    return _name(type(error))


def qualified_name(error: BaseException) -> str:
    """As `class_name`, with the class or function that it is defined in."""
    return cleaned(_qualified_name(type(error)))


def with_article(noun: str) -> str:
    """A noun, such as a type's name, after "a" or "an"."""
    return f"{'an' if noun[:1].lower() in set('aeio') else 'a'} {noun}"


def class_of(value: object) -> str:
    """What a value is, by its class: "an int"."""
    return with_article(type(value).__name__)


def namesake(given: type, known: type) -> str:
    """How a class differs from another of its name, and what to do; "" where the names differ."""
    name, here = given.__qualname__, given.__module__
    if name != known.__qualname__:
        return ""
    if here == known.__module__:
        return (
            f"the code of {here} that makes {name} has run again since, as the cell of a notebook "
            f"does, so that this is another class of that name: run again all that uses {name} as "
            "well, and make the app anew"
        )
    return (
        f"this is the {name} of {here}, and that which is known is of {known.__module__}, another "
        "class of that name: import it from one module everywhere (one that is run as a program "
        "is `__main__`, and is loaded again where it is imported)"
    )


def is_storable(text: str) -> bool:
    """Whether every database can hold it."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def on_one_line(text: str, longest: int | None = None) -> str:
    """Foreign text as one line that any terminal shows: white space folded, and cut if `longest`.

    What a terminal would obey (control characters, changes of direction) is spelled out.
    """
    folded = UNPRINTABLE.sub(_spelled, " ".join(text.split()))
    return folded if longest is None or len(folded) <= longest else folded[: longest - 1] + "…"


def printable(text: str) -> str:
    """Foreign text of several lines as any terminal shows it: all else that it would obey is
    spelled out.
    """
    return "\n".join(UNPRINTABLE.sub(_spelled, line) for line in text.split("\n"))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a `name` that isn't `known`: the nearest ones, "" for none."""
    from difflib import get_close_matches  # only needed for what went wrong

    by_fold = {one.casefold(): one for one in known}
    near = [by_fold[one] for one in get_close_matches(name.casefold(), by_fold)]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
