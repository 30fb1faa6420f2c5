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


class Patient(Saga[Order]):
    """Waits for a signal, for days."""

    name, version, deadline = "patient", 1, "30d"

    approved = wait("approved", timeout="7d")

    @step(pivot=True)
    async def ship(self, order: Order, ctx: Context) -> None: ...
