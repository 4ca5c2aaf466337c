"""From evidence to scores: which views count, what they say, and the fused score, for many jobs at once.

Shared by core.decision, which judges, and core.calibration, which fits on exactly what will be judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.codes import ReasonCode
from schemas.verdict import EngineUse, Reason
from worker.core.evidence import JobEvidence, ViewMatch
from worker.core.fusion import Doubles, Flags, features_of, fuse, is_comparable, view_log_odds, weight_of
from worker.core.policy import (
    POOLED,
    CategoryProfile,
    CellKey,
    Policy,
    ScoreCalibration,
    ViewCalibration,
    ViewRequirement,
)
from worker.core.quality import quality_issues


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One job after scoring. A view counts when `issues` has nothing for it and `log_odds` has its value.

    `score` is NaN where no view counts; `vetoes` names the critical views that capped it.
    """

    evidence: JobEvidence
    profile: CategoryProfile | None
    calibration: ScoreCalibration | None
    issues: Mapping[str, Sequence[Reason]]
    log_odds: Mapping[str, float]
    score: float
    coverage: float
    vetoes: tuple[str, ...]

    @property
    def requirements(self) -> tuple[ViewRequirement, ...]:
        return self.profile.views if self.profile else ()

    @property
    def counted(self) -> tuple[str, ...]:
        """The profile's views that count, in the profile's order."""
        return tuple(r.view for r in self.requirements if r.view in self.log_odds and not self.issues.get(r.view))


def score(evidence: Sequence[JobEvidence], policy: Policy) -> list[Scored]:
    """Score jobs; a job's result depends on no other job."""
    profiles = [policy.profiles.get(job.job.category) for job in evidence]
    calibrations = [applicable(policy.calibrations, job.matches) for job in evidence]
    features = [{match.probe.view: features_of(match) for match in job.matches} for job in evidence]
    log_odds = _log_odds(evidence, calibrations, features)
    issues = [
        _issues(job, profile, calibration, odds, shown)
        for job, profile, calibration, odds, shown in zip(
            evidence, profiles, calibrations, log_odds, features, strict=True
        )
    ]
    return _fused(evidence, profiles, calibrations, log_odds, issues)


def applicable(calibrations: Sequence[ScoreCalibration], matches: Sequence[ViewMatch]) -> ScoreCalibration | None:
    """The first calibration made for exactly the backend, and for all the engines, that these views ran on."""
    return next((c for c in calibrations if covers(c, [match.probe.engine for match in matches])), None)


def covers(calibration: ScoreCalibration, engines: Iterable[EngineUse]) -> bool:
    """Whether it was made for exactly the backend, and for all, of these."""
    used = list(engines)
    return {e.backend for e in used} == {calibration.backend} and {e.digest for e in used} <= calibration.engine_digests


def cell_keys(category: str, view: str, engine: EngineUse) -> tuple[CellKey, CellKey, CellKey]:
    """Where a view's calibration is looked up: its cell, its category, all categories."""
    digest, backend = engine.digest, engine.backend
    return (category, view, digest, backend), (category, POOLED, digest, backend), (POOLED, POOLED, digest, backend)


def references_needed(profile: CategoryProfile, calibration: ScoreCalibration | None) -> int:
    return max(profile.min_references, calibration.min_references if calibration else 0)


def _view_calibration(calibration: ScoreCalibration | None, category: str, match: ViewMatch) -> ViewCalibration | None:
    if calibration is None:
        return None
    keys = cell_keys(category, match.probe.view, match.probe.engine)
    return next((calibration.views[key] for key in keys if key in calibration.views), None)


def _log_odds(
    evidence: Sequence[JobEvidence],
    calibrations: Sequence[ScoreCalibration | None],
    features: Sequence[Mapping[str, Sequence[float]]],
) -> list[dict[str, float]]:
    """By job, log-odds by view, for every view that can be compared and has a calibration."""
    jobs = list(zip(evidence, calibrations, strict=True))
    cells = [_view_calibration(found, job.job.category, match) for job, found in jobs for match in job.matches]
    if not cells:
        return [{} for _ in jobs]
    rows = [shown[match.probe.view] for job, shown in zip(evidence, features, strict=True) for match in job.matches]
    odds = iter(view_log_odds(np.array(rows), cells).tolist())
    by_view = [{match.probe.view: next(odds) for match in job.matches} for job in evidence]
    return [{view: value for view, value in views.items() if math.isfinite(value)} for views in by_view]


def _issues(
    job: JobEvidence,
    profile: CategoryProfile | None,
    calibration: ScoreCalibration | None,
    log_odds: Mapping[str, float],
    features: Mapping[str, Sequence[float]],
) -> dict[str, list[Reason]]:
    if profile is None:
        return {}
    needed = references_needed(profile, calibration)
    found = quality_issues(job.matches, profile.limits_of)
    for match in job.matches:
        reason = _reference_issue(match, needed) or _score_issue(
            match, calibration, log_odds, features[match.probe.view]
        )
        if reason is not None:
            found[match.probe.view].append(reason)
    return found


def _reference_issue(match: ViewMatch, needed: int) -> Reason | None:
    view = match.probe.view
    if match.similarity is None:
        detail = f"no reference of {view} is enrolled for this item in space {match.probe.engine.embedding_space[:12]}"
        return Reason(code=ReasonCode.NO_REFERENCES, view=view, detail=detail)
    count = match.reference_count or len(match.references)
    if count >= needed:
        return None
    detail = f"{count} references of {view} are enrolled, {needed} are needed"
    return Reason(code=ReasonCode.TOO_FEW_REFERENCES, view=view, detail=detail)


def _score_issue(
    match: ViewMatch,
    calibration: ScoreCalibration | None,
    log_odds: Mapping[str, float],
    features: Sequence[float],
) -> Reason | None:
    view = match.probe.view
    if not is_comparable(features):
        detail = f"{view} could not be compared: similarity {match.similarity}, deviation {match.deviation}"
        return Reason(code=ReasonCode.UNUSABLE_SCORE, view=view, detail=detail)
    if calibration is None or view in log_odds:
        return None
    detail = f"calibration {calibration.calibration_id} holds nothing for {view}"
    return Reason(code=ReasonCode.NO_CALIBRATION, view=view, detail=detail)


def _fused(
    evidence: Sequence[JobEvidence],
    profiles: Sequence[CategoryProfile | None],
    calibrations: Sequence[ScoreCalibration | None],
    log_odds: Sequence[Mapping[str, float]],
    issues: Sequence[Mapping[str, Sequence[Reason]]],
) -> list[Scored]:
    odds, weights, critical = _arrays(profiles, log_odds, issues)
    fused = fuse(odds, weights, critical)
    columns = [[r.view for r in profile.views] if profile else [] for profile in profiles]
    return [
        Scored(
            evidence=job,
            profile=profiles[row],
            calibration=calibrations[row],
            issues=issues[row],
            log_odds=log_odds[row],
            score=float(fused.scores[row]),
            coverage=float(fused.coverage[row]),
            vetoes=tuple(view for column, view in enumerate(columns[row]) if fused.vetoed[row, column]),
        )
        for row, job in enumerate(evidence)
    ]


def _arrays(
    profiles: Sequence[CategoryProfile | None],
    log_odds: Sequence[Mapping[str, float]],
    issues: Sequence[Mapping[str, Sequence[Reason]]],
) -> tuple[Doubles, Doubles, Flags]:
    """`log_odds`, `weights` and `critical` [j, v], a column a view in the profile's order, for fusion.fuse."""
    shape = (len(profiles), max((len(p.views) for p in profiles if p), default=0))
    odds, weights, critical = np.full(shape, np.nan), np.zeros(shape), np.zeros(shape, np.bool_)
    for row, profile in enumerate(profiles):
        for column, requirement in enumerate(profile.views if profile else ()):
            weights[row, column] = weight_of(requirement)
            critical[row, column] = requirement.critical
            if not issues[row].get(requirement.view):
                odds[row, column] = log_odds[row].get(requirement.view, np.nan)
    return odds, weights, critical
