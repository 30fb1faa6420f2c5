"""Group commit: many concurrent submissions become one write.

What is submitted while all lanes are busy waits and goes out together, so the batch grows by itself
with the load, and a lone submission never waits for company.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from standfast.errors import ConfigurationError

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Coalesces concurrent submissions into calls of `write`.

    `write` gets a list of items and answers as many results in their order, as a coroutine or a
    future (one that is done already costs no iteration of the event loop); an exception as result
    fails that one item, a raised exception fails the whole batch. At most `lanes` writes are in
    flight, of at most `max_batch` items each. Items are taken in the order of submission, and those
    submitted in the same iteration of the event loop share a write. With several lanes nothing is
    said about the order in which writes end.

    `patience`: how many iterations of the event loop more a write is put off. Where there is one
    lane, that makes those who were just answered, and soon come again, share the next write; else
    two groups would form, that wait for each other's writes.

    `timeout`: seconds from its submission within which an item has its result, or fails with what
    `late` answers, also while it waits for a lane. Whether it is written then isn't known.

    For one event loop. A submitter that is cancelled doesn't affect the others, and its item is
    written nevertheless. Raises `ConfigurationError` for `lanes` or `max_batch` below one.
    """

    __slots__ = (
        "_armed",
        "_closed",
        "_due",
        "_free",
        "_futures",
        "_items",
        "_lanes",
        "_late",
        "_loop",
        "_max_batch",
        "_patience",
        "_scheduled",
        "_timeout",
        "_write",
        "_writes",
    )

    def __init__(
        self,
        write: Callable[[list[T]], Awaitable[Sequence[R | Exception]]],
        *,
        lanes: int = 1,
        max_batch: int = 1000,
        patience: int = 0,
        timeout: float | None = None,
        late: Callable[[], Exception] = TimeoutError,
    ) -> None:
        for name, value in (("lanes", lanes), ("max_batch", max_batch)):
            if value < 1:
                raise ConfigurationError(f"{name}={value!r}: must be at least 1")
        self._write = write
        self._patience = patience
        self._lanes = self._free = lanes
        self._max_batch = max_batch
        self._items: list[T] = []
        self._futures: list[asyncio.Future[R]] = []
        self._writes: set[asyncio.Future[Sequence[R | Exception]]] = set()
        self._scheduled = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timeout = timeout
        self._late = late
        # What isn't done yet, by the time when it is due: in the order of submission.
        self._due: deque[tuple[float, asyncio.Future[R]]] = deque()
        self._armed = False

    def submit(self, item: T) -> asyncio.Future[R]:
        """Queue `item`; the future gets its result. Raises `RuntimeError` after `close`."""
        if self._closed:
            raise RuntimeError("this Batcher is closed: nothing can be submitted any more")
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._items.append(item)
        self._futures.append(future)
        if self._timeout is not None:
            due = loop.time() + self._timeout
            self._due.append((due, future))
            if not self._armed:
                self._armed = True
                loop.call_at(due, self._expire)
        if self._free and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush, self._patience)
        return future

    async def write_alone(self, item: T) -> R:
        """As `submit`, at once and past the queue: for one who has nobody to share a write with.

        It counts for no lane. Raises what the write or its answer says.
        """
        if self._closed:
            raise RuntimeError("this Batcher is closed: nothing can be submitted any more")
        writing = self._write([item])
        write = writing if isinstance(writing, asyncio.Future) else asyncio.ensure_future(writing)
        if not write.done():
            self._writes.add(write)
            write.add_done_callback(self._ended_alone)
            await asyncio.shield(write)
        (result,) = write.result()
        if isinstance(result, Exception):
            raise result
        return result

    def _ended_alone(self, write: asyncio.Future[Sequence[R | Exception]]) -> None:
        self._writes.discard(write)
        if not write.cancelled():
            write.exception()  # looked at here, for the submitter may have gone

    async def close(self) -> None:
        """Refuse new items, and return when all that were accepted are written (or have failed)."""
        self._closed = True
        while self._writes or self._items:
            if self._writes:
                await asyncio.wait(self._writes)
            else:
                await asyncio.sleep(0)

    def _expire(self) -> None:
        """Fail what is due, and come again when the next one is."""
        assert self._loop is not None
        now, due = self._loop.time(), self._due
        while due and (due[0][0] <= now or due[0][1].done()):
            future = due.popleft()[1]
            if not future.done():
                future.set_exception(self._late())
        self._armed = bool(due)
        if due:
            self._loop.call_at(due[0][0], self._expire)

    def _flush(self, patience: int) -> None:
        assert self._loop is not None
        if patience:
            self._loop.call_soon(self._flush, patience - 1)
            return
        self._scheduled = False
        while self._free and self._items:
            self._begin(self._loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        size = self._max_batch
        items, self._items = self._items[:size], self._items[size:]
        futures, self._futures = self._futures[:size], self._futures[size:]
        self._free -= 1
        write: asyncio.Future[Sequence[R | Exception]]
        try:
            write = asyncio.ensure_future(self._write(items), loop=loop)
        except Exception as error:  # noqa: BLE001 - handed to every submitter of the batch
            write = loop.create_future()
            write.set_exception(error)
        if write.done():
            self._end(futures, write)
        else:
            self._writes.add(write)
            write.add_done_callback(partial(self._end, futures))

    def _end(
        self, futures: list[asyncio.Future[R]], write: asyncio.Future[Sequence[R | Exception]]
    ) -> None:
        self._writes.discard(write)
        self._free += 1
        try:
            results = write.result()
            if len(results) != len(futures):
                raise RuntimeError(
                    f"write() answered {len(results)} results for {len(futures)} items"
                )
        except Exception as error:  # noqa: BLE001 - handed to every submitter of the batch
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        except BaseException:  # noqa: BLE001 - whoever stopped the write knows; here nobody waits on
            for future in futures:
                future.cancel()
        else:
            for future, result in zip(futures, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        due = self._due
        while due and due[0][1].done():
            due.popleft()
        if self._items and not self._scheduled:
            # After the submitters woken above have run, so that their next items come along.
            self._scheduled = True
            write.get_loop().call_soon(self._flush, self._patience)
