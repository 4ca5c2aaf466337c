"""Plans that are kept: whole or not at all, in a folder of this user's, for the machine that they were built on."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import cpu_plans, openvino_runner
from engines.catalogue import EngineFiles, VerifiedEngine, open_runner
from engines.errors import EngineRefused, RefusalCode
from engines.export import ExportedEngine
from engines.golden import golden_pixels
from engines.gpu import plans as gpu_plans
from engines.gpu.device_graph import DeviceGraph
from engines.gpu.opened import Gpu
from engines.plan_files import KeptTimings, PlanFolder, PlanHeader, refuse_other_plan
from engines.publish import seeded_engine

HEADER = PlanHeader(
    backend="tensorrt",
    name="resnet18",
    onnx_sha256="a" * 64,
    profiles=(1, 8),
    version="10.6.0",
    machine="9.0",
    options=(("effort", "1"),),
    made_with=(("cuda", "13.0"), ("driver", "580.65.06")),
)


def other(**changes: Any) -> PlanHeader:
    return dataclasses.replace(HEADER, **changes)


def test_a_plan_is_kept_whole_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path / "plans")
    assert plans.read(HEADER) is None
    plans.write(HEADER, b"plan")
    assert plans.read(HEADER) == b"plan"
    assert list(plans.headers()) == [HEADER]
    (file,) = (tmp_path / "plans").iterdir()
    raw = file.read_bytes()
    for damaged in (raw[:-1], raw[:40], b"", raw[:-1] + b"x", raw + b"x", raw.replace(b"9.0", b"8.0")):
        file.write_bytes(damaged)
        assert plans.read(HEADER) is None
        assert list(plans.headers()) == []


def test_a_plan_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    plans = PlanFolder(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        plans.write(HEADER, b"plan")
    assert list(tmp_path.iterdir()) == []


def test_of_several_who_want_a_plan_one_builds_at_a_time(tmp_path: Path) -> None:
    entered = threading.Event()

    def another() -> None:
        with PlanFolder(tmp_path / "plans").alone(HEADER):
            entered.set()

    waiting = threading.Thread(target=another)
    with PlanFolder(tmp_path / "plans").alone(HEADER):
        waiting.start()
        with PlanFolder(tmp_path / "plans").alone(other(name="vit", onnx_sha256="b" * 64)):
            assert not entered.wait(0.2)
    waiting.join(10)
    assert entered.is_set()


def test_where_no_lock_can_be_made_one_builds_without(tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path / "plans")
    (plans.folder / f"tensorrt-{HEADER.key}.lock").mkdir()
    with plans.alone(HEADER):
        plans.write(HEADER, b"plan")
    assert plans.read(HEADER) == b"plan"


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans").chmod(0o777)
    with pytest.raises(EngineRefused, match="chmod 700"):
        PlanFolder(tmp_path / "plans")
    assert cpu_plans.open_cpu_plans(tmp_path / "plans") is None
    PlanFolder(tmp_path / "own")
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_is_refused_with_the_setting_that_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineRefused, match=r"file/plans cannot be made .*set engines\.plans_dir"):
        Gpu.opened(tmp_path / "file" / "plans")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(EngineRefused, match=r"no home for them.*set engines\.plans_dir"):
        Gpu.opened()
    assert cpu_plans.open_cpu_plans(None) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"machine": "8.6"}, RefusalCode.WRONG_GPU),
        ({"version": "10.5.0"}, RefusalCode.WRONG_VERSION),
        ({"options": (("effort", "3"),)}, RefusalCode.WRONG_VERSION),
        ({"onnx_sha256": "b" * 64}, RefusalCode.NOT_THE_PUBLISHED),
        ({"profiles": (1,)}, RefusalCode.NOT_THE_PUBLISHED),
        ({"made_with": (("driver", "590.1"),)}, RefusalCode.WRONG_VERSION),
    ],
)
def test_a_plan_of_another_machine_is_refused_with_the_command_that_builds_it(
    tmp_path: Path, changes: dict[str, Any], code: RefusalCode
) -> None:
    plans = PlanFolder(tmp_path)
    found = other(**changes)
    plans.write(found, b"plan")
    (file,) = tmp_path.glob("*.plan")
    file.rename(tmp_path / f"tensorrt-{HEADER.key}.plan")  # a folder copied from another machine
    with pytest.raises(EngineRefused, match="assay engine build") as refused:
        plans.read(HEADER)
    assert refused.value.code is code


def test_a_newer_driver_and_another_name_do_not_matter() -> None:
    here = other(name="twin", made_with=(("driver", "590.1"), ("cuda", "13.1")))
    assert here.key == HEADER.key
    refuse_other_plan(HEADER, here)
    refuse_other_plan(HEADER, other(made_with=()))


def test_plans_of_other_machines_are_told(tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path)
    elsewhere = other(machine="8.6")
    for header in (elsewhere, other(onnx_sha256="b" * 64), HEADER):
        plans.write(header, b"plan")
    assert plans.others(HEADER) == [elsewhere]
    plans.forget(HEADER.onnx_sha256)
    assert [header.onnx_sha256 for header in plans.headers()] == ["b" * 64]


def test_of_cheap_plans_those_used_last_are_kept(tmp_path: Path) -> None:
    plans = PlanFolder(tmp_path)
    headers = [other(backend="openvino", onnx_sha256=f"{number:064x}") for number in range(18)]
    for number, header in enumerate(headers):
        plans.write(header, b"plan")
        os.utime(tmp_path / f"openvino-{header.key}.plan", (number, number))
    assert plans.read(headers[2]) == b"plan"  # and so used last
    plans.write(HEADER, b"plan")
    plans.write(headers[0], b"plan")
    kept = {header.onnx_sha256 for header in plans.headers()}
    assert len(kept) == 17
    assert {headers[2].onnx_sha256, headers[0].onnx_sha256, HEADER.onnx_sha256} <= kept


def test_timings_come_back_whole_or_not_at_all(tmp_path: Path) -> None:
    timings = KeptTimings(PlanFolder(tmp_path), "tensorrt-10.6-9.0")
    assert timings.read() == b""
    timings.keep(b"cache")
    assert timings.read() == b"cache"
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert timings.read() == b""


@pytest.fixture(scope="module")
def made() -> ExportedEngine:
    return seeded_engine("resnet18", 5, image_size=64)


@pytest.fixture
def engine(made: ExportedEngine) -> VerifiedEngine:
    files = EngineFiles(manifest=b"", model=made.model, golden=made.golden)
    return VerifiedEngine(manifest=made.manifest, model=files.model, golden=files.golden)


class Compiling:
    """Counts what OpenVINO compiles."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        graph = openvino_runner.graph_of

        def counted(*arguments: Any) -> Any:
            self.calls += 1
            return graph(*arguments)

        monkeypatch.setattr(openvino_runner, "graph_of", counted)


def seen(engine: VerifiedEngine, plans: PlanFolder | None, threads: int = 1) -> np.ndarray:
    runner = open_runner(engine, "openvino", threads, cpu_plans=plans)
    outputs = runner.start(golden_pixels(64)).result()
    runner.close()
    return outputs.embedding


def test_a_second_start_compiles_nothing_and_sees_the_same(
    engine: VerifiedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling, plans = Compiling(monkeypatch), PlanFolder(tmp_path)
    first, second = seen(engine, plans), seen(engine, plans)
    assert compiling.calls == 1
    assert np.array_equal(first, second)
    assert (second * seen(engine, None)).sum(-1).min() > 0.9999
    seen(engine, plans, threads=2)  # another plan
    assert compiling.calls == 3
    (header, _) = sorted(plans.headers(), key=lambda header: dict(header.options)["threads"])
    assert (header.backend, header.onnx_sha256) == ("openvino", engine.manifest.onnx_sha256)


def test_a_plan_that_is_bad_costs_its_compilation_alone(
    engine: VerifiedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: ExportedEngine
) -> None:
    plans = PlanFolder(tmp_path)
    expected = seen(engine, plans)
    (header,) = plans.headers()
    (file,) = tmp_path.glob("*.plan")
    compiling = Compiling(monkeypatch)
    file.write_bytes(file.read_bytes()[:-9])
    assert np.allclose(seen(engine, plans), expected, atol=1e-5)
    plans.write(header, b"no model at all")
    assert np.allclose(seen(engine, plans), expected, atol=1e-5)
    another = seeded_engine("resnet18", 6, image_size=64)
    seen(VerifiedEngine(manifest=another.manifest, model=another.model, golden=another.golden), plans)
    stranger = next(h for h in plans.headers() if h.onnx_sha256 == another.manifest.onnx_sha256)
    plans.write(header, plans.read(stranger) or b"")  # whole, and another encoder's
    assert np.allclose(seen(engine, plans), expected, atol=1e-5)
    assert compiling.calls == 4
    seen(engine, plans)
    assert compiling.calls == 4


class TestTensorRt:
    """The way to a plan, with a TensorRT that builds nothing; a GPU shows the rest."""

    ASKED = gpu_plans.BuildOptions()

    @pytest.fixture
    def trt(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        class Found:
            __version__ = "10.6.0"

        monkeypatch.setattr(gpu_plans, "tensorrt", lambda: Found)
        return Found

    @pytest.fixture
    def graph(self, made: ExportedEngine) -> DeviceGraph:
        return DeviceGraph(recipe="half", model=made.model, digest="d" * 64, channels=4)

    def test_the_lean_runtime_is_taken_where_nothing_else_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lean = types.ModuleType("tensorrt_lean_bindings")
        for name, module in {"tensorrt": None, "tensorrt_lean": None, "tensorrt_lean_bindings": lean}.items():
            monkeypatch.setitem(sys.modules, name, module)
        assert gpu_plans.tensorrt() is lean
        monkeypatch.setitem(sys.modules, "tensorrt_lean_bindings", None)
        with pytest.raises(EngineRefused, match="tensorrt is not installed"):
            gpu_plans.tensorrt()

    def test_a_plan_that_was_made_for_any_minor_version_serves_at_last(
        self, trt: Any, graph: DeviceGraph, made: ExportedEngine, tmp_path: Path
    ) -> None:
        plans = PlanFolder(tmp_path)
        lean = gpu_plans.plan_header(graph, made.manifest, (9, 0), gpu_plans.BuildOptions(version_compatible=True))
        assert lean.version == "10"
        plans.write(lean, b"lean")
        assert gpu_plans.kept_plan(graph, made.manifest, (9, 0), plans, self.ASKED) == (lean, b"lean")
        plain = gpu_plans.plan_header(graph, made.manifest, (9, 0), self.ASKED)
        plans.write(plain, b"plain")
        assert gpu_plans.kept_plan(graph, made.manifest, (9, 0), plans, self.ASKED) == (plain, b"plain")
        assert gpu_plans.kept_plan(graph, made.manifest, (8, 6), plans, self.ASKED)[1] is None
        signed = replace(graph, recipe="signed", digest="e" * 64)
        assert gpu_plans.kept_plan(signed, made.manifest, (9, 0), plans, self.ASKED)[1] is None

    def test_a_runtime_that_cannot_build_says_what_there_is(
        self, trt: Any, graph: DeviceGraph, made: ExportedEngine, tmp_path: Path
    ) -> None:
        plans = PlanFolder(tmp_path)
        header = gpu_plans.plan_header(graph, made.manifest, (9, 0), self.ASKED)
        with pytest.raises(EngineRefused, match="lean runtime builds none"):
            gpu_plans.plan_now(graph, made.manifest, header, plans, self.ASKED)
        plans.write(gpu_plans.plan_header(graph, made.manifest, (8, 6), self.ASKED), b"plan")
        with pytest.raises(EngineRefused, match=r"built for 8\.6, and 9\.0 is here.*assay engine build"):
            gpu_plans.plan_now(graph, made.manifest, header, plans, self.ASKED)
