"""What a verdict can be decided again from: what it stored, its kept photographs, or neither. Pure.

A job is decided again as a whole. One engine for all its views is what score calibrations are made for, and a verdict
is not to be replaced by one that saw less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from schemas.job import AuthenticationJob, JobView, kept_uri, probe_uri
from schemas.job_codec import checked_job
from schemas.verdict import EngineUse
from worker.core.policy import ScoreCalibration
from worker.core.scoring import covers

SpaceNow = Callable[[str, str], str]  # (category, view) -> the embedding space that serves it
Holds = Callable[[str, str], bool]  # (tenant, sha256) -> whether the photograph is kept
From = Literal["stored", "photographs"]
# What senders say of photographs where they say anything, for verdicts of builds that did not write it down.
MEDIA_TYPES = (None, "image/jpeg", "image/png", "image/webp")


class OutOfReach(StrEnum):
    """Why a verdict cannot be decided again."""

    PHOTOGRAPHS_GONE = "photographs_gone"  # not kept, or no longer, and what is stored does not do
    CONTENT_UNKNOWN = "content_unknown"  # an older build did not keep all that the job said


@dataclass(frozen=True, slots=True, kw_only=True)
class PastView:
    """A view of a verdict. `spaces`: where its embedding is stored. `encoder` is None where it could not be used."""

    view: str
    sha256: str
    usable: bool
    encoder: str | None
    media_type: str | None
    spaces: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PastVerdict:
    """A job's latest verdict. `one_look`: all its verdicts are of the same engines, so what is stored is theirs."""

    tenant: str
    job_id: str
    result_id: UUID
    revision: int
    sku: str
    category: str
    verdict: str
    p_genuine: float | None
    judged_at: datetime
    submitted_at: datetime
    serial: str | None
    labels: Mapping[str, str]
    payload_digest: str
    engines: tuple[EngineUse, ...]
    one_look: bool
    views: tuple[PastView, ...]

    def engine_of(self, view: PastView) -> EngineUse | None:
        return next((engine for engine in self.engines if engine.name == view.encoder), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A verdict that can be decided again, and the job that asks for it."""

    past: PastVerdict
    job: AuthenticationJob
    decided_from: From


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreached:
    """`views`: those whose photographs are gone."""

    past: PastVerdict
    why: OutOfReach
    views: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What is there to decide with. `rerun`: from photographs alone, where the engine itself is in doubt."""

    space_now: SpaceNow
    calibrations: Sequence[ScoreCalibration]
    holds: Holds
    rerun: bool = False


def plan(past: PastVerdict, means: Means) -> Again | Unreached:
    """Stored evidence where the engines of today share its space, else the photographs."""
    stored = not means.rerun and decidable_as_stored(past, means)
    gone = () if stored else _gone(past, means.holds)
    if gone:
        return Unreached(past=past, why=OutOfReach.PHOTOGRAPHS_GONE, views=gone)
    job = _job_again(past, _from_stored(past) if stored else _from_photographs(past))
    if job is None:
        return Unreached(past=past, why=OutOfReach.CONTENT_UNKNOWN)
    return Again(past=past, job=job, decided_from="stored" if stored else "photographs")


def decidable_as_stored(past: PastVerdict, means: Means) -> bool:
    """Every usable view has a probe in the space that serves it now, by an engine that has a score calibration."""
    usable = [view for view in past.views if view.usable]
    engines = [past.engine_of(view) for view in usable]
    known = [engine for engine in engines if engine is not None]
    if not past.one_look or not known or len(known) < len(usable):
        return False
    spaces = [means.space_now(past.category, view.view) for view in usable]
    same = all(e.embedding_space == now for e, now in zip(known, spaces, strict=True))
    probed = all(now in view.spaces for view, now in zip(usable, spaces, strict=True))
    return same and probed and any(covers(calibration, known) for calibration in means.calibrations)


def _gone(past: PastVerdict, holds: Holds) -> tuple[str, ...]:
    return tuple(view.view for view in past.views if view.usable and not holds(past.tenant, view.sha256))


def _from_stored(past: PastVerdict) -> dict[str, str]:
    engines = {view.view: past.engine_of(view) for view in past.views}
    return {view: probe_uri(engine.embedding_space if engine else "none") for view, engine in engines.items()}


def _from_photographs(past: PastVerdict) -> dict[str, str]:
    """A view that could not be used is as it was: its photograph was never kept, or is no better now."""
    return {v.view: kept_uri(v.sha256) if v.usable else probe_uri("none") for v in past.views}


def _job_again(past: PastVerdict, uris: Mapping[str, str]) -> AuthenticationJob | None:
    """The job with the content that was judged; None where its digest cannot be had from what was written down."""
    for media_types in _media_types(past.views):
        job = checked_job(
            job_id=past.job_id,
            tenant=past.tenant,
            sku=past.sku,
            category=past.category,
            submitted_at=past.submitted_at,
            priority="bulk",
            serial=past.serial,
            labels=past.labels,
            views=[
                JobView(view=v.view, sha256=v.sha256, uri=uris[v.view], media_type=media_type)
                for v, media_type in zip(past.views, media_types, strict=True)
            ],
            supersedes=past.revision,
        )
        if job.payload_digest == past.payload_digest:
            return job
    return None


def _media_types(views: Sequence[PastView]) -> Iterable[tuple[str | None, ...]]:
    """As written down first; then each that all photographs may have had."""
    yield tuple(view.media_type for view in views)
    yield from ((media_type,) * len(views) for media_type in MEDIA_TYPES)
