"""Which steps a saga class has, and what its subclasses override."""

from __future__ import annotations

import copy
from typing import Any

from standfast.errors import DefinitionError
from standfast.saga.decorators import decorator_of, held_by
from standfast.saga.saga import Saga, lost
from standfast.saga.step import Step
from standfast.saga.step_checks import must_be_function, must_be_plain

RESERVED = frozenset(name for name in vars(Saga) if not name.startswith("_"))
"""What a saga's attributes mean to the library: no step is called so."""


def steps_of(cls: type[Saga[Any]]) -> dict[str, Step[Any, Any]]:
    """The steps of a saga class in order of definition, inherited ones first.

    One that overrides another stands in its place. Raises `DefinitionError` where something else
    has a step's name.
    """
    found: dict[str, Step[Any, Any]] = {}
    for origin in reversed(cls.__mro__):
        for name, value in vars(origin).items():
            if isinstance(value, Step):
                if name in RESERVED:
                    raise DefinitionError(
                        f"{cls.__qualname__}: a step can't be called {name!r}, for that is an "
                        f"attribute of every saga (the others are {', '.join(sorted(RESERVED))}): "
                        "rename it"
                    )
                if not value.name:  # it was set when the class was there already
                    value.__set_name__(origin, name)
                found[name] = value
            elif name in found:
                raise DefinitionError(
                    f"{origin.__qualname__}.{name} overrides a step by what isn't one, so that the "
                    "step of the base class would run: make it a step (@step, with a compensation "
                    "or no_compensation=), or give it another name"
                )
    for origin in cls.__mro__:
        for value in vars(origin).values():
            for one in held_by(value):
                if isinstance(one, Step) and not one.name:
                    raise lost(origin, one)
    return {name: _overridden(cls, step) for name, step in found.items()}


def _overridden(cls: type, step: Step[Any, Any]) -> Step[Any, Any]:
    """The step with the methods that a subclass puts in the place of those that it was given."""
    given = (step.undo_function, step.when, step.each, step.until, step.child_input)
    current = tuple(_current(cls, function) for function in given)
    if current == given:
        return step
    undo, when, each, until, child_input = current
    if undo is not None:
        must_be_function(undo, f"the compensation of {step.name!r}")
    for function, option in (
        *((when, "when"), (each, "each"), (until, "until"), (child_input, "input")),
    ):
        if function is not None:
            must_be_plain(function, f"step {step.name!r}: {option}=")
    changed = copy.copy(step)
    changed.undo_function = undo
    changed.when, changed.each, changed.until = when, each, until
    changed.child_input = child_input
    return changed


def _current(cls: type, function: Any) -> Any:
    """What a class calls by the name of a method that a base class gave to a step."""
    name = getattr(function, "__name__", "")
    named = [vars(origin)[name] for origin in cls.__mro__ if name in vars(origin)]
    if any(one is function for one in named):
        return named[0]
    for one in named:
        if any(inner is function for inner in held_by(one)):
            raise DefinitionError(
                f"{cls.__qualname__}.{name} stands under {decorator_of(one)}, which the saga would "
                "pass by, for it knows the function beneath: put that decorator under the "
                "saga's own (under @….compensation)"
            )
    return function
