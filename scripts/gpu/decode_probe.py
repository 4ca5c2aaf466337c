"""python3 scripts/gpu/decode_probe.py [NAME ...]: what makes nvImageCodec fast or slow, one difference at a time.

Every row is a decoder of its own: photographs a second, and CPU microseconds of this process's threads a photograph.
`SIDE` is the photographs' size, `ROW_S` the seconds that a row is measured for.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")

from layers.decoding import decoded  # noqa: E402
from layers.opening import photographs  # noqa: E402

from engines.decode import DecodeLimits  # noqa: E402
from engines.gpu.device import Device  # noqa: E402
from engines.gpu.jpegs import Jpegs  # noqa: E402

ROW_S = float(os.environ.get("ROW_S", "0.6"))
BATCH = 64


class Bare:
    """The library's decoder. `first`: photographs of its very first batch. What is left out is as Jpegs has it."""

    def __init__(
        self,
        *,
        kinds: tuple[str, ...] = ("HW_GPU_ONLY", "HYBRID_CPU_GPU"),
        options: str = "",
        threads: int = 0,
        first: int = BATCH,
        plain: bool = False,
        anew: bool = True,
        keep: bool = True,
        count: int = BATCH,
    ) -> None:
        import pycuda.driver as cuda
        from nvidia import nvimgcodec as codec

        self.codec, self.anew, self.keep = codec, anew, keep
        backends = [codec.Backend(getattr(codec.BackendKind, kind)) for kind in kinds]
        self.decoder = codec.Decoder(device_id=0, backends=backends, options=options, max_num_cpu_threads=threads)
        turned = {} if plain else {"apply_exif_orientation": False, "color_spec": codec.ColorSpec.SRGB}
        self.params = codec.DecodeParams(**turned)
        self.stream = cuda.Stream()
        self.blobs = (photographs() * (-(-count // 32)))[:count]
        self.streams = [codec.CodeStream(blob) for blob in self.blobs]
        self.images: list[Any] = []
        # streams of their own, as Jpegs has them: the library reads all of a batch at once
        alike = [codec.CodeStream(self.blobs[0]) for _ in range(first)]
        self.decoder.decode(alike, params=self.params, cuda_stream=self.stream.handle)
        self.run()

    def run(self) -> int:
        streams = [self.codec.CodeStream(blob) for blob in self.blobs] if self.anew else self.streams
        again = {"images": self.images} if self.images and self.keep else {}
        self.images = self.decoder.decode(streams, params=self.params, cuda_stream=self.stream.handle, **again)
        self.stream.synchronize()
        return len(self.images) - self.images.count(None)


class Ours:
    """engines.gpu.jpegs, whose stage keeps `kept_mib`."""

    def __init__(self, *, kept_mib: int = 512, count: int = BATCH) -> None:
        self.jpegs = Jpegs(0, DecodeLimits(), kept_mib << 20)
        self.blobs = (photographs() * (-(-count // 32)))[:count]
        self.run()
        self.run()

    def run(self) -> int:
        images = decoded(self.jpegs, self.blobs)
        return len(images) - images.count(None)


ROWS: dict[str, Callable[[], Bare | Ours]] = {
    "first batch of 64": Bare,
    "first batch of 5": lambda: Bare(first=5),
    "first batch of 256": lambda: Bare(first=256),
    "default parameters": lambda: Bare(plain=True),
    "streams used again": lambda: Bare(anew=False),
    "images made anew": lambda: Bare(keep=False),
    "hardware alone": lambda: Bare(kinds=("HW_GPU_ONLY",)),
    "hybrid alone": lambda: Bare(kinds=("HYBRID_CPU_GPU",)),
    "4 threads": lambda: Bare(threads=4),
    "1 thread": lambda: Bare(threads=1),
    "legacy batch": lambda: Bare(options="nvjpeg_hw_decoder:force_legacy_batch=1"),
    "batch single": lambda: Bare(options="nvjpeg_hw_decoder:force_batch_single=1"),
    "legacy batch, 4 threads": lambda: Bare(options="nvjpeg_hw_decoder:force_legacy_batch=1", threads=4),
    "no fancy upsampling": lambda: Bare(options=":fancy_upsampling=0"),
    "batches of 8": lambda: Bare(count=8),
    "batches of 32": lambda: Bare(count=32),
    "batches of 128": lambda: Bare(count=128, first=128),
    "Jpegs": Ours,
    "Jpegs, batches of 128": lambda: Ours(count=128),
    "Jpegs, 192 MiB kept": lambda: Ours(kept_mib=192),
}


def row(name: str) -> str:
    """In the device's thread."""
    try:
        made = ROWS[name]()
    except Exception as error:  # the next row goes on
        return f"{name:26s} FAILED {error!r}"
    began, cpu, done, decoded = time.perf_counter(), time.process_time(), 0, 0
    while (spent := time.perf_counter() - began) < ROW_S:
        decoded += made.run()
        done += len(made.blobs)
    spent_cpu = (time.process_time() - cpu) / done * 1e6
    return f"{name:26s} {done / spent:9.0f} {spent_cpu:9.0f} {spent / done * 1e6:9.0f}   {done - decoded} refused"


def main(asked: list[str]) -> None:
    photographs()
    device = Device()
    print(f"{'':26s} {'img/s':>9s} {'CPU us':>9s} {'us':>9s}   of {BATCH} at once", flush=True)
    for name in asked or ROWS:
        told = device.run(lambda name=name: row(name))  # type: ignore[misc]
        print(told, flush=True)
    device.close()


if __name__ == "__main__":
    main(sys.argv[1:])
