"""``app.blocking``: an app for code that is ``def``, from any thread."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from standfast.affinity import Affinity, running_loop
from standfast.blocking.blocks import Block, KeptBlock, TransactionBlock
from standfast.blocking.calls import Calls, carry_out
from standfast.blocking.home import Home, keep_for_ever
from standfast.blocking.verbs import BlockingVerbs
from standfast.doors.blocking import BlockingTransaction
from standfast.doors.transaction import Transaction
from standfast.errors import ConfigurationError
from standfast.identity import Uncopied
from standfast.inside import is_inside
from standfast.ports.database import Database, StoreTransaction
from standfast.process_end import closes_at_the_end, is_over
from standfast.resilience.forking import survives_fork, unlock
from standfast.transaction import Ending, LaterEnding, OwnEnding, inside_of, unit_of_work

if TYPE_CHECKING:
    from standfast.blocking.operations import BlockingOperations

T = TypeVar("T")


class Openable(Protocol):
    """An app, as far as its blocking client opens it and runs it."""

    @property
    def database(self) -> Database:
        """Its database."""
        ...

    @property
    def affinity(self) -> Affinity | None:
        """Where it is open, None if it isn't."""
        ...

    def begin_anew(self) -> object:
        """Forget what a parent process has open; what may not be finalized here."""
        ...

    def running(self, **options: Any) -> AbstractAsyncContextManager[Any]:
        """Work in the background of the block."""
        ...

    async def __aenter__(self) -> Any: ...

    async def __aexit__(self, *raised: object) -> None: ...


class BlockingClient(Uncopied, BlockingVerbs):
    """An app for sync code, as ``app.blocking``: its methods, without ``await``.

    Each call blocks its thread until it is done, and any thread may call, several at once. At the
    first call the app is opened in a thread of its own, where it stays open until `close`, the end
    of a ``with app.blocking:`` block (the last, where there are several) or the end of the process.
    An app that is open already in the event loop of another thread is used there instead.

    Context variables of the caller, such as a deadline or a span of OpenTelemetry, hold in what it
    calls. Ctrl-C in a call cancels what the call does. After ``os.fork`` the child begins anew,
    with connections of its own. In a thread whose event loop runs, a notebook say, that loop stands
    still during a call; in the app's own loop a call raises `ConfigurationError`.
    """

    _unpicklable = (
        "it belongs to its process, with its connections; let each process make its own, as by "
        "importing the module that makes it"
    )

    def __init__(self, app: Any) -> None:
        super().__init__(app, self.complete)
        self._openable: Openable = app
        self._lock = threading.Lock()
        self._home: Home | None = None
        self._withs = 0
        self._blocks: dict[Block[Any], Affinity] = {}
        self._kept: set[KeptBlock] = set()
        self._calls = Calls()
        survives_fork(self)
        closes_at_the_end(self)

    # -- life --------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with self._lock:
            self._open()
            self._withs += 1
        return self

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._withs -= 1
            if self._withs > 0:
                return
        self.close()

    @property
    def is_held(self) -> bool:
        """Whether a block is open through this client: ``with app.blocking:`` or one of its own."""
        return self._withs > 0 or bool(self._blocks)

    def close(self) -> None:
        """Close what is open through this client: blocks, then the app, if it was opened here.

        A transaction that is still open is rolled back, and calls that others still wait for raise
        `ConfigurationError`. Closing twice is fine; what is called afterwards opens it anew.
        """
        with self._lock:
            home, self._home, self._withs = self._home, None, 0
            blocks, self._blocks = self._blocks, {}
            self._calls.cancel()
            for block, place in reversed(blocks.items()):
                if place.loop.is_running():
                    carry_out(place, block.abandon())
            self._kept.clear()
            if home is not None:
                home.close()

    def after_fork(self) -> None:
        """Called in the child of a fork, before anything else."""
        unlock(self._lock)
        self._leave_to_parent()

    def _leave_to_parent(self) -> None:
        if self._home is not None or self._calls.tasks:
            keep_for_ever(self._home, self._blocks, self._kept, self._calls, self._openable)
        self._home, self._withs, self._blocks, self._calls = None, 0, {}, Calls()
        self._kept = set()

    def _open(self) -> Affinity:
        """Open the app, if it isn't open; where it is. The caller has the lock."""
        app = self._openable
        if app.affinity is not None and app.affinity.inherited:
            self._leave_to_parent()  # who forks in C, as uWSGI does, may call nobody
            keep_for_ever(app.begin_anew())
        if app.affinity is None:
            if is_over():
                raise ConfigurationError(
                    "app.blocking was used at the end of the process, where it can't be opened any "
                    "more: it is there until the main thread and all threads that aren't daemons "
                    "have ended, so use it in one of them, not in what `atexit` calls or a daemon"
                )
            self._home = Home(app)
        assert app.affinity is not None
        return app.affinity

    def _place(self) -> Affinity:
        """Where the app is open."""
        place = self._openable.affinity
        if place is None or place.inherited:
            with self._lock:
                place = self._open()
        if not place.loop.is_running():
            raise ConfigurationError(
                "the app is open in an event loop that doesn't run just now, so that app.blocking "
                "would wait for ever: run the loop in another thread, or close the app there and "
                "let app.blocking open it"
            )
        return place

    # -- calls -------------------------------------------------------------------------------

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Carry out a coroutine in the app's event loop; what it returns or raises."""
        try:
            place = self._place()
        except BaseException:  # whatever it was, nobody will await the coroutine
            coroutine.close()
            raise
        nested = is_inside(self._openable.database)
        return carry_out(place, coroutine, self._calls, nested=nested)

    def _in(self, place: Affinity, coroutine: Coroutine[Any, Any, T]) -> T:
        """As `complete`, for what belongs to where the app was open once."""
        return carry_out(place, coroutine, self._calls)

    @contextmanager
    def _entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[tuple[T, Affinity]]:
        """An ``async with`` block where the app is open, and the place.

        One that its thread never left may be ended by the garbage collector, in any thread.
        """
        place = self._place()
        block = Block(manager, nested=is_inside(self._openable.database))
        self._blocks[block] = place
        try:
            yield carry_out(place, block.enter(), self._calls), place
        except BaseException as error:
            if running_loop() is place.loop or block not in self._blocks:
                raise
            if not carry_out(place, block.leave(error)):
                raise
        else:
            if block not in self._blocks:
                raise ConfigurationError(
                    "app.blocking was closed inside this block, or the process is one that was "
                    "forked there: what the block did isn't committed here"
                )
            carry_out(place, block.leave(None))
        finally:
            if self._blocks.pop(block, None) and block.is_open:  # Ctrl-C may come at any point
                if running_loop() is place.loop:
                    block.let_go()
                else:
                    carry_out(place, block.abandon())

    # -- what an app does --------------------------------------------------------------------

    @cached_property
    def operations(self) -> BlockingOperations:
        """What operators do to sagas: find them, see what is stuck and why, act on many."""
        from standfast.blocking.operations import BlockingOperations

        return BlockingOperations(self._app.operations, self.complete)

    def transaction(self) -> AbstractContextManager[BlockingTransaction]:
        """One commit or none: your rows, and whatever you start, through the same `tx`.

        Commits at the end of the block, rolls back if it raises. What `tx.on_commit` was given is
        called by this thread, after the block. On SQLite, writers take turns, so keep it short.
        """
        return TransactionBlock(self._transact())

    @contextmanager
    def _transact(self) -> Iterator[BlockingTransaction]:
        after = OwnEnding()
        try:
            with self._entered(self._transaction(after)) as (tx, place), inside_of(tx):
                yield BlockingTransaction(tx, partial(self._in, place), self.complete)
        except BaseException:  # whatever ended the block, nothing of it was committed
            after.rolled_back()
            raise
        after.committed()

    @asynccontextmanager
    async def _transaction(self, after: OwnEnding) -> AsyncIterator[Transaction]:
        def made(database: Database, store: StoreTransaction, ending: Ending) -> Transaction:
            return Transaction(self._app, database, store, LaterEnding(ending, after))

        async with self._openable, unit_of_work(self._openable.database, made) as tx:
            yield tx

    def running(self, **options: Any) -> AbstractContextManager[None]:
        """Work in the background of the block, in the client's thread: for scripts and notebooks.

        Options as of `Standfast.running`. At the end of the block, what is in flight has `drain` to
        end; Ctrl-C then cuts it off. A block that is entered without ``with`` works until it is
        left, or the client is closed, also where nobody keeps it.
        """
        return KeptBlock(self._running(options), self._kept)

    @contextmanager
    def _running(self, options: dict[str, Any]) -> Iterator[None]:
        with self._entered(self._openable.running(**options)):
            yield
