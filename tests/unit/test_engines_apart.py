"""Engines that are compiled in a process of their own: a plan, or a reason, and never the end of the worker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines import compiling_apart, openvino_runner, plan_files
from engines.catalogue import VerifiedEngine, read_engine, shipped_keys
from engines.compiling_apart import compile_apart
from engines.cpu_plans import cpu_header
from engines.errors import EngineRefused
from engines.golden import self_test
from engines.openvino_runner import OpenVinoRunner
from engines.plan_files import PlanFolder
from engines.publish import seeded_model

pytest.importorskip("openvino")
wanted = threading.Event().wait  # to the end


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> VerifiedEngine:
    folder: Path = tmp_path_factory.mktemp("models")
    seeded_model(folder, "resnet18", 1, Ed25519PrivateKey.generate(), image_size=64)
    return read_engine(folder, "resnet18", shipped_keys(folder))


@pytest.fixture
def plans(tmp_path: Path) -> PlanFolder:
    return PlanFolder(tmp_path / "plans")


def test_the_plan_is_there_and_is_what_a_runner_takes(
    engine: VerifiedEngine, plans: PlanFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compile_apart(engine.model, engine.manifest, 1, plans, wanted)
    monkeypatch.setattr(openvino_runner, "graph_of", lambda *_: pytest.fail("it was compiled again"))
    runner = OpenVinoRunner(engine.model, engine.manifest, 1, plans)
    self_test(runner, engine.golden)
    runner.close()


def test_it_is_compiled_on_cores_that_nothing_else_wants(
    engine: VerifiedEngine, plans: PlanFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def looked(process: subprocess.Popen[bytes], stopped: object) -> int:
        while not process_idles(process):
            assert process.poll() is None, "it never yielded"
        seen.append((os.getsid(process.pid), os.getpgid(process.pid)))
        return process.wait()

    monkeypatch.setattr(compiling_apart, "_waited", looked)
    assert compile_apart(engine.model, engine.manifest, 1, plans, wanted)
    ((session, group),) = seen
    assert session == os.getsid(0) and group != os.getpgid(0)


def process_idles(process: subprocess.Popen[bytes]) -> bool:
    return os.sched_getscheduler(process.pid) == os.SCHED_IDLE


def test_what_is_kept_starts_no_process(
    engine: VerifiedEngine, plans: PlanFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans.write(cpu_header(engine.manifest, 1), b"compiled")
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert compile_apart(engine.model, engine.manifest, 1, plans, wanted)


def test_a_process_that_a_signal_ends_refuses_the_engine(
    engine: VerifiedEngine, plans: PlanFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nulimit -c 0\nkill -SEGV $$\n")
    crashing.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(EngineRefused, match="signal 11"):
        compile_apart(engine.model, engine.manifest, 1, plans, wanted)


def test_a_graph_that_cannot_be_compiled_is_left_to_whoever_needs_it(engine: VerifiedEngine, plans: PlanFolder) -> None:
    assert not compile_apart(b"no graph", engine.manifest, 1, plans, wanted)


@pytest.mark.parametrize("place", ["executable", "temporary files"])
def test_where_no_process_can_be_started_it_is_left_to_whoever_needs_it(
    engine: VerifiedEngine, plans: PlanFolder, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "executable":
        monkeypatch.setattr(sys, "executable", "/nowhere")
    else:
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert not compile_apart(engine.model, engine.manifest, 1, plans, wanted)


def test_a_plan_that_goes_while_it_is_looked_at_is_none(
    engine: VerifiedEngine, plans: PlanFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans.write(cpu_header(engine.manifest, 1), b"compiled")
    monkeypatch.setattr(plan_files.os, "utime", _gone)  # as where another worker lets go of it
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert not compile_apart(engine.model, engine.manifest, 1, plans, wanted)


def _gone(path: Path) -> None:
    raise FileNotFoundError(path)


def test_nobody_waits_for_a_worker_that_stops(engine: VerifiedEngine, plans: PlanFolder) -> None:
    assert not compile_apart(engine.model, engine.manifest, 1, plans, lambda seconds: True)
    assert list(plans.headers()) == []
