"""Score calibration: against scikit-learn and against counting, and what it refuses."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from core_goods import ENGINE, POLICY, PROFILE, Goods, labelled
from sklearn.linear_model import LogisticRegression

from schemas.codes import ReasonCode, Verdict
from worker.core.calibration import CalibrationRefused, LabelledEvidence, fit, from_json, to_json
from worker.core.calibration_report import wilson_interval
from worker.core.conformal import Thresholds
from worker.core.decision import judge
from worker.core.evidence import JobEvidence, ReuseHit, ViewMatch
from worker.core.fusion import VIEW_FEATURES
from worker.core.logistic import fit_logistic
from worker.core.policy import ScoreCalibration

GOODS = Goods()
GALLERY = GOODS.snapshot()
TEMPLATE = labelled(GOODS, GALLERY, 1)[0].evidence
PROFILES = POLICY.profiles


def drawn(count: int, *, seed: int = 0, apart: float = 1.0, category: str = "bag") -> list[LabelledEvidence]:
    """`count` items a class with drawn similarities and deviations: fast, and exchangeable by construction."""
    rng = np.random.default_rng(seed)
    return [
        LabelledEvidence(evidence=item(rng, f"{category}-{genuine}-{n}", apart * genuine, category), genuine=genuine)
        for genuine in (True, False)
        for n in range(count)
    ]


def item(rng: np.random.Generator, name: str, good: float, category: str) -> JobEvidence:
    def match(found):
        similarity = float(0.7 + 0.1 * good + 0.05 * rng.normal())
        deviation = float(np.exp(1 - good + 0.5 * rng.normal()))
        cells = np.full((2, 2), deviation / 2, np.float32)
        probe = replace(found.probe, sha256=rng.bytes(8).hex(), phash=int(rng.integers(0, 1 << 63)))
        return replace(found, probe=probe, similarity=similarity, deviation=deviation, deviation_map=cells)

    job = replace(TEMPLATE.job, job_id=name, category=category)
    return replace(TEMPLATE, job=job, matches=tuple(match(found) for found in TEMPLATE.matches))


def test_logistic_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(400, 4))
    labels = features @ [1.0, -2.0, 0.5, 0.0] + rng.normal(size=400) > 0.7
    for balanced in (True, False):
        line = fit_logistic(features, labels, ridge=2.0, balanced=balanced)
        oracle = LogisticRegression(C=0.5, class_weight="balanced" if balanced else None, tol=1e-10, max_iter=1000)
        oracle.fit(features, labels)
        assert np.allclose(line.weights, oracle.coef_[0], atol=1e-5)
        assert line.bias == pytest.approx(oracle.intercept_[0], abs=1e-5)


def test_logistic_survives_separable_and_constant_features_and_refuses_one_class() -> None:
    features = np.column_stack([np.linspace(-1, 1, 50) * 1e3, np.zeros(50)])
    line = fit_logistic(features, features[:, 0] > 0)
    assert np.isfinite(line.weights).all() and line.weights[0] > 0
    with pytest.raises(ValueError, match="both classes"):
        fit_logistic(features, np.ones(50, np.bool_))


def test_split_conformal_keeps_its_budgets_on_fresh_items() -> None:
    """300 calibrations of 99 scores each: the mean error rate lies within its 99.9 % interval of alpha."""
    rng = np.random.default_rng(2)
    alpha, rounds, n, fresh = 0.05, 300, 99, 40
    wrong = 0
    for _ in range(rounds):
        genuine, fakes = np.sort(rng.normal(1, 1, n)), np.sort(rng.normal(-1, 1, n))
        limits = Thresholds(genuine=genuine, counterfeit=fakes, alpha_accept=alpha, alpha_reject=alpha)
        wrong += sum(Verdict.COUNTERFEIT not in limits.kept(score) for score in rng.normal(-1, 1, fresh))
    spread = np.sqrt(alpha * (1 - alpha) * (1 / (rounds * fresh) + 1 / (rounds * (n + 2))))
    assert abs(wrong / (rounds * fresh) - alpha) < 3.3 * spread


def test_a_fitted_calibration_keeps_its_budgets_on_items_it_never_saw() -> None:
    calibration, report = fit(drawn(500), PROFILES, seed=5)
    policy = replace(POLICY, calibrations=(calibration,))
    unseen = drawn(2000, seed=99)
    found = judge([one.evidence for one in unseen], policy)
    rejected = sum(j.verdict is Verdict.COUNTERFEIT for j in found[:2000]) / 2000
    accepted = sum(j.verdict is Verdict.AUTHENTIC for j in found[2000:]) / 2000
    margin = 3 * np.sqrt(0.05 * 0.95 * (1 / 2000 + 1 / 300))
    assert rejected <= 0.05 + margin and accepted <= 0.05 + margin
    decided = sum(j.verdict is not Verdict.INCONCLUSIVE for j in found) / 4000
    assert decided > 0.5
    (bag,) = report.categories
    assert bag.genuine.counterfeit / bag.genuine.items <= 0.05 + margin
    assert bag.supported and bag.level == "category"


def test_posteriors_are_calibrated() -> None:
    calibration, _ = fit(drawn(1000, apart=0.5), PROFILES, seed=5)
    unseen = drawn(1000, seed=77, apart=0.5)
    found = judge([one.evidence for one in unseen], replace(POLICY, calibrations=(calibration,)))
    p = np.array([judgement.p_genuine for judgement in found])
    truth = np.arange(2000) < 1000
    for low, high in ((0.05, 0.35), (0.35, 0.65), (0.65, 0.95)):
        inside = (p >= low) & (p < high)
        assert inside.sum() > 50
        assert abs(p[inside].mean() - truth[inside].mean()) < 0.1


def test_a_view_that_shows_no_forgery_is_fitted_as_genuine() -> None:
    """Only the logo is forged: its map stays as steep as if nothing else had been photographed."""
    items = drawn(200, apart=2.0)
    genuine = [one.evidence.matches for one in items[:200]]
    local = [local_forgery(one, genuine[place]) for place, one in enumerate(items[200:])]
    named = [replace(one, forged_views=frozenset({"logo"})) for one in local]
    cell = ("*", "*", ENGINE.digest, ENGINE.backend)
    told, untold = (fit([*items[:200], *fakes], PROFILES, seed=1)[0] for fakes in (named, local))
    assert np.linalg.norm(told.views[cell].weights) > 2 * np.linalg.norm(untold.views[cell].weights)


def local_forgery(one: LabelledEvidence, genuine: tuple[ViewMatch, ...]) -> LabelledEvidence:
    """The forged logo beside views as good as a genuine item's."""
    pairs = zip(one.evidence.matches, genuine, strict=True)
    mixed = [own if own.probe.view == "logo" else replace(good, probe=own.probe) for own, good in pairs]
    return replace(one, evidence=replace(one.evidence, matches=tuple(mixed)))


def test_the_same_items_in_any_order_give_the_same_calibration() -> None:
    items = drawn(60)
    first, _ = fit(items, PROFILES, seed=1)
    second, _ = fit(random.Random(4).sample(items, len(items)), PROFILES, seed=1)
    other, _ = fit(items, PROFILES, seed=2)
    assert first.calibration_id == second.calibration_id != other.calibration_id
    assert to_json(first) == to_json(second)


def test_one_specimen_is_never_on_both_sides() -> None:
    """Photographed twice, each specimen scores the same twice: the view part and the scores share none."""
    items = drawn(60)
    again = [photographed(one, f"{n}", f"s{n % 30}") for n, one in enumerate(items)]
    calibration, _ = fit(again, PROFILES, seed=1)
    scores = len(calibration.genuine_scores["*"]) + len(calibration.counterfeit_scores["*"])
    views = calibration.views["*", "*", ENGINE.digest, ENGINE.backend].n / 3
    assert scores % 4 == 0 and scores + views == 120


def photographed(one: LabelledEvidence, job_id: str, serial: str) -> LabelledEvidence:
    job = replace(one.evidence.job, job_id=job_id, serial=serial)
    return replace(one, evidence=replace(one.evidence, job=job))


def test_small_categories_are_pooled_and_say_so() -> None:
    profiles = {**PROFILES, "watch": replace(PROFILE, category="watch")}
    calibration, report = fit([*drawn(200), *drawn(20, seed=1, category="watch")], profiles, seed=1)
    assert calibration.levels == {"bag": "category", "watch": "global"}
    assert set(calibration.genuine_scores) == {"bag", "*"}
    levels = {key[:2]: view.level for key, view in calibration.views.items()}
    assert levels["bag", "logo"] == "cell" and levels["*", "*"] == "global"
    assert ("watch", "logo") not in levels and ("watch", "*") not in levels
    watch = next(found for found in report.categories if found.category == "watch")
    assert watch.level == "global" and watch.genuine_n == len(calibration.genuine_scores["*"])


def test_a_budget_that_n_cannot_support_leaves_its_class_undecided() -> None:
    profiles = {"bag": replace(PROFILE, alpha_accept=0.001, alpha_reject=0.05)}
    calibration, report = fit(drawn(150, apart=3.0), profiles, seed=1)
    (bag,) = report.categories
    assert not bag.supported and bag.counterfeit_needed == 999
    found = judge(
        [one.evidence for one in drawn(30, seed=8, apart=3.0)],
        replace(POLICY, profiles=profiles, calibrations=(calibration,)),
    )
    assert not any(judgement.verdict is Verdict.AUTHENTIC for judgement in found)
    assert ReasonCode.TOO_FEW_CALIBRATION_SAMPLES in {judgement.reasons[0].code for judgement in found}


def contradicted() -> list[LabelledEvidence]:
    items = drawn(10)
    twin = replace(
        items[0], genuine=False, evidence=replace(items[0].evidence, job=replace(items[0].evidence.job, job_id="x"))
    )
    return [*items, twin]


def other_backend() -> list[LabelledEvidence]:
    first, *rest = drawn(10)
    probe = replace(first.evidence.matches[0].probe, engine=replace(ENGINE, backend="cuda"))
    matches = (replace(first.evidence.matches[0], probe=probe), *first.evidence.matches[1:])
    return [replace(first, evidence=replace(first.evidence, matches=matches)), *rest]


def reused() -> list[LabelledEvidence]:
    hit = (ReuseHit(view="logo", kind="reference", other="r", exact=True),)
    return [replace(one, evidence=replace(one.evidence, reuse=hit)) for one in drawn(10)]


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([], "0 genuine and 0 counterfeit"),
        (drawn(10)[:10], "10 genuine and 0 counterfeit"),
        (contradicted(), "labelled genuine and counterfeit"),
        (other_backend(), "cuda, openvino"),
        (drawn(10, category="hat"), "no profile for category hat"),
        (drawn(1), "0 genuine and 0 counterfeit"),
        (reused(), "0 genuine and 0 counterfeit"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused_with_counts(items: list[LabelledEvidence], told: str) -> None:
    with pytest.raises(CalibrationRefused, match=told):
        fit(items, PROFILES, seed=0)


def test_items_without_a_usable_photograph_are_left_out() -> None:
    blind = [replace(one, evidence=replace(one.evidence, matches=())) for one in drawn(3)]
    _, report = fit([*drawn(60), *blind], PROFILES, seed=1)
    assert ReasonCode.MISSING_REQUIRED_VIEW in report.categories[0].reasons


def test_json_round_trip_is_exact() -> None:
    calibration, _ = fit(drawn(60), PROFILES, seed=1, jitter=0.01)
    text = json.dumps(to_json(calibration))
    back = from_json(json.loads(text))
    assert json.dumps(to_json(back)) == text
    assert isinstance(back, ScoreCalibration) and back.jitter == 0.01 and back.min_references == 4
    evidence = [one.evidence for one in drawn(20, seed=3)]
    assert judge(evidence, replace(POLICY, calibrations=(back,))) == judge(
        evidence, replace(POLICY, calibrations=(calibration,))
    )


@pytest.mark.parametrize("bad", [{}, {"version": 1}, {"version": 2}, {"version": 2, "views": 3}])
def test_a_document_that_is_no_calibration_is_named(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="score calibration"):
        from_json(bad)


def test_wilson_interval_is_the_published_one() -> None:
    low, high = wilson_interval(5, 50)
    assert (round(low, 4), round(high, 4)) == (0.0435, 0.2136)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_cells_hold_one_weight_a_feature() -> None:
    calibration, _ = fit(drawn(60), PROFILES, seed=1)
    assert all(view.weights.shape == (len(VIEW_FEATURES),) for view in calibration.views.values())
