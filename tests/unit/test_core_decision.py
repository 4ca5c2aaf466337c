"""The verdict: every way out has its reason, nothing raises, and a job's answer depends on no other job."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from core_goods import ENGINE, POLICY, PROFILE, VIEWS, Goods, evidence_of, labelled, specimen
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codes import ReasonCode, Verdict, ViewCode
from schemas.verdict import ReferenceMatch
from worker.core.calibration import fit
from worker.core.conformal import Thresholds, items_needed
from worker.core.decision import Judgement, judge, posterior
from worker.core.evidence import JobEvidence, ReuseHit, UnusableView, ViewMatch
from worker.core.fusion import fuse
from worker.core.policy import Policy, QualityLimits

GOODS = Goods()
GALLERY = GOODS.snapshot()
CALIBRATION, _ = fit(labelled(GOODS, GALLERY, 100), POLICY.profiles, seed=3)
FITTED = replace(POLICY, calibrations=(CALIBRATION,))
# Scores of both classes far apart, so that an ordinary genuine specimen is decided.
WIDE = replace(
    CALIBRATION,
    genuine_scores={"*": np.linspace(-1.0, 8.0, 100)},
    counterfeit_scores={"*": np.linspace(-8.0, -1.5, 100)},
)
DECIDED = replace(POLICY, calibrations=(WIDE,))
GENUINE = specimen(GOODS, GALLERY, "fresh")
FAKE = specimen(GOODS, GALLERY, "forged", forged=1.5)


def one(evidence: JobEvidence, policy: Policy = DECIDED) -> Judgement:
    return judge([evidence], policy)[0]


def codes(judgement: Judgement) -> set[ReasonCode]:
    return {reason.code for reason in judgement.reasons}


def changed(evidence: JobEvidence, view: str, **match: object) -> JobEvidence:
    matches = tuple(replace(m, **match) if m.probe.view == view else m for m in evidence.matches)
    return replace(evidence, matches=matches)


def test_a_genuine_and_a_forged_item_get_their_verdicts() -> None:
    genuine, fake = judge([GENUINE, FAKE], DECIDED)
    assert (genuine.verdict, fake.verdict) == (Verdict.AUTHENTIC, Verdict.COUNTERFEIT)
    assert genuine.reasons[0].code is ReasonCode.CONSISTENT_WITH_REFERENCES
    assert fake.reasons[0].code is ReasonCode.DEVIATES_FROM_REFERENCES
    assert genuine.confidence == genuine.p_genuine > 0.9
    assert fake.confidence == pytest.approx(1 - fake.p_genuine)
    assert set(genuine.view_p_genuine) == set(VIEWS)
    assert genuine.calibration_id == CALIBRATION.calibration_id


def with_limits(**limits: float) -> Policy:
    return replace(DECIDED, profiles={"bag": replace(PROFILE, quality=QualityLimits(**limits))})


def without(view: str, evidence: JobEvidence = GENUINE) -> JobEvidence:
    return replace(evidence, matches=tuple(m for m in evidence.matches if m.probe.view != view))


UNUSABLE = UnusableView(view="logo", sha256="0" * 64, code=ViewCode.TRUNCATED, detail="ended early")
NO_COMPARISON = {"similarity": None, "references": (), "deviation": None, "deviation_map": None, "reference_count": 0}
REUSE = (ReuseHit(view="logo", kind="job", other="job-9", exact=True),)


@pytest.mark.parametrize(
    ("evidence", "policy", "code"),
    [
        (GENUINE, Policy(), ReasonCode.NO_CATEGORY_PROFILE),
        (GENUINE, POLICY, ReasonCode.NO_CALIBRATION),
        (without("logo"), DECIDED, ReasonCode.MISSING_REQUIRED_VIEW),
        (replace(without("logo"), unusable=(UNUSABLE,)), DECIDED, ReasonCode.MISSING_REQUIRED_VIEW),
        (replace(GENUINE, matches=()), DECIDED, ReasonCode.MISSING_REQUIRED_VIEW),
        (changed(GENUINE, "logo", **NO_COMPARISON), DECIDED, ReasonCode.NO_REFERENCES),
        (changed(GENUINE, "logo", reference_count=1), DECIDED, ReasonCode.TOO_FEW_REFERENCES),
        (changed(GENUINE, "logo", similarity=math.nan), DECIDED, ReasonCode.UNUSABLE_SCORE),
        (changed(GENUINE, "logo", deviation=None), DECIDED, ReasonCode.UNUSABLE_SCORE),
        (changed(GENUINE, "logo", deviation=math.inf), DECIDED, ReasonCode.UNUSABLE_SCORE),
        (GENUINE, with_limits(min_sharpness=1000), ReasonCode.VIEW_BLURRED),
        (GENUINE, with_limits(max_brightness=0.1), ReasonCode.VIEW_BADLY_EXPOSED),
        (replace(GENUINE, reuse=REUSE), DECIDED, ReasonCode.IMAGE_REUSED),
        (GENUINE, replace(POLICY, calibrations=(replace(WIDE, jitter=20.0),)), ReasonCode.SCORE_NEAR_THRESHOLD),
    ],
)
def test_what_stands_in_the_way_is_named_first(evidence: JobEvidence, policy: Policy, code: ReasonCode) -> None:
    found = one(evidence, policy)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.confidence is None
    assert found.reasons[0].code is code


@pytest.mark.parametrize(
    ("genuine", "counterfeit", "code"),
    [
        (np.linspace(-9, 9, 100), np.linspace(-9, 9, 100), ReasonCode.AMBIGUOUS),
        (np.full(100, 9.0), np.full(100, -9.0), ReasonCode.UNLIKE_ANYTHING_KNOWN),
        (np.full(5, 9.0), np.full(5, -9.0), ReasonCode.TOO_FEW_CALIBRATION_SAMPLES),
        (np.empty(0), np.empty(0), ReasonCode.TOO_FEW_CALIBRATION_SAMPLES),
    ],
)
def test_both_or_neither_class_is_inconclusive(genuine: np.ndarray, counterfeit: np.ndarray, code: ReasonCode) -> None:
    scores = {"genuine_scores": {"*": genuine}, "counterfeit_scores": {"*": counterfeit}}
    found = one(GENUINE, replace(POLICY, calibrations=(replace(CALIBRATION, **scores),)))
    assert (found.verdict, found.reasons[0].code) == (Verdict.INCONCLUSIVE, code)
    assert found.p_genuine is not None


def test_a_calibration_without_scores_for_the_category_abstains() -> None:
    empty = replace(CALIBRATION, genuine_scores={}, counterfeit_scores={})
    assert one(GENUINE, replace(POLICY, calibrations=(empty,))).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("other", [{"backend": "tensorrt"}, {"engine_digests": frozenset({"e" * 64})}])
def test_a_calibration_of_another_engine_or_backend_is_not_used(other: dict[str, object]) -> None:
    found = one(GENUINE, replace(POLICY, calibrations=(replace(WIDE, **other),)))
    assert codes(found) == {ReasonCode.NO_CALIBRATION}
    assert found.calibration_id is None


def test_an_unknown_item_names_the_nearest_ones_and_nothing_else() -> None:
    probes = [GOODS.probe("b", view, "s") for view in VIEWS]
    found = one(evidence_of(probes, GALLERY, sku="unknown"))
    assert [reason.code for reason in found.reasons] == [ReasonCode.NO_REFERENCES]
    assert "b" in found.reasons[0].detail
    assert found.p_genuine is None


@pytest.mark.parametrize(
    ("kind", "nearness", "blocked"),
    [("reference", 0.2, True), ("reference", 0.7, False), ("job", 0.2, False), ("reference", None, False)],
)
def test_a_near_hash_alone_is_no_ground(kind: str, nearness: float | None, blocked: bool) -> None:
    near = replace(GENUINE, reuse=(ReuseHit(view="logo", kind=kind, other="x", exact=False),))
    found = one(changed(near, "logo", nearness=nearness))
    assert (ReasonCode.IMAGE_REUSED in codes(found)) is blocked


def test_a_blurred_optional_view_is_set_aside() -> None:
    blurred = next(m for m in GENUINE.matches if m.probe.view == "lining")
    probe = replace(blurred.probe, quality={"sharpness": 1.0})
    found = one(changed(GENUINE, "lining", probe=probe), with_limits(min_sharpness=20))
    assert found.verdict is Verdict.AUTHENTIC
    assert ReasonCode.VIEW_BLURRED in codes(found)


def test_an_unusable_optional_view_does_not_sink_the_job() -> None:
    broken = replace(UNUSABLE, view="lining")
    found = one(replace(without("lining"), unusable=(broken,)))
    assert found.verdict is Verdict.AUTHENTIC
    assert ReasonCode.VIEW_UNUSABLE in codes(found)
    assert found.missing_views == ()


def test_a_forged_critical_view_vetoes_and_disagrees() -> None:
    logo = next(m for m in specimen(GOODS, GALLERY, "f", forged=4.0).matches if m.probe.view == "logo")
    others = tuple(m for m in GENUINE.matches if m.probe.view != "logo")
    found = one(replace(GENUINE, matches=(logo, *others)))
    assert {ReasonCode.CRITICAL_VIEW_VETO, ReasonCode.VIEWS_DISAGREE} <= codes(found)
    assert found.verdict is not Verdict.AUTHENTIC


def test_known_counterfeits_and_other_items_are_named() -> None:
    seen = changed(GENUINE, "logo", counterfeit_similarity=1.0, other_sku="b", other_sku_similarity=1.0)
    assert {ReasonCode.MATCHES_KNOWN_COUNTERFEIT, ReasonCode.RESEMBLES_OTHER_SKU} <= codes(one(seen))


def test_no_word_is_stronger_than_consistent_with() -> None:
    judgements = judge([GENUINE, FAKE, without("logo"), replace(GENUINE, reuse=REUSE)], DECIDED)
    text = " ".join(reason.detail for found in judgements for reason in found.reasons).lower()
    assert "consistent with" in text
    assert not {"proof", "proves", "proven", "certain", "guarantee", "definitely"} & set(text.split())


@given(
    genuine=st.lists(st.integers(-5, 5), max_size=30),
    fakes=st.lists(st.integers(-5, 5), max_size=30),
    score=st.integers(-6, 6),
    accept=st.sampled_from([0.01, 0.05, 0.2]),
    reject=st.sampled_from([0.02, 0.05, 0.5]),
)
def test_conformal_equals_its_definition(
    genuine: list[int], fakes: list[int], score: int, accept: float, reject: float
) -> None:
    limits = Thresholds(
        genuine=np.sort(np.array(genuine, np.float64)),
        counterfeit=np.sort(np.array(fakes, np.float64)),
        alpha_accept=accept,
        alpha_reject=reject,
    )
    p_genuine = (1 + sum(s <= score for s in genuine)) / (len(genuine) + 1)
    p_fake = (1 + sum(s >= score for s in fakes)) / (len(fakes) + 1)
    assert (limits.p_genuine(score), limits.p_counterfeit(score)) == (p_genuine, p_fake)
    kept = {Verdict.AUTHENTIC: p_genuine > reject, Verdict.COUNTERFEIT: p_fake > accept}
    assert limits.kept(score) == {verdict for verdict, keep in kept.items() if keep}


def test_a_budget_needs_one_over_alpha_items() -> None:
    assert [items_needed(alpha) for alpha in (0.01, 0.02, 0.05, 0.5)] == [99, 49, 19, 1]
    for alpha in (0.01, 0.02, 0.05):
        for less, kept in ((0, False), (1, True)):
            scores = np.zeros(items_needed(alpha) - less)
            limits = Thresholds(genuine=scores, counterfeit=scores, alpha_accept=alpha, alpha_reject=alpha)
            assert (Verdict.AUTHENTIC in limits.kept(-1)) is kept
            assert (Verdict.COUNTERFEIT in limits.kept(1)) is kept


def test_fusion_caps_vetoes_and_pulls_to_the_lowest() -> None:
    odds = np.array([[3.0, 3.0], [3.0, -3.0], [3.0, np.nan], [np.nan, np.nan], [-5.0, 8.0]])
    found = fuse(odds, np.ones((5, 2)), np.array([[True, False]] * 5))
    assert found.scores[:3].tolist() == [3.0, -1.5, 1.5]
    assert math.isnan(found.scores[3])
    assert found.scores[4] == -5.0 and found.vetoed[4].tolist() == [True, False]
    assert found.coverage.tolist() == [1.0, 1.0, 0.5, 0.0, 1.0]


def test_posterior_is_bayes() -> None:
    assert posterior(0.0, 0.3) == pytest.approx(0.3)
    assert posterior(math.log(4), 0.5) == pytest.approx(0.8)
    assert 0 <= posterior(-1e4, 0.0) <= posterior(1e4, 1.0) <= 1


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_job_is_judged_as_alone_and_in_any_order_of_its_views(data: st.DataObject) -> None:
    jobs = [GENUINE, FAKE, without("lining"), changed(GENUINE, "logo", similarity=math.nan), without("logo", FAKE)]
    order = data.draw(st.permutations(range(len(jobs))))
    together = judge([jobs[place] for place in order], FITTED)
    for place, found in zip(order, together, strict=True):
        turned = replace(jobs[place], matches=tuple(data.draw(st.permutations(jobs[place].matches))))
        assert found == one(jobs[place], FITTED) == one(turned, FITTED)


NUMBER = st.one_of(st.none(), st.floats(width=32))
MATCH = GENUINE.matches[0]


@st.composite
def matches(draw: st.DrawFn, view: str) -> ViewMatch:
    quality = draw(st.dictionaries(st.sampled_from(["sharpness", "brightness", "glare", "clipped_low"]), st.floats()))
    engine = replace(ENGINE, backend=draw(st.sampled_from(["openvino", "openvino", "cuda"])))
    phash = draw(st.integers(0, 3))
    probe = replace(
        MATCH.probe, view=view, quality=quality, engine=engine, phash=phash, sha256=draw(st.text(max_size=1))
    )
    cells = st.sampled_from([None, np.ones((4, 4), np.float32), np.full((4, 4), np.nan, np.float32)])
    return ViewMatch(
        probe=probe,
        references=(ReferenceMatch(reference_id="r", similarity=draw(st.floats())),) * draw(st.integers(0, 2)),
        similarity=draw(NUMBER),
        counterfeit_similarity=draw(NUMBER),
        other_sku=draw(st.sampled_from([None, "b"])),
        other_sku_similarity=draw(NUMBER),
        deviation=draw(NUMBER),
        deviation_map=draw(cells),
        aligned=draw(st.sampled_from([None, True, False])),
        role_similarity=draw(st.dictionaries(st.sampled_from(VIEWS), st.floats(), max_size=3)),
        reference_count=draw(st.integers(0, 6)),
    )


@st.composite
def evidences(draw: st.DrawFn) -> JobEvidence:
    views = draw(st.lists(st.sampled_from([*VIEWS, "other"]), unique=True))
    usable = [view for view in views if draw(st.booleans())]
    unusable = [replace(UNUSABLE, view=view) for view in views if view not in usable]
    category = draw(st.sampled_from(["bag", "bag", "bag", "watch"]))
    return replace(
        GENUINE,
        job=replace(GENUINE.job, category=category),
        matches=tuple(draw(matches(view)) for view in usable),
        unusable=tuple(unusable),
        reuse=draw(st.sampled_from([(), (), REUSE])),
    )


@settings(max_examples=400, deadline=None)
@given(jobs=st.lists(evidences(), max_size=4), policy=st.sampled_from([DECIDED, FITTED, POLICY, Policy()]))
def test_every_evidence_has_a_verdict_with_a_reason(jobs: list[JobEvidence], policy: Policy) -> None:
    found = judge(jobs, policy)
    assert len(found) == len(jobs)
    for judgement in found:
        assert judgement.reasons
        assert list(judgement.reasons) == list(dict.fromkeys(judgement.reasons))
        assert (judgement.confidence is None) == (judgement.verdict is Verdict.INCONCLUSIVE)
        for p in (judgement.confidence, judgement.p_genuine, *judgement.view_p_genuine.values()):
            assert p is None or 0 <= p <= 1


def test_no_jobs_is_no_judgements() -> None:
    assert judge([], FITTED) == []
