"""One encoder on a device: photographs or squares in, outputs on the host, over slots that overlap.

A batch is one call in the device's thread: it waits for a free slot, decodes the batch in parts that fit, and queues
the kernels and the inference behind them. Then the thread is free for the next batch's decoding, while another thread
waits for the slot's event, reads the results and frees the slot.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineRefused, OutOfMemory, RefusalCode, RunnerFailed
from engines.gpu.device import Device
from engines.gpu.device_graph import DeviceGraph
from engines.gpu.jpegs import Jpegs, Stage
from engines.gpu.lending import Lender
from engines.gpu.looks import looks_of
from engines.gpu.memory import allowance
from engines.gpu.photographs import Photograph, parts
from engines.gpu.plans import BUILD_EFFORT, BuildOptions, kept_plan, load_plan, plan_now
from engines.gpu.resample import Source
from engines.gpu.slots import LoadedPlan, Slot
from engines.manifest import EngineManifest
from engines.plan_files import PlanFolder, PlanHeader
from engines.runner import OUTPUT_NAMES, EncoderOutputs, EngineInfo, empty_outputs, joined

_MIB: Final = 1 << 20
_READ_LATER: Final = 4  # batches, beside those that are under way, whose results lie in pinned memory
_DECODER_BYTES: Final = 512 * _MIB  # what nvImageCodec takes beside the pixels, roughly
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GpuOptions:
    """How a device is used. `slots` batches of one encoder are under way at once; `decoded_bytes` of pixels are decoded
    at a time, twice over; `effort` is TensorRT's builder optimization level, 0 to 5; `version_compatible` plans run on
    later versions too, and slower."""

    slots: int = 2
    decoded_bytes: int = 512 * _MIB
    effort: int = BUILD_EFFORT
    version_compatible: bool = False


class DeviceEncoder:
    """Runs one rewritten graph on `device`. Thread-safe: any thread may start a batch. `jpegs` makes the device's
    decoder when a photograph first needs it. Raises EngineRefused."""

    def __init__(
        self,
        graph: DeviceGraph,
        manifest: EngineManifest,
        device: Device,
        plans: PlanFolder,
        options: GpuOptions,
        jpegs: Callable[[], Jpegs],
    ) -> None:
        self.info = EngineInfo.of(manifest, "tensorrt")
        self._device = device
        self._jpegs = jpegs
        self._free: queue.Queue[Slot] = queue.Queue()
        self._all: list[Slot] = []
        self._plan: LoadedPlan | None = device.run(lambda: self._opened(graph, manifest, plans, options))
        self.largest = max(manifest.profiles)
        self._side = manifest.preprocessing.size

    def squares(self, pixels: NDArray[np.uint8]) -> DeviceBatch:
        """Queue squares uint8 [n,S,S,3] from the host; n of any size."""
        runs = [pixels[first : first + self.largest] for first in range(0, len(pixels), self.largest)]
        return self._started([_Squares(pixels=run, side=self._side) for run in runs])

    def photographs(self, batch: Sequence[Photograph]) -> DeviceBatch:
        """Queue photographs; n of any size. The outputs of one that the device refuses are zeros."""
        runs = [batch[first : first + self.largest] for first in range(0, len(batch), self.largest)]
        return self._started([_Photographs(batch=run, jpegs=self._jpegs, side=self._side) for run in runs])

    def opened(self, picture: bytes) -> Any | None:
        """See engines.gpu.jpegs. In any thread, once the decoder is there."""
        return self._jpegs().opened(picture)

    def close(self) -> None:
        """After the batches that were started. What lies on the device is let go in its own thread."""
        self._device.run(self._let_go)

    def _opened(self, graph: DeviceGraph, manifest: EngineManifest, plans: PlanFolder, options: GpuOptions) -> Any:
        import pycuda.driver as cuda

        asked = BuildOptions(effort=options.effort, version_compatible=options.version_compatible)
        engine = _engine(graph, manifest, self._device, plans, asked)
        plan = LoadedPlan.of(engine, manifest, graph.input_scale)
        free = allowance(*self._device.memory_bytes())
        if _wanted(plan, options) > free:
            raise _too_large(plan, options, free)
        shapes = {name: plan.output(name) for name in OUTPUT_NAMES}
        self._lender = Lender(shapes, options.slots + _READ_LATER)
        try:
            self._all = [Slot(cuda, plan, self._device, self._lender) for _ in range(options.slots)]
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            raise _too_large(plan, options, allowance(*self._device.memory_bytes())) from error
        for slot in self._all:
            self._free.put(slot)
        _log.info("%s runs the %s graph, sha256 %s", manifest.name, graph.recipe, graph.digest)
        return plan

    def _started(self, runs: Sequence[_Squares | _Photographs]) -> DeviceBatch:
        answers: list[Future[EncoderOutputs]] = [Future() for _ in runs]
        for run, answer in zip(runs, answers, strict=True):
            self._device.submit(partial(self._begin, run, answer))
        return DeviceBatch(self.info, answers)

    def _begin(self, run: _Squares | _Photographs, answer: Future[EncoderOutputs]) -> None:
        """In the device's thread: everything up to the outputs is queued when it returns."""
        if self._plan is None:
            answer.set_exception(RunnerFailed(f"{self.info.name}: the runner is closed"))
            return
        slot = self._free.get()
        try:
            count = run.fill(slot)
            if count:
                slot.infer(count)
        except BaseException as error:
            self._recover(slot, error, answer)
            return
        self._device.collect(lambda: self._finish(run, slot, count, answer))

    def _recover(self, slot: Slot, error: BaseException, answer: Future[EncoderOutputs]) -> None:
        """What was queued before the fault must have ended before the slot is used again; where that fails too, the
        device is lost, and so is every later batch."""
        try:
            slot.drain()
        except Exception as worse:
            error = worse
        self._free.put(slot)
        answer.set_exception(_told(self.info.name, error))

    def _finish(self, run: _Squares | _Photographs, slot: Slot, count: int, answer: Future[EncoderOutputs]) -> None:
        """In the waiting thread."""
        try:
            outputs = run.read(slot, count, self.info)
        except BaseException as error:
            self._free.put(slot)
            answer.set_exception(_told(self.info.name, error))
            return
        self._free.put(slot)
        answer.set_result(outputs)

    def _let_go(self) -> None:
        for _ in self._all:
            self._free.get()  # the last batches end first
        self._device.collect(lambda: None).result()  # then no other thread has a slot, and they are freed in this one
        for slot in self._all:
            slot.close()
        self._all.clear()
        self._lender.close()
        self._plan = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Squares:
    """A batch that the CPU decoded."""

    pixels: NDArray[np.uint8]
    side: int

    def fill(self, slot: Slot) -> int:
        if self.pixels.shape[1:] != (self.side, self.side, 3) or self.pixels.dtype != np.uint8:
            found = f"{self.pixels.dtype} {self.pixels.shape}"
            raise RunnerFailed(f"pixels are {found}, expected uint8 [n,{self.side},{self.side},3]")
        slot.send(self.pixels)
        return len(self.pixels)

    def read(self, slot: Slot, count: int, info: EngineInfo) -> EncoderOutputs:
        found, _ = slot.read(count)
        return _owned(found)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Photographs:
    """A batch that the device decodes; `rows` are those that it took, in order."""

    batch: Sequence[Photograph]
    jpegs: Callable[[], Jpegs]
    side: int
    rows: list[int] = dataclasses.field(default_factory=list)

    def fill(self, slot: Slot) -> int:
        jpegs = self.jpegs()
        first = 0
        for part in parts(self.batch, jpegs.stage_bytes):
            stage, images = jpegs.decode(part)
            self._resample(slot, part, first, stage, images)
            first += len(part)
        if self.rows:
            slot.measure(len(self.rows))
        return len(self.rows)

    def _resample(
        self, slot: Slot, part: Sequence[Photograph], first: int, stage: Stage, images: Sequence[Any | None]
    ) -> None:
        sources: list[Source] = []
        for at, (photograph, image) in enumerate(zip(part, images, strict=True), first):
            source = _source(photograph, stage, image, len(self.rows))
            if source is None:
                photograph.refused()
                continue
            sources.append(source)
            self.rows.append(at)
        slot.resample(sources, stage)

    def read(self, slot: Slot, count: int, info: EngineInfo) -> EncoderOutputs:
        if not count:
            return _zeros(info, len(self.batch))
        found, measured = slot.read(count)
        for row, look in zip(self.rows, looks_of(measured, self.side), strict=True):
            self.batch[row].look = look
        whole = count == len(self.batch)
        return _owned(found) if whole else _scattered(found, self.rows, _zeros(info, len(self.batch)))


def _owned(found: Mapping[str, NDArray[Any]]) -> EncoderOutputs:
    return EncoderOutputs(**{name: found[name].astype(np.float32, copy=False) for name in OUTPUT_NAMES})


def _scattered(found: Mapping[str, NDArray[Any]], rows: Sequence[int], into: EncoderOutputs) -> EncoderOutputs:
    for name in OUTPUT_NAMES:
        getattr(into, name)[rows] = found[name]
    return into


def _zeros(info: EngineInfo, count: int) -> EncoderOutputs:
    outputs = empty_outputs(info, count)
    for name in OUTPUT_NAMES:
        getattr(outputs, name)[:] = 0
    return outputs


def _source(photograph: Photograph, stage: Stage, image: Any | None, row: int) -> Source | None:
    """The decoded image as the kernels are told of it; None where it is not what the file's header promised."""
    if image is None or tuple(image.shape) != (photograph.height, photograph.width, 3):
        return None
    return Source(
        address=stage.address(image),
        pitch=int(image.strides[0]),
        width=photograph.width,
        height=photograph.height,
        orientation=photograph.orientation,
        row=row,
    )


class DeviceBatch:
    """A queued batch, in runs of at most the largest."""

    def __init__(self, info: EngineInfo, answers: Sequence[Future[EncoderOutputs]]) -> None:
        self._info = info
        self._answers = answers

    def result(self, timeout_s: float | None = None) -> EncoderOutputs:
        """See engines.runner. Nothing of a batch is used whose event told of a fault."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        found = [self._wait(answer, deadline) for answer in self._answers]
        return joined(found) if found else empty_outputs(self._info, 0)

    def _wait(self, answer: Future[EncoderOutputs], deadline: float | None) -> EncoderOutputs:
        try:
            return answer.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise RunnerFailed(f"TensorRT did not run {self._info.name} by its deadline") from error


def _told(name: str, error: BaseException) -> RunnerFailed:
    """The one error of a batch: want of memory, which a smaller batch may not have, or everything else."""
    kind = OutOfMemory if _is_out_of_memory(error) else RunnerFailed
    told = kind(f"TensorRT could not run {name}: {error}")
    told.__cause__ = error
    return told


def _is_out_of_memory(error: BaseException) -> bool:
    """PyCUDA has a MemoryError of its own; nvImageCodec tells in words."""
    told = str(error).lower()
    return isinstance(error, OutOfMemory) or type(error).__name__ == "MemoryError" or "out of memory" in told


def _wanted(plan: LoadedPlan, options: GpuOptions) -> int:
    return options.slots * plan.slot_bytes() + 2 * options.decoded_bytes + _DECODER_BYTES


def _too_large(plan: LoadedPlan, options: GpuOptions, free: int) -> EngineRefused:
    wanted = _wanted(plan, options)
    message = (
        f"{plan.manifest.name} wants {wanted // _MIB} MiB of the GPU for batches of {plan.largest} in {options.slots} "
        f"slots; {free // _MIB} MiB may be taken, a fifth is left free: {max(0, wanted - free) // _MIB + 1} are missing"
    )
    fix = "lower engines.gpu_slots or engines.gpu_decode_mib, publish the engine with smaller profiles, or free the GPU"
    return EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, message, fix)


def _engine(
    graph: DeviceGraph, manifest: EngineManifest, device: Device, plans: PlanFolder, options: BuildOptions
) -> Any:
    """From a kept plan, else from one that is built now and kept."""
    header, kept = kept_plan(graph, manifest, device.capability, plans, options)
    engine = load_plan(kept) if kept is not None else None
    if engine is None:
        engine = _built(graph, manifest, header, plans, options)
    if engine is None:
        fix = "use the openvino backend, and report the engine, the GPU and TensorRT's version"
        message = f"{manifest.name}: a plan that was just built for {device.name} does not load"
        raise EngineRefused(RefusalCode.OUTPUTS_UNEXPECTED, message, fix)
    return engine


def _built(
    graph: DeviceGraph, manifest: EngineManifest, header: PlanHeader, plans: PlanFolder, options: BuildOptions
) -> Any:
    """By this process, or by another on the same GPU in the meantime."""
    with plans.alone(header):
        kept = plans.read(header)
        engine = load_plan(kept) if kept is not None else None
        if engine is None:
            plan = plan_now(graph, manifest, header, plans, options)
            engine = load_plan(plan)
            plans.write(header, plan)
    return engine
