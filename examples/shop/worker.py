"""The process that runs the sagas. It gets killed: whatever it was at, the next one goes on with.

`python -m examples.shop.worker DATABASE STOCK PAYMENTS COURIER`; prints "working" once it works. On
SIGTERM it drains, then prints its OpenTelemetry metrics as a line of JSON.
"""

import asyncio
import json
import logging
import signal
import sys

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


async def main() -> None:
    """Work until SIGTERM."""
    end_with_parent()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    reader = InMemoryMetricReader()
    set_meter_provider(MeterProvider([reader]))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with shop(*sys.argv[1:5]).running(lease=LEASE, max_in_flight=100, drain="3s"):
        print("working", flush=True)
        await stop.wait()
    print(json.dumps(figures(reader)), flush=True)


def figures(reader: InMemoryMetricReader) -> dict[str, float]:
    """The metrics by name and attributes; of a histogram, the count and the mean."""
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
                        found[f"{name} mean {metric.unit}"] = round(point.sum / point.count, 3)
                    elif isinstance(point, NumberDataPoint):
                        found[name] = point.value
    return found


if __name__ == "__main__":
    asyncio.run(main())
