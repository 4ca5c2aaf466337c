"""The page of a score calibration, its reliability diagram, and the conformal step beside MAPIE's."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from core_goods import POLICY, Goods, labelled
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import calibration_curve

from schemas.codes import Verdict
from worker.core.calibration import fit
from worker.core.calibration_report import reliability
from worker.core.conformal import Thresholds
from worker.report.calibration import render_calibration
from worker.report.charts import BAR, interval, plot

GOODS = Goods()
ITEMS = labelled(GOODS, GOODS.snapshot(), 100)
_, REPORT = fit(ITEMS, POLICY.profiles, seed=3)
STATED = np.random.default_rng(0).random(2_000)
TRUTH = np.random.default_rng(1).random(2_000) < STATED


class Told(ClassifierMixin, BaseEstimator):
    """A classifier that is fitted already: the first column of its input is the log-odds of genuine."""

    classes_ = np.array([0, 1])

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, rows: np.ndarray, labels: np.ndarray) -> Told:
        return self

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        genuine = 1 / (1 + np.exp(-rows[:, 0]))
        return np.column_stack([1 - genuine, genuine])

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return (rows[:, 0] > 0).astype(int)


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization dataset has less labels")
@pytest.mark.parametrize(("n", "alpha"), [(20, 0.05), (60, 0.05), (100, 0.01), (200, 0.1), (37, 0.2)])
def test_each_class_is_kept_as_mapie_keeps_it(n: int, alpha: float) -> None:
    """Conformalized on one class at a time, MAPIE's set holds that class for the scores that we keep it for."""
    mapie = pytest.importorskip("mapie.classification", reason="MAPIE is not installed: it is of the dev group")
    rng = np.random.default_rng(n)
    genuine, fakes = np.sort(rng.normal(1, 1, n)), np.sort(rng.normal(-1, 1, n))
    limits = Thresholds(genuine=genuine, counterfeit=fakes, alpha_accept=alpha, alpha_reject=alpha)
    asked = np.concatenate([rng.normal(0, 2, 300), genuine, fakes])  # ties with calibration scores among them
    kept = [limits.kept(score) for score in asked]
    for label, items, verdict in ((1, genuine, Verdict.AUTHENTIC), (0, fakes, Verdict.COUNTERFEIT)):
        oracle = mapie.SplitConformalClassifier(Told(), confidence_level=1 - alpha, prefit=True, conformity_score="lac")
        oracle.conformalize(items[:, None], np.full(n, label))
        sets = oracle.predict_set(asked[:, None])[1][:, label, 0]
        assert [verdict in found for found in kept] == sets.tolist()


def test_reliability_is_scikit_learns_where_the_prior_is_the_items_own_mixture() -> None:
    found = reliability(list(zip(STATED.tolist(), TRUTH.tolist(), strict=True)), float(TRUTH.mean()))
    observed, stated = calibration_curve(TRUTH, STATED, n_bins=10)
    assert [one.observed for one in found] == pytest.approx(observed.tolist())
    assert [one.stated for one in found] == pytest.approx(stated.tolist())
    assert sum(one.n for one in found) == 2_000
    assert all(one.low < one.observed < one.high for one in found)


def test_reliability_is_told_at_the_declared_prior() -> None:
    """Posteriors that are right at 0.5 stay so when nine of ten labelled items are counterfeit."""
    rng = np.random.default_rng(2)
    genuine, fakes = rng.normal(1, 1, 2_000), rng.normal(-1, 1, 18_000)
    stated = 1 / (1 + np.exp(-2 * np.concatenate([genuine, fakes])))
    truth = np.arange(20_000) < 2_000
    found = reliability(list(zip(stated.tolist(), truth.tolist(), strict=True)), 0.5)
    assert all(abs(one.stated - one.observed) < 0.06 for one in found)


def test_one_class_has_no_reliability() -> None:
    assert reliability([(0.5, True), (0.7, True)], 0.5) == ()


def test_the_page_tells_each_category_its_budgets_and_its_families() -> None:
    page = render_calibration(REPORT)
    assert REPORT.calibration_id in page and "bag" in page
    assert "Reliability at the declared prior" in page and "Refused" not in page
    (bag,) = REPORT.categories
    assert bag.reliability and f"{bag.genuine_n} genuine and {bag.counterfeit_n} counterfeit" in page
    assert not re.search(r"(src|href)=|https?://|<script", page)


def test_a_budget_that_n_cannot_support_is_refused_on_the_page() -> None:
    strict = {"bag": replace(POLICY.profiles["bag"], alpha_accept=0.001)}
    _, report = fit(ITEMS, strict, seed=3)
    assert "Refused: too few items" in render_calibration(report)


def test_names_on_the_page_are_escaped() -> None:
    (bag,) = REPORT.categories
    page = render_calibration(replace(REPORT, categories=(replace(bag, category="<script>alert(1)</script>"),)))
    assert "<script>" not in page


def test_lengths_are_those_of_the_values() -> None:
    row = interval("x", 0.05, 0.02, 0.5, 100, beside=0.1, of=0.2)
    assert (row.value, row.low, row.high, row.beside) == (BAR / 4, BAR / 10, BAR, BAR / 2)
    drawn = plot("t", x_title="x", y_title="y", curves=[("a", [(0, 0.5), (1, 1.0)])], bottom=0.5)
    first, last = (float(word.split()[-1]) for word in drawn.lines[0].path.split("L"))
    assert first == drawn.y_ticks[0].at and last == drawn.y_ticks[-1].at
