"""`assay engine build`: from a recipe to plans that are proven, raced and found again by workers; and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_goods as goods
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from engines import building, openvino_runner
from engines.building import departures
from engines.catalogue import SessionOptions, open_session
from engines.drafts import read_draft, write_draft
from engines.recipe import Parity, as_toml, read_recipe
from engines.runner import EncoderOutputs, Runner
from worker.cli.engine_build import compatible_cost
from worker.cli.main import app
from worker.errors import AssayError

RECIPE = """
name = "small"
fp32 = "fp32"
batches = [1, 2]
rounds = 1

[[candidates]]
draft = "fp32"
report = "exact.json"

[[candidates]]
draft = "int8"
report = "evaluation.json"
"""


@pytest.fixture(scope="module")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drafts")
    exact, coarse = goods.twins(folder)
    goods.held_report(folder / "exact.json", exact.manifest)
    goods.held_report(folder / "evaluation.json", coarse.manifest)
    return folder


@pytest.fixture
def recipe(drafts: Path) -> Path:
    path = drafts / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(autouse=True)
def workers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSAY_ENGINES__PLANS_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


def build(recipe: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["engine", "build", str(recipe), "--out", str(out), "--json", *more])


def record_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(result: Result) -> str:
    assert isinstance(result.exception, AssayError), (result.output, result.exception)
    return str(result.exception)


def lines_of(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["draft"]: line for line in record["raced"]}


def test_a_recipe_becomes_a_plan_that_the_next_worker_takes(
    recipe: Path, tmp_path: Path, workers_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_of(build(recipe, tmp_path / "out"))
    lines = lines_of(record)
    assert lines.keys() == {"fp32", "int8"}
    for line in lines.values():
        assert line["why"] == ""
        assert [batch for batch, _ in line["rates"]] == [1, 2]
        assert line["plan_bytes"] > 10_000
        assert dict(line["cosines"])["embedding"] > 0.99
    winner = max(lines.values(), key=lambda line: line["rates"][-1][1])
    assert record["winner"]["draft"] == winner["draft"]
    assert json.loads((tmp_path / "out" / "build.json").read_text()) == record
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["candidate"]["onnx_sha256"] == record["winner"]["onnx_sha256"]
    engine = read_draft(tmp_path / "out" / "engine")
    assert engine.manifest.profiles == (1, 2)
    assert [header["onnx_sha256"] for header in record["plans"]] == [engine.manifest.onnx_sha256]

    monkeypatch.setattr(openvino_runner, "graph_of", lambda *_: pytest.fail("a worker compiled what was built"))
    options = SessionOptions(plans_dir=workers_folder, cpu_plans=True)
    open_session([engine.unsigned()], "openvino", options).close()


def test_the_lock_builds_the_same_and_nothing_else(recipe: Path, drafts: Path, tmp_path: Path) -> None:
    record_of(build(recipe, tmp_path / "out", "--no-keep"))
    lock = drafts / "lock.toml"
    lock.write_text((tmp_path / "out" / "recipe.lock.toml").read_text())
    again = record_of(build(lock, tmp_path / "again", "--no-keep"))
    digests = again["recipe"]["digests"]
    assert {name for name, _ in digests} == {"fp32", "int8", "exact.json", "evaluation.json", "golden"}
    assert (tmp_path / "again" / "recipe.lock.toml").read_text() == lock.read_text()
    for pinned, other, told in (
        (dict(digests)["int8"], "0" * 64, "the recipe pins file int8"),
        (dict(digests)["golden"], "0" * 64, "the recipe pins file golden"),
        (dict(again["recipe"]["versions"])["openvino"], "2025.1.0", "the recipe pins version openvino to 2025.1.0"),
    ):
        lock.write_text((tmp_path / "out" / "recipe.lock.toml").read_text().replace(pinned, other))
        assert told in refused(build(lock, tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_candidate_without_a_passing_report_is_told_and_does_not_win(
    recipe: Path, drafts: Path, tmp_path: Path
) -> None:
    coarse = read_draft(drafts / "int8").manifest
    goods.held_report(drafts / "worse.json", coarse, **{"verdict flips": 0.1})
    goods.held_report(drafts / "other.json", replace(coarse, onnx_sha256="0" * 64))
    for report, told in (
        ("", "no report proves its accuracy"),
        ('report = "worse.json"', "verdict flips 0.10000"),
        ('report = "other.json"', "report_invalid"),
    ):
        recipe.write_text(RECIPE.replace('report = "evaluation.json"', report))
        record = record_of(build(recipe, tmp_path / f"out-{len(report)}{told[:2]}"))
        assert told in lines_of(record)["int8"]["why"]
        assert lines_of(record)["int8"]["rates"] == []
        assert record["winner"]["draft"] == "fp32"
    recipe.write_text("require_reports = false\n" + RECIPE.replace('report = "evaluation.json"', ""))
    assert lines_of(record_of(build(recipe, tmp_path / "bare")))["int8"]["why"] == ""


def test_the_original_without_a_report_is_timed_and_never_taken(recipe: Path, drafts: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace('report = "exact.json"', ""))
    record = record_of(build(recipe, tmp_path / "out"))
    assert record["winner"]["draft"] == "int8"
    assert (lines_of(record)["fp32"]["yardstick"], len(lines_of(record)["fp32"]["rates"])) == (True, 2)
    goods.held_report(drafts / "worst.json", read_draft(drafts / "int8").manifest, **{"verdict flips": 0.1})
    recipe.write_text(RECIPE.replace('report = "exact.json"', "").replace("evaluation.json", "worst.json"))
    assert "no candidate passes" in refused(build(recipe, tmp_path / "none"))


def test_a_plan_that_departs_from_fp32_does_not_win(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a miscompiled one would: its golden outputs still hold, on other images it is another encoder."""
    opened = building.open_runner

    class Miscompiled:
        def __init__(self, runner: Runner) -> None:
            self.runner, self.info, self.close = runner, runner.info, runner.close

        def start(self, pixels: np.ndarray) -> Any:
            return self.runner.start(255 - pixels)

    def planted(engine: Any, backend: Any, *more: Any) -> Any:
        runner = opened(engine, backend, *more)
        return Miscompiled(runner) if engine.manifest.precision == "int8" else runner

    monkeypatch.setattr(building, "open_runner", planted)
    record = record_of(build(recipe, tmp_path / "out"))
    assert "embedding" in lines_of(record)["int8"]["why"]
    assert record["winner"]["draft"] == "fp32"


def test_a_plan_that_does_not_load_back_is_refused(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_runner, "kept_model", lambda *_: None)
    assert "does not load back" in refused(build(recipe, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_golden_photographs_decide_too(recipe: Path, drafts: Path, tmp_path: Path) -> None:
    (drafts / "small").mkdir(exist_ok=True)
    goods.drawn(1, 0, side=20).save(drafts / "small" / "1.png")
    recipe.write_text('golden = "small"\n' + RECIPE)
    assert "golden photographs cannot be used" in refused(build(recipe, tmp_path / "out"))
    (drafts / "golden").mkdir(exist_ok=True)
    for sku in range(5):
        goods.drawn(sku, 0, side=80).save(drafts / "golden" / f"{sku}.png")
    recipe.write_text('golden = "golden"\ngolden_images = 3\nseed = 4\n' + RECIPE)
    first, second = (record_of(build(recipe, tmp_path / name)) for name in ("one", "two"))
    assert first["golden_images"] == 3
    assert first["recipe"]["digests"] == second["recipe"]["digests"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "name and fp32 are needed"),
        ("name = 7", "name is 7, expected str"),
        (RECIPE + "\n[race]\nfast = true\n", "unknown: race"),
        (RECIPE.replace("[1, 2]", "[0]"), "batches [0]"),
        (RECIPE.replace("rounds = 1", "rounds = true"), "rounds is True"),
        (RECIPE.replace("rounds = 1", 'backend = "cuda"'), "backend 'cuda'"),
        (RECIPE.replace("rounds = 1", "version_compatible = true"), "version_compatible is for tensorrt"),
        (RECIPE.partition("[[")[0], "no [[candidates]]"),
        (RECIPE + '\n[versions]\nwindows = "11"\n', "versions of windows"),
        (RECIPE.replace('fp32 = "fp32"', 'fp32 = "int8"'), "name the FP32 draft as fp32"),
        (RECIPE.replace('draft = "int8"', 'draft = "gone"'), "holds no manifest"),
        (RECIPE.replace("evaluation.json", "gone.json"), "gone.json cannot be read"),
        (RECIPE.replace('name = "small"', 'name = "vit"'), "the recipe's name is vit"),
        ("name = ", "is no recipe"),
    ],
)
def test_a_bad_recipe_is_one_line_and_leaves_nothing(recipe: Path, tmp_path: Path, text: str, told: str) -> None:
    recipe.write_text(text)
    assert told in refused(build(recipe, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_drafts_of_another_space_are_not_raced(recipe: Path, drafts: Path, tmp_path: Path) -> None:
    other = read_draft(drafts / "int8")
    moved = replace(other, manifest=replace(other.manifest, embedding_space="e" * 64))
    write_draft(moved, tmp_path / "moved")
    recipe.write_text(RECIPE.replace('draft = "int8"', f'draft = "{tmp_path / "moved"}"'))
    assert "another embedding space" in refused(build(recipe, tmp_path / "out"))


def test_a_recipe_reads_back_as_it_was_written(recipe: Path, drafts: Path) -> None:
    read = read_recipe(recipe).pinned({"int8": "a" * 64}, {"tensorrt": "10.6.0"})
    recipe.write_text(as_toml(replace(read, backend="tensorrt", version_compatible=True, parity=Parity(patches=0.9))))
    assert read_recipe(recipe) == replace(read, backend="tensorrt", version_compatible=True, parity=Parity(patches=0.9))


def test_no_number_is_no_parity() -> None:
    ones = EncoderOutputs(
        embedding=np.ones((2, 4), np.float32),
        patches=np.ones((2, 3, 4), np.float32),
        attention=np.ones((2, 2, 2), np.float32),
    )
    assert departures(building.cosines(ones, ones), Parity()) == ""
    broken = replace(ones, embedding=np.full((2, 4), np.nan, np.float32))
    assert "embedding nan" in departures(building.cosines(broken, ones), Parity())


def test_the_cost_of_a_version_compatible_plan() -> None:
    plain = building.Raced(draft="int8", precision="int8", plan="plain", onnx_sha256="a", rates=((1, 50.0), (8, 100.0)))
    lean = replace(plain, plan="version-compatible", rates=((1, 50.0), (8, 90.0)))
    assert compatible_cost([plain, lean], lean) == pytest.approx(0.1)
    assert compatible_cost([plain], plain) is None
