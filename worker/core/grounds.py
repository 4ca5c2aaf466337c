"""The grounds of a verdict: what stops a job from being decided, and what its views show.

Wording is never stronger than 'consistent with'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from schemas.codes import ReasonCode
from schemas.verdict import Reason
from worker.core.evidence import JobEvidence, ReuseHit, ViewMatch
from worker.core.scoring import Scored

DEVIATES_LOG_ODDS = -1.4  # p = 0.2 at even priors
COPY_NEARNESS = 0.45  # recompressed and resized copies of references reach 0.38, other specimens begin at 0.56
DISAGREE_LOG_ODDS = 2.0  # one view above p = 0.88 and another below 0.12

_ORDER = {code: position for position, code in enumerate(ReasonCode)}


def in_order(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Distinct reasons in the order of the codes, then of the views."""
    distinct = {(reason.code, reason.view): reason for reason in reversed(list(reasons))}
    return tuple(sorted(distinct.values(), key=lambda reason: (_ORDER[reason.code], reason.view or "")))


def missing_views(scored: Scored) -> tuple[str, ...]:
    """Required views without a usable photograph."""
    usable = {match.probe.view for match in scored.evidence.matches}
    return tuple(r.view for r in scored.requirements if r.required and r.view not in usable)


def blocking(scored: Scored) -> list[Reason]:
    """Why the job cannot be decided; empty when it can."""
    if scored.profile is None:
        category = scored.evidence.job.category
        return [
            Reason(code=ReasonCode.NO_CATEGORY_PROFILE, detail=f"category {category} has no profile"),
            *_unusable(scored),
        ]
    found = [*_missing(scored), *_reused(scored.evidence), *_no_calibration(scored)]
    if _unknown(scored.evidence.matches):
        return [*found, _no_references(scored.evidence)]
    found += _required_issues(scored)
    if not found and not scored.counted:
        found = [reason for issues in scored.issues.values() for reason in issues]
        found = found or [Reason(code=ReasonCode.UNUSABLE_SCORE, detail="no view of the category's profile counts")]
    return found


def supporting(scored: Scored) -> list[Reason]:
    """What the views show whatever the verdict, and which views did not count."""
    aside = [reason for issues in scored.issues.values() for reason in issues]
    if _unknown(scored.evidence.matches):
        aside = [reason for reason in aside if reason.code is not ReasonCode.NO_REFERENCES]
    shown = [reason for match in scored.evidence.matches for reason in _shown(match, scored)]
    return [*aside, *_unusable(scored), *shown, *_vetoes(scored), *_disagreement(scored)]


def copies(evidence: JobEvidence) -> tuple[ReuseHit, ...]:
    """The hits that stand: same bytes, or near a reference by hash and nearer to the references than those are to each
    other. Two specimens photographed in one pose have hashes as near as two copies, so that a near hash alone is no
    ground, and of another job's photograph there is nothing else to go by."""
    near = {m.probe.view for m in evidence.matches if m.nearness is not None and m.nearness <= COPY_NEARNESS}
    return tuple(hit for hit in evidence.reuse if hit.exact or (hit.kind == "reference" and hit.view in near))


def departing(scored: Scored, view: str) -> Reason:
    """A view that departs from the references, with its values."""
    match = next(match for match in scored.evidence.matches if match.probe.view == view)
    detail = f"similarity {match.similarity:.3f}, deviation {match.deviation:.1f} times the references' own spread"
    return Reason(code=ReasonCode.DEVIATES_FROM_REFERENCES, view=view, detail=detail)


def _missing(scored: Scored) -> list[Reason]:
    detail = "the category requires this view and no usable photograph of it was given"
    return [Reason(code=ReasonCode.MISSING_REQUIRED_VIEW, view=v, detail=detail) for v in missing_views(scored)]


def _reused(evidence: JobEvidence) -> list[Reason]:
    return [
        Reason(
            code=ReasonCode.IMAGE_REUSED,
            view=hit.view,
            detail=f"{'the same' if hit.exact else 'nearly the same'} photograph as {hit.kind} {hit.other}",
        )
        for hit in copies(evidence)
    ]


def _no_calibration(scored: Scored) -> list[Reason]:
    if scored.calibration is not None or not scored.evidence.matches:
        return []
    engines = sorted({(m.probe.engine.digest[:12], m.probe.engine.backend) for m in scored.evidence.matches})
    ran = ", ".join(f"{digest} on {backend}" for digest, backend in engines) or "nothing"
    detail = f"no score calibration is active for the engines that ran: {ran}"
    return [Reason(code=ReasonCode.NO_CALIBRATION, detail=detail)]


def _unknown(matches: Sequence[ViewMatch]) -> bool:
    return bool(matches) and all(match.similarity is None for match in matches)


def _no_references(evidence: JobEvidence) -> Reason:
    near = ", ".join(evidence.nearest_skus) or "none"
    detail = f"no genuine reference of {evidence.job.sku} is enrolled; nearest enrolled items: {near}"
    return Reason(code=ReasonCode.NO_REFERENCES, detail=detail)


def _required_issues(scored: Scored) -> list[Reason]:
    required = [r.view for r in scored.requirements if r.required]
    return [reason for view in required for reason in scored.issues.get(view, ())]


def _unusable(scored: Scored) -> list[Reason]:
    return [
        Reason(code=ReasonCode.VIEW_UNUSABLE, view=view.view, detail=f"{view.code.value}: {view.detail}".rstrip(": "))
        for view in scored.evidence.unusable
    ]


def _shown(match: ViewMatch, scored: Scored) -> list[Reason]:
    view, similarity = match.probe.view, match.similarity
    if similarity is None:
        return []
    found = []
    fake, other = match.counterfeit_similarity, match.other_sku_similarity
    if fake is not None and fake > similarity:
        detail = f"nearer to a known counterfeit ({fake:.3f}) than to the genuine references ({similarity:.3f})"
        found.append(Reason(code=ReasonCode.MATCHES_KNOWN_COUNTERFEIT, view=view, detail=detail))
    if other is not None and other > similarity:
        detail = f"nearer to {match.other_sku} ({other:.3f}) than to the claimed item ({similarity:.3f})"
        found.append(Reason(code=ReasonCode.RESEMBLES_OTHER_SKU, view=view, detail=detail))
    if view in scored.counted and scored.log_odds[view] <= DEVIATES_LOG_ODDS:
        found.append(departing(scored, view))
    return found


def _vetoes(scored: Scored) -> list[Reason]:
    detail = "this view is critical to the category and departs so far that the others cannot outweigh it"
    return [Reason(code=ReasonCode.CRITICAL_VIEW_VETO, view=view, detail=detail) for view in scored.vetoes]


def _disagreement(scored: Scored) -> list[Reason]:
    odds = {view: scored.log_odds[view] for view in scored.counted}
    if not odds or max(odds.values()) < DISAGREE_LOG_ODDS or min(odds.values()) > -DISAGREE_LOG_ODDS:
        return []
    low, high = min(odds, key=lambda v: (odds[v], v)), max(odds, key=lambda v: (odds[v], v))
    detail = f"{high} is consistent with the references while {low} is not"
    return [Reason(code=ReasonCode.VIEWS_DISAGREE, detail=detail)]
