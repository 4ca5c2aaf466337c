"""The fetch stage: a bounded pool of threads that turns a received job into verified image bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from schemas.codes import ErrorCode, ViewCode
from schemas.job import JobView
from worker.core.evidence import StoredView, UnusableView
from worker.errors import RejectJob, RetryJob, ServiceUnavailable
from worker.handoff import Handoff
from worker.outcomes import Outcome, Rejected, Retry
from worker.ports import ImageSource, JobStatus
from worker.work import Fetched, Received, Settleable

Outage = Callable[[ServiceUnavailable], None]
Release = Callable[[int], None]  # gives bytes back to intake's budget


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Past `slow_after_s` a job moves to `slow_topic`, where only each fetch's own deadline counts."""

    attempts: int  # processing attempts before an unreachable view is given up
    retry_delays_s: tuple[float, ...]  # after attempt 1, 2, ...; the last one from then on
    slow_after_s: float
    slow_topic: str


class FetchStage:
    """One `run` a thread. `outage` blocks until the deployment's own store may be tried again."""

    def __init__(
        self,
        *,
        images: ImageSource,
        jobs: Handoff[Received],
        fetched: Handoff[Fetched],
        settle: Handoff[Settleable],
        limits: FetchLimits,
        outage: Outage,
        release: Release,
        status: JobStatus | None = None,
    ) -> None:
        self._images = images
        self._status = status
        self._jobs = jobs
        self._fetched = fetched
        self._settle = settle
        self._limits = limits
        self._outage = outage
        self._release = release

    def run(self) -> None:
        while not self._jobs.finished:
            received = self._jobs.take()
            if received is not None:
                if self._status is not None:
                    self._status.running([received.job])
                self._hand_on(received, self.fetch(received))

    def fetch(self, received: Received) -> Fetched | Outcome:
        """Get every view of a job; an end of the job where none can be used or a retry is worth it."""
        started_s = time.monotonic()
        views: list[tuple[JobView, bytes] | StoredView | UnusableView] = []
        for view in received.job.views:
            if self._straggles(received, time.monotonic() - started_s):
                return self._moved(received)
            try:
                views.append(self._one(received, view))
            except RetryJob as fault:
                return self._retry(received, fault)
            except RejectJob as fault:
                return rejected(received, fault.code, "fetch", fault.detail)
        images = tuple(v for v in views if not isinstance(v, UnusableView | StoredView))
        stored = tuple(v for v in views if isinstance(v, StoredView))
        unusable = tuple(v for v in views if isinstance(v, UnusableView))
        if not images and not stored:
            return no_usable_view(received, unusable, stage="fetch")
        return Fetched(
            received=received,
            images=images,
            stored=stored,
            unusable=unusable,
            queue_ms=(started_s - received.received_s) * 1e3,
            fetch_ms=(time.monotonic() - started_s) * 1e3,
        )

    def _one(self, received: Received, view: JobView) -> tuple[JobView, bytes] | StoredView | UnusableView:
        while True:
            try:
                got = self._images.fetch(received.job, view)
                return (view, got) if isinstance(got, bytes) else got
            except RetryJob as fault:
                if received.attempt < self._limits.attempts:
                    raise
                detail = f"still failing at attempt {received.attempt}: {fault.detail}"
                return UnusableView(view=view.view, sha256=view.sha256, code=ViewCode.UNREACHABLE, detail=detail)
            except ServiceUnavailable as outage:
                self._outage(outage)

    def _straggles(self, received: Received, spent_s: float) -> bool:
        slow = received.record.source.topic == self._limits.slow_topic
        return not slow and spent_s > self._limits.slow_after_s

    def _moved(self, received: Received) -> Retry:
        return straggling(received, "fetch", f"its images took longer than {self._limits.slow_after_s:g} s")

    def _retry(self, received: Received, fault: RetryJob) -> Retry:
        delays_s = self._limits.retry_delays_s
        delay_s = delays_s[min(received.attempt, len(delays_s)) - 1]
        return Retry(
            record=received.record,
            job=received.job,
            stage=fault.stage,
            detail=fault.detail,
            attempt=received.attempt,
            due=datetime.now(UTC) + timedelta(seconds=delay_s),
            first_seen=received.first_seen,
        )

    def _hand_on(self, received: Received, item: Fetched | Outcome) -> None:
        if isinstance(item, Fetched):
            self._fetched.put(item)
        else:
            self._release(received.held_bytes)
            self._settle.put(item)


def no_usable_view(received: Received, unusable: tuple[UnusableView, ...], *, stage: str) -> Rejected:
    """The dead letter of a job with nothing to look at; the detail names each view and its code.

    Where a view was merely unreachable, a replay may help: the code says so.
    """
    faults = ", ".join(f"{view.view}: {view.code}" for view in unusable)
    passing = any(view.code is ViewCode.UNREACHABLE for view in unusable)
    code = ErrorCode.RETRIES_EXHAUSTED if passing else ErrorCode.NO_USABLE_VIEW
    return rejected(received, code, stage, f"no view of the job could be used ({faults})")


def straggling(received: Received, stage: str, detail: str) -> Retry:
    """On to the slow lane, at once and on the same attempt: its partition must not wait for it."""
    return Retry(
        record=received.record,
        job=received.job,
        stage=stage,
        detail=detail,
        attempt=received.attempt,
        due=datetime.now(UTC),
        first_seen=received.first_seen,
        straggler=True,
    )


def rejected(received: Received, code: ErrorCode, stage: str, detail: str) -> Rejected:
    return Rejected(
        record=received.record,
        job=received.job,
        code=code,
        stage=stage,
        detail=detail,
        attempt=received.attempt,
        first_seen=received.first_seen,
    )
