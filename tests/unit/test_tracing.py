"""Traces: a job's spans belong to the trace that its record names, and tell where the job's time went."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from schemas import headers
from schemas.message import Headers
from tests.outcome_builders import TRACE, a_job, a_record, an_evidence
from worker.core.evidence import StageTimes
from worker.core.policy import Policy
from worker.tracing import no_traces, open_tracing, tracing_to
from worker.work import Embedded, Received

TRACE_ID, PARENT_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TIMES = StageTimes(queue_ms=20.0, fetch_ms=30.0, embed_ms=100.0)


def embedded(job_id: str = "job-1", named: Headers | None = None, *, attempt: int = 1) -> Embedded:
    """A job that was received 200 ms ago; its record's headers are replaced by `named`."""
    record = a_record(offset=41)
    job = a_job(job_id)
    received = Received(
        record=record if named is None else replace(record, headers=named),
        job=job,
        attempt=attempt,
        first_seen=job.submitted_at,
        received_s=time.monotonic() - 0.2,
        held_bytes=0,
    )
    return Embedded(received=received, evidence=replace(an_evidence(job), times=TIMES), policy=Policy())


def traced(jobs: Sequence[Embedded]) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    trace, flush = tracing_to(exporter, build="test")
    trace(jobs)
    flush()
    return list(exporter.get_finished_spans())


def by_name(spans: Sequence[ReadableSpan]) -> Mapping[str, ReadableSpan]:
    named = {span.name: span for span in spans}
    assert len(named) == len(spans)
    return named


def milliseconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e6


def identity(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def test_a_job_is_a_child_of_its_record_and_its_stages_are_children_of_the_job() -> None:
    spans = by_name(traced([embedded()]))
    assert set(spans) == {"assay.job", "assay.queue", "assay.fetch", "assay.embed", "assay.judge"}
    job = spans["assay.job"]
    assert job.parent is not None
    assert (job.parent.trace_id, job.parent.span_id, job.parent.is_remote) == (TRACE_ID, PARENT_ID, True)
    assert job.kind is SpanKind.CONSUMER
    for name in set(spans) - {"assay.job"}:
        parent = spans[name].parent
        assert parent is not None
        assert (parent.trace_id, parent.span_id) == identity(job)


def test_the_stages_follow_each_other_and_fill_the_job() -> None:
    spans = by_name(traced([embedded()]))
    stages = [spans[f"assay.{name}"] for name in ("queue", "fetch", "embed", "judge")]
    assert [round(milliseconds(span)) for span in stages[:3]] == [20, 30, 100]
    assert [span.end_time for span in stages[:-1]] == [span.start_time for span in stages[1:]]
    assert stages[0].start_time == spans["assay.job"].start_time
    assert stages[-1].end_time == spans["assay.job"].end_time


def test_a_span_says_which_record_and_job_it_is() -> None:
    job = by_name(traced([embedded(attempt=2)]))["assay.job"]
    attributes = dict(job.attributes or {})
    assert attributes["messaging.destination.name"] == "assay.jobs"
    assert attributes["messaging.destination.partition.id"] == "0"
    assert attributes["messaging.kafka.offset"] == 41
    assert attributes["assay.job_id"] == "job-1"
    assert attributes["assay.attempt"] == 2
    assert job.resource.attributes["service.name"] == "assay-worker"
    assert job.resource.attributes["service.version"] == "test"


@pytest.mark.parametrize("named", [(), ((headers.TRACEPARENT, b"nonsense"),), ((headers.TRACEPARENT, b"\xff"),)])
def test_a_job_without_a_trace_begins_one(named: Headers) -> None:
    spans = by_name(traced([embedded(named=named)]))
    assert spans["assay.job"].parent is None
    assert identity(spans["assay.embed"])[0] == identity(spans["assay.job"])[0] != TRACE_ID


def test_what_the_sender_does_not_sample_is_not_recorded() -> None:
    unsampled = TRACE.removesuffix(b"01") + b"00"
    assert traced([embedded(named=((headers.TRACEPARENT, unsampled),))]) == []


def test_jobs_of_one_commit_keep_to_their_own_traces() -> None:
    spans = traced([embedded("job-1"), embedded("job-2", named=())])
    jobs = {(span.attributes or {})["assay.job_id"]: identity(span)[0] for span in spans if span.name == "assay.job"}
    assert jobs["job-1"] == TRACE_ID != jobs["job-2"]


def test_without_an_endpoint_nothing_happens() -> None:
    no_traces([embedded()])


def test_an_endpoint_that_is_away_costs_no_verdict(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    trace, flush = open_tracing("http://127.0.0.1:9/v1/traces", build="test")
    trace([embedded()])
    flush()
