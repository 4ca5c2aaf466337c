"""The verdict: three ways, by class-conditional split conformal prediction, with its reasons (DESIGN section 6).

Whatever stands in the way (no calibration for what ran, too few references, a required view that cannot count, a
photograph used elsewhere) makes the verdict inconclusive, never a guess. Every evidence has a verdict and at least one
reason; nothing raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.codes import ReasonCode, Verdict
from schemas.verdict import Reason
from worker.core.conformal import Thresholds, items_needed
from worker.core.evidence import JobEvidence
from worker.core.grounds import blocking, departing, in_order, missing_views, supporting
from worker.core.policy import POOLED, CategoryProfile, Policy, Posterior, ScoreCalibration
from worker.core.scoring import Scored, score

_PRIOR_MARGIN = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`confidence`: posterior probability of the stated verdict, None when inconclusive. `p_genuine`: posterior of
    genuine at the category's declared prior, None when nothing could be scored; `view_p_genuine`: of one view alone."""

    verdict: Verdict
    confidence: float | None
    p_genuine: float | None
    reasons: tuple[Reason, ...]
    missing_views: tuple[str, ...]
    view_p_genuine: Mapping[str, float]
    calibration_id: str | None


def judge(evidence: Sequence[JobEvidence], policy: Policy) -> list[Judgement]:
    """Judge jobs, in order; a job's judgement depends on no other job."""
    return [_judgement(scored) for scored in score(evidence, policy)]


def thresholds(calibration: ScoreCalibration, profile: CategoryProfile) -> Thresholds | None:
    """The category's conformal scores, else the pooled ones; None where the calibration holds neither."""
    known = profile.category in calibration.genuine_scores and profile.category in calibration.counterfeit_scores
    key = profile.category if known else POOLED
    if key not in calibration.genuine_scores or key not in calibration.counterfeit_scores:
        return None
    return Thresholds(
        genuine=calibration.genuine_scores[key],
        counterfeit=calibration.counterfeit_scores[key],
        alpha_accept=profile.alpha_accept,
        alpha_reject=profile.alpha_reject,
    )


def posterior(log_odds: float, prior_genuine: float) -> float:
    """Probability of genuine from log-odds at even priors and a declared prior (Bayes)."""
    prior = min(max(prior_genuine, _PRIOR_MARGIN), 1 - _PRIOR_MARGIN)
    total = log_odds + math.log(prior / (1 - prior))
    return 1 / (1 + math.exp(-total)) if total >= 0 else math.exp(total) / (1 + math.exp(total))


def job_log_odds(calibration: ScoreCalibration, category: str, fused: float) -> float:
    """Log-odds of genuine at even priors of a fused score: a line fitted on the conformal items, bounded by n."""
    fitted = calibration.posteriors.get(category) or calibration.posteriors.get(POOLED) or Posterior()
    return min(max(fitted.slope * fused + fitted.intercept, -fitted.limit), fitted.limit)


def _judgement(scored: Scored) -> Judgement:
    found = blocking(scored)
    verdict, decisive = (Verdict.INCONCLUSIVE, found) if found else _decide(scored)
    p_genuine = _p_genuine(scored)
    return Judgement(
        verdict=verdict,
        confidence=_confidence(verdict, p_genuine),
        p_genuine=p_genuine,
        reasons=(*in_order(decisive), *_others(decisive, supporting(scored))),
        missing_views=missing_views(scored),
        view_p_genuine=_view_p_genuine(scored),
        calibration_id=scored.calibration.calibration_id if scored.calibration else None,
    )


def _others(decisive: Sequence[Reason], reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    said = {(reason.code, reason.view) for reason in decisive}
    return in_order(reason for reason in reasons if (reason.code, reason.view) not in said)


def _decide(scored: Scored) -> tuple[Verdict, list[Reason]]:
    """Decide a job that nothing blocks: it has a profile, a calibration and a finite score."""
    limits = thresholds(scored.calibration, scored.profile) if scored.calibration and scored.profile else None
    if scored.calibration is None or limits is None:
        detail = f"the calibration holds no scores for category {scored.evidence.job.category}"
        return Verdict.INCONCLUSIVE, [Reason(code=ReasonCode.TOO_FEW_CALIBRATION_SAMPLES, detail=detail)]
    kept = limits.kept(scored.score)
    jitter = scored.calibration.jitter
    if len(kept) == 1 and any(limits.kept(scored.score + shift) != kept for shift in (-jitter, jitter)):
        detail = f"the score {scored.score:.2f} lies within its own jitter of {jitter:.2g} of a threshold"
        return Verdict.INCONCLUSIVE, [Reason(code=ReasonCode.SCORE_NEAR_THRESHOLD, detail=detail)]
    if kept == {Verdict.AUTHENTIC}:
        return Verdict.AUTHENTIC, [_consistent(scored, limits)]
    if kept == {Verdict.COUNTERFEIT}:
        return Verdict.COUNTERFEIT, [_lowest(scored)]
    return Verdict.INCONCLUSIVE, [_undecided(bool(kept), scored, limits)]


def _consistent(scored: Scored, limits: Thresholds) -> Reason:
    p = limits.p_counterfeit(scored.score)
    detail = f"{len(scored.counted)} views are consistent with the enrolled references (p of counterfeit {p:.3g})"
    return Reason(code=ReasonCode.CONSISTENT_WITH_REFERENCES, detail=detail)


def _lowest(scored: Scored) -> Reason:
    return departing(scored, min(scored.counted, key=lambda view: (scored.log_odds[view], view)))


def _undecided(both: bool, scored: Scored, limits: Thresholds) -> Reason:
    values = (
        f"p of genuine {limits.p_genuine(scored.score):.3g}, of counterfeit {limits.p_counterfeit(scored.score):.3g}"
    )
    if not both:
        detail = f"the score {scored.score:.2f} is unlike genuine and counterfeit items of the calibration ({values})"
        return Reason(code=ReasonCode.UNLIKE_ANYTHING_KNOWN, detail=detail)
    if limits.supported:
        return Reason(
            code=ReasonCode.AMBIGUOUS, detail=f"consistent with genuine and with counterfeit items ({values})"
        )
    needed = f"{items_needed(limits.alpha_reject)} genuine and {items_needed(limits.alpha_accept)} counterfeit"
    have = f"{len(limits.genuine)} and {len(limits.counterfeit)}"
    detail = f"the error budgets need {needed} calibration items, there are {have} ({values})"
    return Reason(code=ReasonCode.TOO_FEW_CALIBRATION_SAMPLES, detail=detail)


def _p_genuine(scored: Scored) -> float | None:
    if scored.calibration is None or scored.profile is None or not math.isfinite(scored.score):
        return None
    odds = job_log_odds(scored.calibration, scored.profile.category, scored.score)
    return posterior(odds, scored.profile.prior_genuine)


def _confidence(verdict: Verdict, p_genuine: float | None) -> float | None:
    if p_genuine is None or verdict is Verdict.INCONCLUSIVE:
        return None
    return p_genuine if verdict is Verdict.AUTHENTIC else 1 - p_genuine


def _view_p_genuine(scored: Scored) -> dict[str, float]:
    prior = scored.profile.prior_genuine if scored.profile else 0.5
    return {view: posterior(odds, prior) for view, odds in sorted(scored.log_odds.items())}
