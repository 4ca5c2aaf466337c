"""Score calibration: from labelled items to what turns a job's evidence into a verdict (DESIGN section 6, "Decide").

Items are split by specimen: one part fits the views' logistic maps, the other gives the conformal scores and the line
of the posterior, so that neither saw the other. Below 50 items a cell is pooled to its category, then to all; the level
is recorded. What is fitted is scored by core.scoring, exactly as jobs are.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worker.core.baseline import baselines_of
from worker.core.calibration_report import CalibrationReport, judge_held_out, measure
from worker.core.evidence import JobEvidence, ViewMatch
from worker.core.fusion import NEEDED_FEATURES, comparable, features_of
from worker.core.grounds import blocking, copies
from worker.core.labelled import LabelledEvidence
from worker.core.logistic import fit_logistic
from worker.core.policy import (
    POOLED,
    CategoryProfile,
    CellKey,
    Policy,
    Posterior,
    ScoreCalibration,
    ViewCalibration,
)
from worker.core.policy_json import content_id, from_json, to_json
from worker.core.scoring import cell_keys, score

POOL_BELOW_ITEMS = 50
VIEW_SHARE = 0.4  # of the specimens fit the views; the conformal part needs more, since its n bounds the budgets
RIDGE = 1.0
FOLDS = 5
LEVELS = ("cell", "category", "global")

Examples = list[tuple[tuple[float, ...], bool]]
Scores = dict[str, NDArray[np.float64]]


class CalibrationRefused(ValueError):
    """The labelled items cannot be calibrated on; the message names the counts and the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conformal:
    genuine: Scores
    counterfeit: Scores
    levels: dict[str, str]
    posteriors: dict[str, Posterior]


def fit(
    labelled: Sequence[LabelledEvidence],
    profiles: Mapping[str, CategoryProfile],
    *,
    seed: int,
    jitter: float = 0.0,
) -> tuple[ScoreCalibration, CalibrationReport]:
    """Fit the score calibration of the engines that the evidence ran on, and measure it on items held out.

    Deterministic in the items (not their order) and `seed`. `jitter` is the measured spread of a fused score over
    batch neighbours. A class with fewer items than its error budget needs is never rejected: its jobs stay
    inconclusive, and the report says the n that is needed. Raises CalibrationRefused.
    """
    items = sorted(labelled, key=_order)
    _check(items, profiles)
    fresh = [item for item in items if not copies(item.evidence)]  # a reference says nothing of other photographs
    for_views, for_scores = _split(fresh, seed)
    draft = _draft(items, for_views, jitter)
    decided = _decidable(for_scores, profiles, draft)
    if {item.genuine for item, _ in decided} != {True, False}:
        raise CalibrationRefused(_refusal(for_scores, decided, copied=len(items) - len(fresh)))
    judged = judge_held_out(_held_out(for_scores, decided, profiles, draft, seed))
    calibration = _named(replace(_with_scores(draft, decided), baselines=baselines_of(judged)))
    return calibration, measure(for_scores, calibration, judged, profiles)


def _order(item: LabelledEvidence) -> tuple[str, ...]:
    return (*_specimen(item), item.evidence.job.job_id)


def _specimen(item: LabelledEvidence) -> tuple[str, str, str]:
    """What must not stand on both sides of a split: the physical item, else the job."""
    job = item.evidence.job
    return job.tenant, job.sku, job.subject or job.job_id


def _check(items: Sequence[LabelledEvidence], profiles: Mapping[str, CategoryProfile]) -> None:
    genuine = sum(item.genuine for item in items)
    if not 0 < genuine < len(items):
        fakes = len(items) - genuine
        raise CalibrationRefused(f"both classes are needed: {genuine} genuine and {fakes} counterfeit items were given")
    backends = sorted({match.probe.engine.backend for item in items for match in item.evidence.matches})
    if len(backends) > 1:
        raise CalibrationRefused(f"one backend at a time: these items ran on {', '.join(backends)}")
    unknown = sorted({item.evidence.job.category for item in items} - set(profiles))
    if unknown:
        raise CalibrationRefused(f"no profile for category {', '.join(unknown)}: put one before calibrating")
    _check_labels(items)


def _check_labels(items: Sequence[LabelledEvidence]) -> None:
    labels: dict[frozenset[str], bool] = {}
    for item in items:
        photographs = frozenset(match.probe.sha256 for match in item.evidence.matches)
        if photographs and labels.setdefault(photographs, item.genuine) != item.genuine:
            name = item.evidence.job.job_id
            raise CalibrationRefused(f"the photographs of item {name} are labelled genuine and counterfeit")


def _split(items: Sequence[LabelledEvidence], seed: int) -> tuple[list[LabelledEvidence], list[LabelledEvidence]]:
    """Part the specimens of each category and class by a hash: the same specimens part the same way every time."""
    specimens: dict[tuple[str, bool], set[tuple[str, str, str]]] = defaultdict(set)
    for item in items:
        specimens[item.evidence.job.category, item.genuine].add(_specimen(item))
    chosen = set()
    for names in specimens.values():
        ranked = sorted(names, key=lambda name: _hash(seed, *name))
        chosen |= set(ranked[: round(VIEW_SHARE * len(ranked))])
    return [i for i in items if _specimen(i) in chosen], [i for i in items if _specimen(i) not in chosen]


def _hash(seed: int, *names: str) -> int:
    return int.from_bytes(hashlib.sha256("\x00".join([str(seed), *names]).encode()).digest()[:8], "big")


def _draft(items: Sequence[LabelledEvidence], for_views: Sequence[LabelledEvidence], jitter: float) -> ScoreCalibration:
    """A calibration with its views fitted and no scores yet."""
    engines = {match.probe.engine for item in items for match in item.evidence.matches}
    compared = [len(match.references) for item in for_views for match in item.evidence.matches if match.references]
    return ScoreCalibration(
        calibration_id="draft",
        backend=next((engine.backend for engine in engines), ""),
        engine_digests=frozenset(engine.digest for engine in engines),
        views=_fit_views(for_views),
        genuine_scores={},
        counterfeit_scores={},
        min_references=min(compared, default=0),
        jitter=jitter,
    )


def _fit_views(items: Iterable[LabelledEvidence]) -> dict[CellKey, ViewCalibration]:
    """One logistic map a cell with enough items, and those of its category and of all cells to fall back to."""
    examples: dict[tuple[str, CellKey], Examples] = defaultdict(list)
    for item in items:
        for match in item.evidence.matches:
            for level, key in zip(LEVELS, _keys(item.evidence, match), strict=True):
                examples[level, key].append((features_of(match), item.shows_genuine(match.probe.view)))
    fitted = {key: _fit_view(level, found) for (level, key), found in examples.items()}
    return {key: view for key, view in fitted.items() if view is not None}


def _keys(evidence: JobEvidence, match: ViewMatch) -> tuple[CellKey, CellKey, CellKey]:
    return cell_keys(evidence.job.category, match.probe.view, match.probe.engine)


def _fit_view(level: str, examples: Examples) -> ViewCalibration | None:
    features = np.array([values for values, _ in examples])
    usable = comparable(features)
    features, labels = features[usable], np.array([genuine for _, genuine in examples])[usable]
    too_few = level != LEVELS[-1] and len(labels) < POOL_BELOW_ITEMS
    if too_few or not 0 < labels.sum() < len(labels):
        return None
    mean, scale = _moments(features)
    standard = (features - mean) / scale
    standard[:, NEEDED_FEATURES:] = np.nan_to_num(standard[:, NEEDED_FEATURES:], nan=0.0)
    line = fit_logistic(standard, labels, ridge=RIDGE)
    return ViewCalibration(weights=line.weights, bias=line.bias, mean=mean, scale=scale, n=len(labels), level=level)


def _moments(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the finite values of each feature; 0 and 1 where there is nothing to scale by."""
    known = np.isfinite(features)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, features, 0.0).sum(axis=0) / count
    deviation = np.sqrt(np.where(known, np.square(features - mean), 0.0).sum(axis=0) / count)
    return mean, np.where(deviation > 1e-9, deviation, 1.0)


def _decidable(
    items: Sequence[LabelledEvidence], profiles: Mapping[str, CategoryProfile], draft: ScoreCalibration
) -> list[tuple[LabelledEvidence, float]]:
    """Items that nothing blocks, with their fused scores: those that are exchangeable with the jobs to be decided."""
    scored = score([item.evidence for item in items], Policy(profiles=profiles, calibrations=(draft,)))
    return [(item, found.score) for item, found in zip(items, scored, strict=True) if not blocking(found)]


def _refusal(
    items: Sequence[LabelledEvidence], decided: Sequence[tuple[LabelledEvidence, float]], *, copied: int
) -> str:
    genuine = sum(item.genuine for item, _ in decided)
    counts = f"{genuine} genuine and {len(decided) - genuine} counterfeit"
    left_out = f" ({copied} more are photographs of references)" if copied else ""
    return (
        f"of {len(items)} items kept for the scores{left_out} only {counts} can be scored: enrol references, add items"
    )


def _with_scores(draft: ScoreCalibration, decided: Sequence[tuple[LabelledEvidence, float]]) -> ScoreCalibration:
    scores = _conformal(decided)
    return replace(
        draft,
        genuine_scores=scores.genuine,
        counterfeit_scores=scores.counterfeit,
        levels=scores.levels,
        posteriors=scores.posteriors,
    )


def _named(calibration: ScoreCalibration) -> ScoreCalibration:
    return replace(calibration, calibration_id=content_id(calibration))


def _conformal(decided: Sequence[tuple[LabelledEvidence, float]]) -> _Conformal:
    """Scores by category where both classes have enough items, and pooled over all categories."""
    found = _Conformal(genuine={}, counterfeit={}, levels={}, posteriors={})
    categories = sorted({item.evidence.job.category for item, _ in decided})
    for key in (*categories, POOLED):
        own = [(item, value) for item, value in decided if key in (POOLED, item.evidence.job.category)]
        genuine = np.sort([value for item, value in own if item.genuine]).astype(np.float64)
        fakes = np.sort([value for item, value in own if not item.genuine]).astype(np.float64)
        enough = min(len(genuine), len(fakes)) >= POOL_BELOW_ITEMS
        if key != POOLED:
            found.levels[key] = "category" if enough else "global"
        if enough or key == POOLED:
            found.genuine[key], found.counterfeit[key] = genuine, fakes
            found.posteriors[key] = _posterior(genuine, fakes)
    return found


def _posterior(genuine: NDArray[np.float64], fakes: NDArray[np.float64]) -> Posterior:
    """Platt's line on the fused score at even priors, bounded by what n items attest to."""
    limit = math.log(min(len(genuine), len(fakes)) + 1)
    if not min(len(genuine), len(fakes)):
        return Posterior(slope=0.0, limit=0.0)
    scores = np.concatenate([genuine, fakes])[:, None]
    labels = np.arange(len(scores)) < len(genuine)
    line = fit_logistic(scores, labels, ridge=RIDGE)
    return Posterior(slope=float(line.weights[0]), intercept=line.bias, limit=limit)


def _held_out(
    items: Sequence[LabelledEvidence],
    decided: Sequence[tuple[LabelledEvidence, float]],
    profiles: Mapping[str, CategoryProfile],
    draft: ScoreCalibration,
    seed: int,
) -> list[tuple[list[LabelledEvidence], Policy]]:
    """Folds of specimens, each with a policy whose scores left that fold out."""
    fold_of = {_specimen(item): _hash(seed + 1, *_specimen(item)) % FOLDS for item in items}
    folds = []
    for fold in range(FOLDS):
        others = [pair for pair in decided if fold_of[_specimen(pair[0])] != fold]
        policy = Policy(profiles=profiles, calibrations=(_with_scores(draft, others),))
        folds.append(([item for item in items if fold_of[_specimen(item)] == fold], policy))
    return folds


__all__ = ["CalibrationRefused", "CalibrationReport", "LabelledEvidence", "fit", "from_json", "to_json"]
