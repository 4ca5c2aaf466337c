"""From outcomes to the figures of docs/measurements/verdicts.json: counts, rates and areas, each with its interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from demo.evaluate.degraded import DEGRADATIONS, ROLE_CODES
from demo.evaluate.outcomes import ASIDE, Outcome, replayed
from demo.evaluate.photographs import mask_of, touched
from demo.evaluate.plan import HEADLINE
from demo.evaluate.statistics import (
    Doubles,
    Estimate,
    Flags,
    Pointed,
    auc_estimate,
    permuted_auc,
    pointed,
    rate_estimate,
)
from demo.goods import FAMILIES
from demo.unseen import UNSEEN_FAMILIES
from engines.ranking import roc
from schemas.codes import ReasonCode, Verdict
from schemas.verdict import Grid
from worker.core.calibration_report import wilson_interval
from worker.core.policy import CategoryProfile, ScoreCalibration

Figures = dict[str, object]
V = TypeVar("V")
K = TypeVar("K", str, float, tuple[str, float])
BUDGETS = ((0.05, 0.05), (0.05, 0.02), (0.01, 0.02))
CURVE_POINTS = 120
DIGITS = 4


def rounded(value: float) -> float | None:
    return round(value, DIGITS) if math.isfinite(value) else None


def told(found: Estimate) -> Figures:
    return {"value": rounded(found.value), "low": rounded(found.low), "high": rounded(found.high), "n": found.n}


def share(hits: int, of: int) -> Figures:
    """A rate with its Wilson interval."""
    low, high = wilson_interval(hits, of)
    return {
        "hits": hits,
        "n": of,
        "rate": rounded(hits / of) if of else None,
        "low": rounded(low),
        "high": rounded(high),
    }


def areas(taken: Sequence[Outcome]) -> Figures:
    """ROC of genuine against forged jobs by strength: all seen families, each of them, each category, and the curve."""
    genuine = [one for one in taken if one.genuine]
    strengths = sorted({one.strength for one in taken if not one.genuine}, reverse=True)
    return {
        f"{strength:g}": _areas_at(genuine, [one for one in taken if not one.genuine and one.strength == strength])
        for strength in strengths
    }


def _areas_at(genuine: Sequence[Outcome], forged: Sequence[Outcome]) -> Figures:
    seen, unseen = _parted(forged)
    return {
        "seen_families": told(_area(genuine, seen)),
        "unseen_families": told(_area(genuine, unseen)) if unseen else None,
        "families": {name: told(_area(genuine, own)) for name, own in _groups(forged, lambda one: one.family)},
        "categories": {
            name: told(_area([one for one in genuine if one.category == name], own))
            for name, own in _groups(forged, lambda one: one.category)
        },
        "unscored": sum(not math.isfinite(one.score) for one in (*genuine, *forged)),
        "curve": _curve([*genuine, *seen]),
        "curve_of_unseen_families": _curve([*genuine, *unseen]) if unseen else None,
    }


def _parted(found: Iterable[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Forged jobs of the families that training and calibration drew from, and those of the others."""
    forged = [one for one in found if not one.genuine]
    unseen = [one for one in forged if one.family in UNSEEN_FAMILIES]
    return [one for one in forged if one.family not in UNSEEN_FAMILIES], unseen


def _area(genuine: Sequence[Outcome], forged: Sequence[Outcome]) -> Estimate:
    scores, positive, skus = _scored([*genuine, *forged])
    return auc_estimate(scores, positive, skus)


def _scored(found: Sequence[Outcome]) -> tuple[Doubles, Flags, NDArray[np.intp]]:
    """Scores, whether genuine, and SKUs of the jobs that have a score."""
    known = [one for one in found if math.isfinite(one.score)]
    return (
        np.array([one.score for one in known], np.float64),
        np.array([one.genuine for one in known], np.bool_),
        np.array([one.sku for one in known], np.intp),
    )


def _curve(found: Sequence[Outcome]) -> list[list[float]]:
    """At most so many points of the ROC: false positive rate, true positive rate."""
    scores, positive, _ = _scored(found)
    false, true = roc(scores, positive)
    rows = np.unique(np.linspace(0, len(false) - 1, CURVE_POINTS).round().astype(int))
    return [[round(float(false[row]), DIGITS), round(float(true[row]), DIGITS)] for row in rows]


def coverage(
    taken: Sequence[Outcome], calibration: ScoreCalibration, profiles: Mapping[str, CategoryProfile]
) -> list[Figures]:
    """Error rates of the headline's jobs at several pairs of budgets, from the same scores. Budgets speak of forgeries
    of seen families; those of the others stand beside, under `unseen_families`."""
    headline = [one for one in taken if one.genuine or one.strength == HEADLINE]
    return [_coverage_at(headline, calibration, profiles, accept, reject) for accept, reject in BUDGETS]


def _coverage_at(
    found: Sequence[Outcome],
    calibration: ScoreCalibration,
    profiles: Mapping[str, CategoryProfile],
    accept: float,
    reject: float,
) -> Figures:
    said = [
        (one, replayed(one, calibration, profiles[one.category], alpha_accept=accept, alpha_reject=reject))
        for one in found
    ]
    categories = sorted({one.category for one in found})
    own = {name: [pair for pair in said if pair[0].category == name] for name in categories}
    return {
        "alpha_accept": accept,
        "alpha_reject": reject,
        **_errors(said),
        "categories": {name: _errors(pairs) for name, pairs in own.items()},
    }


def _errors(said: Sequence[tuple[Outcome, Verdict]]) -> Figures:
    genuine = [verdict for one, verdict in said if one.genuine]
    seen = [verdict for one, verdict in said if not one.genuine and one.family not in UNSEEN_FAMILIES]
    unseen = [verdict for one, verdict in said if not one.genuine and one.family in UNSEEN_FAMILIES]
    return {
        **_of_forged(seen),
        "genuine_called_counterfeit": share(genuine.count(Verdict.COUNTERFEIT), len(genuine)),
        "genuine_inconclusive": share(genuine.count(Verdict.INCONCLUSIVE), len(genuine)),
        "unseen_families": _of_forged(unseen) if unseen else None,
    }


def _of_forged(said: Sequence[Verdict]) -> Figures:
    return {
        "forged_called_authentic": share(said.count(Verdict.AUTHENTIC), len(said)),
        "forged_inconclusive": share(said.count(Verdict.INCONCLUSIVE), len(said)),
    }


def agreement(
    taken: Sequence[Outcome], calibration: ScoreCalibration, profiles: Mapping[str, CategoryProfile]
) -> Figures:
    """How many of the worker's own verdicts the replay at the profile's budgets repeats: all, or a figure is wrong."""
    same = [
        one.verdict
        is replayed(
            one,
            calibration,
            profiles[one.category],
            alpha_accept=profiles[one.category].alpha_accept,
            alpha_reject=profiles[one.category].alpha_reject,
        )
        for one in taken
    ]
    return {"same": sum(same), "n": len(same)}


def confusion(taken: Sequence[Outcome]) -> list[Figures]:
    """The worker's own verdicts, genuine and by family and strength."""
    rows = [_said("genuine", None, [one for one in taken if one.genuine])]
    forged = [one for one in taken if not one.genuine]
    for (name, strength), own in _groups(forged, lambda one: (one.family, one.strength)):
        rows.append(_said(name, strength, own))
    return rows


def _said(kind: str, strength: float | None, found: Sequence[Outcome]) -> Figures:
    counted = Counter(one.verdict for one in found)
    first = Counter(one.judged.event.reasons[0].code.value for one in found if one.verdict is Verdict.INCONCLUSIVE)
    return {
        "kind": kind,
        "strength": strength,
        "n": len(found),
        **{verdict.value: counted[verdict] for verdict in Verdict},
        "wrong": share(sum(one.wrong for one in found), len(found)),
        "inconclusive_because": dict(sorted(first.items())),
    }


def reliability(taken: Sequence[Outcome], *, bins: int = 10) -> list[Figures]:
    """Stated probability of genuine beside the share that is: the headline's jobs of seen families and as many genuine
    ones, the first of the plan."""
    seen, _ = _parted(one for one in taken if one.strength == HEADLINE)
    genuine = [one for one in taken if one.genuine][: len(seen)]
    rows = [one for one in (*genuine, *seen) if _p(one) is not None]
    found = []
    for number in range(bins):
        own = [one for one in rows if min(int((_p(one) or 0.0) * bins), bins - 1) == number]
        if own:
            mean = sum(_p(one) or 0.0 for one in own) / len(own)
            found.append({"stated": rounded(mean), **share(sum(one.genuine for one in own), len(own))})
    return found


def _p(one: Outcome) -> float | None:
    return one.judged.event.p_genuine


def pointing(taken: Sequence[Outcome], folder: Path) -> Figures:
    """Where the deviation map's peak lies, for local families, beside a random cell's chance."""
    found = [
        (one, view, hit)
        for one in taken
        if not one.genuine and FAMILIES[one.family].local
        for view in touched(one.judged.case.specimen)
        if (hit := _pointed(one, view, folder)) is not None
    ]
    headline = [entry for entry in found if entry[0].strength == HEADLINE]
    return {
        "all": _hits(headline),
        "families": {name: _hits(own) for name, own in _groups(headline, lambda entry: entry[0].family)},
        "views": {name: _hits(own) for name, own in _groups(headline, lambda entry: entry[1])},
        "strengths": {f"{name:g}": _hits(own) for name, own in _groups(found, lambda entry: entry[0].strength)},
    }


def _pointed(one: Outcome, view: str, folder: Path) -> Pointed | None:
    grid = next(found.deviation_map for found in one.judged.event.views if found.view == view)
    if grid is None:
        return None
    return pointed(cells_of(grid), mask_of(folder, one.judged.case.specimen, view))


def cells_of(grid: Grid) -> NDArray[np.uint8]:
    return np.frombuffer(grid.cells, np.uint8).reshape(grid.height, grid.width)


def _hits(found: Sequence[tuple[Outcome, str, Pointed]]) -> Figures:
    skus = np.array([one.sku for one, _, _ in found], np.intp)
    hit = rate_estimate(np.array([entry.hit for _, _, entry in found], np.float64), skus)
    return {**told(hit), "chance": rounded(float(np.mean([entry.chance for _, _, entry in found])))}


def gate(everything: Sequence[Outcome]) -> Figures:
    """What the quality gate says of bad photographs, and of all that are not."""
    spoilt = [one for one in everything if one.judged.case.spoilt]
    codes = {name: found.code for name, found in DEGRADATIONS.items()} | dict(ROLE_CODES)
    return {
        "degraded": {
            name: _noticed(own, codes[name]) for name, own in _groups(spoilt, lambda one: one.judged.case.spoilt)
        },
        "as_taken": _false_alarms([one for one in everything if not one.judged.case.spoilt and one.genuine]),
    }


def _noticed(found: Sequence[Outcome], code: ReasonCode | None) -> Figures:
    genuine, forged = ([one for one in found if one.genuine is wanted] for wanted in (True, False))
    return {
        "code": code.value if code else None,
        "noticed": share(sum(code in _of_view(one) for one in found), len(found)) if code else None,
        "any_reason_of_the_gate": share(sum(bool(_of_view(one)) for one in found), len(found)),
        "inconclusive": share(sum(one.verdict is Verdict.INCONCLUSIVE for one in found), len(found)),
        "genuine_called_counterfeit": share(sum(one.wrong for one in genuine), len(genuine)),
        "forged_called_authentic": share(sum(one.wrong for one in forged), len(forged)),
    }


def _of_view(one: Outcome) -> set[ReasonCode]:
    """The gate's reasons for the view that was spoilt."""
    gated = {*ASIDE, ReasonCode.VIEW_UNUSABLE}
    return {r.code for r in one.judged.event.reasons if r.view == one.judged.case.view and r.code in gated}


def _false_alarms(found: Sequence[Outcome]) -> Figures:
    """A photograph: of all views of genuine jobs as taken; a job: any reason, also of a photograph used before."""
    gated = sorted({*ASIDE, ReasonCode.VIEW_UNUSABLE, ReasonCode.IMAGE_REUSED})
    alarms = [(r.code, r.view) for one in found for r in one.judged.event.reasons if r.code in gated]
    photographs = sum(len(one.judged.event.views) for one in found)
    by_code = Counter(code for code, _ in alarms)
    return {
        "photographs": {code.value: share(by_code[code], photographs) for code in gated},
        "jobs": share(sum(one.blocked for one in found), len(found)),
    }


def shuffled(taken: Sequence[Outcome]) -> Figures:
    scores, positive, _ = _scored([one for one in taken if one.genuine or one.strength == HEADLINE])
    return told(permuted_auc(scores, positive))


def _groups(found: Iterable[V], key: Callable[[V], K]) -> list[tuple[K, list[V]]]:
    """In the order of the keys."""
    groups: dict[K, list[V]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    return [(name, groups[name]) for name in sorted(groups)]
