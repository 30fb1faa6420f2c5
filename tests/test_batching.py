"""Group commit."""

import asyncio
import gc

import pytest

from standfast.batching import Batcher
from standfast.errors import ConfigurationError
from tests.coordination.world import clock, virtually


class Writes:
    """A write function that records its batches, and waits for `go` if there is one."""

    def __init__(self, go=None):
        self.batches = []
        self.go = go
        self.in_flight = self.most = 0

    async def __call__(self, items):
        self.batches.append(list(items))
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        if self.go is not None:
            await self.go.wait()
        self.in_flight -= 1
        return [item if isinstance(item, Exception) else item * 10 for item in items]


async def test_one_iteration_shares_a_write():
    writes = Writes()
    batcher = Batcher(writes)
    assert await asyncio.gather(*(batcher.submit(n) for n in range(5))) == [0, 10, 20, 30, 40]

    async def task(n):
        return await batcher.submit(n)

    assert await asyncio.gather(*(task(n) for n in range(3))) == [0, 10, 20]
    assert writes.batches == [[0, 1, 2, 3, 4], [0, 1, 2]]


@pytest.mark.parametrize("lanes", [1, 3])
async def test_lanes_are_the_most_in_flight_and_the_rest_goes_together(lanes):
    go = asyncio.Event()
    writes = Writes(go)
    batcher = Batcher(writes, lanes=lanes)
    futures = []
    for n in range(lanes + 4):
        futures.append(batcher.submit(n))
        await asyncio.sleep(0.001)
    assert writes.batches == [[n] for n in range(lanes)]
    go.set()
    assert await asyncio.gather(*futures) == [n * 10 for n in range(lanes + 4)]
    assert writes.batches[lanes:] == [list(range(lanes, lanes + 4))]
    assert writes.most == lanes


async def test_max_batch():
    writes = Writes()
    batcher = Batcher(writes, max_batch=4)
    assert await asyncio.gather(*(batcher.submit(n) for n in range(10))) == [
        n * 10 for n in range(10)
    ]
    assert writes.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_an_exception_as_a_result_fails_that_item():
    batcher = Batcher(Writes())
    results = await asyncio.gather(
        *(batcher.submit(item) for item in (1, KeyError("x"), 3)), return_exceptions=True
    )
    assert results[0] == 10
    assert isinstance(results[1], KeyError)
    assert results[2] == 30


async def test_a_raised_exception_fails_the_batch_and_no_other():
    calls = []

    async def write(items):
        calls.append(items)
        if len(calls) == 1:
            raise OSError("away")
        return items

    batcher = Batcher(write)
    results = await asyncio.gather(*(batcher.submit(n) for n in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [OSError] * 3
    assert await batcher.submit(7) == 7


async def test_a_wrong_number_of_results_fails_the_batch():
    async def write(items):
        return items[1:]

    batcher = Batcher(write)
    futures = [batcher.submit(n) for n in range(3)]
    for future in futures:
        with pytest.raises(RuntimeError, match="2 results for 3 items"):
            await future


async def test_a_cancelled_submitter_affects_nobody_else():
    go = asyncio.Event()
    writes = Writes(go)
    batcher = Batcher(writes)
    futures = [batcher.submit(n) for n in range(3)]
    waiting = batcher.submit(3)
    futures[1].cancel()
    await asyncio.sleep(0.001)
    futures[0].cancel()
    go.set()
    assert await futures[2] == 20
    assert await waiting == 30
    assert writes.batches == [[0, 1, 2, 3]]


async def test_a_cancelled_write_cancels_its_submitters_and_frees_the_lane():
    cancel = True

    async def write(items):
        if cancel:
            raise asyncio.CancelledError
        return items

    batcher = Batcher(write)
    with pytest.raises(asyncio.CancelledError):
        await batcher.submit(1)
    cancel = False
    assert await batcher.submit(2) == 2


async def test_patience_lets_those_who_were_just_answered_join_the_next_write():
    async def come_again(batcher, times):
        for _ in range(times):
            await asyncio.sleep(0)  # a brief step
            await batcher.submit(0)

    async def sizes(patience):
        writes = Writes()
        batcher = Batcher(writes, patience=patience)
        early = asyncio.create_task(come_again(batcher, 5))
        for _ in range(2):
            await asyncio.sleep(0)
        await asyncio.gather(early, *(come_again(batcher, 5) for _ in range(3)))
        return [len(batch) for batch in writes.batches]

    assert len(await sizes(patience=0)) > 7, "two groups, that wait for each other"
    assert len(await sizes(patience=2)) == 5


async def test_a_write_may_answer_with_a_future_that_is_done():
    def write(items):
        done = asyncio.get_running_loop().create_future()
        done.set_result([item * 10 for item in items])
        return done

    batcher = Batcher(write)
    assert await asyncio.gather(batcher.submit(1), batcher.submit(2)) == [10, 20]
    await batcher.close()


async def test_a_write_that_raises_before_it_answers_fails_the_batch():
    broken = True

    def write(items):
        if broken:
            raise OSError("away")
        done = asyncio.get_running_loop().create_future()
        done.set_result(items)
        return done

    batcher = Batcher(write)
    with pytest.raises(OSError, match="away"):
        await batcher.submit(1)
    broken = False
    assert await batcher.submit(2) == 2


async def test_alone_a_write_goes_past_the_queue():
    writes = Writes()
    batcher = Batcher(writes)
    waiting = batcher.submit(1)
    assert await batcher.write_alone(2) == 20
    assert await waiting == 10
    with pytest.raises(ValueError, match="no"):
        await batcher.write_alone(ValueError("no"))
    assert writes.batches[0] == [2]


async def test_alone_a_write_whose_submitter_is_cancelled_is_finished():
    go = asyncio.Event()
    writes = Writes(go)
    batcher = Batcher(writes)
    submitter = asyncio.create_task(batcher.write_alone(1))
    await asyncio.sleep(0)
    submitter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitter
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.001)
    assert not closing.done()
    assert writes.in_flight == 1
    go.set()
    await closing
    assert writes.in_flight == 0
    with pytest.raises(RuntimeError, match="closed"):
        await batcher.write_alone(2)


async def test_what_was_submitted_just_before_close_is_written():
    """It stands in the queue, and no write has begun."""
    written = []

    async def write(items):
        written.extend(items)
        return items

    batcher = Batcher(write)
    futures = [batcher.submit(n) for n in range(3)]
    async with asyncio.timeout(10):
        await batcher.close()
    assert written == [0, 1, 2]
    assert [future.result() for future in futures] == [0, 1, 2]


async def test_close_drains():
    go = asyncio.Event()
    writes = Writes(go)
    batcher = Batcher(writes, max_batch=2)
    futures = [batcher.submit(n) for n in range(5)]
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.001)
    assert not closing.done()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(6)
    go.set()
    await closing
    assert [future.result() for future in futures] == [0, 10, 20, 30, 40]
    await batcher.close()


@pytest.mark.parametrize("options", [{"lanes": 0}, {"max_batch": 0}])
async def test_wrong_options(options):
    with pytest.raises(ConfigurationError, match="at least 1"):
        Batcher(Writes(), **options)


async def never_written(items):
    await asyncio.sleep(3600)


@virtually
async def test_each_item_has_its_own_time_also_in_the_queue():
    """The first is being written, the others wait for the lane."""
    batcher = Batcher(never_written, max_batch=1, timeout=1.0, late=lambda: OSError("too late"))
    begun = clock().monotonic()
    failed: list[float] = []
    for n in range(3):
        future = batcher.submit(n)
        future.add_done_callback(lambda _: failed.append(clock().monotonic() - begun))
        await asyncio.sleep(0.4)
        if n == 1:
            future.cancel()  # it has its end, and the next one's is at its own time
    with pytest.raises(OSError, match="too late"):
        await future
    assert failed == pytest.approx([0.8, 1.0, 1.8], abs=0.01)


@virtually
async def test_who_was_answered_in_time_is_never_late():
    async def write(items):
        await asyncio.sleep(0.5)
        return items

    batcher = Batcher(write, timeout=1.0)
    assert await batcher.submit(1) == 1
    await asyncio.sleep(2.0)
    assert not batcher._armed
    assert not batcher._due, "nothing is kept of it"
    late = Batcher(never_written, timeout=1.0).submit(2)
    with pytest.raises(TimeoutError):
        await late


@virtually
async def test_a_timer_that_had_nothing_to_do_is_set_again():
    batcher = Batcher(never_written, timeout=1.0)
    first = batcher.submit(1)
    with pytest.raises(TimeoutError):
        await first
    begun = clock().monotonic()
    with pytest.raises(TimeoutError):
        await batcher.submit(2)
    assert clock().monotonic() - begun == pytest.approx(1.0)


async def test_alone_a_write_that_fails_after_its_submitter_has_gone_is_no_ones_trouble(caplog):
    go = asyncio.Event()

    async def write(items):
        await go.wait()
        raise OSError("away")

    batcher = Batcher(write)
    submitter = asyncio.create_task(batcher.write_alone(1))
    await asyncio.sleep(0)
    submitter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitter
    go.set()
    await batcher.close()
    gc.collect()
    assert not caplog.records


async def test_more_results_than_items_fail_the_batch_too():
    async def write(items):
        return [*items, 5]

    with pytest.raises(RuntimeError, match="2 results for 1 items"):
        await Batcher(write).submit(1)


async def test_free_lanes_are_all_begun_at_once():
    go = asyncio.Event()
    writes = Writes(go)
    batcher = Batcher(writes, lanes=3, max_batch=2)
    futures = [batcher.submit(n) for n in range(7)]
    await asyncio.sleep(0.001)
    assert writes.batches == [[0, 1], [2, 3], [4, 5]]
    go.set()
    assert await asyncio.gather(*futures) == [n * 10 for n in range(7)]


async def test_patience_is_had_after_a_write_too():
    """Who was just answered comes again a little later, and shares the write of who waited."""
    go = asyncio.Event()
    writes = Writes(go)
    batcher = Batcher(writes, patience=2)

    async def twice():
        await batcher.submit(1)
        await asyncio.sleep(0)  # a brief step
        await batcher.submit(2)

    task = asyncio.create_task(twice())
    await asyncio.sleep(0.001)
    waiting = batcher.submit(3)
    go.set()
    await asyncio.gather(task, waiting)
    assert writes.batches == [[1], [3, 2]]
