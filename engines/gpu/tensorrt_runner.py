"""TensorRT behind the port of every runner: squares of bytes in, outputs on the host. The batch is normalised on the
device; buffers are made once, for the largest batch."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineRefused, OutOfMemory, RefusalCode, RunnerFailed
from engines.gpu.device import Device
from engines.gpu.plans import INPUT, PlanFolder, build_plan, load_plan, plan_key
from engines.manifest import EngineManifest
from engines.runner import OUTPUT_NAMES, EncoderOutputs, EngineInfo, empty_outputs

_BLOCK = 256
_GRID = 2048


class TensorRtRunner:
    """Runs one verified graph on `device`. Thread-safe: any thread may start a batch; batches run in order."""

    def __init__(self, model: bytes, manifest: EngineManifest, device: Device, plans: PlanFolder) -> None:
        self._info = EngineInfo.of(manifest, "tensorrt")
        self._device = device
        self._execution: _Execution | None = device.run(lambda: _Execution(model, manifest, device, plans))

    @property
    def info(self) -> EngineInfo:
        return self._info

    def start(self, pixels: NDArray[np.uint8]) -> TensorRtBatch:
        """Queue a batch of uint8 [n,S,S,3]; n of any size."""
        return TensorRtBatch(self._info.name, self._device.submit(lambda: self._run(pixels)))

    def close(self) -> None:
        """After the batches that were started. What lies on the device is let go in its own thread."""
        self._device.run(self._let_go)

    def _let_go(self) -> None:
        self._execution = None

    def _run(self, pixels: NDArray[np.uint8]) -> EncoderOutputs:
        if self._execution is None:
            raise RunnerFailed("the runner is closed")
        outputs = empty_outputs(self._info, len(pixels))
        for first in range(0, len(pixels), self._execution.largest):
            rows = slice(first, first + self._execution.largest)
            got = self._execution.run(pixels[rows])
            outputs.embedding[rows], outputs.patches[rows], outputs.attention[rows] = (got[n] for n in OUTPUT_NAMES)
        return outputs


class TensorRtBatch:
    """A queued batch."""

    def __init__(self, name: str, future: Future[EncoderOutputs]) -> None:
        self._name = name
        self._future = future

    def result(self, timeout_s: float | None = None) -> EncoderOutputs:
        try:
            return self._future.result(timeout_s)
        except TimeoutError as error:
            raise RunnerFailed(f"TensorRT did not run {self._name} within {timeout_s} s") from error
        except Exception as error:
            kind = OutOfMemory if type(error).__name__ == "MemoryError" else RunnerFailed  # PyCUDA's own, or Python's
            raise kind(f"TensorRT could not run {self._name}: {error}") from error


class _Execution:
    """A loaded plan with its stream and buffers. Everything here runs in the device's thread."""

    def __init__(self, model: bytes, manifest: EngineManifest, device: Device, plans: PlanFolder) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._engine = _engine(model, manifest, device, plans)
        self._context = self._engine.create_execution_context()
        self._stream = cuda.Stream()
        self._normalise = device.kernel("normalise")
        self._side = manifest.preprocessing.size
        self.largest = max(manifest.profiles)
        scale = np.float32(1.0) / np.asarray(manifest.preprocessing.std, np.float32)
        self._mean = cuda.to_device(np.asarray(manifest.preprocessing.mean, np.float32))
        self._scale = cuda.to_device(scale)
        self._pixels = _Buffer(cuda, (self.largest, self._side, self._side, 3), np.dtype(np.uint8))
        self._images = cuda.mem_alloc(self.largest * 3 * self._side * self._side * 4)
        self._outputs = {name: self._output(name) for name in OUTPUT_NAMES}
        self._context.set_tensor_address(INPUT, int(self._images))
        for name, buffer in self._outputs.items():
            self._context.set_tensor_address(name, int(buffer.device))

    def run(self, pixels: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        """Outputs for at most `largest` images; views of buffers that the next call writes. Raises RunnerFailed."""
        count = len(pixels)
        if pixels.shape[1:] != (self._side, self._side, 3) or pixels.dtype != np.uint8:
            raise RunnerFailed(
                f"pixels are {pixels.dtype} {pixels.shape}, expected uint8 [n,{self._side},{self._side},3]"
            )
        self._pixels.send(pixels, self._stream)
        self._normalise(
            self._pixels.device, self._images, self._mean, self._scale, np.int32(self._side), np.int32(count),
            block=(_BLOCK, 1, 1), grid=(_GRID, 1), stream=self._stream,
        )  # fmt: skip
        if not self._context.set_input_shape(INPUT, (count, 3, self._side, self._side)):
            raise RunnerFailed(f"the plan takes no batch of {count}")
        if not self._context.execute_async_v3(self._stream.handle):
            raise RunnerFailed(f"a batch of {count} could not be enqueued")
        read = {name: buffer.fetch(count, self._stream) for name, buffer in self._outputs.items()}
        self._stream.synchronize()
        return read

    def _output(self, name: str) -> _Buffer:
        _, *shape = self._engine.get_tensor_shape(name)
        return _Buffer(self._cuda, (self.largest, *shape), np.dtype(np.float32))


class _Buffer:
    """A device buffer with its pinned twin on the host, for the largest batch."""

    def __init__(self, cuda: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._cuda = cuda
        self._host = cuda.pagelocked_empty(shape, dtype)
        self.device = cuda.mem_alloc(self._host.nbytes)

    def send(self, rows: NDArray[Any], stream: Any) -> None:
        self._host[: len(rows)] = rows
        self._cuda.memcpy_htod_async(self.device, self._host[: len(rows)], stream)

    def fetch(self, count: int, stream: Any) -> NDArray[np.float32]:
        """The first `count` rows, once the stream has been waited for."""
        rows: NDArray[np.float32] = self._host[:count]
        self._cuda.memcpy_dtoh_async(rows, self.device, stream)
        return rows


def _engine(model: bytes, manifest: EngineManifest, device: Device, plans: PlanFolder) -> Any:
    """From a kept plan, else from one that is built now and kept."""
    key = plan_key(manifest, device.capability)
    kept = plans.read(key)
    engine = load_plan(kept) if kept is not None else None
    if engine is None:
        plan = build_plan(model, manifest)
        engine = load_plan(plan)
        plans.write(key, plan)
    if engine is None:
        fix = "use the openvino backend, and report the engine, the GPU and TensorRT's version"
        message = f"{manifest.name}: a plan that was just built for {device.name} does not load"
        raise EngineRefused(RefusalCode.OUTPUTS_UNEXPECTED, message, fix)
    return engine
