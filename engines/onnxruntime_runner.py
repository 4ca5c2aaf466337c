"""ONNX Runtime on the CPU: the reference the other backends are held to, and the fallback where OpenVINO has no wheel.
Batches run one after another in a thread of their own, so that starting one does not wait for it."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineRefused, RefusalCode, RunnerFailed
from engines.manifest import EngineManifest
from engines.preprocess import normalised
from engines.runner import OUTPUT_NAMES, EncoderOutputs, EngineInfo, empty_outputs

_CHUNK: Final = 4  # images; activations of a 448 px ResNet take some 60 MB an image


class OnnxRuntimeRunner:
    """Runs one verified graph. Thread-safe: any thread may start a batch."""

    def __init__(self, model: bytes, manifest: EngineManifest, threads: int | None = None) -> None:
        self._info = EngineInfo.of(manifest, "onnxruntime")
        self._preprocessing = manifest.preprocessing
        self._session = _session(model, threads or len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"onnxruntime-{manifest.name}")

    @property
    def info(self) -> EngineInfo:
        return self._info

    def start(self, pixels: NDArray[np.uint8]) -> OnnxRuntimeBatch:
        """Queue a batch of uint8 [n,S,S,3]."""
        return OnnxRuntimeBatch(self._info.name, self._pool.submit(self._run, pixels))

    def _run(self, pixels: NDArray[np.uint8]) -> EncoderOutputs:
        outputs = empty_outputs(self._info, len(pixels))
        for first in range(0, len(pixels), _CHUNK):
            rows = slice(first, first + _CHUNK)
            images = normalised(pixels[rows], self._preprocessing)
            values = self._session.run(list(OUTPUT_NAMES), {"images": images})
            outputs.embedding[rows], outputs.patches[rows], outputs.attention[rows] = values
        return outputs

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class OnnxRuntimeBatch:
    """A queued batch."""

    def __init__(self, name: str, future: Future[EncoderOutputs]) -> None:
        self._name = name
        self._future = future

    def result(self, timeout_s: float | None = None) -> EncoderOutputs:
        try:
            return self._future.result(timeout_s)
        except TimeoutError as error:
            raise RunnerFailed(f"ONNX Runtime did not run {self._name} within {timeout_s} s") from error
        except Exception as error:
            raise RunnerFailed(f"ONNX Runtime could not run {self._name}: {error}") from error


def _session(model: bytes, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        fix = "install onnxruntime, or choose the openvino backend"
        raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, "onnxruntime is not installed", fix) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
