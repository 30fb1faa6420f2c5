"""How a saga is written down: a class of steps."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from standfast.durations import Duration
from standfast.errors import DefinitionError

I = TypeVar("I")  # noqa: E741 — the saga's input


class Member:
    """What stands in a saga's body by its own name: a step of any kind."""


@dataclass(frozen=True, slots=True)
class Migration:
    """How instances of an older version move to this one, by ``standfast sagas migrate``.

    `input` turns the old input (plain JSON values) into the new; `renamed` maps old step names to
    new ones.
    """

    input: Callable[[Any], Any] | None = None
    renamed: dict[str, str] = field(default_factory=dict)


class _Body(dict[str, Any]):
    """A class body in which a step's name can't be taken by something else, unnoticed."""

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(self.get(name), Member):
            raise DefinitionError(
                f"step {name!r} is defined, and then its name is used again, which would replace "
                "it: rename one of them (a compensation has a name of its own)"
            )
        super().__setitem__(name, value)


class _SagaType(ABCMeta):  # so that a saga may be abstract, too
    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **options: Any) -> _Body:
        return _Body()


class Saga(Generic[I], metaclass=_SagaType):
    """A long-running business action in steps, each with its undo. Subclass ``Saga[YourInput]``.

    Class attributes: `name` (default: the class name in kebab case), `version` (raise it when the
    steps change), `deadline` (time for the whole forward part, seconds or text), `max_in_flight`
    (how many instances one worker runs at once), `migrations` (from older versions),
    `max_recoveries` (how often in a row, without anything done in between, an instance is run again
    whose process died; after that it is parked; None: without a bound).
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    deadline: ClassVar[Duration | None] = None
    max_in_flight: ClassVar[int | None] = None
    migrations: ClassVar[dict[int, Migration]] = {}
    max_recoveries: ClassVar[int | None] = 10

    @classmethod
    def saga_name(cls) -> str:
        """The name under which instances are stored."""
        if cls.name:
            return cls.name
        text = cls.__name__
        return "".join(
            "-" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(text)
        )
