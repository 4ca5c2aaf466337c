"""A slot: a stream, an execution context and the buffers of one batch. While one slot's batch is inferred, the next
one's is decoded. Everything here runs in the device's thread, but for `Slot.read`. What a batch comes to is copied into
memory that its reader keeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.errors import OutOfMemory, RunnerFailed
from engines.gpu.device import Device, own_stream
from engines.gpu.graphs import Graphs, bucket_for, buckets
from engines.gpu.jpegs import Stage
from engines.gpu.lending import Lender
from engines.gpu.looks import Measured
from engines.gpu.plans import INPUT
from engines.gpu.resample import FIELDS, Source, described
from engines.manifest import EngineManifest
from engines.quality import BLOCK, HASH_SIDE
from engines.runner import OUTPUT_NAMES

_THREADS: Final = 256
_GRID: Final = 2048
_TILE: Final = (32, 8)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputForm:
    """What a plan wants to be given: `dtype` of [n,channels,S,S]; INT8 is four bytes a pixel of step `scale`."""

    dtype: np.dtype[Any]
    channels: int
    scale: float | None

    def bytes_for(self, count: int, side: int) -> int:
        return count * self.channels * side * side * self.dtype.itemsize


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPlan:
    """A deserialised plan and what its slots need to know. `largest` images a batch, of `side` px."""

    engine: Any
    manifest: EngineManifest
    form: InputForm

    @classmethod
    def of(cls, engine: Any, manifest: EngineManifest, input_scale: float | None) -> LoadedPlan:
        dtype = _numpy(engine.get_tensor_dtype(INPUT))
        channels = int(engine.get_tensor_shape(INPUT)[1])
        return cls(engine=engine, manifest=manifest, form=InputForm(dtype=dtype, channels=channels, scale=input_scale))

    @property
    def largest(self) -> int:
        return max(self.manifest.profiles)

    @property
    def side(self) -> int:
        return self.manifest.preprocessing.size

    def output(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape for the largest batch, and type."""
        _, *shape = self.engine.get_tensor_shape(name)
        return (self.largest, *shape), _numpy(self.engine.get_tensor_dtype(name))

    def slot_bytes(self) -> int:
        """What one slot takes of the device's memory."""
        outputs = sum(_bytes(*self.output(name)) for name in OUTPUT_NAMES)
        squares = self.largest * self.side * self.side * 3
        return outputs + squares + self.form.bytes_for(self.largest, self.side) + _working_bytes(self.engine)


def _numpy(dtype: Any) -> np.dtype[Any]:
    return np.dtype({"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8}[dtype.name])


def _working_bytes(engine: Any) -> int:
    """A context's own memory; TensorRT renamed the property on its way to 11."""
    found = getattr(engine, "device_memory_size_v2", None)
    return int(found if found is not None else engine.device_memory_size)


class Slot:
    """Outputs go to arrays of `lender`. Raises OutOfMemory where the device has no room for another."""

    def __init__(self, cuda: Any, plan: LoadedPlan, device: Device, lender: Lender) -> None:
        self._cuda = cuda
        self._plan = plan
        self._stream = own_stream()
        self._context = plan.engine.create_execution_context()
        if self._context is None:
            raise OutOfMemory(f"{plan.manifest.name}: no memory for another execution context")
        self._graphs = Graphs(self._stream)
        self._sizes = buckets(plan.largest)
        self._shape_set = 0
        self._kernels = _Kernels(cuda, device, plan, self._stream)
        self._squares = cuda.mem_alloc(plan.largest * plan.side * plan.side * 3)
        self._squares_host: NDArray[np.uint8] | None = None  # made when squares first come from the CPU
        self._images = cuda.mem_alloc(plan.form.bytes_for(plan.largest, plan.side))
        self._sources = _Buffer(cuda, (plan.largest, FIELDS), np.dtype(np.int64))
        self._lender = lender
        self._results: dict[str, NDArray[Any]] = {}
        self._unread: dict[str, NDArray[Any]] = {}  # of the running batch: what is copied once more, by its reader
        self._landing: dict[str, NDArray[Any]] = {}  # made when nothing pinned was left to lend
        self._outputs = {name: cuda.mem_alloc(_bytes(*plan.output(name))) for name in OUTPUT_NAMES}
        self._measured = _measured_buffers(cuda, plan)
        self._done = cuda.Event(cuda.event_flags.BLOCKING_SYNC | cuda.event_flags.DISABLE_TIMING)
        self._context.set_tensor_address(INPUT, int(self._images))
        for name, output in self._outputs.items():
            self._context.set_tensor_address(name, int(output))

    def send(self, pixels: NDArray[np.uint8]) -> None:
        """Squares uint8 [n,S,S,3] from the host become the first rows of the batch."""
        if self._squares_host is None:
            shape = (self._plan.largest, self._plan.side, self._plan.side, 3)
            self._squares_host = self._cuda.pagelocked_empty(shape, np.uint8)
        self._squares_host[: len(pixels)] = pixels
        self._cuda.memcpy_htod_async(self._squares, self._squares_host[: len(pixels)], self._stream)

    def resample(self, sources: Sequence[Source], stage: Stage) -> None:
        """Photographs of a stage become the rows that they name."""
        if not sources:
            return
        table, integers = described(sources, self._plan.side)
        rows = slice(sources[0].row, sources[0].row + len(sources))
        self._sources.host[rows] = table
        at = np.intp(int(self._sources.device) + rows.start * FIELDS * 8)
        self._cuda.memcpy_htod_async(int(at), self._sources.host[rows], self._stream)
        weights = stage.weights(integers)
        self._stream.wait_for_event(stage.decoded)
        self._kernels.resample(at, weights, self._squares, len(sources))
        stage.free.record(self._stream)

    def measure(self, count: int) -> None:
        """Measure the first `count` squares; `read` gives the numbers."""
        self._kernels.measure(self._squares, self._measured, count)
        for buffer in self._measured.values():
            buffer.fetch(count, self._stream)

    def infer(self, count: int) -> None:
        """Queue everything from `count` squares to outputs on the host. Raises RunnerFailed."""
        size = bucket_for(count, self._sizes)
        arrays, pinned = self._lender.take()
        self._results = _first(arrays, count)
        landing = self._results if pinned else _first(self._landed(), count)
        launched = self._graphs.launch(size)
        if not launched:
            self._enqueue(size)
        for name, array in landing.items():  # not of the graph: every batch's results lie somewhere else
            self._cuda.memcpy_dtoh_async(array, self._outputs[name], self._stream)
        self._done.record(self._stream)
        self._unread = landing if not pinned else {}
        if not launched:
            self._graphs.record(size, lambda: self._enqueue(size))

    def _enqueue(self, size: int) -> None:
        """What is above the batch's own rows belongs to one before; nobody reads its outputs."""
        if self._shape_set != size:
            if not self._context.set_input_shape(INPUT, (size, self._plan.form.channels, *2 * (self._plan.side,))):
                raise RunnerFailed(f"the plan takes no batch of {size}")
            self._shape_set = size
        self._kernels.normalise(self._squares, self._images, size)
        if not self._context.execute_async_v3(self._stream.handle):
            raise RunnerFailed(f"a batch of {size} could not be enqueued")

    def read(self, count: int) -> tuple[Mapping[str, NDArray[Any]], Measured]:
        """Wait for the batch: its outputs, which are the caller's, and its measures, which the slot's next batch writes
        over. In the waiting thread."""
        self._done.synchronize()
        outputs, self._results = self._results, {}
        for name, landed in self._unread.items():
            outputs[name][:] = landed
        return outputs, Measured(**{name: buffer.host[:count] for name, buffer in self._measured.items()})

    def _landed(self) -> dict[str, NDArray[Any]]:
        """Pinned memory of this slot's own. A copy from the device to memory that is not pinned would hold its thread
        until all before it has run."""
        if not self._landing:
            shapes = {name: self._plan.output(name) for name in OUTPUT_NAMES}
            self._landing = {name: self._cuda.pagelocked_empty(*shape) for name, shape in shapes.items()}
        return self._landing

    def drain(self) -> None:
        """Wait until the stream is empty. Raises what CUDA has to say."""
        self._stream.synchronize()

    def close(self) -> None:
        self._graphs.close()


class _Kernels:
    """The launches of one stream."""

    def __init__(self, cuda: Any, device: Device, plan: LoadedPlan, stream: Any) -> None:
        self._cuda = cuda
        self._stream = stream
        self._side = plan.side
        self._form = plan.form
        names = ("weigh", "resample", "measure", "shrink", "normalise", "normalise_half", "quantise")
        self._call = {name: device.kernel(name) for name in names}
        rule = plan.manifest.preprocessing
        self._mean = self._sent(np.asarray(rule.mean, np.float32))
        self._scale = self._sent(np.float32(1.0) / np.asarray(rule.std, np.float32))

    def resample(self, sources: Any, weights: Any, squares: Any, count: int) -> None:
        side, (wide, high) = self._side, _TILE
        self._run("weigh", (count, 2), (128, 1, 1), sources, weights, np.int32(side))
        grid = (-(-side // wide), -(-side // high), count)
        self._run("resample", grid, (wide, high, 1), sources, weights, squares, np.int32(side))

    def measure(self, squares: Any, into: Mapping[str, _Buffer], count: int) -> None:
        side = self._side
        for name in ("levels", "edges"):
            self._cuda.memset_d8_async(into[name].device, 0, into[name].bytes_of(count), self._stream)
        numbers = [into[name].device for name in ("levels", "edges", "burnt")]
        shared = (BLOCK + 2) * side
        self._run(
            "measure", (-(-side // BLOCK), count), (_THREADS, 1, 1), squares, *numbers, np.int32(side), shared=shared
        )
        self._run("shrink", (count, 1), (512, 1, 1), squares, into["small"].device, np.int32(side))

    def normalise(self, squares: Any, images: Any, count: int) -> None:
        form, side, n = self._form, np.int32(self._side), np.int32(count)
        given = (squares, images, self._mean, self._scale)
        if form.scale is not None:
            self._run("quantise", (_GRID, 1), (_THREADS, 1, 1), *given, np.float32(form.scale), side, n)
            return
        name = "normalise_half" if form.dtype.itemsize == 2 else "normalise"
        self._run(name, (_GRID, 1), (_THREADS, 1, 1), *given, side, n, np.int32(form.channels))

    def _sent(self, numbers: NDArray[np.float32]) -> Any:
        """On the stream, before whatever reads it there."""
        there = self._cuda.mem_alloc(numbers.nbytes)
        self._cuda.memcpy_htod_async(there, numbers, self._stream)
        return there

    def _run(self, name: str, grid: tuple[int, ...], block: tuple[int, int, int], *given: Any, shared: int = 0) -> None:
        self._call[name](*given, grid=grid, block=block, stream=self._stream, shared=shared)


class _Buffer:
    """A device buffer with its pinned twin on the host, for the largest batch."""

    def __init__(self, cuda: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._cuda = cuda
        self.host: NDArray[Any] = cuda.pagelocked_empty(shape, dtype)
        self.device = cuda.mem_alloc(self.host.nbytes)

    def bytes_of(self, count: int) -> int:
        return self.host[:count].nbytes

    def fetch(self, count: int, stream: Any) -> None:
        """Queue a copy of the first `count` rows to the host."""
        self._cuda.memcpy_dtoh_async(self.host[:count], self.device, stream)


def _first(arrays: Mapping[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
    return {name: array[:count] for name, array in arrays.items()}


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _measured_buffers(cuda: Any, plan: LoadedPlan) -> dict[str, _Buffer]:
    """By the names of looks.Measured."""
    n, cells = plan.largest, plan.side // BLOCK
    shapes: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "levels": ((n, 256), np.uint32),
        "edges": ((n, 2), np.int64),
        "burnt": ((n, cells, cells), np.uint8),
        "small": ((n, HASH_SIDE, HASH_SIDE), np.uint8),
    }
    return {name: _Buffer(cuda, shape, np.dtype(kind)) for name, (shape, kind) in shapes.items()}
