"""What the tests of sync code start."""

from __future__ import annotations

from typing import Any

from standfast import Context, Saga, Standfast, step, wait


class Visit(Saga[str]):
    """Notes a word."""

    @step(no_compensation="nothing to undo")
    async def note(self, word: str, ctx: Context) -> str:
        return word


class Ask(Saga[str]):
    """Waits for an answer."""

    answered = wait("answered", type=str)

    @step(no_compensation="nothing to undo")
    async def note(self, word: str, ctx: Context) -> str:
        return f"{word}: {ctx.result(self.answered)}"


def app_on(url: str, **options: Any) -> Standfast:
    return Standfast(url, migrate=True, **options).add(Visit(), Ask())
