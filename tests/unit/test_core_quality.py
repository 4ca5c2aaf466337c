"""The quality gate: each issue fires on its own measure, and on no ordinary view."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_goods import VIEWS, Goods, specimen

from schemas.codes import ReasonCode
from worker.core.evidence import JobEvidence
from worker.core.policy import QualityLimits
from worker.core.quality import quality_issues

LIMITS = QualityLimits(min_sharpness=20, min_brightness=0.2, max_brightness=0.8, max_clipped=0.3, max_glare=0.05)
GOODS = Goods()
EVIDENCE = specimen(GOODS, GOODS.snapshot(), "s")


def codes(evidence: JobEvidence) -> dict[str, list[ReasonCode]]:
    return {view: [r.code for r in found] for view, found in quality_issues(evidence.matches, lambda _: LIMITS).items()}


def changed(**probe: object) -> JobEvidence:
    first, *rest = EVIDENCE.matches
    return replace(EVIDENCE, matches=(replace(first, probe=replace(first.probe, **probe)), *rest))


def test_ordinary_views_pass() -> None:
    assert codes(EVIDENCE) == {view: [] for view in VIEWS}


@pytest.mark.parametrize(
    ("measure", "value", "code"),
    [
        ("sharpness", 19.0, ReasonCode.VIEW_BLURRED),
        ("sharpness", float("nan"), ReasonCode.VIEW_BLURRED),
        ("brightness", 0.1, ReasonCode.VIEW_BADLY_EXPOSED),
        ("brightness", 0.9, ReasonCode.VIEW_BADLY_EXPOSED),
        ("clipped_high", 0.4, ReasonCode.VIEW_BADLY_EXPOSED),
        ("glare", 0.06, ReasonCode.VIEW_GLARE),
    ],
)
def test_each_measure_has_its_code(measure: str, value: float, code: ReasonCode) -> None:
    quality = {**EVIDENCE.matches[0].probe.quality, measure: value}
    assert codes(changed(quality=quality)) == {"logo": [code], "lining": [], "stitching": []}


def test_a_measure_that_was_not_taken_is_no_issue() -> None:
    assert codes(changed(quality={}))["logo"] == []


def test_a_wrong_role_needs_a_clear_margin() -> None:
    first, *rest = EVIDENCE.matches
    for similarity, expected in ((0.95, []), (0.5, [ReasonCode.VIEW_WRONG_ROLE])):
        near = replace(first, similarity=similarity, role_similarity={"logo": similarity, "lining": 0.97})
        assert codes(replace(EVIDENCE, matches=(near, *rest)))["logo"] == expected


@pytest.mark.parametrize(
    ("placed", "off_frame", "stopped"),
    [
        (0.6, 9.0, False),
        (0.5, 0.0, False),
        (0.49, 0.99, False),
        (0.49, 1.0, True),
        (0.23, 0.0, False),
        (0.22, 0.0, True),
    ],
)
def test_a_view_of_another_section_is_misframed(placed: float, off_frame: float, stopped: bool) -> None:
    """That few places are found again says it of none: a forgery places few as well, but stays where it belongs."""
    first = replace(EVIDENCE.matches[0], placing={"placed": placed, "off_frame": off_frame})
    (found,) = quality_issues([first], lambda _: replace(LIMITS, min_placed=0.5)).values()
    assert [reason.code for reason in found] == [ReasonCode.VIEW_MISFRAMED] * stopped
    stored = replace(first, placing={}, probe=replace(first.probe, quality=first.placing))
    (again,) = quality_issues([stored], lambda _: QualityLimits(min_placed=0.5)).values()
    assert again == found  # of a verdict's rows, which hold it with the other measures


@pytest.mark.parametrize(("bits", "stopped"), [(14.0, False), (15.0, True)])
def test_a_view_with_the_shapes_of_a_reference_is_neither_misframed_nor_of_another_role(
    bits: float, stopped: bool
) -> None:
    """A forgery of another colour is found again hardly anywhere, and its embedding may lie anywhere."""
    first = replace(EVIDENCE.matches[0], placing={"placed": 0.1, "off_frame": 3.0, "hash_bits": bits})
    astray = replace(first, similarity=0.5, role_similarity={"logo": 0.5, "lining": 0.97})
    limits = replace(LIMITS, min_placed=0.5)
    for match, code in ((first, ReasonCode.VIEW_MISFRAMED), (astray, ReasonCode.VIEW_WRONG_ROLE)):
        (found,) = quality_issues([match], lambda _: limits).values()
        assert [reason.code for reason in found] == [code] * stopped


def test_a_view_that_lies_over_its_references_is_not_of_another_role() -> None:
    near = {"similarity": 0.5, "role_similarity": {"logo": 0.5, "lining": 0.97}}
    for placed, stopped in ((0.5, False), (0.49, True)):
        match = replace(EVIDENCE.matches[0], placing={"placed": placed, "off_frame": 0.0}, **near)
        (found,) = quality_issues([match], lambda _: replace(LIMITS, min_placed=0.5)).values()
        assert [reason.code for reason in found] == [ReasonCode.VIEW_WRONG_ROLE] * stopped
        (unlimited,) = quality_issues([match], lambda _: LIMITS).values()
        assert [reason.code for reason in unlimited] == [ReasonCode.VIEW_WRONG_ROLE]


@pytest.mark.parametrize(
    ("other", "own", "stopped"), [(0.9, 0.79, True), (0.89, 0.1, False), (0.95, 0.86, False), (0.95, None, False)]
)
def test_a_view_of_another_item_is_said_to_be_one(other: float, own: float | None, stopped: bool) -> None:
    """Before anything else: that it lies badly over the claimed item's references follows from it."""
    swapped = replace(EVIDENCE.matches[0], similarity=own, other_sku="b", other_sku_similarity=other)
    (found,) = quality_issues([swapped], lambda _: LIMITS).values()
    assert [reason.code for reason in found] == [ReasonCode.VIEW_OF_OTHER_ITEM] * stopped
    assert not stopped or "shows b" in found[0].detail
    astray = replace(swapped, placing={"placed": 0.1, "off_frame": 2.0, "hash_bits": 30.0})
    (first,) = quality_issues([astray], lambda _: replace(LIMITS, min_placed=0.5)).values()
    assert first[0].code is (ReasonCode.VIEW_OF_OTHER_ITEM if stopped else ReasonCode.VIEW_MISFRAMED)


@pytest.mark.parametrize("same", ["sha256", "phash"])
def test_one_photograph_in_two_roles(same: str) -> None:
    other = EVIDENCE.matches[1].probe
    found = codes(changed(**{same: getattr(other, same)}))
    assert found["logo"] == found["lining"] == [ReasonCode.DUPLICATE_PHOTOGRAPH]
    assert found["stitching"] == []
