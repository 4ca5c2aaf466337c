"""The baseline that a score calibration carries: what it holds, how it travels, and that jobs come back as it is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from core_goods import ENGINE, POLICY, PROFILE, Goods, labelled
from numpy.typing import NDArray

from demo.backend import calibration_of, read_calibration
from schemas.codes import ReasonCode
from worker.core import baseline
from worker.core.baseline import is_comparable, measures_of, score_classes, scores_from, was_decidable
from worker.core.calibration import LabelledEvidence, fit
from worker.core.calibration_report import CalibrationReport
from worker.core.decision import judge
from worker.core.evidence import ViewMatch
from worker.core.policy import Policy, ScoreCalibration
from worker.core.policy_json import content_id, from_json, to_json

GOODS = Goods()
TEMPLATE = labelled(GOODS, GOODS.snapshot(), 1)[0].evidence
VIEWS = {match.probe.view for match in TEMPLATE.matches}
MEASURES = {"similarity", "deviation", "sharpness", "brightness", "clipped_low", "clipped_high", "glare"}


def item(rng: np.random.Generator, name: str, genuine: bool) -> LabelledEvidence:
    def match(found: ViewMatch) -> ViewMatch:
        quality = {**found.probe.quality, "sharpness": float(rng.normal(100, 10))}
        probe = replace(found.probe, sha256=rng.bytes(32).hex(), phash=int(rng.integers(0, 1 << 63)), quality=quality)
        deviation = float(np.exp(1 - genuine + 0.5 * rng.normal()))
        cells = np.full((2, 2), deviation / 2, np.float32)
        similarity = float(0.7 + 0.1 * genuine + 0.05 * rng.normal())
        return replace(found, probe=probe, similarity=similarity, deviation=deviation, deviation_map=cells)

    job = replace(TEMPLATE.job, job_id=name)
    evidence = replace(TEMPLATE, job=job, matches=tuple(match(found) for found in TEMPLATE.matches))
    return LabelledEvidence(evidence=evidence, genuine=genuine)


@pytest.fixture(scope="module")
def items() -> list[LabelledEvidence]:
    rng = np.random.default_rng(0)
    return [item(rng, f"{genuine}-{n}", genuine) for genuine in (True, False) for n in range(100)]


@pytest.fixture(scope="module")
def fitted(items: list[LabelledEvidence]) -> tuple[ScoreCalibration, CalibrationReport]:
    return fit(items, POLICY.profiles, seed=1)


def test_every_measure_of_every_view_has_one_value_an_item(
    fitted: tuple[ScoreCalibration, CalibrationReport],
) -> None:
    known = fitted[0].baselines["bag"]
    assert set(known.measures) == {(ENGINE.digest, view, name) for view in VIEWS for name in MEASURES}
    sizes = {(len(genuine), len(fakes)) for genuine, fakes in known.measures.values()}
    assert sizes == {(60, 60)}  # those that did not fit the views
    genuine, fakes = known.measures[ENGINE.digest, "logo", "similarity"]
    assert genuine.mean() > fakes.mean() + 0.05


def test_abstention_is_that_of_the_report(fitted: tuple[ScoreCalibration, CalibrationReport]) -> None:
    calibration, report = fitted
    (category,) = report.categories
    assert calibration.baselines["bag"].abstained == (
        (category.genuine.abstained, category.genuine.items),
        (category.counterfeit.abstained, category.counterfeit.items),
    )


def test_a_baseline_does_not_depend_on_the_order_of_the_items(
    items: list[LabelledEvidence], fitted: tuple[ScoreCalibration, CalibrationReport]
) -> None:
    again, _ = fit(items[::-1], POLICY.profiles, seed=1)
    assert to_json(again) == to_json(fitted[0])


def test_it_stays_small(items: list[LabelledEvidence], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MOST_ITEMS", 7)
    calibration, _ = fit(items, POLICY.profiles, seed=1)
    by_class = calibration.baselines["bag"].measures.values()
    assert {(len(genuine), len(fakes)) for genuine, fakes in by_class} == {(7, 7)}


def test_it_travels_in_the_document_and_is_part_of_the_id(
    fitted: tuple[ScoreCalibration, CalibrationReport],
) -> None:
    calibration, _ = fitted
    back = from_json(json.loads(json.dumps(to_json(calibration))))
    assert to_json(back) == to_json(calibration)
    assert content_id(back) == calibration.calibration_id
    assert content_id(replace(calibration, baselines={})) != calibration.calibration_id


def test_a_calibration_without_one_reads_and_keeps_its_id(
    fitted: tuple[ScoreCalibration, CalibrationReport],
) -> None:
    document = to_json(replace(fitted[0], baselines={}))
    assert "baselines" not in document
    assert from_json(document).baselines == {}
    shipped = read_calibration(calibration_of("openvino"))
    assert content_id(shipped) == shipped.calibration_id


@pytest.mark.parametrize("prior", [0.5, 0.9, 0.02])
def test_a_jobs_probability_gives_its_score_back(
    items: list[LabelledEvidence], fitted: tuple[ScoreCalibration, CalibrationReport], prior: float
) -> None:
    """The calibration's own items, judged as jobs are, have the scores that jobs are compared with."""
    policy = Policy(profiles={"bag": replace(PROFILE, prior_genuine=prior)}, calibrations=(fitted[0],))
    known = np.sort(np.concatenate(score_classes(fitted[0], "bag")))
    said = judge([one.evidence for one in items], policy)
    scores = scores_from(np.array([one.p_genuine for one in said], np.float64), prior)
    assert sum(_among(known, score) for score in scores) >= len(known)
    assert len(score_classes(replace(fitted[0], genuine_scores={}), "bag")) <= 1


def _among(known: NDArray[np.float64], score: float) -> bool:
    return bool(np.abs(known - score).min() < 1e-6)


def test_what_a_job_is_compared_as() -> None:
    assert not is_comparable(None)
    assert not is_comparable(ReasonCode.NO_REFERENCES)
    assert is_comparable(ReasonCode.VIEW_BLURRED)
    assert was_decidable("authentic", ReasonCode.CONSISTENT_WITH_REFERENCES)
    assert was_decidable("inconclusive", ReasonCode.AMBIGUOUS)
    assert not was_decidable("inconclusive", ReasonCode.VIEW_BLURRED)


def test_measures_that_are_no_numbers_are_left_out() -> None:
    found = measures_of(0.9, float("nan"), {"sharpness": 3.0, "trailing_bytes": 7.0, "glare": float("inf")})
    assert found == {"similarity": 0.9, "sharpness": 3.0}
    assert measures_of(None, None, {}) == {}


def test_a_category_without_items_has_an_empty_baseline() -> None:
    empty = baseline.baselines_of({"bag": []})["bag"]
    assert (empty.abstained, dict(empty.measures)) == (((0, 0), (0, 0)), {})
