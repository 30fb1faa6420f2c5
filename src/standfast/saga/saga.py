"""How a saga is written down: a class of steps."""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from standfast.checks import Outermost, is_async
from standfast.durations import Duration
from standfast.errors import DefinitionError
from standfast.saga.decorators import CONTAINERS, decorator_of, held_by
from standfast.text import class_of

I = TypeVar("I")  # noqa: E741 — the saga's input
S = TypeVar("S")
I_contra = TypeVar("I_contra", contravariant=True)
S_co = TypeVar("S_co", covariant=True)


class Member(Outermost):
    """What stands in a saga's body by its own name: a step of any kind."""

    def __init__(self) -> None:
        self.name: str = ""
        """By which it stands in its class; what has none is run by nobody."""
        frame = inspect.currentframe()
        while frame is not None and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            frame = frame.f_back  # out of functions, as far as the body that they are called in
        if frame is not None and isinstance(frame.f_locals, _Body):
            frame.f_locals.made.append(self)

    def refusal(self, decorator: str) -> DefinitionError:
        """The error for a `decorator` over it."""
        binding = decorator in ("@staticmethod", "@classmethod", "@property", "@cached_property")
        remedy = "remove that" if binding else "put that decorator under @step"
        return DefinitionError(
            f"{self.shown()} stands under {decorator}, which hides it, so that it would never "
            f"run: {remedy}"
        )

    def shown(self) -> str:
        """What it is, for people."""
        raise NotImplementedError

    def remedy(self) -> str:
        """How to write it, so that it stands in the class by a name."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Migration:
    """How instances of an older version move to this one, by ``standfast sagas migrate``.

    `input` turns the old input (plain JSON values) into the new, and is a plain function; `renamed`
    maps old step names to new ones. Raises `DefinitionError`.
    """

    input: Callable[[Any], Any] | None = None
    renamed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        function: object = self.input
        if function is not None and (not callable(function) or is_async(function)):
            raise DefinitionError(
                f"Migration(input={function!r}): give a plain function of the old input, that "
                "answers with the new"
            )
        renamed: object = self.renamed
        if not isinstance(renamed, Mapping) or not all(
            isinstance(name, str) for pair in renamed.items() for name in pair
        ):
            raise DefinitionError(
                f"Migration(renamed={renamed!r}): give a dict of names, old to new, such as "
                '{"seat": "reserve"}'
            )


class _Body(dict[str, Any]):
    """A class body in which no step is lost unnoticed, because something else takes its name, or
    because it has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Member] = []

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

    def __new__(
        cls, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **options: Any
    ) -> _SagaType:
        made = super().__new__(cls, name, bases, body, **options)
        for member in body.made if isinstance(body, _Body) else ():
            if not member.name:
                raise lost(made, member)
        return made


def lost(cls: type, member: Member) -> DefinitionError:
    """The error for a step that a class made, or holds, but doesn't have by a name of its own."""
    what = "has no name in the class"
    for name, value in vars(cls).items():
        if any(one is member for one in held_by(value)):
            if not isinstance(value, CONTAINERS):
                return DefinitionError(f"{cls.__qualname__}: {member.refusal(decorator_of(value))}")
            what = f"stands in {name}, {class_of(value)}"
            break
    return DefinitionError(
        f"{cls.__qualname__}: {member.shown()} {what}, so that it would never run: "
        f"{member.remedy()}"
    )


class Saga(Generic[I], metaclass=_SagaType):
    """A long-running business action in steps, each with its undo. Subclass ``Saga[YourInput]``.

    Class attributes: `name` (default: the class name in kebab case), `version` (raise it when the
    steps change), `deadline` (time for all steps up to the pivot, in seconds or text; when it
    passes, what was done is undone), `deadline_ends_parked` (what is parked is undone then, too: by
    default it waits for its operator, and the time for which it does so isn't counted),
    `max_in_flight` (how many instances one worker runs at once), `threads` (how many of its app's
    threads its ``def`` functions may keep at once; None: all of them), `migrations` (from older
    versions), `max_recoveries` (how often in a row, without anything done in between, an instance
    is run again whose process died; after that it is parked; None: without a bound).

    An attribute whose name is nearly one of these, or is an option of `step`, is refused when the
    saga is added, unless code of the class reads it or it is given to a step. A step that no
    attribute holds, for it isn't assigned, stands in a list or under a decorator, is refused at
    once.

    A subclass may override a step with another step, and with a plain method what undoes it, or
    what was given as `when`, `each` or a child's `input`.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    deadline: ClassVar[Duration | None] = None
    deadline_ends_parked: ClassVar[bool] = False
    max_in_flight: ClassVar[int | None] = None
    threads: ClassVar[int | None] = None
    migrations: ClassVar[dict[int, Migration]] = {}
    max_recoveries: ClassVar[int | None] = 10

    if TYPE_CHECKING:  # by this, type checkers know what a saga's class is started with

        @classmethod
        def _started_with(cls, input: I, /) -> Self: ...

    @classmethod
    def saga_name(cls) -> str:
        """The name under which instances are stored."""
        if cls.name:
            return cls.name
        text = cls.__name__
        return "".join(
            "-" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(text)
        )


class SagaClass(Protocol[I_contra, S_co]):
    """The class of a saga, to type checkers: they see that it is started with its own input, and
    which saga a handle is of.
    """

    def _started_with(self, input: I_contra, /) -> S_co: ...
