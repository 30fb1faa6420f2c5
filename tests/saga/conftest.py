"""A world to act on, and the spans that OpenTelemetry's SDK gets."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.saga.engine.world import World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def spans(monkeypatch):
    """A tracer provider for this test alone; the API itself takes one per process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    assert trace.get_tracer_provider() is provider
    return exporter.get_finished_spans
