"""docs/engine-life.sh as it stands there: from an FP32 graph of random weights to service and back, on drawn goods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import engine_goods as goods
import engine_graphs as graphs
import pytest

from demo.stand import new_stand
from devstack import Addresses
from engines.drafts import read_draft

NAME = "small"
SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "engine-life.sh"


@pytest.mark.timeout(600)
def test_the_script_of_the_docs_runs_the_whole_life(stack: Addresses, tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(graphs.residual(width=96).SerializeToString())
    goods.photographs(tmp_path / "photographs", ((sku, n) for sku in range(10) for n in range(10)))
    goods.labelled(tmp_path / "labelled", skus=6, genuine=30, forged=20)
    settings = {
        "ASSAY_ENGINES__REGISTRY": str(tmp_path / "registry"),
        "ASSAY_ENGINES__KEYS_DIR": str(tmp_path / "keys"),
        "ASSAY_ENGINES__PLANS_DIR": str(tmp_path / "plans"),
        "ASSAY_ENGINES__DEFAULT_ENCODER": NAME,
        "ASSAY_ENGINES__ENCODERS": "{}",
    }
    stand = new_stand(stack, tmp_path / "stand", settings)
    assay = f"{sys.executable} -m worker.cli.main"
    tried = tmp_path / "tried"
    tried.write_text(f'#!/bin/sh\n{assay} engine list "$1" --json > {tmp_path}/tried.json\n')
    tried.chmod(0o755)
    path = {"PYTHONPATH": os.pathsep.join(sys.path), "ASSAY": assay, "BY": "ada", "TRIAL": str(tried)}
    inputs = (tmp_path / "encoder.onnx", NAME, tmp_path / "photographs", tmp_path / "labelled", tmp_path / "work")
    done = subprocess.run(
        ["bash", str(SCRIPT), *map(str, inputs)], env={**stand.curator, **path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]

    meanwhile = json.loads((tmp_path / "tried.json").read_text())
    assert {line["version"]: line["state"] for line in meanwhile} == {2: "verified", 1: "current"}
    lines = json.loads(stand.assay("engine", "list", NAME, "--json", env=stand.curator))
    assert {line["version"]: line["state"] for line in lines} == {2: "retired", 1: "current"}
    engine = read_draft(tmp_path / "work" / "built" / "engine").manifest
    assert engine.precision == "int8"
    assert {line["digest"] for line in lines} == {engine.onnx_sha256}
    (shown,) = json.loads(stand.assay("engine", "show", NAME, "--version", "1", "--json", env=stand.curator))
    assert [event["to"] for event in shown["events"]] == ["draft", "verified", "current", "previous", "current"]
    assert {event["why"] for event in shown["events"]} == {"docs/engine-life.sh"}
    assert shown["proven"] == "yes"
    bounds = {bound["name"]: bound["found"] for bound in shown["proof"]["bounds"]}
    assert bounds["verdict flips"] == 0
    assert len(list((tmp_path / "plans").glob("openvino-*.plan"))) == 1
