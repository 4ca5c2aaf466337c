"""One judged case as an evaluation counts it: its truth, its verdict, and the fused score behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from demo.evaluate.run import Judged
from schemas.codes import ReasonCode, Verdict
from schemas.verdict import VerdictEvent
from worker.core.decision import thresholds
from worker.core.fusion import fuse, weight_of
from worker.core.policy import CategoryProfile, ScoreCalibration

# What the decision itself says when it does not decide; any other first reason kept the job from being decided.
UNDECIDED = {
    ReasonCode.AMBIGUOUS,
    ReasonCode.UNLIKE_ANYTHING_KNOWN,
    ReasonCode.SCORE_NEAR_THRESHOLD,
    ReasonCode.TOO_FEW_CALIBRATION_SAMPLES,
}
# Reasons that take a view out of the score.
ASIDE = {
    ReasonCode.VIEW_BLURRED,
    ReasonCode.VIEW_BADLY_EXPOSED,
    ReasonCode.VIEW_GLARE,
    ReasonCode.VIEW_WRONG_ROLE,
    ReasonCode.VIEW_MISFRAMED,
    ReasonCode.VIEW_OF_OTHER_ITEM,
    ReasonCode.DUPLICATE_PHOTOGRAPH,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`score` is the fused score (log-odds at even priors), NaN where no view counted; `blocked` says that something
    stood in the way of a decision."""

    judged: Judged
    score: float
    blocked: bool

    @property
    def genuine(self) -> bool:
        return self.judged.case.genuine

    @property
    def family(self) -> str:
        return self.judged.case.specimen.family or ""

    @property
    def strength(self) -> float:
        return self.judged.case.specimen.strength

    @property
    def category(self) -> str:
        return self.judged.case.specimen.sku.category

    @property
    def sku(self) -> int:
        return self.judged.case.specimen.sku.seed

    @property
    def verdict(self) -> Verdict:
        return self.judged.event.verdict

    @property
    def wrong(self) -> bool:
        """Decided, and against the truth."""
        return self.verdict is (Verdict.COUNTERFEIT if self.genuine else Verdict.AUTHENTIC)


def outcomes(judged: Sequence[Judged], profiles: Mapping[str, CategoryProfile]) -> list[Outcome]:
    return [
        Outcome(judged=one, score=_score(one.event, profiles[one.event.category]), blocked=_blocked(one.event))
        for one in judged
    ]


def replayed(
    outcome: Outcome,
    calibration: ScoreCalibration,
    profile: CategoryProfile,
    *,
    alpha_accept: float,
    alpha_reject: float,
) -> Verdict:
    """What the worker would say at other error budgets: the same score against the same calibration items."""
    limits = thresholds(calibration, replace(profile, alpha_accept=alpha_accept, alpha_reject=alpha_reject))
    if outcome.blocked or limits is None or not math.isfinite(outcome.score):
        return Verdict.INCONCLUSIVE
    nearby = (outcome.score, outcome.score - calibration.jitter, outcome.score + calibration.jitter)
    kept = {limits.kept(score) for score in nearby}
    only = next(iter(kept)) if len(kept) == 1 else frozenset[Verdict]()
    return next(iter(only)) if len(only) == 1 else Verdict.INCONCLUSIVE


def _blocked(event: VerdictEvent) -> bool:
    return event.verdict is Verdict.INCONCLUSIVE and event.reasons[0].code not in UNDECIDED


def _score(event: VerdictEvent, profile: CategoryProfile) -> float:
    """The views' published probabilities, fused as the judge fused them."""
    aside = {reason.view for reason in event.reasons if reason.code in ASIDE}
    given = {view.view: view.p_genuine for view in event.views if view.p_genuine is not None and view.view not in aside}
    odds = [_log_odds(given[r.view], profile.prior_genuine) if r.view in given else math.nan for r in profile.views]
    weights = np.array([[weight_of(requirement) for requirement in profile.views]])
    critical = np.array([[requirement.critical for requirement in profile.views]])
    return float(fuse(np.array([odds]), weights, critical).scores[0])


def _log_odds(p: float, prior: float) -> float:
    """At even priors, from a probability at the category's prior."""
    inside = min(max(p, 1e-12), 1 - 1e-12)
    return math.log(inside / (1 - inside)) - math.log(prior / (1 - prior))
