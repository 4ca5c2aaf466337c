"""The evaluation's pure parts: measures against scikit-learn, SciPy and counting; its goods, its replay, its page."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from core_goods import POLICY, Goods, labelled, specimen
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

from demo.evaluate import measure, statistics
from demo.evaluate.controls import controls
from demo.evaluate.degraded import DEGRADATIONS, degraded
from demo.evaluate.jobs import Case
from demo.evaluate.more import rates
from demo.evaluate.outcomes import Outcome, outcomes, replayed
from demo.evaluate.page import render
from demo.evaluate.photographs import photograph_of, touched
from demo.evaluate.plan import FULL_SEEDS, HEADLINE, QUICK_SEEDS, at, first_skus, full, more, quick
from demo.evaluate.run import Judged
from demo.evaluate.statistics import auc, auc_estimate, dilated, permuted_auc, pointed, rate_estimate
from demo.goods import FAMILIES, catalogue, heldout_skus, jpeg, make_sku
from demo.goods.skus import CATALOGUE_SEEDS, HELDOUT_SEEDS, TRAINING_SEEDS
from demo.limits import limits_of
from demo.photographs import CALIBRATION_SPECIMENS, Specimen
from demo.recalibrate import calibration_set, calibration_skus
from demo.scenario import UNKNOWN_SKUS
from demo.train.renders import _families
from demo.unseen import SEEN_FAMILIES, UNSEEN_FAMILIES
from engines.quality import measured
from engines.ranking import roc
from schemas.codes import ReasonCode, Verdict
from worker.core.calibration import fit
from worker.core.calibration_report import wilson_interval
from worker.core.decision import judge
from worker.core.explanation import build_event
from worker.core.fusion import fuse
from worker.items import Item

RNG = np.random.default_rng(7)
POSITIVE = RNG.random(400) < 0.4
SCORES = np.round(RNG.normal(size=400) + POSITIVE, 1)  # rounded: many ties
CLUSTERS = RNG.integers(0, 40, 400)


# --- measures ---------------------------------------------------------------------------------------------------------


def test_roc_and_its_area_are_those_of_scikit_learn() -> None:
    false, true = roc(SCORES, POSITIVE)
    oracle_false, oracle_true, _ = roc_curve(POSITIVE, SCORES, drop_intermediate=False)
    assert np.allclose(false, oracle_false) and np.allclose(true, oracle_true)
    assert auc(SCORES, POSITIVE) == pytest.approx(roc_auc_score(POSITIVE, SCORES), abs=1e-12)


def test_an_area_needs_both_classes() -> None:
    assert np.isnan(auc(SCORES, np.ones(400, np.bool_)))


def test_the_interval_is_that_of_resampled_skus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws, each area by scikit-learn with weights."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    found = auc_estimate(SCORES, POSITIVE, CLUSTERS, seed=3)
    names, place = np.unique(CLUSTERS, return_inverse=True)
    drawn = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), size=200)
    areas = [roc_auc_score(POSITIVE, SCORES, sample_weight=weights[place]) for weights in drawn]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(areas, (2.5, 97.5))))
    assert found.low < found.value < found.high and found.n == 400


def test_jobs_of_one_sku_are_not_independent() -> None:
    """Ten copies of each job say no more than one, if they are of its SKU."""
    once = auc_estimate(SCORES, POSITIVE, np.arange(400))
    tenfold = auc_estimate(np.repeat(SCORES, 10), np.repeat(POSITIVE, 10), np.repeat(np.arange(400), 10))
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))


def test_a_rate_over_skus_covers_its_mean() -> None:
    hits = (RNG.random(300) < 0.3).astype(np.float64)
    found = rate_estimate(hits, np.arange(300))
    low, high = wilson_interval(int(hits.sum()), 300)
    assert found.value == pytest.approx(hits.mean())
    assert found.low == pytest.approx(low, abs=0.02) and found.high == pytest.approx(high, abs=0.02)


def test_shuffled_labels_tell_nothing_and_true_ones_do() -> None:
    found = permuted_auc(SCORES, POSITIVE, times=200)
    assert abs(found.value - 0.5) < 0.01 and found.low < 0.5 < found.high < auc(SCORES, POSITIVE)


@pytest.mark.parametrize(("hits", "of"), [(0, 500), (3, 48), (25, 504), (504, 504)])
def test_rates_stand_beside_wilsons_interval(hits: int, of: int) -> None:
    oracle = binomtest(hits, of).proportion_ci(method="wilson")
    told = measure.share(hits, of)
    assert (told["low"], told["high"]) == pytest.approx((oracle.low, oracle.high), abs=1e-4)


# --- pointing ---------------------------------------------------------------------------------------------------------


def forged_at(row: int, col: int) -> np.ndarray:
    """A change of a few pixels inside one cell of an 8 x 8 map over 64 pixels."""
    changed = np.zeros((64, 64), np.bool_)
    changed[row * 8 + 2 : row * 8 + 5, col * 8 + 2 : col * 8 + 5] = True
    return changed


@pytest.mark.parametrize(("peak", "hit"), [((3, 3), 1.0), ((4, 4), 1.0), ((2, 4), 1.0), ((5, 3), 0.0), ((0, 0), 0.0)])
def test_a_peak_counts_in_the_changed_cell_or_beside_it(peak: tuple[int, int], hit: float) -> None:
    cells = np.zeros((8, 8), np.uint8)
    cells[peak] = 200
    found = pointed(cells, forged_at(3, 3))
    assert found is not None
    assert (found.hit, found.chance) == (hit, 9 / 64)


def test_equal_peaks_count_by_their_share_and_a_flat_map_is_chance() -> None:
    cells = np.zeros((8, 8), np.uint8)
    cells[3, 3] = cells[0, 0] = 255
    shared, flat = pointed(cells, forged_at(3, 3)), pointed(np.zeros((8, 8), np.uint8), forged_at(3, 3))
    assert shared is not None and flat is not None
    assert shared.hit == 0.5 and flat.hit == flat.chance


def test_a_forgery_that_changes_nothing_cannot_be_pointed_at() -> None:
    assert pointed(np.ones((8, 8), np.uint8), np.zeros((64, 64), np.bool_)) is None


def test_growing_stops_at_the_edge() -> None:
    corner = np.zeros((4, 5), np.bool_)
    corner[0, 4] = True
    assert dilated(corner).sum() == 4 and dilated(corner)[1, 3]


# --- goods ------------------------------------------------------------------------------------------------------------


def test_the_full_plan_is_large_enough_and_balanced() -> None:
    plan = full()
    assert len(plan.skus) >= 200 and len(plan.genuine) >= 500 and len(plan.forged) >= 500
    assert {one.sku for one in plan.genuine} == {one.sku for one in plan.forged} == set(plan.skus)
    cells = Counter((one.family, one.sku.category) for one in plan.forged)
    assert len(cells) == 3 * len(FAMILIES) and set(cells.values()) == {21}
    assert len({one.name for one in (*plan.genuine, *plan.forged, *plan.references, *plan.weaker)}) == (
        2 * 504 + 5 * 201 + 2 * 504
    )


def test_the_evaluations_seeds_are_used_for_nothing_else() -> None:
    others = {sku.seed for sku in (*heldout_skus(1_000), *calibration_skus(), *catalogue())}
    assert UNKNOWN_SKUS.stop <= 1_000
    for plan, seeds in ((full(), FULL_SEEDS), (quick(), QUICK_SEEDS)):
        own = {sku.seed for sku in plan.skus}
        assert own <= set(seeds) and not own & others
        assert all(seed in HELDOUT_SEEDS and seed not in CATALOGUE_SEEDS for seed in own)
        assert not any(seed in TRAINING_SEEDS for seed in own)
        assert not any(one.specimen in CALIBRATION_SPECIMENS for one in (*plan.genuine, *plan.forged))
    assert not set(FULL_SEEDS) & set(QUICK_SEEDS)


def test_families_said_to_be_unseen_are_those_that_training_never_draws() -> None:
    drawn = {family.name for group in range(1_200) for family in _families("train", group)}
    assert set(FAMILIES) - drawn == set(UNSEEN_FAMILIES)
    assert {specimen.family for specimen in calibration_set()} - {None} == set(SEEN_FAMILIES)


def test_a_weaker_forgery_shares_only_what_it_does_not_touch(tmp_path: Path) -> None:
    forged = Specimen(sku=make_sku("bag", QUICK_SEEDS[0]), specimen=1, family="stitch_pitch")
    for view in forged.views:
        same = photograph_of(tmp_path, forged, view) == photograph_of(tmp_path, at(forged, 0.4), view)
        assert same is (view not in touched(forged))


def test_a_part_of_a_plan_keeps_whole_skus() -> None:
    whole = full()
    part = first_skus(whole, 8)
    assert part.skus == whole.skus[:8]
    for some, all_of_them in ((part.genuine, whole.genuine), (part.forged, whole.forged)):
        assert some == tuple(one for one in all_of_them if one.sku in part.skus) != ()


def test_the_larger_sample_is_of_specimens_that_the_evaluation_has_not_judged() -> None:
    whole, plan = full(), more(1_005)
    assert plan.references == whole.references and not plan.genuine and not plan.weaker
    assert Counter(one.family for one in plan.forged) == dict.fromkeys(SEEN_FAMILIES, 201)
    assert len({(one.sku, one.family) for one in plan.forged}) == 1_005, "each family meets each SKU"
    judged = {one.specimen for one in (*whole.genuine, *whole.forged, *whole.references)}
    assert not judged & {one.specimen for one in plan.forged}
    assert {one.strength for one in plan.forged} == {HEADLINE}


# --- bad photographs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "measure_of", "low", "high"),
    [
        ("blur, slight", "sharpness", 0.0, 0.6),
        ("blur, strong", "sharpness", 0.0, 0.2),
        ("too dark", "brightness", 0.0, 0.3),
        ("too bright", "brightness", 1.3, 9.0),
    ],
)
def test_a_degradation_moves_its_measure(name: str, measure_of: str, low: float, high: float) -> None:
    good = jpeg(texture())
    before, after = (of_bytes(data) for data in (good, degraded(good, DEGRADATIONS[name].change)))
    assert low <= getattr(after, measure_of) / getattr(before, measure_of) < high


def test_glare_and_a_crop_are_seen() -> None:
    good = jpeg(texture())
    assert of_bytes(good).glare == 0
    assert of_bytes(degraded(good, DEGRADATIONS["glare"].change)).glare > 0.05
    assert opened(degraded(good, DEGRADATIONS["crop"].change)).size == (307, 307)


def texture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 160, (512, 512, 3)).astype(np.uint8)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def of_bytes(data: bytes):
    return measured(opened(data))


def test_limits_pass_what_they_are_made_of_and_stop_what_is_bad() -> None:
    good = [of_bytes(jpeg(texture(seed))) for seed in range(4)]
    limits = limits_of(good)
    assert all(one.sharpness > limits.min_sharpness and one.glare < limits.max_glare for one in good)
    assert all(limits.min_brightness < one.brightness < limits.max_brightness for one in good)
    bad = {name: of_bytes(degraded(jpeg(texture()), DEGRADATIONS[name].change)) for name in DEGRADATIONS}
    assert bad["blur, strong"].sharpness < limits.min_sharpness
    assert bad["too dark"].brightness < limits.min_brightness
    assert bad["too bright"].brightness > limits.max_brightness
    assert bad["glare"].glare > limits.max_glare


# --- outcomes, replay, page -------------------------------------------------------------------------------------------

GOODS = Goods()
GALLERY = GOODS.snapshot()
CALIBRATION, _ = fit(labelled(GOODS, GALLERY, 100), POLICY.profiles, seed=3)
FITTED = replace(POLICY, calibrations=(CALIBRATION,))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """Judged as the worker judges, without the worker: half forged, all of family stitch_pitch."""
    folder = tmp_path_factory.mktemp("photographs")
    evidence = [specimen(GOODS, GALLERY, f"n{n}", forged=0.8 * (n % 2)) for n in range(60)]
    judged = []
    for number, (one, said) in enumerate(zip(evidence, judge(evidence, FITTED), strict=True)):
        event = build_event(one, said, judged_at=datetime.now(UTC), judge_ms=0, total_ms=0, build="test")
        judged.append(Judged(case=case(number, folder), event=event))
    return outcomes(judged, POLICY.profiles)


def case(number: int, folder: Path) -> Case:
    sku = make_sku("bag", QUICK_SEEDS[number % 10])
    made = Specimen(sku=sku, specimen=number, family="stitch_pitch" if number % 2 else None)
    views = {}
    for view in ("logo", "lining", "stitching"):
        views[view] = folder / f"{number}-{view}.jpg"
        views[view].write_bytes(jpeg(np.random.default_rng(number).integers(0, 255, (64, 64, 3)).astype(np.uint8)))
        mask = np.zeros((64, 64), np.bool_)
        mask[20:40, 20:40] = True
        path = photograph_of(folder, made, view)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path.with_suffix(".png"))
    return Case(item=Item(sku=sku.sku_id, category="bag", views=views), specimen=made)


def test_the_replay_repeats_the_verdicts_at_the_budgets_that_ran(found: list[Outcome]) -> None:
    profile = POLICY.profiles["bag"]
    for one in found:
        again = replayed(
            one, CALIBRATION, profile, alpha_accept=profile.alpha_accept, alpha_reject=profile.alpha_reject
        )
        assert again is one.verdict
    assert measure.agreement(found, CALIBRATION, POLICY.profiles) == {"same": 60, "n": 60}
    assert len({one.verdict for one in found}) > 1


def test_the_replay_is_the_judges_own_answer_at_other_budgets(found: list[Outcome]) -> None:
    evidence = [specimen(GOODS, GALLERY, f"n{n}", forged=0.8 * (n % 2)) for n in range(60)]
    profile = replace(POLICY.profiles["bag"], alpha_accept=0.2, alpha_reject=0.1)
    said = judge(evidence, replace(FITTED, profiles={"bag": profile}))
    again = [replayed(one, CALIBRATION, POLICY.profiles["bag"], alpha_accept=0.2, alpha_reject=0.1) for one in found]
    assert again == [judgement.verdict for judgement in said]
    assert again != [one.verdict for one in found]


def test_what_blocked_a_job_blocks_its_replay(found: list[Outcome]) -> None:
    reused = replace(found[0], blocked=True)
    assert replayed(reused, CALIBRATION, POLICY.profiles["bag"], alpha_accept=0.5, alpha_reject=0.5) is (
        Verdict.INCONCLUSIVE
    )


def figures(found: list[Outcome], folder: Path) -> dict[str, object]:
    spoilt = [replace(one, judged=replace(one.judged, case=bad(one.judged.case))) for one in found[:8]]
    return {
        "goods": {
            "plan": "quick", "families_kept_from_training": [], "skus": 10, "seeds": [1, 2], "references_a_sku": 5,
            "genuine_jobs": 30, "forged_jobs": 30,
            "jobs_as_taken": 60, "jobs_with_a_bad_photograph": 8,
        },
        "ran_on": {"engines": {"resnet18": "abc int8 openvino"}, "calibration": "cal-1", "renderer": "r"},
        "roc": measure.areas(found),
        "coverage": measure.coverage(found, CALIBRATION, POLICY.profiles),
        "replayed_verdicts": measure.agreement(found, CALIBRATION, POLICY.profiles),
        "confusion": measure.confusion(found),
        "reliability": measure.reliability(found),
        "pointing": measure.pointing(found, folder),
        "gate": measure.gate([*found, *spoilt]),
        "controls": {
            **controls(found), "labels_shuffled": measure.shuffled(found),
            "untrained_encoder": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4, "skus": 2},
        },
    }  # fmt: skip


def bad(one: Case) -> Case:
    return replace(one, spoilt="blur, strong", view="logo")


def test_figures_and_page_hold_together(found: list[Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.evaluate.controls.TREES", 20)
    folder = next(iter(found[0].judged.case.item.views.values())).parent  # type: ignore[union-attr]
    told = figures(found, folder)
    assert json.loads(json.dumps(told))["pointing"] == measure.pointing(found, folder), "JSON, and the same twice"
    head = told["roc"][f"{HEADLINE:g}"]  # type: ignore[index]
    scores = [one.score for one in found]
    assert head["seen_families"]["value"] == round(roc_auc_score([one.genuine for one in found], scores), 4)
    assert head["seen_families"]["value"] > 0.8 and head["families"].keys() == {"stitch_pitch"}
    said = Counter((one.genuine, one.verdict) for one in found)
    shipped = told["coverage"][0]  # type: ignore[index]
    assert shipped["forged_called_authentic"]["hits"] == said[False, Verdict.AUTHENTIC]
    assert shipped["genuine_inconclusive"]["hits"] == said[True, Verdict.INCONCLUSIVE]
    page = render(told)
    assert "too few to say how good" in page
    assert not re.search(r"(src|href)=|https?://|<script", page)
    assert page.count("<svg") > 20


def test_the_larger_samples_table_has_all_and_each_category_and_family(found: list[Outcome]) -> None:
    forged = [one for one in found if not one.genuine]
    tables = rates(forged, CALIBRATION, POLICY.profiles)
    own = 1 + measure.BUDGETS.index((POLICY.profiles["bag"].alpha_accept, POLICY.profiles["bag"].alpha_reject))
    assert [[str(cell) for cell in table.columns[0].cells] for table in tables] == [["all", "bag", "stitch_pitch"]] * 2
    said = Counter(one.verdict for one in forged)
    assert len(said) > 1
    for table, verdict in zip(tables, (Verdict.AUTHENTIC, Verdict.INCONCLUSIVE), strict=True):
        hits = said[verdict]
        low, high = wilson_interval(hits, 30)
        told = f"{hits} of 30, {hits / 30:.1%} ({100 * low:.1f} to {100 * high:.1f})"
        assert list(table.columns[own].cells) == [told] * 3


def test_a_bad_photograph_that_nobody_notices_is_counted_so(found: list[Outcome]) -> None:
    spoilt = [replace(one, judged=replace(one.judged, case=bad(one.judged.case))) for one in found[:8]]
    told = measure.gate([*found, *spoilt])
    strong = told["degraded"]["blur, strong"]  # type: ignore[index]
    assert strong["code"] == ReasonCode.VIEW_BLURRED.value
    assert strong["noticed"] == measure.share(0, 8)
    assert told["as_taken"]["jobs"] == measure.share(0, 30)  # type: ignore[index]


def test_the_score_is_the_judges_fusion(found: list[Outcome]) -> None:
    event = found[0].judged.event
    odds = {view.view: np.log(view.p_genuine / (1 - view.p_genuine)) for view in event.views if view.p_genuine}
    order = ("logo", "stitching", "lining")
    weights, critical = np.array([[2.0, 1.0, 0.5]]), np.array([[True, False, False]])
    fused = fuse(np.array([[odds[view] for view in order]]), weights, critical)
    assert found[0].score == pytest.approx(float(fused.scores[0]))
