"""`python -m benchmarks.host_path.worker`: the worker as it is composed, with an engine on the hollow device."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from benchmarks.host_path.answers import MANIFEST, SIDE_PX, Likeness, answers_of
from benchmarks.host_path.hollow import install
from engines.decoder import PillowDecoder
from engines.gpu.device_graph import DeviceGraph
from engines.gpu.encoder import GpuOptions
from engines.gpu.opened import Gpu
from engines.gpu.plans import BuildOptions, plan_header
from engines.gpu.session import DeviceSession
from engines.gpu.tensorrt_runner import TensorRtRunner
from engines.plan_files import PlanFolder
from worker.adapters.encoder import SessionEncoder
from worker.app import run_worker
from worker.settings import Settings, load_settings

LIKENESS = "BENCH_LIKENESS"
GRAPH = DeviceGraph(recipe="signed", model=b"", digest="d" * 64, channels=3)


def open_hollow(settings: Settings) -> SessionEncoder:
    """What worker.app.build_worker is given in place of the engines that the settings name."""
    return hollow_encoder(cast(Likeness, os.environ[LIKENESS]), settings.engines.gpu_slots)


def hollow_encoder(likeness: Likeness, slots: int = 2) -> SessionEncoder:
    """The device path, with nothing behind it."""
    install(answers_of(likeness))
    closing = ExitStack()
    plans = PlanFolder(Path(closing.enter_context(tempfile.TemporaryDirectory())))
    gpu = Gpu.opened(plans.folder, GpuOptions(slots=slots))
    closing.callback(gpu.close)
    plans.write(plan_header(GRAPH, MANIFEST, gpu.device.capability, BuildOptions()), b"hollow")
    runner = TensorRtRunner(gpu.encoder(GRAPH, MANIFEST))
    closing.callback(runner.close)
    photographs = {MANIFEST.name: runner.photographs}
    decoder = PillowDecoder(SIDE_PX, 1)
    return SessionEncoder(DeviceSession({MANIFEST.name: runner}, photographs, decoder, closing, device=gpu.device))


if __name__ == "__main__":
    run_worker(load_settings(), encoders=open_hollow)
