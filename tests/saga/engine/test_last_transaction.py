"""A saga whose last step is transactional: it ends with that step's own commit."""

import logging

from standfast import Context, Saga, Transaction, step
from tests.saga.engine.world import Order


class Noted(Saga[Order]):
    @step(transactional=True, pivot=True)
    async def note(self, order: Order, ctx: Context, tx: Transaction) -> str:
        return f"note of {order.id}"


async def test_it_ends_with_that_commit_and_writes_no_more(work, caplog, monkeypatch):
    app = await work(Noted())
    journal = app.sagas.store
    written = []
    append = journal.append

    async def watched(owner, appends):
        written.extend(appends)
        return await append(owner, appends)

    monkeypatch.setattr(journal, "append", watched)
    with caplog.at_level(logging.WARNING, logger="standfast"):
        handle = await app.start(Noted, Order("1"), key="1")
        assert (await handle.result("10s"))[Noted.note] == "note of 1"
    assert written == [], "all of it was in the transaction"
    assert caplog.records == [], "nobody else's writes are to be seen"
