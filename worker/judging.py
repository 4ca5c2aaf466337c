"""Between the pure judge and settle: judges many jobs at once, builds their events and keeps their photographs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import structlog

from schemas.codes import Verdict
from schemas.verdict import VerdictEvent
from worker.assembly import published_by_current
from worker.core.courses import Comparison
from worker.core.decision import Judgement, judge
from worker.core.explanation import build_event
from worker.errors import AssayError
from worker.internal_error import internal_error
from worker.observe import Meter
from worker.outcomes import Judged, Outcome
from worker.ports import EvidenceStore
from worker.tracing import TraceJobs
from worker.work import Embedded

Reached = tuple[Verdict, float | None]  # a verdict and the probability of genuine
Keep = Literal["off", "inconclusive", "all"]
_log = structlog.get_logger()


class JudgeStage:
    """Called by the settle thread with the jobs of one group commit."""

    def __init__(self, *, evidence: EvidenceStore, keep: Keep, build: str, meter: Meter, trace: TraceJobs) -> None:
        self._store = evidence
        self._keep = keep
        self._build = build
        self._meter = meter
        self._trace = trace

    def __call__(self, embedded: Sequence[Embedded]) -> list[Outcome]:
        """Judge the jobs; the outcomes stand in the order of `embedded`."""
        outcomes: list[Outcome] = []
        for _, group in itertools.groupby(embedded, key=lambda item: id(item.policy)):
            outcomes += self._same_policy(list(group))
        return outcomes

    def _same_policy(self, group: list[Embedded]) -> Sequence[Outcome]:
        """A job's judgement depends on no other job, so where one makes the group fail each is judged alone."""
        try:
            events = self._events(group)
        except (AssayError, MemoryError):
            raise
        except Exception as error:
            if len(group) == 1:
                return self._without_candidate(group[0], error)
            _log.warning("judged_alone", jobs=len(group), error=repr(error), exc_info=error)
            return [outcome for item in group for outcome in self._same_policy([item])]
        judged = [self._judged(item, event) for item, event in zip(group, events, strict=True)]
        self._trace(group)
        return judged

    def _without_candidate(self, item: Embedded, error: Exception) -> Sequence[Outcome]:
        """A candidate that cannot be judged costs the job nothing: the current engines' verdict is published."""
        if item.rival is None or item.rival.published == "current":
            return [internal_error(item.received, "judge", error)]
        return self._same_policy([published_by_current(item, f"judging: {type(error).__name__}")])

    def _events(self, group: list[Embedded]) -> list[VerdictEvent]:
        """All of it pure, but for the time of day: what raises here raises on what the jobs bring."""
        started_s = time.monotonic()
        judgements = judge([item.evidence for item in group], group[0].policy)
        took_s = time.monotonic() - started_s
        self._meter.stage("judge", took_s)
        judge_ms = took_s * 1e3 / len(group)
        return [self._event(item, found, judge_ms) for item, found in zip(group, judgements, strict=True)]

    def _event(self, item: Embedded, found: Judgement, judge_ms: float) -> VerdictEvent:
        now = datetime.now(UTC)
        return build_event(
            item.evidence,
            found,
            judged_at=now,
            judge_ms=judge_ms,
            total_ms=max(0.0, (now - item.received.job.submitted_at).total_seconds() * 1e3),
            build=self._build,
        )

    def _judged(self, item: Embedded, event: VerdictEvent) -> Judged:
        if self._keep == "all" or (self._keep == "inconclusive" and event.verdict is Verdict.INCONCLUSIVE):
            self._keep_images(item)
        self._meter.judged(event, time.monotonic() - item.received.received_s)
        return Judged(
            record=item.received.record,
            job=item.received.job,
            event=event,
            evidence=item.evidence,
            attempt=item.received.attempt,
            comparison=compared(item, event),
        )

    def _keep_images(self, item: Embedded) -> None:
        """Before the verdict is written: a verdict never names a photograph that was still to be kept."""
        for view, data in item.images:
            self._store.put(item.received.job.tenant, view.sha256, data)


def compared(item: Embedded, event: VerdictEvent) -> Comparison | None:
    """Both answers, where a candidate looked as well; None where the current engines' own cannot be judged."""
    rival = item.rival
    if rival is None:
        return None
    other, error = _judged_beside(item)
    published: Reached | None = (event.verdict, event.p_genuine)
    current, candidate = (other, published) if rival.published == "candidate" else (published, other)
    if current is None:
        _log.error("comparison_lost", src=str(item.received.record.source), error=error)
        return None
    verdict, p_genuine = candidate or (None, None)
    return Comparison(
        release=rival.release,
        published=rival.published,
        current_verdict=current[0],
        current_p_genuine=current[1],
        current_ms=rival.current_ms,
        candidate_verdict=verdict,
        candidate_p_genuine=p_genuine,
        candidate_ms=rival.candidate_ms if verdict is not None else None,
        candidate_error=rival.error or error,
    )


def _judged_beside(item: Embedded) -> tuple[Reached | None, str | None]:
    """The verdict that is not published, with its probability; or why there is none."""
    assert item.rival is not None  # noqa: S101 # the caller saw to it
    if item.rival.evidence is None:
        return None, item.rival.error
    try:
        (found,) = judge([item.rival.evidence], item.policy)
    except (AssayError, MemoryError):
        raise
    except Exception as error:
        return None, f"judging: {type(error).__name__}"
    return (found.verdict, found.p_genuine), None
