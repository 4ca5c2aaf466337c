"""The worker's decoders for a benchmark: blobs in, and back when every photograph is decoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from engines.container import examined
from engines.decode import Decoded, DecodeLimits
from engines.decoder import PillowDecoder
from engines.gpu.device import Device
from engines.gpu.encoder import GpuOptions
from engines.gpu.jpegs import Jpegs
from engines.gpu.photographs import Photograph, for_device, parts, photograph

Decode = Callable[[Sequence[bytes]], None]


@contextmanager
def open_decode(size: int, *, on_device: bool) -> Iterator[Decode]:
    """On the device: containers examined, batches cut to fit, pixels left there. On the CPU: squares of `size` px.
    Raises RuntimeError for a photograph that was not decoded, EngineRefused without a GPU."""
    with _on_device() if on_device else _on_cpu(size) as decode:
        yield decode


@contextmanager
def _on_device() -> Iterator[Decode]:
    options = GpuOptions()
    device = Device()
    jpegs = device.run(lambda: Jpegs(device.ordinal, DecodeLimits(), options.decoded_bytes))

    def run(batch: Sequence[Photograph]) -> None:
        last = None
        for part in parts(batch, jpegs.stage_bytes):
            last, images = jpegs.decode([found.picture for found in part])
            if any(image is None for image in images):
                raise RuntimeError("the device refused a photograph")
        if last is not None:
            last.decoded.synchronize()

    def decode(blobs: Sequence[bytes]) -> None:
        batch = [_photograph(blob) for blob in blobs]
        device.run(lambda: run(batch))

    try:
        yield decode
    finally:
        device.run(jpegs.close)
        device.close()


def _photograph(blob: bytes) -> Photograph:
    container = examined(blob)
    if container is None or not for_device(container):
        raise RuntimeError("a photograph that the device does not take")
    return photograph(blob, container, lambda: None)


@contextmanager
def _on_cpu(size: int) -> Iterator[Decode]:
    decoder = PillowDecoder(size, len(os.sched_getaffinity(0)))

    def decode(blobs: Sequence[bytes]) -> None:
        for square in decoder.decode(blobs):
            if not isinstance(square.result(), Decoded):
                raise RuntimeError(f"not decoded: {square.result()}")

    try:
        yield decode
    finally:
        decoder.close()
