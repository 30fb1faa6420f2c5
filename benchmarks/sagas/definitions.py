"""The sagas that are measured."""

import asyncio
from dataclasses import dataclass

from standfast import Context, Saga, step, wait


@dataclass(frozen=True)
class Order:
    number: int


class Trivial(Saga[Order]):
    """Three steps that do next to nothing, so that what is measured is the engine."""

    name, version = "trivial", 1

    @step(no_compensation="it has no effect")
    async def reserve(self, order: Order, ctx: Context) -> dict[str, bool]:
        await asyncio.sleep(0)
        return {"ok": True}

    @step(no_compensation="it has no effect")
    async def charge(self, order: Order, ctx: Context) -> dict[str, bool]:
        await asyncio.sleep(0)
        return {"ok": True}

    @step(no_compensation="it has no effect")
    async def ship(self, order: Order, ctx: Context) -> dict[str, bool]:
        await asyncio.sleep(0)
        return {"ok": True}


class Blocking(Saga[Order]):
    """The same steps as `def`: what is measured is the way to a thread and back."""

    name, version = "blocking", 1

    @step(no_compensation="it has no effect")
    def reserve(self, order: Order, ctx: Context) -> dict[str, bool]:
        return {"ok": True}

    @step(no_compensation="it has no effect")
    def charge(self, order: Order, ctx: Context) -> dict[str, bool]:
        return {"ok": True}

    @step(no_compensation="it has no effect")
    def ship(self, order: Order, ctx: Context) -> dict[str, bool]:
        return {"ok": True}


class Patient(Saga[Order]):
    """Waits for a signal, for days."""

    name, version, deadline = "patient", 1, "30d"

    approved = wait("approved", timeout="7d")

    @step(pivot=True)
    async def ship(self, order: Order, ctx: Context) -> None: ...


class _Gate:
    """Tells when all are here, and lets them go on together."""

    def __init__(self) -> None:
        self.all_here = asyncio.Event()
        self.go_on = asyncio.Event()
        self._missing = 0

    def expect(self, count: int) -> None:
        self._missing = count

    async def pass_through(self) -> None:
        self._missing -= 1
        if not self._missing:
            self.all_here.set()
        await self.go_on.wait()


HELD = _Gate()


class Held(Saga[Order]):
    """Three steps, of which the second stays in the middle until it is let go."""

    name, version = "held", 1

    @step(no_compensation="it has no effect")
    async def reserve(self, order: Order, ctx: Context) -> int:
        return 1

    @step(no_compensation="it has no effect", timeout="10m")
    async def charge(self, order: Order, ctx: Context) -> int:
        await HELD.pass_through()
        return 2

    @step(no_compensation="it has no effect")
    async def ship(self, order: Order, ctx: Context) -> int:
        return 3
