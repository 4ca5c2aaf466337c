from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from schemas.codes import ErrorCode, ViewCode
from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord, Source
from worker.adapters.outputs import retry_record
from worker.core.evidence import UnusableView
from worker.errors import RetryJob, ServiceUnavailable
from worker.fetching import FetchLimits, FetchStage
from worker.handoff import Handoff
from worker.outcomes import Outcome, Rejected, Retry
from worker.settings import Topics
from worker.work import Fetched, Received


def received(attempt: int = 1, views: tuple[str, ...] = ("logo", "serial"), *, topic: str = "assay.jobs") -> Received:
    digest = hashlib.sha256(b"x").hexdigest()
    job = AuthenticationJob(
        job_id="j1",
        tenant="t",
        sku="s",
        category="bag",
        submitted_at=datetime(2026, 1, 1, tzinfo=UTC),
        views=tuple(JobView(view=v, sha256=digest, uri=f"https://host/{v}") for v in views),
        payload_digest="d",
    )
    source = Source(topic=topic, partition=0, offset=7)
    record = InputRecord(source=source, epoch=1, key=job.key, value=b"", headers=(), timestamp_ms=0)
    seen = datetime(2026, 1, 1, tzinfo=UTC)
    return Received(record=record, job=job, attempt=attempt, first_seen=seen, received_s=0.0, held_bytes=0)


class Images:
    """Answers by role: bytes, a fault, or an exception to raise (once, if in a list)."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers

    def fetch(self, job: AuthenticationJob, view: JobView) -> bytes | UnusableView:
        answer = self.answers[view.view]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, bytes | UnusableView)
        return answer


def fault(view: str) -> UnusableView:
    return UnusableView(view=view, sha256="0", code=ViewCode.NOT_FOUND)


def fetch(
    images: Images, item: Received, outages: list[Exception] | None = None, *, slow_after_s: float = 60.0
) -> Fetched | Outcome:
    stage = FetchStage(
        images=images,
        jobs=Handoff("a", 1),
        fetched=Handoff("b", 1),
        settle=Handoff("c", 1),
        limits=FetchLimits(attempts=3, retry_delays_s=(5, 30), slow_after_s=slow_after_s, slow_topic="assay.jobs.slow"),
        outage=lambda outage: (outages if outages is not None else []).append(outage),
        release=lambda count: None,
    )
    return stage.fetch(item)


def test_a_bad_view_does_not_sink_its_job() -> None:
    got = fetch(Images(logo=b"x", serial=fault("serial")), received())
    assert isinstance(got, Fetched)
    assert [view.view for view, _ in got.images] == ["logo"]
    assert [view.code for view in got.unusable] == [ViewCode.NOT_FOUND]


def test_no_usable_view_is_a_dead_letter_that_names_each() -> None:
    got = fetch(Images(logo=fault("logo"), serial=fault("serial")), received())
    assert isinstance(got, Rejected)
    assert got.code is ErrorCode.NO_USABLE_VIEW
    assert "logo: not_found" in got.detail
    assert "serial: not_found" in got.detail


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_transient_fault_is_tried_again_later(attempt: int) -> None:
    got = fetch(Images(logo=b"x", serial=RetryJob("fetch", "timed out")), received(attempt))
    assert isinstance(got, Retry)
    assert got.attempt == attempt
    assert (got.due - datetime.now(UTC)).total_seconds() == pytest.approx({1: 5, 2: 30}[attempt], abs=2)


def test_a_job_whose_images_are_slow_leaves_its_partition_for_the_slow_lane() -> None:
    got = fetch(Images(logo=b"x", serial=b"x"), received(2), slow_after_s=-1.0)
    assert isinstance(got, Retry)
    assert got.straggler
    record = retry_record(got, Topics())
    assert record.topic == "assay.jobs.slow"
    assert dict(record.headers)["assay.attempt"] == b"2"  # nothing failed


def test_in_the_slow_lane_a_job_may_take_its_time() -> None:
    got = fetch(Images(logo=b"x", serial=b"x"), received(topic="assay.jobs.slow"), slow_after_s=-1.0)
    assert isinstance(got, Fetched)


def test_views_that_never_came_end_in_a_letter_that_is_worth_a_replay() -> None:
    got = fetch(Images(logo=RetryJob("fetch", "timed out"), serial=fault("serial")), received(3))
    assert isinstance(got, Rejected)
    assert got.code is ErrorCode.RETRIES_EXHAUSTED


def test_after_the_last_attempt_the_view_is_unreachable_and_the_job_goes_on() -> None:
    got = fetch(Images(logo=b"x", serial=RetryJob("fetch", "timed out")), received(3))
    assert isinstance(got, Fetched)
    assert [view.code for view in got.unusable] == [ViewCode.UNREACHABLE]


def test_an_outage_of_the_store_waits_and_goes_on_without_costing_an_attempt() -> None:
    outages: list[Exception] = []
    got = fetch(Images(logo=b"x", serial=[ServiceUnavailable("s3", "away"), b"x"]), received(), outages)
    assert isinstance(got, Fetched)
    assert len(got.images) == 2
    assert len(outages) == 1
