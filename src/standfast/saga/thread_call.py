"""One call of a ``def`` function in a thread, and what goes to and fro between it and its loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Protocol, TypeVar

from standfast.affinity import running_loop
from standfast.errors import ConfigurationError, StoreError
from standfast.resilience.deadline import (
    DEADLINE,
    NEVER,
    ThreadDeadline,
    current,
    thread_deadlines,
)
from standfast.saga.isolation import InContext

T = TypeVar("T")

LOOKS_EVERY = 1.0
"""Seconds between two looks whether the loop that is waited for is there still."""
OVER = "this transaction is over, as the step's function has ended: use it before that"
GIVEN_UP = (
    "the attempt that this transaction belongs to was given up, and the transaction is rolled "
    "back: let the step end"
)
ABANDONED = (
    "this statement isn't carried out: a Timeout has given up the call that it is in, and the step "
    "goes on without that"
)
SPOILT = (
    "a Timeout has given up a call that had used this transaction, so that nobody can tell what it "
    "still wrote: the attempt fails, and the transaction is rolled back. Give the step a timeout=, "
    "or keep its transaction out of what the Timeout is around"
)


class Home:
    """The event loop that calls come from, and what threads hand back to it."""

    __slots__ = ("_back", "_told", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self._back: deque[ThreadCall] = deque()
        self._told = False

    def tell(self, call: ThreadCall) -> None:
        """Hand a call back to the loop, from any thread. Raises `RuntimeError` if it is closed.

        What others hand back before the loop comes to it goes the same way: it is waking the loop
        that is dear.
        """
        self._back.append(call)
        if not self._told:
            self._told = True
            try:
                self.loop.call_soon_threadsafe(self._take)
            except RuntimeError:
                self._told = False  # the next one is to hear of it, too
                self._back.clear()
                raise

    def _take(self) -> None:
        self._told = False  # first: what is handed back from now on tells again
        back = self._back
        while back:
            back.popleft().is_back()


class Owner(Protocol):
    """Whoever has calls made."""

    def ended(self, call: ThreadCall) -> None:
        """A call has ended. In its thread, while its loop may be closed already."""
        ...


class ThreadCall:
    """A call that runs in a thread until it has ended, whoever waits for it."""

    __slots__ = (
        "_asked",
        "_is_spoilt",
        "_over",
        "_ticket",
        "_value",
        "args",
        "context",
        "deadline",
        "ended",
        "error",
        "function",
        "home",
        "owner",
        "thread",
        "waiter",
    )

    def __init__(
        self,
        owner: Owner,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        home: Home,
        ends: float = NEVER,
    ) -> None:
        self.owner: Owner = owner
        self.function: Callable[..., Any] = function
        self.args: tuple[Any, ...] = args
        self.home: Home = home
        self.context: Context = copy_context()
        self.deadline: ThreadDeadline = ThreadDeadline(ends, current())
        """What it sees: policies in it neither wait nor call any more once it was given up."""
        self.context.run(DEADLINE.set, self.deadline)
        self.waiter: asyncio.Future[None] = home.loop.create_future()
        self.ended: bool = False
        self.error: BaseException | None = None
        self.thread: int = 0
        """The thread that runs it, by its identifier; 0 before one does."""
        self._value: Any = None
        self._ticket = threading.Lock()  # whoever takes it first has the call: a thread, or nobody
        self._asked: deque[_Request] = deque()
        self._over = ""
        self._is_spoilt = False

    # -- in the thread -----------------------------------------------------------------------

    def run(self) -> bool:
        """Make the call and keep what comes of it; False if it was withdrawn."""
        if not self._ticket.acquire(blocking=False):
            return False
        self.thread = threading.get_ident()
        try:
            if self.home.loop.is_closed():
                return True  # it isn't begun: nobody has waited for it since
            self._value = self.context.run(self.function, *self.args)
        except BaseException as error:  # noqa: BLE001 — raised by `outcome`, or told of
            self.error = error
        finally:
            self.ended = True
            if not self.deadline.expired:
                self.deadline.owner = None  # what it began is free of it
        return True

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Have the loop carry out what the call's transaction is asked for; see `Complete`.

        Raises `StoreError` once nobody waits for the call any more, or for what asks in it.
        """
        if running_loop() is not None:
            coroutine.close()
            raise ConfigurationError(
                "the transaction of a `def` step is used in an event loop, which would block: "
                "use it in the step's own thread, or write the step with `async def`"
            )
        request = _Request(coroutine)
        if refusal := self._refusal():
            request.refuse(refusal)
        else:
            self._asked.append(request)
            try:
                self.home.tell(self)
            except RuntimeError:
                request.refuse(GIVEN_UP)
        answer: T = request.wait(self.home.loop)
        return answer

    def _refusal(self) -> str:
        """Why what the running thread asks for isn't carried out; "" where it is.

        The thread may be one that a `Timeout` inside the step has made. If that is given up when it
        has used the transaction, its statements would commit with those of whatever follows it.
        """
        for deadline in thread_deadlines():
            if deadline is self.deadline:
                break
            if deadline.expired:
                return ABANDONED
            deadline.call_on_expiry(self, self._spoil)
        return self._over or (SPOILT if self._is_spoilt else "")

    def _spoil(self) -> None:
        self._is_spoilt = True

    # -- in the loop -------------------------------------------------------------------------

    def withdraw(self) -> bool:
        """See to it that no thread begins it; False if one has."""
        return self._ticket.acquire(blocking=False)

    def fail(self, error: BaseException) -> None:
        """End it with `error`, in place of a thread."""
        self.error, self.ended = error, True

    def is_back(self) -> None:
        """Let whoever waits for it go on; where nobody does, what it asks for is refused."""
        if self._over:
            self.close(self._over)
        elif not self.waiter.done():
            self.waiter.set_result(None)

    async def attend(self) -> None:
        """Wait for the end, and carry out until then what its transaction is asked for.

        In the task that awaits this, so that what cancels the attempt cancels the statement too.
        """
        while not self.ended:
            await self.waiter
            self.waiter = self.home.loop.create_future()
            while self._asked:
                await self._asked.popleft().carry_out()

    def close(self, why: str) -> None:
        """Refuse what it asks for from now on; `why` is for the error."""
        self._over = why
        while self._asked:
            self._asked.popleft().refuse(why)

    def outcome(self) -> Any:
        """What the function returned; raises what it raised."""
        error, self.error = self.error, None  # or its traceback and this would hold each other
        if error is None:
            if self._is_spoilt:
                raise StoreError(SPOILT)
            return self._value
        try:
            if isinstance(error, KeyboardInterrupt):
                # Ctrl-C comes to the main thread only, so this one isn't about the process.
                raise RuntimeError(f"{error!r} was raised in the step's thread") from error
            raise error
        finally:
            del error


class _Request:
    """Something that a thread asks of the loop, and waits for."""

    __slots__ = ("_answered", "_context", "_coroutine", "_error", "_value")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._context = copy_context()
        self._answered = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    async def carry_out(self) -> None:
        """Carry it out, and answer."""
        try:
            self._value = await InContext(self._context, self._coroutine)
        except asyncio.CancelledError:
            self.refuse(GIVEN_UP)
            raise
        except BaseException as error:  # noqa: BLE001 — raised in the thread
            self._error = error
        self._answered.set()

    def refuse(self, why: str) -> None:
        """Answer that it isn't carried out."""
        self._coroutine.close()
        self._error = StoreError(why)
        self._answered.set()

    def wait(self, loop: asyncio.AbstractEventLoop) -> Any:
        """The answer that comes from `loop`; raises what was raised."""
        while not self._answered.wait(LOOKS_EVERY):
            if loop.is_closed():  # by somebody who didn't end what was in it
                self.refuse(GIVEN_UP)
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error
