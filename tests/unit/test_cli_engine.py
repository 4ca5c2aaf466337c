"""`assay engine import`, `quantize` and `evaluate` on a small seeded encoder and drawn photographs, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import engine_goods as goods
import engine_graphs as graphs
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from engines.drafts import read_draft
from worker.calibrate import UnlabelledItems
from worker.cli.engine_make import OVER_BUDGET, labelled_items
from worker.cli.main import app
from worker.engine_trial import TrialRefused, parted
from worker.errors import AssayError
from worker.items import Item

Assay = Callable[..., Result]
LEVELS = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
SPLIT = ("--category", "bag", "--alpha-accept", "0.2", "--alpha-reject", "0.2")


def assay(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["engine", *(str(argument) for argument in arguments)])


def done(result: Result) -> Result:
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def refused(result: Result) -> str:
    assert isinstance(result.exception, AssayError), (result.output, result.exception)
    return str(result.exception)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An FP32 draft, and its INT8 one."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "encoder.onnx").write_bytes(graphs.residual().SerializeToString())
    goods.photographs(folder / "photographs", ((sku, n) for sku in range(10) for n in range(10)))
    goods.photographs(folder / "enrolled", ((sku, 100 + n) for sku in range(10) for n in range(2)))
    done(assay("import", folder / "encoder.onnx", "--name", "small", "--out", folder / "fp32", *LEVELS))
    given = ("--references", folder / "enrolled", "--cosine-mean", "0.9", "--cosine-p1", "0.9")
    done(assay("quantize", folder / "fp32", folder / "photographs", "--out", folder / "int8", *given))
    goods.labelled(folder / "labelled", skus=4, genuine=10, forged=7)
    return folder


def test_an_engine_is_imported_quantised_and_evaluated(work: Path) -> None:
    drafts = [read_draft(work / name).manifest for name in ("fp32", "int8")]
    assert [d.precision for d in drafts] == ["fp32", "int8"]
    assert drafts[0].embedding_space == drafts[1].embedding_space
    found = assay("evaluate", work / "fp32", work / "int8", work / "labelled", "--out", work / "page", "--json", *SPLIT)
    record = json.loads(found.stdout)
    assert json.loads((work / "page" / "evaluation.json").read_text()) == record
    assert record["candidate"]["precision"] == "int8"
    assert 0.9 < record["cosine"]["mean"] <= 1.0
    assert record["verdicts"]["judged"] > 0
    assert record["fp32"]["recall_at_1"]["of"] > 0
    assert record["fp32"]["images_per_s"] > 0
    # a graph this small has more names than weights
    assert found.exit_code == OVER_BUDGET
    assert "not to be published: " in found.stderr and "file over FP32's" in found.stderr
    assert "<svg" in (work / "page" / "evaluation.html").read_text()


def test_an_engine_beside_itself_costs_nothing(work: Path) -> None:
    found = done(
        assay("evaluate", work / "fp32", work / "fp32", work / "labelled", "--file-share", "1", "--json", *SPLIT)
    )
    record = json.loads(found.stdout)
    assert record["within_budget"] is True
    assert record["verdicts"]["hard_flips"] == record["verdicts"]["abstention_changes"] == 0
    assert record["fp32"]["recall_at_1"] == record["candidate"]["recall_at_1"]
    assert record["cosine"]["p1"] == pytest.approx(1.0, abs=1e-5)


def nothing_new(folder: Path, before: set[Path]) -> bool:
    return set(folder.iterdir()) == before


def test_bad_input_is_one_line_and_leaves_nothing(work: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    goods.photographs(tmp_path / "five", ((sku, 0) for sku in range(5)))
    (tmp_path / "noise").mkdir()
    for number in range(100):
        square = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(square).save(tmp_path / "noise" / f"{number}.png")
    (tmp_path / "old.onnx").write_bytes(graphs.residual(opset=13).SerializeToString())
    (tmp_path / "open.onnx").write_bytes(graphs.residual(dims=["N", 3, "h", "w"]).SerializeToString())
    before = set(tmp_path.iterdir())
    out = ("--out", tmp_path / "out")
    for name, told in (("empty", "holds no photograph"), ("five", "5 different photographs"), ("noise", "are noise")):
        assert told in refused(assay("quantize", work / "fp32", tmp_path / name, *out))
    for name, told in (("old.onnx", "opset is 13"), ("open.onnx", "not fixed"), ("gone.onnx", "cannot be read")):
        assert told in refused(assay("import", tmp_path / name, "--name", "x", *out, *LEVELS))
    assert "nothing says how" in refused(assay("import", work / "encoder.onnx", "--name", "x", *out))
    assert "is no name" in refused(assay("import", work / "encoder.onnx", "--name", "../x", *out, *LEVELS))
    assert "holds no manifest" in refused(assay("quantize", tmp_path / "empty", work / "photographs", *out))
    assert nothing_new(tmp_path, before)
    taken = ("--out", work / "fp32")
    assert "exists already" in refused(assay("import", work / "encoder.onnx", "--name", "x", *taken, *LEVELS))


def test_sets_that_tell_nothing_are_refused(work: Path, tmp_path: Path) -> None:
    place = tmp_path / "unlabelled" / "SKU-1"
    place.mkdir(parents=True)
    goods.drawn(1, 1).save(place / "logo.jpg")
    out = ("--out", tmp_path / "out")
    both = ("evaluate", work / "fp32", work / "int8")
    assert "have no label" in refused(assay(*both, tmp_path / "unlabelled", *out, *SPLIT))
    goods.labelled(tmp_path / "one", skus=2, genuine=3, forged=0)
    assert "both classes are needed" in refused(assay(*both, tmp_path / "one", *out, *SPLIT))
    (tmp_path / "one" / "counterfeit").mkdir()
    assert "holds no items" in refused(assay(*both, tmp_path / "one", *out, *SPLIT))
    assert "name the FP32 draft first" in refused(assay("evaluate", work / "int8", work / "int8", work / "labelled"))
    (tmp_path / "other.onnx").write_bytes(graphs.residual(2).SerializeToString())
    done(assay("import", tmp_path / "other.onnx", "--name", "small", "--out", tmp_path / "other", *LEVELS))
    assert "different embedding spaces" in refused(
        assay("evaluate", work / "fp32", tmp_path / "other", work / "labelled")
    )
    assert not (tmp_path / "out").exists()


def item(sku: str, name: str, label: str | None, subject: str = "") -> Item:
    labels = {"subject": subject} if subject else {}
    return Item(sku=sku, category="bag", views={"logo": Path("x")}, name=name, label=label, labels=labels)  # type: ignore[arg-type]


def test_parts_share_no_specimen() -> None:
    items = [item(sku, f"{sku}{n}", "genuine", subject=f"s{n // 2}") for sku in "ab" for n in range(20)]
    items += [item(sku, f"{sku}fake{n}", "counterfeit") for sku in "ab" for n in range(10)]
    parts = parted(items, [], per_sku=3, seed=0)
    groups = [
        {(i.sku, i.labels.get("subject") or i.name) for i in p} for p in (parts.references, parts.fitted, parts.judged)
    ]
    assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2]
    assert {i.sku for i in parts.references} == {"a", "b"}
    assert all(i.label == "genuine" for i in parts.references)
    own = parted(items, items[:4], per_sku=3, seed=0)
    assert list(own.references) == items[:4]
    with pytest.raises(UnlabelledItems):
        parted([*items, item("a", "bare", None)], [], per_sku=3, seed=0)
    with pytest.raises(TrialRefused, match="0 genuine and 20 counterfeit"):
        parted(items, [], per_sku=30, seed=0)


def test_a_folder_of_two_classes_is_labelled_by_them(tmp_path: Path) -> None:
    goods.labelled(tmp_path, skus=1, genuine=2, forged=1)
    found = labelled_items(tmp_path, "bag")
    assert sorted((i.name, i.label) for i in found) == [
        ("counterfeit/SKU-0/0", "counterfeit"),
        ("genuine/SKU-0/0", "genuine"),
        ("genuine/SKU-0/1", "genuine"),
    ]
