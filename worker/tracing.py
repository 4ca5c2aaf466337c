"""OpenTelemetry spans of a job, from the `traceparent` of its record to the record that answers it.

Spans are made after the fact, when a job is answered, from the times it carries: nothing is held open while batches
mix many jobs. The answer keeps the input's `traceparent`, so that a reader joins the same trace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from worker.work import Embedded

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

TraceJobs = Callable[[Iterable[Embedded]], None]
NS_PER_MS = 1_000_000
EXPORT_TIMEOUT_S = 3.0  # with its retries: an absent collector must not hold a stopping worker


def no_traces(jobs: Iterable[Embedded]) -> None:
    """What runs where no endpoint is set."""


def open_tracing(endpoint: str, *, build: str) -> tuple[TraceJobs, Callable[[], None]]:
    """Export to an OpenTelemetry HTTP endpoint in the background: what traces jobs, and what flushes at the end."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return tracing_to(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S), build=build)


def tracing_to(exporter: SpanExporter, *, build: str) -> tuple[TraceJobs, Callable[[], None]]:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "assay-worker", "service.version": build}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("assay")

    def trace(jobs: Iterable[Embedded]) -> None:
        for job in jobs:
            _trace_job(tracer, job, time.time_ns())

    return trace, provider.shutdown


def _trace_job(tracer: Tracer, item: Embedded, now_ns: int) -> None:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    record, times = item.received.record, item.evidence.times
    carrier = {name: value.decode("ascii", "replace") for name, value in record.headers}
    context = TraceContextTextMapPropagator().extract(carrier)
    begun_ns = now_ns - round((time.monotonic() - item.received.received_s) * 1e9)
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.destination.name": record.source.topic,
        "messaging.destination.partition.id": str(record.source.partition),
        "messaging.kafka.offset": record.source.offset,
        "assay.job_id": item.received.job.job_id,
        "assay.attempt": item.received.attempt,
    }
    span = tracer.start_span(
        "assay.job", context, kind=trace.SpanKind.CONSUMER, attributes=attributes, start_time=begun_ns
    )
    inside = trace.set_span_in_context(span, context)
    for name, length_ms in (("queue", times.queue_ms), ("fetch", times.fetch_ms), ("embed", times.embed_ms)):
        ended_ns = begun_ns + round(length_ms * NS_PER_MS)
        tracer.start_span(f"assay.{name}", inside, start_time=begun_ns).end(ended_ns)
        begun_ns = ended_ns
    tracer.start_span("assay.judge", inside, start_time=begun_ns).end(now_ns)
    span.end(now_ns)
