"""An app that is used after a fork: ``python -m tests.forking URL`` says what came of it."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from standfast import Context, Saga, Standfast, step


class Visit(Saga[str]):
    @step(no_compensation="nothing to undo")
    async def note(self, word: str, ctx: Context) -> str:
        return word


async def use(app: Standfast) -> None:
    async with app:
        await app.start(Visit, "from the child", key="child")


def told(error: BaseException) -> list[str]:
    return [type(error).__name__, str(error)]


def wait_for(child: int, pipe: int) -> list[str]:
    with os.fdopen(pipe) as said:
        text = said.read()
    os.waitpid(child, 0)
    found: list[str] = json.loads(text)
    return found


async def main(url: str) -> None:
    app = Standfast(url, migrate=True).add(Visit())
    said: dict[str, list[str]] = {}
    async with app.running():
        first = await (await app.start(Visit, "x")).result(timeout=10)
        for way in ("new loop", "same loop"):
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                os.close(reading)
                answer = ["", "it went well"]
                try:
                    if way == "new loop":
                        asyncio.run(asyncio.wait_for(use(app), 10))
                    else:
                        await use(app)
                except BaseException as error:
                    answer = told(error)
                os.write(writing, json.dumps(answer).encode())
                os._exit(0)
            os.close(writing)
            said[way] = await asyncio.to_thread(wait_for, child, reading)
        after = await (await app.start(Visit, "after")).result(timeout=10)
        said["parent"] = [first["note"], after["note"]]
    print(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
