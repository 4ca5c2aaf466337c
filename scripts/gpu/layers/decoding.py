"""nvImageCodec by itself. decode_probe.py takes apart what makes it fast or slow; tests/gpu compare it with Pillow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from engines.container import examined
from engines.gpu.device import own_stream
from engines.gpu.jpegs import Jpegs
from engines.gpu.photographs import Photograph, photograph
from layers.opening import SIDE, gpu, photographs
from layers.telling import TOLD, rate, tell, timed

COUNTED_S = 0.3


def decode() -> None:
    """The session's decoder: how fast by batch, and does it hold the GIL?"""
    device = gpu().device
    jpegs = timed("open the decoder", lambda: device.run(gpu().jpegs))
    blobs = photographs()
    batch = blobs * 2
    for count in (1, 8, 32, 64):
        one = partial(decoded, jpegs, _opened(jpegs, batch[:count]))
        rate(f"decode {count} of {SIDE} px", partial(device.run, one), count)
    tell("JPEG KB, mean", sum(map(len, blobs)) / len(blobs) / 1e3)
    with _counting() as counted:
        time.sleep(COUNTED_S)
        alone, began = counted[0] / COUNTED_S, time.perf_counter()
        before = counted[0]
        for _ in range(5):
            device.run(lambda: decoded(jpegs, _opened(jpegs, batch)))
        beside = (counted[0] - before) / (time.perf_counter() - began)
    tell("share of Python speed left beside decoding", beside / alone)


def _opened(jpegs: Jpegs, blobs: list[bytes]) -> list[Photograph]:
    found = [(blob, examined(blob)) for blob in blobs]
    return [photograph(blob, c, jpegs.opened, lambda: None) for blob, c in found if c is not None]


def decoded(jpegs: Jpegs, batch: list[Photograph]) -> list[Any]:
    """A batch, waited for, with nothing behind it. In the device's thread."""
    began = time.perf_counter()
    stage, images = jpegs.decode(batch)
    TOLD["decode call alone ms"] = (time.perf_counter() - began) * 1e3
    stage.decoded.synchronize()
    TOLD["decode until done ms"] = (time.perf_counter() - began) * 1e3
    stage.free.record(own_stream())
    return images


@contextmanager
def _counting() -> Iterator[list[int]]:
    """A thread that does nothing but count in Python."""
    counted, stop = [0], threading.Event()

    def count_up() -> None:
        while not stop.is_set():
            counted[0] += 1

    thread = threading.Thread(target=count_up)
    thread.start()
    try:
        yield counted
    finally:
        stop.set()
        thread.join()


def decoders() -> None:
    """Which of nvImageCodec's backends are fastest, by themselves and together; 64 photographs, buffers used again."""
    gpu().device.run(_decoders)


def _decoders() -> None:
    from nvidia import nvimgcodec as codec

    streams = [codec.CodeStream(blob) for blob in photographs() * 2]
    for name, backends in _backends(codec).items():
        for options in ("", "nvjpeg_hw_decoder:force_legacy_batch=1"):
            given = {} if backends is None else {"backends": backends}
            try:
                run = _decoding(codec.Decoder(device_id=0, options=options, **given), streams)
                rate(f"{name} {options}", run, len(streams), 0.6)
            except Exception as error:
                tell(f"{name} {options} FAILED", repr(error))


def _backends(codec: Any) -> dict[str, list[Any] | None]:
    hardware, hybrid = codec.BackendKind.HW_GPU_ONLY, codec.BackendKind.HYBRID_CPU_GPU
    idle = codec.LoadHintPolicy.ADAPTIVE_MINIMIZE_IDLE_TIME
    return {
        "default": None,
        "hardware": [codec.Backend(hardware)],
        "hybrid": [codec.Backend(hybrid)],
        "hardware, hybrid": [codec.Backend(kind) for kind in (hardware, hybrid)],
        "adaptive": [codec.Backend(hardware, load_hint=0.8, load_hint_policy=idle), codec.Backend(hybrid)],
    }


def _decoding(decoder: Any, streams: list[Any]) -> Callable[[], None]:
    """Raises RuntimeError where the decoder refuses photographs."""
    import pycuda.driver as cuda

    stream = cuda.Stream()
    images = decoder.decode(streams, cuda_stream=stream.handle)
    if None in images:
        raise RuntimeError(f"refused {images.count(None)} of {len(images)}")

    def run() -> None:
        decoder.decode(streams, images=images, cuda_stream=stream.handle)
        stream.synchronize()

    return run
