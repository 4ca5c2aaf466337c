"""OpenVINO on the CPU: one image a request, as many requests in flight as the throughput hint asks for. On a few cores
that is faster than batches, and an image's result does not depend on what it was batched with."""

from __future__ import annotations

import os
import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.cpu_plans import cpu_header, keep_model, kept_model
from engines.errors import EngineRefused, RefusalCode, RunnerFailed
from engines.manifest import EngineManifest
from engines.plan_files import PlanFolder
from engines.preprocess import Preprocessing
from engines.runner import OUTPUT_NAMES, EncoderOutputs, EngineInfo, empty_outputs

_DEADLINE_S: Final = 120.0  # OpenVINO calls back on success alone; a request that failed is noticed at the deadline


class OpenVinoRunner:
    """Runs one verified graph. Thread-safe: any thread may start a batch."""

    def __init__(
        self, model: bytes, manifest: EngineManifest, threads: int | None = None, plans: PlanFolder | None = None
    ) -> None:
        """A compiled model is kept in `plans`, and taken from there at the next start."""
        self._info = EngineInfo.of(manifest, "openvino")
        self._queue = _infer_queue(model, manifest, threads or len(os.sched_getaffinity(0)), plans)
        self._queue.set_callback(_finished)
        self._start_lock = threading.Lock()

    @property
    def info(self) -> EngineInfo:
        return self._info

    def start(self, pixels: NDArray[np.uint8]) -> OpenVinoBatch:
        """Start one request an image of uint8 [n,S,S,3]; waits while all requests are busy."""
        batch = OpenVinoBatch(self._info, len(pixels))
        try:
            for index in range(len(pixels)):
                with self._start_lock:
                    self._queue.start_async({0: pixels[index : index + 1]}, (batch, index))
        except RuntimeError as error:
            raise RunnerFailed(f"OpenVINO could not run {self._info.name}: {error}") from error
        return batch

    def close(self) -> None:
        self._queue.wait_all()


class OpenVinoBatch:
    """n requests on their way; each writes its row when it ends."""

    def __init__(self, info: EngineInfo, count: int) -> None:
        self._info = info
        self._outputs = empty_outputs(info, count)
        self._left = count
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._failure: Exception | None = None
        if not count:
            self._done.set()

    def finish(self, index: int, request: Any) -> None:
        """Called by OpenVINO's thread; the request's tensors are reused as soon as this returns."""
        try:
            self._outputs.embedding[index] = request.get_tensor(OUTPUT_NAMES[0]).data[0]
            self._outputs.patches[index] = request.get_tensor(OUTPUT_NAMES[1]).data[0]
            self._outputs.attention[index] = request.get_tensor(OUTPUT_NAMES[2]).data[0]
        except Exception as error:  # it would be lost in OpenVINO's thread
            self._failure = error
        with self._lock:
            self._left -= 1
            if not self._left:
                self._done.set()

    def result(self, timeout_s: float | None = None) -> EncoderOutputs:
        limit_s = _DEADLINE_S if timeout_s is None else timeout_s
        if not self._done.wait(limit_s):
            raise RunnerFailed(f"{self._info.name}: {self._left} requests did not end within {limit_s:g} s")
        if self._failure is not None:
            raise RunnerFailed(f"{self._info.name}: outputs could not be read: {self._failure}") from self._failure
        return self._outputs


def _finished(request: Any, place: tuple[OpenVinoBatch, int]) -> None:
    batch, index = place
    batch.finish(index, request)


def _infer_queue(model: bytes, manifest: EngineManifest, threads: int, plans: PlanFolder | None) -> Any:
    try:
        import openvino
    except ImportError as error:
        fix = "install openvino, or choose the onnxruntime backend"
        raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, "openvino is not installed", fix) from error
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_NUM_THREADS": threads,
        # decoding shares these cores: the scheduler places both better than fixed cores would
        "ENABLE_CPU_PINNING": False,
    }
    core = openvino.Core()
    if plans is not None and (compiled := kept_model(core, plans, cpu_header(manifest, threads), settings)) is not None:
        return openvino.AsyncInferQueue(compiled)
    compiled = core.compile_model(graph_of(openvino, core, model, manifest.preprocessing), "CPU", settings)
    if plans is not None:
        keep_model(compiled, plans, cpu_header(manifest, threads))
    return openvino.AsyncInferQueue(compiled)


def graph_of(openvino: Any, core: Any, model: bytes, preprocessing: Preprocessing) -> Any:
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(core.read_model(model))
    _photographs_in(openvino, steps.input(), preprocessing)
    graph = steps.build()
    graph.reshape([1, preprocessing.size, preprocessing.size, 3])
    return graph


def _photographs_in(openvino: Any, photographs: Any, preprocessing: Preprocessing) -> None:
    """Let the graph take uint8 [1,S,S,3] and normalise inside."""
    photographs.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    photographs.model().set_layout(openvino.Layout("NCHW"))
    steps = photographs.preprocess()
    steps.convert_element_type(openvino.Type.f32).convert_layout(openvino.Layout("NCHW"))
    steps.mean(list(preprocessing.mean)).scale(list(preprocessing.std))
