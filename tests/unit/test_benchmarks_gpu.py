"""The GPU benchmarks' plumbing on a CPU: a step that fails costs nothing else, records are put together by source, and
the race of recipes runs from graph to finding. No time is asserted."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client import generate_latest

from benchmarks.gpu import report
from benchmarks.gpu.engine_life import swap_gaps
from benchmarks.gpu.engine_race import engines_section
from benchmarks.gpu.executing import device_images
from benchmarks.gpu.goals import GOALS, finding
from benchmarks.gpu.loading import timed_part
from benchmarks.gpu.machine import source_digest
from benchmarks.gpu.networks import FAMILIES, prepared
from benchmarks.gpu.photographs import USUAL, jpeg_of
from benchmarks.gpu.plots import bars, draw
from benchmarks.gpu.record import Section, record_path
from benchmarks.gpu.serving import Serving, borrowed_calibration
from benchmarks.worker_run import RunFailed
from engines.architectures import architecture_of, seeded_weights
from engines.catalogue import MODELS_DIR, read_engine, shipped_keys
from engines.recipes import device_graph
from worker.core.policy_json import from_json, to_json
from worker.observe import Meter


def section(folder: Path, budget_s: float = 100.0) -> Section:
    return Section("trial", folder, budget_s=budget_s, dry=True)


def on_disk(folder: Path, name: str = "trial") -> dict[str, dict[str, dict[str, object]]]:
    content: dict[str, dict[str, dict[str, object]]] = json.loads(record_path(folder, name).read_text())
    return content


def test_a_failed_step_is_told_and_the_next_goes_on(tmp_path: Path) -> None:
    tried = section(tmp_path)
    assert tried.step("breaks", 1, lambda: 1 // 0) is None
    assert tried.step("works", 1, lambda: {"img/s": 3}) == {"img/s": 3}
    steps = on_disk(tmp_path)["steps"]
    assert steps["breaks"]["state"] == "failed"
    assert "ZeroDivisionError" in str(steps["breaks"]["value"])
    assert steps["works"]["value"] == {"img/s": 3}


def test_a_step_that_does_not_fit_is_skipped_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert section(tmp_path, budget_s=5.0).step("long", 60, lambda: 1) is None
    assert on_disk(tmp_path)["steps"]["long"]["state"] == "skipped"
    assert "skipped" in capsys.readouterr().out


def test_what_was_found_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    section(tmp_path).find("G2", 2.6, "told")
    kept = on_disk(tmp_path)["findings"]["G2"]
    assert (kept["value"], kept["met"], kept["explained"]) == (2.6, True, "told")


def test_smaller_is_better_for_latency_and_unknown_goals_are_refused() -> None:
    assert finding("G7-p95", 61.0).met is False
    assert finding("G7-p95", 59.0).met is True
    with pytest.raises(KeyError):
        finding("G99", 1.0)


def test_records_of_this_source_become_one_table(tmp_path: Path) -> None:
    for name, value, digest in (("first", 2.0, source_digest()), ("other", 9.0, "of another source")):
        kept = Section(name, tmp_path, budget_s=1.0)
        kept.fact("environment", {"digest": digest})
        kept.find("G2", value)
    assert report.merge(tmp_path) == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["G2"]["value"] == 2.0
    assert content["G4"]["value"] is None
    assert list(content["sections"]) == ["first"]
    assert set(GOALS) < set(content)


def test_the_gap_of_swaps_is_read_from_a_workers_metrics() -> None:
    meter = Meter()
    assert swap_gaps(generate_latest(meter.registry).decode()) == {"swaps": 0.0, "mean ms": 0.0, "p99 ms": 1.0}
    for seconds in (*[0.0004] * 98, 0.02, 0.02):
        meter.swaps.observe(seconds)
    told = swap_gaps(generate_latest(meter.registry).decode())
    assert told == {"swaps": 100.0, "mean ms": 0.792, "p99 ms": 25.0}


def test_a_failed_step_makes_the_command_fail(tmp_path: Path) -> None:
    kept = section(tmp_path)
    kept.fact("environment", {"digest": source_digest()})
    kept.step("breaks", 1, lambda: 1 // 0)
    assert report.merge(tmp_path) == 1


def test_the_clock_runs_while_all_workers_have_work() -> None:
    assert timed_part(0, 1000, alone=True) == (150, 1000)
    assert timed_part(200, 1000, alone=False) == (350, 850)
    with pytest.raises(RunFailed, match="600 of 1000 jobs were answered before all workers were ready"):
        timed_part(600, 1000, alone=False)
    first, last = timed_part(12, 12, alone=True)  # a dry run
    assert first < last <= 12


def test_pictures_are_drawn_of_what_is_there(tmp_path: Path) -> None:
    legs = {"30% of 1000 jobs/s": {"P50": 10.0, "P95": 20.0, "P99": 30.0}, "one at a time": {"P50": 5.0}}
    (file,) = draw([{"facts": {"latency, ms": legs}}], tmp_path)
    assert file.name == "latency.svg"
    assert file.read_text().count("<path") == 4
    assert "&lt;" in bars("a < b", "jobs/s", {"one": 1.0})


@pytest.mark.parametrize("bits", [1.2, 3.4])
def test_a_jpeg_has_the_weight_that_was_asked_for(bits: float) -> None:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC))
    made = jpeg_of(image, bits)
    assert abs(8 * len(made) / 256**2 - bits) < 0.1 * bits
    assert Image.open(io.BytesIO(made)).size == (256, 256)
    assert USUAL.bits * USUAL.side**2 / 8 == pytest.approx(160e3, rel=0.1)


def test_images_take_the_form_that_a_graph_asks_for() -> None:
    architecture = architecture_of("resnet18", 64)
    graph = device_graph(architecture.build(seeded_weights(architecture, 1)), "half")
    made = device_images(graph, np.ones((2, 3, 64, 64), np.float32))
    assert made.shape == (2, 4, 64, 64)
    assert made.dtype == np.float16
    assert not made[:, 3].any()


def test_a_borrowed_calibration_is_as_if_it_were_the_engine_s_own(tmp_path: Path) -> None:
    serving = Serving(backend="tensorrt", engine="vit_tiny16", models=MODELS_DIR, plans=tmp_path)
    made = borrowed_calibration(serving)
    digest = read_engine(MODELS_DIR, "vit_tiny16", shipped_keys()).manifest.onnx_sha256
    assert (made.backend, made.engine_digests) == ("tensorrt", {digest})
    assert {key[2:] for key in made.views} == {(digest, "tensorrt")}
    assert from_json(to_json(made)).calibration_id == made.calibration_id != ""


def test_graphs_are_made_once_and_again_after_a_making_that_was_cut_short(tmp_path: Path) -> None:
    family = FAMILIES["tiny_resnet"]
    (tmp_path / "draft").mkdir()  # nothing says that it is complete
    told = prepared(family, family.size, tmp_path)
    made = (tmp_path / "int8.onnx").stat().st_mtime_ns
    assert prepared(family, family.size, tmp_path) == told
    assert (tmp_path / "int8.onnx").stat().st_mtime_ns == made


def test_the_race_runs_from_graphs_to_findings(tmp_path: Path) -> None:
    raced = Section("engines", tmp_path, budget_s=600.0, dry=True)
    engines_section(raced, "tiny_resnet")
    record = on_disk(tmp_path, "engines")
    assert {step["state"] for step in record["steps"].values()} == {"done"}, record["steps"]
    assert {"G3", "G9", "G10", "G19-size", "G23"} <= set(record["findings"])
    assert record["findings"]["G19-size"]["met"] is True
