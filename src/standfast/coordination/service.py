"""What runs in the background of a process, under its lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import Protocol

from standfast.checks import whole
from standfast.coordination.membership import Membership
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError
from standfast.text import checked


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How services that take work from the store go about it.

    `max_in_flight`: how much each has in memory at once; more waits in the store. `poll`: how often
    to look for work that nobody hinted at. `linger`: what sleeps for longer leaves memory.
    `threads`: how many ``def`` functions run at once. Durations are in seconds, or text such as
    ``"5s"``. Raises `ConfigurationError`.
    """

    max_in_flight: int = 1000
    poll: Duration = 2.0
    linger: Duration = 1.0
    threads: int = 40

    def __post_init__(self) -> None:
        whole(self.max_in_flight, name="max_in_flight")
        whole(self.threads, name="threads")
        for name in ("poll", "linger"):
            object.__setattr__(self, name, seconds(getattr(self, name), name=name))

    @property
    def poll_seconds(self) -> float:
        """`poll` in seconds."""
        return seconds(self.poll)

    @property
    def linger_seconds(self) -> float:
        """`linger` in seconds."""
        return seconds(self.linger)


@dataclass(slots=True)
class Duty:
    """The context of one run of a service: its tokens, the stop event, and the drain time.

    A run, or *turn*, ends when the service is stopped, or when the process's lease is lost. `token`
    is the fencing token of the process's membership; `own_token` that of the service's own lease,
    None unless it is exclusive. `stopping` is set when it should finish what it has begun and
    return, within `drain` seconds (read then). `is_cut`: its lease was lost, so that nothing it
    writes counts any more.
    """

    membership: Membership
    token: int
    own_token: int | None
    _on_ready: Callable[[Duty], None]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    drain: float = 0.0
    is_cut: bool = False

    async def pause(self, seconds: float, *hints: asyncio.Event) -> bool:
        """Wait for so many seconds, or until a hint is set or the service should stop.

        Answers whether to go on: False once it should stop. Hints stay set: clear them before
        you look for work, so that none is missed.
        """
        events = [asyncio.ensure_future(event.wait()) for event in (self.stopping, *hints)]
        try:
            await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for event in events:
                event.cancel()
        return not self.stopping.is_set()

    def ready(self) -> None:
        """Say that the service works from now on. More than once is fine."""
        self._on_ready(self)


class Service(Protocol):
    """Something that runs in the background: a worker, a relay, a projection.

    `run` works until ``duty.stopping`` is set, finishes what it has begun, and returns. It is
    cancelled when the lease is lost, or the drain takes too long: then it must drop what it has in
    memory and write nothing more. What it raises is logged, and it is run again after a pause; but
    `StaleWriter` says that the lease was lost: if that is so, it goes on at once under the next.
    """

    @property
    def name(self) -> str:
        """Its name, unique in the app: for `--only`, logs and ``standfast services``."""
        ...

    @property
    def exclusive(self) -> bool:
        """Whether only one process may run it at a time, while others stand by.

        A process that can't reach the store cuts it off when its lease may have run out. That isn't
        exact: write with the token, which the store checks. The name counts in the whole database.
        """
        ...

    async def run(self, duty: Duty) -> None:
        """Work under this duty until ``duty.stopping`` is set, then finish and return."""
        ...


def hindrance_of(service: Service) -> str:
    """Why a service can't do its work until its process is restarted, "" where it can.

    A service that can come to that says so in a property of its own, `hindrance`, which any thread
    may read.
    """
    return str(getattr(service, "hindrance", ""))


def checked_services(services: object, whose: str) -> list[Service]:
    """What a pattern answered as its services, as a list. Raises `ConfigurationError`."""
    if not isinstance(services, (list, tuple)):
        raise ConfigurationError(
            f"{whose}.services() answered {services!r}: it must answer a list of services"
        )
    for service in services:
        name = getattr(service, "name", None)
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{whose}: a service is named {name!r}: give it a text")
        checked(name, name=f"{whose}: the service's name", longest=200)
        if not isinstance(getattr(service, "exclusive", None), bool):
            raise ConfigurationError(
                f"service {name!r}: exclusive must be True or False: whether only one process may "
                "run it at a time"
            )
        if not iscoroutinefunction(getattr(service, "run", None)):
            raise ConfigurationError(
                f"service {name!r}: run must be written `async def run(self, duty)`"
            )
    return list(services)
