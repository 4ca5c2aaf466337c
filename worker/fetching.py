"""The fetch stage: a bounded pool of threads that turns a received job into verified image bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from schemas.codes import ErrorCode, ViewCode
from schemas.job import JobView
from worker.core.evidence import UnusableView
from worker.errors import RetryJob, ServiceUnavailable
from worker.handoff import Handoff
from worker.outcomes import Outcome, Rejected, Retry
from worker.ports import ImageSource, JobStatus
from worker.work import Fetched, Received, Settleable

Outage = Callable[[ServiceUnavailable], None]
Release = Callable[[int], None]  # gives bytes back to intake's budget


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    attempts: int  # processing attempts before an unreachable view is given up
    retry_delay_s: float


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
        try:
            views = [self._one(received, view) for view in received.job.views]
        except RetryJob as fault:
            return self._retry(received, fault)
        images = tuple(v for v in views if not isinstance(v, UnusableView))
        unusable = tuple(v for v in views if isinstance(v, UnusableView))
        if not images:
            return no_usable_view(received, unusable, stage="fetch")
        return Fetched(
            received=received,
            images=images,
            unusable=unusable,
            queue_ms=(started_s - received.received_s) * 1e3,
            fetch_ms=(time.monotonic() - started_s) * 1e3,
        )

    def _one(self, received: Received, view: JobView) -> tuple[JobView, bytes] | UnusableView:
        while True:
            try:
                got = self._images.fetch(received.job, view)
                return got if isinstance(got, UnusableView) else (view, got)
            except RetryJob as fault:
                if received.attempt < self._limits.attempts:
                    raise
                detail = f"still failing at attempt {received.attempt}: {fault.detail}"
                return UnusableView(view=view.view, sha256=view.sha256, code=ViewCode.UNREACHABLE, detail=detail)
            except ServiceUnavailable as outage:
                self._outage(outage)

    def _retry(self, received: Received, fault: RetryJob) -> Retry:
        return Retry(
            record=received.record,
            job=received.job,
            stage=fault.stage,
            detail=fault.detail,
            attempt=received.attempt,
            due=datetime.now(UTC) + timedelta(seconds=self._limits.retry_delay_s),
            first_seen=received.first_seen,
        )

    def _hand_on(self, received: Received, item: Fetched | Outcome) -> None:
        if isinstance(item, Fetched):
            self._fetched.put(item)
        else:
            self._release(received.held_bytes)
            self._settle.put(item)


def no_usable_view(received: Received, unusable: tuple[UnusableView, ...], *, stage: str) -> Rejected:
    """The dead letter of a job with nothing to look at; the detail names each view and its code."""
    faults = ", ".join(f"{view.view}: {view.code}" for view in unusable)
    return rejected(received, ErrorCode.NO_USABLE_VIEW, stage, f"no view of the job could be used ({faults})")


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
