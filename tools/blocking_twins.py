"""Write the blocking twins: what sync code calls, made from the async classes that do the work.

A twin holds an async object and a `Complete`, by which its coroutines are carried out. Its methods,
their overloads and docstrings are those of the async class, so `make twins` follows whatever
changes there. With ``--check`` nothing is written, and what isn't up to date is told.
"""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "standfast"
RUFF = Path(sys.executable).with_name("ruff")
WIDTH = 100
INDENT = " " * 8  # of a method's docstring

Function = ast.FunctionDef | ast.AsyncFunctionDef

NAMES_INSTANCES = ("SagaHandle", "Which", "Where")
"""Types of parameters that take handles, and so blocking ones too."""

IN_DOCSTRINGS = (
    ("`Transaction.", "`BlockingTransaction."),
    ("`SagaHandle.", "`BlockingSagaHandle."),
    ("`Standfast.start`", "`BlockingClient.start`"),
    ("async for change in app.progress", "for change in app.blocking.progress"),
    ("`contextlib.aclosing`", "`contextlib.closing`"),
)


@dataclass(frozen=True)
class Twin:
    """A file with one class: a `head` written by hand, and the methods `of` the async classes.

    `of` has for each class its file, its name and those of its methods that are wanted (all public
    ones if there are none given). The twin has its object as `self.{holds}`, and hands the
    `Complete` called `self.{hands_on}` to the handles that come out of it.
    """

    path: str
    head: str
    of: Sequence[tuple[str, str, Sequence[str]]]
    holds: str
    hands_on: str = "_complete"


HEADER = '''"""{about}

Written by tools/blocking_twins.py from {sources}: `make twins`.
"""

from __future__ import annotations

'''

HANDLE = """
from collections.abc import Iterable, Mapping
from typing import Any, Generic, overload
from uuid import UUID

from standfast.durations import Duration
from standfast.saga.handle import SagaHandle, SagaResult, Story
from standfast.saga.saga import S_co
from standfast.saga.status import Status
from standfast.saga.step import R, Step
from standfast.saga.timeline import Timeline
from standfast.stepping import Complete


def with_ids(which: Any) -> Any:
    \"\"\"What names instances to an async method: ids in place of blocking handles.\"\"\"
    if isinstance(which, BlockingSagaHandle):
        return which.id
    if isinstance(which, Iterable) and not isinstance(which, (str, bytes, Mapping)):
        return [with_ids(one) for one in which]
    return which


class BlockingSagaHandle(Generic[S_co]):
    \"\"\"One instance, by id, for sync code: the methods of `SagaHandle`, without ``await``.

    Cheap to make; every method reads or writes the database, and blocks its thread meanwhile. Its
    type parameter is the saga's class, as in ``BlockingSagaHandle[PlaceOrder]``.
    \"\"\"

    __slots__ = ("_complete", "_handle")

    def __init__(self, handle: SagaHandle[S_co], complete: Complete) -> None:
        self._handle = handle
        self._complete = complete

    def __repr__(self) -> str:
        return f"BlockingSagaHandle({self.id})"

    @property
    def id(self) -> UUID:
        \"\"\"The instance's id.\"\"\"
        return self._handle.id

    @property
    def created(self) -> bool:
        \"\"\"Whether the start that answered with this handle has made the instance.\"\"\"
        return self._handle.created
"""

TRANSACTION = """
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import Any, TypeVar, overload
from uuid import UUID

from standfast.doors.blocking_handle import BlockingSagaHandle, with_ids
from standfast.doors.transaction import Transaction
from standfast.durations import Duration
from standfast.ports.database import Row
from standfast.ports.providing import Dialect
from standfast.saga.handle import SagaHandle
from standfast.saga.saga import I, S, SagaClass
from standfast.saga.step import R, Step
from standfast.stepping import Complete, entered

T = TypeVar("T")


class BlockingTransaction:
    \"\"\"An open transaction for sync code: the methods of `Transaction`, without ``await``.

    SQL takes ``$1, $2 …`` on every backend. Errors of the driver come out as `StoreError`.
    \"\"\"

    def __init__(
        self, tx: Transaction, complete: Complete, for_handles: Complete | None = None
    ) -> None:
        def in_here(coroutine: Coroutine[Any, Any, T]) -> T:
            tx.tell_inside()  # in the context of whoever calls, not its block's
            return complete(coroutine)

        self._tx = tx
        self._complete: Complete = in_here
        self._for_handles = for_handles or complete

    def complete(self, act: Callable[[Transaction], Coroutine[Any, Any, T]]) -> T:
        \"\"\"Carry out what a pattern does to an async transaction; what it returns.\"\"\"
        return self._complete(act(self._tx))

    def entered(
        self, act: Callable[[Transaction], AbstractAsyncContextManager[T]]
    ) -> AbstractContextManager[T]:
        \"\"\"As `complete`, for what is an ``async with`` block.\"\"\"
        return entered(self._complete, lambda: act(self._tx))
"""

VERBS = """
from collections.abc import Iterator
from datetime import datetime
from typing import Any, overload
from uuid import UUID

from standfast.doors.app import AppDoors
from standfast.doors.blocking_handle import BlockingSagaHandle, with_ids
from standfast.durations import Duration
from standfast.saga import Change, SagaHandle
from standfast.saga.saga import I, S, SagaClass
from standfast.stepping import Complete, iterated


class BlockingVerbs:
    \"\"\"What an app does with its patterns, for sync code.\"\"\"

    def __init__(self, app: AppDoors, complete: Complete) -> None:
        self._app = app
        self._complete = complete
"""

OPERATIONS = """
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from standfast.doors.blocking_handle import BlockingSagaHandle, with_ids
from standfast.durations import Age, Duration
from standfast.ports.journal import Filter, Instance, Mail
from standfast.saga import events as ev
from standfast.saga.finding import Page
from standfast.saga.finding import Which as AsyncWhich
from standfast.saga.operations import Operations, Progress
from standfast.saga.pending import Pending
from standfast.saga.saga import Saga
from standfast.saga.step import Step
from standfast.saga.stuck_groups import StuckGroup
from standfast.saga.timeline import Timeline
from standfast.stepping import Complete, iterated

Which: TypeAlias = BlockingSagaHandle[Any] | AsyncWhich
\"\"\"One instance: a handle, an id, or text as `BlockingOperations.locate` takes.\"\"\"

Where: TypeAlias = Filter | Which | Iterable[Which]
\"\"\"Which instances an act is for, as of `Operations`.\"\"\"


class BlockingOperations:
    \"\"\"All that an operator can do to sagas, for sync code, as ``app.blocking.operations``.

    The methods of `Operations`, without ``await``; what is an async iterator there is an iterator
    here.
    \"\"\"

    def __init__(self, operations: Operations, complete: Complete) -> None:
        self._operations = operations
        self._complete = complete
"""

TWINS = (
    Twin(
        "doors/blocking_handle.py",
        HEADER.format(about="One saga instance, for sync code.", sources="`SagaHandle`") + HANDLE,
        [("saga/handle.py", "SagaHandle", ())],
        "_handle",
    ),
    Twin(
        "doors/blocking.py",
        HEADER.format(
            about="The verbs of `tx` for sync code.", sources="`UnitOfWork` and `Transaction`"
        )
        + TRANSACTION,
        [
            (
                "transaction.py",
                "UnitOfWork",
                (
                    "dialect",
                    "execute",
                    "fetch",
                    "fetch_one",
                    "fetch_value",
                    "on_commit",
                    "savepoint",
                ),
            ),
            ("doors/transaction.py", "Transaction", ("start", "saga", "signal", "cancel")),
        ],
        "_tx",
        "_for_handles",
    ),
    Twin(
        "blocking/verbs.py",
        HEADER.format(about="The verbs of `app` for sync code.", sources="`AppDoors`") + VERBS,
        [("doors/app.py", "AppDoors", ("start", "saga", "handle", "progress"))],
        "_app",
    ),
    Twin(
        "blocking/operations.py",
        HEADER.format(
            about="What operators do to sagas, for sync code.", sources="`Finding` and `Operations`"
        )
        + OPERATIONS,
        [("saga/finding.py", "Finding", ()), ("saga/operations.py", "Operations", ())],
        "_operations",
    ),
)


def text_of(twin: Twin) -> str:
    """The whole file, formatted."""
    methods = [
        ast.unparse(ast.fix_missing_locations(_method(node, twin)))
        for path, name, wanted in twin.of
        for node in _public(PACKAGE / path, name, wanted)
    ]
    body = "\n\n".join(_indented(method) for method in methods)
    return _formatted(f"{twin.head}\n{body}\n")


def _public(path: Path, name: str, wanted: Sequence[str]) -> Iterator[Function]:
    """The methods of a class that its twin has too, in their order; overloads one by one."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef) or node.name != name:
            continue
        found = [
            inner
            for inner in node.body
            if isinstance(inner, Function)
            and (inner.name in wanted if wanted else not inner.name.startswith("_"))
        ]
        missing = set(wanted) - {inner.name for inner in found}
        if missing:
            raise SystemExit(f"blocking twins: {name} in {path} has no {', '.join(missing)}")
        yield from found
        return
    raise SystemExit(f"blocking twins: there is no class {name} in {path}")


def _method(node: Function, twin: Twin) -> ast.FunctionDef:
    """A method of a twin: it calls the one that it is made of, and waits for it."""
    decorators = {one.id for one in node.decorator_list if isinstance(one, ast.Name)}
    returns = ast.unparse(node.returns) if node.returns is not None else "None"
    streams = returns.startswith(("AsyncIterator[", "AsyncGenerator["))
    body: list[ast.stmt] = []
    told = ast.get_docstring(node, clean=False)
    if told is not None:
        body.append(ast.Expr(ast.Constant(_told(told))))
    if "overload" in decorators:
        body.append(ast.Expr(ast.Constant(...)))
    elif "property" in decorators:
        body += ast.parse(f"return self.{twin.holds}.{node.name}").body
    else:
        call = f"self.{twin.holds}.{node.name}({', '.join(_arguments(node.args))})"
        if "asynccontextmanager" in decorators:
            call = f"entered(self._complete, lambda: {call})"
        elif streams:
            call = f"iterated(self._complete, lambda: {call})"
        elif isinstance(node, ast.AsyncFunctionDef):
            call = f"self._complete({call})"
        if returns.startswith("SagaHandle["):
            call = f"BlockingSagaHandle({call}, self.{twin.hands_on})"
        body += ast.parse(call if returns == "None" else f"return {call}").body
    for argument in [*node.args.args, *node.args.kwonlyargs]:
        if _names_instances(argument.annotation) and "SagaHandle[Any]" in ast.unparse(
            argument.annotation or ast.Constant(None)
        ):
            wider = f"BlockingSagaHandle[Any] | {ast.unparse(argument.annotation)}"  # type: ignore[arg-type]
            argument.annotation = ast.parse(wider, mode="eval").body
    returns = returns.replace("SagaHandle[", "BlockingSagaHandle[")
    if streams:
        kind = "AbstractContextManager" if "asynccontextmanager" in decorators else "Iterator"
        returns = returns.replace("AsyncIterator[", f"{kind}[")
        returns = returns.replace("AsyncGenerator[", f"{kind}[").replace(", None]", "]")
    return ast.FunctionDef(
        name=node.name,
        args=node.args,
        body=body,
        decorator_list=[
            one for one in node.decorator_list if ast.unparse(one) != "asynccontextmanager"
        ],
        returns=ast.parse(returns, mode="eval").body,
        type_params=[],
    )


def _arguments(given: ast.arguments) -> Iterator[str]:
    """The arguments by which a method hands on all that it was given."""

    def value(argument: ast.arg) -> str:
        unwraps = _names_instances(argument.annotation)
        return f"with_ids({argument.arg})" if unwraps else argument.arg

    for argument in given.args[1:]:
        yield value(argument)
    if given.vararg is not None:
        yield f"*{given.vararg.arg}"
    for argument in given.kwonlyargs:
        yield f"{argument.arg}={value(argument)}"


def _names_instances(annotation: ast.expr | None) -> bool:
    return annotation is not None and any(
        isinstance(node, ast.Name) and node.id in NAMES_INSTANCES for node in ast.walk(annotation)
    )


def _told(docstring: str) -> str:
    """A docstring that names the twins, as far as the first line has room for their names."""
    first, *others = docstring.split("\n\n")
    one = _named(first)
    if all(len(line) <= WIDTH for line in (INDENT + '"""' + one + '"""').splitlines()):
        first = one
    return "\n\n".join([first, *map(_wrapped, others)])


def _named(text: str) -> str:
    for name, twin in IN_DOCSTRINGS:
        text = text.replace(name, twin)
    return text


def _wrapped(paragraph: str) -> str:
    text = _named(paragraph)
    if max(map(len, text.splitlines()), default=0) <= WIDTH:
        return text
    filled = textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        initial_indent=INDENT,
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled + paragraph[len(paragraph.rstrip()) :]


def _indented(code: str) -> str:
    """A method inside its class; the lines of its docstring stand as they did."""
    tree = ast.parse(code).body[0]
    assert isinstance(tree, Function)
    inside: set[int] = set()
    first = tree.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        inside = set(range(first.lineno + 1, (first.end_lineno or 0) + 1))
    lines = code.splitlines()
    return "\n".join(
        line if number in inside or not line else f"    {line}"
        for number, line in enumerate(lines, 1)
    )


def _formatted(code: str) -> str:
    for command in (["format"], ["check", "--select=I,F401", "--fix-only", "--quiet"]):
        done = subprocess.run(
            [RUFF, *command, "--stdin-filename", str(PACKAGE / "blocking" / "twin.py"), "-"],
            input=code,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            cwd=ROOT,
        )
        code = done.stdout
    return code


def main(arguments: list[str]) -> int:
    """Write the twins, or with ``--check`` tell which differ; the exit code is 1 if any does."""
    wrong = 0
    for twin in TWINS:
        path, text = PACKAGE / twin.path, text_of(twin)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        wrong += 1
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)}: isn't what its async class makes it: `make twins`")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    print(f"blocking twins: {len(TWINS)} files, {wrong} {'differ' if wrong else 'changed'}")
    return int(bool(wrong) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
