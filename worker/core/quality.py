"""The quality gate: photographs that must be taken again before they can speak for an item.

A view with an issue does not count. Each issue is a reason that says what to re-take.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from schemas.codes import ReasonCode
from schemas.verdict import Reason
from worker.core.evidence import ViewMatch, ViewProbe
from worker.core.policy import QualityLimits

WRONG_ROLE_MARGIN = 0.1  # cosine by which another role's references must be nearer than the view's own
WRONG_ROLE_LEAST = 0.6  # a forged view is near to nothing; one of another role is near to that role's references
# Chosen on the demo's calibration: genuine views are nearer to no other SKU, nearly all are as near as this to their
# own, and of the views that a forgery touches hardly any to another. What the limits notice: `python -m demo.mixed`.
OTHER_ITEM_MARGIN, OTHER_ITEM_LEAST = 0.1, 0.9
LOST_SHARE = 0.45  # of what a view must place: below, it shows something else, however it is framed
# Perceptual hashes see grey shapes and hardly any colour: a forged view mostly lies within so many bits of a reference,
# however few of its places are found again, and a crop hardly ever. What the limit notices: `python -m demo.framing`.
SAME_SECTION_BITS = 14
DUPLICATE_BITS = 3  # perceptual hashes that differ in at most so many bits of 64 are one photograph


def quality_issues(matches: Sequence[ViewMatch], limits_of: Callable[[str], QualityLimits]) -> dict[str, list[Reason]]:
    """Issues by view, over all views of one job (a photograph in two roles shows only there). `limits_of` gives a
    view's limits."""
    issues = {match.probe.view: _of_one(match, limits_of(match.probe.view)) for match in matches}
    for first, second in combinations([match.probe for match in matches], 2):
        if _one_photograph(first, second):
            issues[first.view].append(_duplicate(first.view, second.view))
            issues[second.view].append(_duplicate(second.view, first.view))
    return issues


def _of_one(match: ViewMatch, limits: QualityLimits) -> list[Reason]:
    view, measures = match.probe.view, {**match.probe.quality, **match.placing}
    found = [_blurred(view, measures, limits), _exposed(view, measures, limits), _glare(view, measures, limits)]
    if not _in_place(measures, limits):
        found.append(_of_other_item(match) or _wrong_role(match) or _misframed(view, measures, limits))
    return [reason for reason in found if reason is not None]


def _blurred(view: str, measures: Mapping[str, float], limits: QualityLimits) -> Reason | None:
    sharpness = measures.get("sharpness")
    if sharpness is None or sharpness >= limits.min_sharpness:
        return None
    detail = f"sharpness {sharpness:.1f}, at least {limits.min_sharpness:.1f} is needed: hold still and focus"
    return Reason(code=ReasonCode.VIEW_BLURRED, view=view, detail=detail)


def _exposed(view: str, measures: Mapping[str, float], limits: QualityLimits) -> Reason | None:
    brightness = measures.get("brightness")
    if brightness is not None and not limits.min_brightness <= brightness <= limits.max_brightness:
        span = f"{limits.min_brightness:.2f} to {limits.max_brightness:.2f}"
        detail = f"brightness {brightness:.2f} is outside {span}: take it in even light"
        return Reason(code=ReasonCode.VIEW_BADLY_EXPOSED, view=view, detail=detail)
    clipped = measures.get("clipped_low", 0.0) + measures.get("clipped_high", 0.0)
    if clipped <= limits.max_clipped:
        return None
    detail = f"{clipped:.0%} of the pixels are black or burnt out, at most {limits.max_clipped:.0%} may be"
    return Reason(code=ReasonCode.VIEW_BADLY_EXPOSED, view=view, detail=detail)


def _glare(view: str, measures: Mapping[str, float], limits: QualityLimits) -> Reason | None:
    glare = measures.get("glare", 0.0)
    if glare <= limits.max_glare:
        return None
    detail = f"glare covers {glare:.1%}, at most {limits.max_glare:.1%} may be: move the light"
    return Reason(code=ReasonCode.VIEW_GLARE, view=view, detail=detail)


def _in_place(measures: Mapping[str, float], limits: QualityLimits) -> bool:
    """Whether a view shows the section that its references show, whatever it is like: most of its places are found
    again in order, or its shapes are those of a reference. Of another section or part neither holds."""
    placed, bits = measures.get("placed", 0.0), measures.get("hash_bits", 64.0)
    return 0 < limits.min_placed <= placed or bits <= SAME_SECTION_BITS


def _misframed(view: str, measures: Mapping[str, float], limits: QualityLimits) -> Reason | None:
    """Few places found again says as much of a forgery; another section than the references show does not."""
    placed = measures.get("placed")
    if placed is None or placed >= limits.min_placed:
        return None
    if measures.get("off_frame", 0.0) < 1 and placed >= LOST_SHARE * limits.min_placed:
        return None
    detail = (
        f"{placed:.0%} of its places are found in order in the references, {limits.min_placed:.0%} are needed: "
        "it shows another section or part; take all of the part, from as near as they were, or correct the view's name"
    )
    return Reason(code=ReasonCode.VIEW_MISFRAMED, view=view, detail=detail)


def _of_other_item(match: ViewMatch) -> Reason | None:
    """A view as near to another SKU as genuine views are to their own shows that one, whatever the others show."""
    view, other, own = match.probe.view, match.other_sku_similarity, match.similarity
    if other is None or own is None or other < OTHER_ITEM_LEAST or not other > own + OTHER_ITEM_MARGIN:
        return None
    detail = f"{view} shows {match.other_sku} ({other:.2f}) and not the claimed item ({own:.2f})"
    return Reason(code=ReasonCode.VIEW_OF_OTHER_ITEM, view=view, detail=detail)


def _wrong_role(match: ViewMatch) -> Reason | None:
    view = match.probe.view
    others = [(similarity, role) for role, similarity in match.role_similarity.items() if role != view]
    if match.similarity is None or not others:
        return None
    best, role = max(others)
    if best < WRONG_ROLE_LEAST or not best > match.similarity + WRONG_ROLE_MARGIN:
        return None
    detail = f"nearer to the references of {role} ({best:.2f}) than to those of {view} ({match.similarity:.2f})"
    return Reason(code=ReasonCode.VIEW_WRONG_ROLE, view=view, detail=detail)


def _one_photograph(first: ViewProbe, second: ViewProbe) -> bool:
    return first.sha256 == second.sha256 or (first.phash ^ second.phash).bit_count() <= DUPLICATE_BITS


def _duplicate(view: str, other: str) -> Reason:
    detail = f"the same photograph stands for {view} and for {other}"
    return Reason(code=ReasonCode.DUPLICATE_PHOTOGRAPH, view=view, detail=detail)
