"""How a pattern joins an app: what it is given, and what it must answer.

A pattern has a package of its own, a port for what it stores, a file in each backend that has the
port, and a line in `standfast.joining`, by which the app learns of it. Nothing else knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from standfast.clock import Clock
from standfast.codec import Codec
from standfast.coordination.service import Service, ServiceOptions
from standfast.errors import ConfigurationError
from standfast.ports.database import Database
from standfast.stepping import Complete
from standfast.transaction import UnitOfWork

P = TypeVar("P", bound="Pattern")


class Host(Protocol):
    """What a pattern may use of the app that it was added to."""

    @property
    def database(self) -> Database:
        """The app's database, open while the pattern is."""
        ...

    @property
    def clock(self) -> Clock:
        """The time, set right by the database's own clock where it has one."""
        ...

    @property
    def codec(self) -> Codec:
        """How values become JSON and back."""
        ...

    def pattern(self, kind: type[P]) -> P | None:
        """The pattern of that class that was added to the app, None if none was."""
        ...

    def check_open(self) -> None:
        """Raise `ConfigurationError` unless the app is open, in this process and event loop."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """A transaction as the app's user knows it."""
        ...

    def blocking_transaction(
        self,
        tx: UnitOfWork,
        complete: Complete,
        run_in_thread: Callable[[Callable[[], None]], None] | None = None,
    ) -> Any:
        """A transaction of `transaction` as ``def`` code knows it.

        `complete` carries out what it is asked for, from whatever thread it is asked in, and
        `run_in_thread` runs what follows its commit: by default that is called by who commits.
        """
        ...


class Pattern:
    """One pattern of one app, to be subclassed: what isn't overridden does nothing.

    It is made once, attached once, and opened and closed with the app. In a forked process that
    uses the app of its parent, it is attached anew, to a database that isn't open yet.
    """

    ports: Sequence[type] = ()
    """The ports that it stores with, `LeaseStore` too if it has services. Their tables are made by
    ``standfast migrate``."""

    def attach(self, host: Host) -> None:
        """Take the app, whose database may not be open yet. By default it is kept as `host`."""
        self.host: Host = host

    def add(self, part: Any) -> None:
        """Take a part that was added to the app, as a saga is; called by the app's `add`.

        Only for classes of parts that `standfast.joining` knows. Raises `ConfigurationError`; by
        default always.
        """
        raise ConfigurationError(f"add({part!r}): {type(self).__name__} takes no parts")

    async def open(self) -> None:
        """Get ready: the database is open and its tables are there."""

    async def close(self) -> None:
        """Finish what was accepted: the database closes after this.

        It runs in a task of its own, to its end though whoever leaves the app is cancelled.
        """

    def services(self, options: ServiceOptions) -> Sequence[Service]:
        """The services that it runs in the background of a process that works; by default none.

        Raises `ConfigurationError`.
        """
        return ()
