"""What the annotations of a saga say: the types of its input, its items and its results."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import NoneType, SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Never,
    NoReturn,
    Protocol,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from standfast.codec import Codec
from standfast.errors import CodecError, DefinitionError
from standfast.saga.saga import I, Saga
from standfast.saga.step import Step
from standfast.saga.step_checks import is_blocking
from standfast.text import with_article

Bindings: TypeAlias = Mapping[type, Mapping[Any, Any]]
PLAIN = (dict, list, str, int, float, bool, NoneType)
"""What JSON itself decodes to."""


class Annotations:
    """The annotations of one saga class, with type variables replaced by what it says they are.

    Raises `DefinitionError` for a name that can't be found.
    """

    def __init__(self, cls: type[Saga[Any]], name: str) -> None:
        self.name: str = name
        self._cls = cls
        self._bindings: dict[type, dict[Any, Any]] = {}
        self._bind(cls, {})
        given = self._bindings.get(Saga, {}).get(I, Any)
        self.input_type: Any = Any if given is object else given

    # -- what they say -----------------------------------------------------------------------

    def result(self, step: Step[Any, Any]) -> Any:
        """The type to decode a step's stored result to, or Any for plain JSON values."""
        if step.form == "wait":
            found = step.options.get("type")
            return Any if found is None else found
        if step.form == "sleep":
            return None
        found = Any if step.function is None else self._of(step, step.function, "return")
        return Any if found in (object, Never, NoReturn) else found

    def item(self, step: Step[Any, Any]) -> Any:
        """The type of the item in a step that fans out: of the third argument after self."""
        function = step.function or step.child_input
        assert function is not None
        found = self._of(step, function, 3)
        return Any if found is object else found

    def check_input(self, step: Step[Any, Any]) -> None:
        """Raise `DefinitionError` where a step takes another input than its saga is given."""
        for function, what in (
            (step.function, f"step {step.name!r}"),
            (step.undo_function, f"the compensation of {step.name!r}"),
        ):
            if function is None:
                continue
            taken = self._of(step, function, 1)
            if not takes(taken, self.input_type):
                its = with_article(told(taken))
                remedy = f"write Saga[{told(taken)}], or let it take what the saga does"
                if self.input_type is Any:
                    raise DefinitionError(
                        f"saga {self.name!r}: {what} takes {its}, but the saga doesn't "
                        f"say so, and would be given plain JSON values: {remedy}"
                    )
                raise DefinitionError(
                    f"saga {self.name!r}: {what} takes {its}, but the saga's input is "
                    f"{with_article(told(self.input_type))}: {remedy}"
                )

    def check_transactions(self, step: Step[Any, Any]) -> None:
        """Raise `DefinitionError` where a function takes the transaction of the other kind.

        For what an ``async def`` doesn't await, or a ``def`` can't, would never be written.
        """
        item = step.each is not None
        for function, options, number, what in (
            (step.function, step.options, 3, f"step {step.name!r}"),
            (step.undo_function, step.undo_options, 3 + item, f"the compensation of {step.name!r}"),
        ):
            if function is None or not options.get("transactional"):
                continue
            try:
                taken = self._of(step, function, number)
            except DefinitionError:  # imported for type checkers only, which is fine here
                continue
            blocks = is_blocking(function)
            if {awaits(one) for one in alternatives(taken)} != {blocks}:
                continue
            kind, given, other = (
                ("a `def`", "BlockingTransaction, which isn't awaited", "async def")
                if blocks
                else ("an `async def`", "Transaction, which is awaited", "def")
            )
            raise DefinitionError(
                f"saga {self.name!r}: {what} is {kind}, so it is given a {given}, and takes "
                f"{with_article(told(taken))}: let it take what it is given, or write it with "
                f"`{other}`"
            )

    def check_decodable(self, codec: Codec, type: Any, what: str) -> None:
        """Raise `DefinitionError` for a type that the codec can't read back, if it can tell."""
        check = getattr(codec, "check", None)
        if check is None:
            return
        try:
            check(type)
        except CodecError as error:
            raise DefinitionError(
                f"saga {self.name!r}: {what} couldn't be read back from the journal: {error}"
            ) from error

    # -- how they are found ------------------------------------------------------------------

    def _bind(self, cls: type, bound: dict[Any, Any]) -> None:
        """Note what the type variables of a class stand for, and go on with its bases."""
        if self._bindings.get(cls):
            return
        self._bindings[cls] = bound
        for base in vars(cls).get("__orig_bases__", cls.__bases__):
            origin = get_origin(base) or base
            if not isinstance(origin, type) or origin in (Generic, Protocol, object):
                continue
            parameters = getattr(origin, "__parameters__", ())
            given = [self._argument(argument, cls, bound) for argument in get_args(base)]
            self._bind(origin, dict(zip(parameters, given, strict=False)))

    def _argument(self, argument: Any, cls: type, bound: Mapping[Any, Any]) -> Any:
        names = {**vars(sys.modules[cls.__module__]), cls.__name__: cls}
        found = self._resolved(argument, names, f"{cls.__name__} is a Saga[…] of")
        return _substituted(found, bound)

    def _of(self, step: Step[Any, Any], function: Any, wanted: int | str) -> Any:
        """One annotation of a step's function: of its result, or of a parameter by number."""
        name: str
        if isinstance(wanted, int):
            names = list(inspect.signature(function).parameters)
            if len(names) <= wanted:  # it takes `*args`
                return Any
            name = names[wanted]
        else:
            name = wanted
        bare = inspect.unwrap(function)
        annotation = (getattr(bare, "__annotations__", None) or {}).get(name, Any)
        owner = self._home(function)
        parameters = getattr(owner, "__type_params__", ())
        names_there = {**getattr(bare, "__globals__", {}), **{p.__name__: p for p in parameters}}
        what = f"step {step.name!r}: its annotations speak of"
        found = self._resolved(annotation, names_there, what)
        return _substituted(found, self._bindings.get(owner, {}) if owner else {})

    def _home(self, function: Any) -> type | None:
        """The class in whose body a step's function stands."""
        for cls in self._cls.__mro__:
            for one in vars(cls).values():
                if one is function or (isinstance(one, Step) and one.function is function):
                    return cls
        return None

    def _resolved(self, annotation: Any, names: dict[str, Any], what: str) -> Any:
        if isinstance(annotation, type) and get_origin(annotation) is None:
            return annotation
        holder = SimpleNamespace(__annotations__={"it": annotation})
        try:
            return get_type_hints(holder, globalns=names, include_extras=True)["it"]
        except Exception as error:  # the user's code: it may name what isn't there, or be none
            text = getattr(annotation, "__forward_arg__", annotation)
            raise DefinitionError(
                f"saga {self.name!r}, {what} {text!r}, which can't be found ({error}): import it, "
                "or move it to module level"
            ) from error


def _substituted(annotation: Any, bound: Mapping[Any, Any]) -> Any:
    """An annotation with what its type variables stand for; Any for those that nobody bound."""
    if isinstance(annotation, TypeVar):
        return bound.get(annotation, Any)
    parameters = getattr(annotation, "__parameters__", ()) if get_origin(annotation) else ()
    if not parameters:
        return annotation
    return annotation[tuple(bound.get(one, Any) for one in parameters)]


def alternatives(annotation: Any) -> list[Any]:
    """The types of a union, without None, or the one type that it is."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [one for one in get_args(annotation) if one is not NoneType]
    return [annotation]


def awaits(transaction: Any) -> bool | None:
    """Whether the statements of a transaction of that class are awaited; None if nobody knows."""
    execute = getattr(transaction, "execute", None)
    return inspect.iscoroutinefunction(execute) if callable(execute) else None


def takes(taken: Any, given: Any) -> bool:
    """Whether what is annotated as `taken` may be given a `given`: False only where it is certain.

    Given Any it is given what JSON decodes to.
    """
    if taken in (Any, object, given) or isinstance(taken, TypeVar):
        return True
    if get_origin(taken) in (Union, UnionType):
        return any(takes(one, given) for one in get_args(taken))
    if get_origin(given) in (Union, UnionType):
        return all(takes(taken, one) for one in get_args(given))
    if given is Any:
        wanted = _class_of(taken)
        return wanted is None or any(_is_sub(one, wanted) for one in PLAIN)
    its, wanted = _class_of(given), _class_of(taken)
    if its is None or wanted is None:
        return True
    if not _is_sub(its, wanted) and not (wanted is float and its is int):
        return False
    ours, theirs = get_args(taken), get_args(given)
    if not ours or len(ours) != len(theirs) or its is not wanted:
        return True
    return all(takes(one, other) for one, other in zip(ours, theirs, strict=True))


def _class_of(annotation: Any) -> type | None:
    """The class of an annotation's values at runtime; None if that can't be told."""
    if annotation is None:
        return NoneType
    if is_typeddict(annotation):
        return dict
    found = get_origin(annotation) or annotation
    if not isinstance(found, type) or getattr(found, "_is_protocol", False):
        return None
    return found


def _is_sub(its: type, wanted: type) -> bool:
    try:
        return issubclass(its, wanted)
    except TypeError:
        return True  # it can't be told


def class_of_input(expected: Any) -> type | None:
    """The type if ``isinstance`` can tell: it can't for TypedDicts and generic aliases."""
    if expected is Any or is_typeddict(expected) or get_origin(expected) is not None:
        return None
    return expected if isinstance(expected, type) else None


def told(annotation: Any) -> str:
    """A type as people write it."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__qualname__
    return str(annotation)
