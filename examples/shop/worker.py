"""The process that runs the sagas. It gets killed: whatever it was at, the next one goes on with.

`python -m examples.shop.worker METRICS DATABASE STOCK PAYMENTS COURIER`; prints "working" once it
works. On SIGTERM it drains. Its OpenTelemetry metrics are in the file METRICS, up to a moment ago.
"""

import asyncio
import json
import logging
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)

from examples.shop.app import shop
from examples.shop.serve import end_with_parent

LEASE = "2s"  # how long a dead worker's sagas lie idle; longer is kinder to a busy machine


EVERY = 0.05  # seconds between two looks at the metrics: as much as a kill makes forgotten


async def main() -> None:
    """Work until SIGTERM."""
    end_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    reader = InMemoryMetricReader()
    set_meter_provider(MeterProvider([reader]))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    metrics = Path(sys.argv[1])
    async with shop(*sys.argv[2:6]).running(lease=LEASE, max_in_flight=100, drain="3s"):
        print("working", flush=True)
        while not stop.is_set():
            write(metrics, figures(reader))
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await stop.wait()
    write(metrics, figures(reader))


def write(file: Path, found: dict[str, float]) -> None:
    """In one piece, so that a kill leaves the old or the new."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(found))
    new.replace(file)


def figures(reader: InMemoryMetricReader) -> dict[str, float]:
    """The metrics by name and attributes; of a histogram, the count and the sum."""
    found: dict[str, float] = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    labels = ", ".join(f"{k}={v!s}" for k, v in (point.attributes or {}).items())
                    name = f"{metric.name}{{{labels}}}" if labels else metric.name
                    if isinstance(point, HistogramDataPoint):
                        found[f"{name} count"] = point.count
                        found[f"{name} sum {metric.unit}"] = point.sum
                    elif isinstance(point, NumberDataPoint):
                        found[name] = point.value
    return found


def total(workers: Iterable[dict[str, float]]) -> dict[str, float]:
    """What several workers counted, as one. What each had in flight at its end says nothing."""
    found: Counter[str] = Counter()
    for worker in workers:
        found.update(worker)
    return {name: value for name, value in found.items() if ".in_flight" not in name}


if __name__ == "__main__":
    asyncio.run(main())
