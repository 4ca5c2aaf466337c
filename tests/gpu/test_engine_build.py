"""`assay engine build` for TensorRT: plans that are proven, raced, version-compatible, and taken by the next worker."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import engine_goods as goods
import pytest
from typer.testing import CliRunner

from engines.catalogue import SessionOptions, open_session
from engines.drafts import read_draft
from engines.gpu import plans
from worker.cli.main import app

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
RECIPE = """
name = "small"
fp32 = "fp32"
backend = "tensorrt"
batches = [1, 4]
rounds = 1
version_compatible = {compatible}

[[candidates]]
draft = "fp32"
report = "exact.json"

[[candidates]]
draft = "int8"
report = "evaluation.json"
"""


def lean_runtime() -> bool:
    """Which a version-compatible plan brings with it."""
    import tensorrt

    try:
        ctypes.CDLL(f"libnvinfer_lean.so.{tensorrt.__version__.partition('.')[0]}")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("compatible", [False, True], ids=["plain", "version-compatible"])
def test_a_recipe_becomes_a_plan_that_the_next_worker_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compatible: bool
) -> None:
    if compatible and not lean_runtime():
        pytest.skip("TensorRT's lean runtime is not installed: no version-compatible plan can be built")
    exact, coarse = goods.twins(tmp_path)
    goods.held_report(tmp_path / "exact.json", exact.manifest)
    goods.held_report(tmp_path / "evaluation.json", coarse.manifest)
    recipe, kept = tmp_path / "recipe.toml", tmp_path / "kept"
    recipe.write_text(RECIPE.replace("{compatible}", str(compatible).lower()))
    monkeypatch.setenv("ASSAY_ENGINES__PLANS_DIR", str(kept))
    result = CliRunner().invoke(app, ["engine", "build", str(recipe), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    record = json.loads(result.stdout)
    for line in record["raced"]:
        assert line["why"] == "", line
        assert [batch for batch, _ in line["rates"]] == [1, 4]
        assert dict(line["cosines"])["embedding"] > 0.99
    assert {header["backend"] for header in record["plans"]} == {"tensorrt"}

    monkeypatch.setattr(plans, "build_plan", lambda *_: pytest.fail("a worker built what was built"))
    engine = read_draft(tmp_path / "out" / "engine")
    open_session([engine.unsigned()], "tensorrt", SessionOptions(plans_dir=kept, deadline_s=60.0)).close()
