"""The worker's decoders for a benchmark: blobs in, pixels on the device or squares on the host. Batches are begun as
the worker begins them: the caller's thread examines the next one while the device's decodes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from time import perf_counter

from engines.container import examined
from engines.decode import Decoded, DecodeLimits
from engines.decoder import PillowDecoder
from engines.gpu.device import Device, own_stream
from engines.gpu.encoder import GpuOptions
from engines.gpu.jpegs import Jpegs, Stage
from engines.gpu.photographs import Photograph, for_device, parts, photograph

Begin = Callable[[Sequence[bytes]], Callable[[], None]]  # gives what waits until the batch is decoded


@contextmanager
def open_decode(size: int, *, on_device: bool) -> Iterator[Begin]:
    """On the device: containers examined, batches cut to fit, pixels left there. On the CPU: squares of `size` px. To
    wait raises RuntimeError for a photograph that was not decoded, to open EngineRefused without a GPU."""
    with _on_device() if on_device else _on_cpu(size) as begin:
        yield begin


@contextmanager
def _on_device() -> Iterator[Begin]:
    options = GpuOptions()
    device = Device()
    jpegs = device.run(lambda: Jpegs(device.ordinal, DecodeLimits(), options.decoded_bytes))
    reader = device.run(own_stream)  # what the kernels' stream is to the worker: it frees a stage

    def run(batch: Sequence[Photograph]) -> Stage | None:
        last: Stage | None = None
        for part in parts(batch, jpegs.stage_bytes):
            last, images = jpegs.decode(part)
            if any(image is None for image in images):
                raise RuntimeError("the device refused a photograph")
            reader.wait_for_event(last.decoded)
            last.free.record(reader)
        return last

    def begin(blobs: Sequence[bytes]) -> Callable[[], None]:
        batch = [_photograph(blob, jpegs) for blob in blobs]
        running: Future[Stage | None] = device.submit(lambda: run(batch))

        def wait() -> None:
            if (last := running.result()) is not None:
                device.collect(last.decoded.synchronize).result()

        return wait

    try:
        yield begin
    finally:
        device.run(jpegs.close)
        device.close()


def _photograph(blob: bytes, jpegs: Jpegs) -> Photograph:
    container = examined(blob)
    if container is None or not for_device(container):
        raise RuntimeError("a photograph that the device does not take")
    return photograph(blob, container, jpegs.opened, lambda: None)


@contextmanager
def _on_cpu(size: int) -> Iterator[Begin]:
    decoder = PillowDecoder(size, len(os.sched_getaffinity(0)))

    def begin(blobs: Sequence[bytes]) -> Callable[[], None]:
        squares = decoder.decode(blobs)

        def wait() -> None:
            for square in squares:
                if not isinstance(square.result(), Decoded):
                    raise RuntimeError(f"not decoded: {square.result()}")

        return wait

    try:
        yield begin
    finally:
        decoder.close()


def rate_of(begin: Begin, batch: Sequence[bytes], seconds: float, *, depth: int = 2) -> float:
    """Photographs a second, `depth` batches under way beside the one that is begun; the first are not timed."""
    begin(batch)()
    waiting = deque(begin(batch) for _ in range(depth))
    began, done = perf_counter(), 0
    while (spent := perf_counter() - began) < seconds:
        waiting.append(begin(batch))
        waiting.popleft()()
        done += len(batch)
    for wait in waiting:
        wait()
    return done / spent
