"""Retry: what a call that succeeds at once pays."""

from __future__ import annotations

import stamina
import tenacity
from hyx.retry import retry as hyx_retry

from benchmarks.resilience.overhead import bare, bare_async, compare
from standfast.resilience import Retry, RetryBudget


def main() -> None:
    policy = Retry(attempts=3)
    budgeted = Retry(attempts=3, total="30s", budget=RetryBudget())
    tenacious = tenacity.retry(stop=tenacity.stop_after_attempt(3))
    stamped = stamina.retry(on=Exception, attempts=3)
    compare(
        "retry, success path",
        {
            "standfast Retry": policy(bare),
            "standfast Retry, total and budget": budgeted(bare),
            "tenacity": tenacious(bare),
            "stamina": stamped(bare),
        },
        lambda: {
            "standfast Retry": policy(bare_async),
            "standfast Retry, total and budget": budgeted(bare_async),
            "hyx": hyx_retry(on=Exception, attempts=3)(bare_async),
            "tenacity": tenacious(bare_async),
            "stamina": stamped(bare_async),
        },
        target={"def": 400, "async def": 500},
    )


if __name__ == "__main__":
    main()
