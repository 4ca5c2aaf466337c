"""What an engine costs, in figures whose values are known, and the gate that holds it to its budget."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from engines.evaluating import (
    Budget,
    Embedded,
    Evaluation,
    Figures,
    Judged,
    Labels,
    Moved,
    Rate,
    calibration_error,
    checks,
    default_budget,
    moved,
    recall_at_1,
    verification,
)
from engines.evaluating_page import as_record, render_page

A, B, LOGO, SERIAL = "sku-a", "sku-b", "bag/logo", "bag/serial"


def rows(*vectors: tuple[float, float]) -> np.ndarray:
    found = np.array(vectors, np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


LABELS = Labels(
    references=((LOGO, A), (LOGO, B), (SERIAL, A)),
    probes=((LOGO, A), (LOGO, A), (LOGO, B), (LOGO, B), (SERIAL, A)),
    genuine=np.array([True, True, True, False, True]),
)
REFERENCES = rows((1, 0), (0, 1), (1, 1))


def test_recall_asks_genuine_probes_of_roles_with_a_choice() -> None:
    """The forged probe and the serial, of which only one SKU has references, are not asked."""
    found = Embedded(references=REFERENCES, probes=rows((1, 0.1), (0.1, 1), (0, 1), (1, 0), (1, 1)))
    assert recall_at_1(found, LABELS) == Rate(value=2 / 3, of=3)
    alone = replace(LABELS, references=((LOGO, A), (SERIAL, B), (SERIAL, B)))
    assert recall_at_1(found, alone) is None


def test_the_roc_area_is_that_of_another_implementation() -> None:
    rng = np.random.default_rng(0)
    genuine = rng.random(60) < 0.5
    angles = np.where(genuine, rng.normal(0.3, 0.3, 60), rng.normal(0.6, 0.3, 60)).round(1)
    labels = Labels(references=((LOGO, A),), probes=((LOGO, A),) * 60, genuine=genuine)
    found = Embedded(references=rows((1, 0)), probes=rows(*zip(np.cos(angles), np.sin(angles), strict=True)))
    area, curve = verification(found, labels)
    assert area is not None
    scores = (found.probes @ found.references[0]).astype(np.float64)
    assert area.value == pytest.approx(roc_auc_score(genuine, scores))
    false, true = np.array(curve).T
    assert (curve[0], curve[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert (np.diff(false) >= 0).all() and (np.diff(true) >= 0).all()
    assert np.trapezoid(true, false) == pytest.approx(area.value)
    assert verification(found, replace(labels, genuine=np.ones(60, bool))) == (None, ())


def test_the_calibration_error_weights_both_classes_equally() -> None:
    truth = [True] * 9 + [False]
    sure = Judged(verdicts=("authentic",) * 10, p_genuine=(0.95,) * 10)
    error, curve = calibration_error(sure, truth)
    assert error == Rate(value=pytest.approx(0.45), of=10)
    assert curve == ((pytest.approx(0.95), pytest.approx(0.5)),)
    right = Judged(verdicts=("authentic",) * 10, p_genuine=(1.0,) * 9 + (0.0,))
    found, _ = calibration_error(right, truth)
    assert found == Rate(value=0.0, of=10)
    assert calibration_error(Judged(verdicts=(), p_genuine=(None,) * 10), truth) == (None, ())


def test_moves_are_counted_by_what_they_do() -> None:
    before = Judged(verdicts=("authentic", "counterfeit", "authentic", "inconclusive"), p_genuine=(None,) * 4)
    after = Judged(verdicts=("counterfeit", "counterfeit", "inconclusive", "authentic"), p_genuine=(None,) * 4)
    found = moved(before, after, ["i", "j", "k", "l"])
    assert (found.judged, found.decided, found.hard_flips, found.abstention_changes) == (4, 3, 1, 2)
    assert [name for name, _, _ in found.items] == ["i", "k", "l"]


def figures(precision: str, size: int, recall: float) -> Figures:
    return Figures(
        name="<script>x</script>",
        precision=precision,
        backend="openvino",
        onnx_sha256="0" * 64,
        bytes=size,
        images_per_s=10.0,
        recall_at_1=Rate(value=recall, of=1000),
        auc=Rate(value=0.9, of=100),
        calibration_error=None,
        roc=((0.0, 0.0), (0.2, 0.8), (1.0, 1.0)),
        reliability=((0.1, 0.2), (0.9, 0.8)),
    )


def evaluated(
    *, recall: float = 0.998, size: int = 25, cosine: float = 0.999, matrix: tuple[tuple[int, ...], ...] | None = None
) -> Evaluation:
    still = Moved(
        matrix=matrix or ((50, 0, 0), (0, 40, 0), (0, 0, 10)), items=(("<b>i</b>", "authentic", "counterfeit"),)
    )
    return Evaluation(
        exact=figures("fp32", 100, 1.0),
        candidate=figures("int8", size, recall),
        cosines=np.full(100, cosine, np.float32),
        moved=still,
        no_verdicts=None,
    )


BUDGET = default_budget("resnet18")


def broken(found: Evaluation, budget: Budget = BUDGET) -> list[str]:
    return [check.name for check in checks(found, budget) if not check.holds]


def test_within_the_budget_every_bound_holds() -> None:
    assert broken(evaluated()) == []


@pytest.mark.parametrize(
    ("found", "bounds"),
    [
        (evaluated(recall=0.996), ["recall@1 lost"]),
        (evaluated(cosine=0.99), ["embedding cosine, mean"]),
        (evaluated(cosine=0.97), ["embedding cosine, mean", "embedding cosine, P1"]),
        (evaluated(matrix=((49, 1, 0), (0, 40, 0), (0, 0, 10))), ["verdict flips"]),
        (evaluated(matrix=((47, 0, 3), (0, 40, 0), (0, 0, 10))), ["changes to or from inconclusive"]),
        (evaluated(matrix=((48, 0, 2), (0, 40, 0), (0, 0, 10))), []),
        (evaluated(size=31), ["file over FP32's"]),
    ],
)
def test_each_bound_breaks_by_itself(found: Evaluation, bounds: list[str]) -> None:
    assert broken(found) == bounds


def test_what_was_not_measured_does_not_hold() -> None:
    verdicts = ["verdict flips", "changes to or from inconclusive"]
    assert broken(replace(evaluated(), moved=None, no_verdicts="too few items")) == verdicts
    # where FP32 decides nothing, no flip could be seen
    assert broken(evaluated(matrix=((0, 0, 0), (0, 0, 0), (0, 0, 100)))) == verdicts
    # nor from authentic to counterfeit where it calls nothing authentic
    assert broken(evaluated(matrix=((0, 0, 0), (0, 47, 0), (0, 0, 53)))) == ["verdict flips"]
    unasked = replace(figures("int8", 25, 1.0), recall_at_1=None)
    assert broken(replace(evaluated(), candidate=unasked)) == ["recall@1 lost"]


def test_a_gate_says_what_so_few_items_can_show() -> None:
    told = {check.name: check.told for check in checks(evaluated(), BUDGET)}
    assert told["verdict flips"] == "100 items, 90 of them decided by FP32; a rate below 3.7% at 95 %"


def test_a_transformer_has_a_budget_of_its_own() -> None:
    assert broken(evaluated(recall=0.993, cosine=0.991), default_budget("vit_tiny16")) == []


def test_the_record_is_json_and_says_whether_it_holds() -> None:
    found = evaluated(size=31)
    record = json.loads(json.dumps(as_record(found, checks(found, BUDGET), {"set": "labelled"}), allow_nan=False))
    assert record["within_budget"] is False
    assert record["verdicts"]["matrix"][0] == [50, 0, 0]
    assert record["candidate"]["recall_at_1"] == {"value": 0.998, "of": 1000}


def test_the_page_stands_alone_and_escapes_names() -> None:
    found = evaluated(size=31)
    quantised = {"harm": {"layer1<i>": 1e-3, "layer2": 0.0}, "methods": {"min-max": {"mean": 0.9, "p1": 0.8}}}
    record = {**quantised, "method": "min-max", "search": {"floats": ["layer1<i>"]}}
    page = render_page(found, checks(found, BUDGET), record, {"set": "labelled"})
    assert "<script" not in page and "<b>i" not in page and "layer1<i>" not in page
    assert "http" not in page and "url(" not in page
    assert page.count("<svg") == 4
    assert "Over its accuracy budget" in page and "left float" in page
    bare = render_page(replace(found, moved=None, no_verdicts="too few items"), checks(found, BUDGET), {}, {})
    assert "Not measured: too few items" in bare and bare.count("<svg") == 3
