"""Plans and runners over squares. tests/gpu hold them to the CPU's numbers."""

from __future__ import annotations

import os
import time
import traceback
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.catalogue import VerifiedEngine
from engines.golden import golden_pixels, self_test
from engines.gpu.device_graph import DeviceGraph
from engines.gpu.rewrite import device_graphs
from engines.gpu.tensorrt_runner import TensorRtRunner
from engines.runner import EncoderOutputs
from layers.opening import NAMES, engine, gpu, gpu_of_effort, runner
from layers.telling import rate, tell, timed


def build() -> None:
    """Every rewrite: built, self-tested, and the engine alone by batch."""
    efforts = [int(effort) for effort in os.environ.get("EFFORTS", "1").split(",")]
    for name in NAMES:
        graphs = list(device_graphs(engine(name).model))
        for effort in efforts:
            for graph in graphs:
                what = f"{name} {graph.recipe} effort {effort}"
                try:
                    _build(what, engine(name), graph, effort)
                except Exception as error:
                    tell(f"{what} FAILED", repr(error))
                    traceback.print_exc()


def _build(what: str, found: VerifiedEngine, graph: DeviceGraph, effort: int) -> None:
    made = timed(f"{what} built and opened", lambda: gpu_of_effort(effort).encoder(graph, found.manifest))
    opened = TensorRtRunner(made)
    try:
        self_test(opened, found.golden)
        tell(f"{what} self-test", "passed")
    except Exception as error:
        tell(f"{what} self-test FAILED", str(error))
    for count in (8, 32, 128):
        gpu().device.run(partial(_engine_alone, what, made, count))
    opened.close()


def _engine_alone(what: str, encoder: Any, count: int) -> None:
    """The slot's own queue: normalise, execute, copy back; first as a graph, then without."""
    slot = encoder._all[0]  # noqa: SLF001 (looks inside on purpose)
    slot.infer(count)
    slot.drain()
    tell(f"{what} b{count} recorded", sorted(slot._graphs._recorded))  # noqa: SLF001
    for way in ("graph", "plain"):
        began = time.perf_counter()
        for _ in range(20):
            slot.infer(count) if way == "graph" else slot._enqueue(count)  # noqa: SLF001
        queued = time.perf_counter() - began
        slot.drain()
        spent = time.perf_counter() - began
        tell(f"{what} b{count} {way} img/s, host us", (round(20 * count / spent), round(queued * 5e4)))


def run() -> None:
    """The runner over squares: one batch size and another give the same."""
    for name in NAMES:
        pixels = golden_pixels(engine(name).manifest.preprocessing.size)
        made = timed(f"{name} opened", partial(runner, name))
        tell(f"{name} form", str(made._encoder._plan.form))  # noqa: SLF001
        one = _encoded(made, pixels)
        for count in (1, 3, 8, 33, 128, 130):
            squares = np.concatenate([pixels] * (count // 2 + 1))[:count]
            many, again = (_encoded(made, squares) for _ in range(2))
            least = min(float((many.embedding[r] * one.embedding[r % 2]).sum()) for r in range(count))
            same = bool(np.array_equal(many.embedding, again.embedding))
            tell(f"{name} b{count}: least cosine, same again", (round(least, 7), same))
        squares = np.concatenate([pixels] * 64)
        rate(f"{name} squares b128", partial(_encoded, made, squares), 128)


def _encoded(made: TensorRtRunner, squares: NDArray[np.uint8]) -> EncoderOutputs:
    return made.start(squares).result(60)
