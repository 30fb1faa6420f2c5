"""Class attributes of a saga that were meant to be options, and would be none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import CodeType, FunctionType
from typing import Any

from standfast.errors import DefinitionError
from standfast.saga.decorators import held_by
from standfast.saga.saga import Saga
from standfast.saga.step import Step
from standfast.saga.steps import STEP_OPTIONS

SAGA_OPTIONS = tuple(
    name
    for name, value in vars(Saga).items()
    if not name.startswith("_") and not isinstance(value, classmethod)
)
_OF_STEPS = tuple(name for name in STEP_OPTIONS if name not in {"after", "each", "limit", "when"})
"""Those that might be meant for all steps at once, and aren't everybody's words."""
_ALIKE = 0.84
"""From this share on two names count as one misspelt: ``verison`` and ``version`` have 0.857."""


def check_attributes(cls: type[Saga[Any]], saga: str, steps: Mapping[str, Step[Any, Any]]) -> None:
    """Raise `DefinitionError` for an attribute whose name is nearly an option's, or one of
    ``@step``.

    The user's own constants stay: what the class's code reads, what is given to a step, what is
    written in capitals or begins with an underscore, and the fields of a dataclass.
    """
    suspects = dict(_suspects(cls))
    if not suspects:
        return
    read = set(_names_read(cls, steps))
    for name, meant in suspects.items():
        if name in read or _is_given(getattr(cls, name), steps):
            continue
        if meant in SAGA_OPTIONS:
            remedy = f"write {meant} = …"
        else:
            remedy = f"give it to each step, as in @step({meant}=…)"
        raise DefinitionError(
            f"saga {saga!r}: {name}={getattr(cls, name)!r} isn't an option of a saga, and nothing "
            f"in the class reads it: {remedy}, or give what is your own another name"
        )


def _suspects(cls: type[Saga[Any]]) -> Iterator[tuple[str, str]]:
    """The names that may have been meant as options, with what they were meant to be."""
    fields = getattr(cls, "__dataclass_fields__", {})
    for origin in cls.__mro__:
        if origin is Saga or not issubclass(origin, Saga):
            continue
        for name, value in vars(origin).items():
            if name.startswith("_") or name.isupper() or name in fields or _is_code(value):
                continue
            meant = _meant(name)
            if meant:
                yield name, meant


def _is_code(value: Any) -> bool:
    return isinstance(value, type) or hasattr(type(value), "__get__")


def _meant(name: str) -> str:
    """The option that is meant by a name which isn't one of a saga; "" if it is none."""
    if name in SAGA_OPTIONS:
        return ""
    plain = {_plain(option): option for option in (*_OF_STEPS, *SAGA_OPTIONS)}
    if _plain(name) in plain:
        return plain[_plain(name)]
    found = get_close_matches(name, SAGA_OPTIONS, n=1, cutoff=_ALIKE)
    return found[0] if found and name != f"{found[0]}s" else ""


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _is_given(value: Any, steps: Mapping[str, Step[Any, Any]]) -> bool:
    """Whether some step has it as an option, as in ``@step(retry=retry)``."""
    return any(
        one is value
        for step in steps.values()
        for one in (*step.options.values(), *step.undo_options.values())
    )


def _names_read(cls: type[Saga[Any]], steps: Mapping[str, Step[Any, Any]]) -> Iterator[str]:
    """All names and texts in the code of the class, its bases, and what its steps are given."""
    values = [value for origin in cls.__mro__ for value in vars(origin).values()]
    for step in steps.values():
        values += [step.function, step.undo_function, step.when, step.each, step.until]
        values.append(step.child_input)
    for value in values:
        for one in (value, *held_by(value)):
            if isinstance(one, FunctionType):
                yield from _names_in(one.__code__)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, str):
            yield one
        elif isinstance(one, CodeType):
            yield from _names_in(one)
