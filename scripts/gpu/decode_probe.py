"""python3 scripts/gpu/decode_probe.py [NAME ...]: what makes nvImageCodec fast or slow, one difference at a time.

The first row is the bare loop that benchmarks/gpu/decoding.py holds the worker to; each of the next differs from it in
what its name says; the last are engines.gpu.jpegs, alone and as the worker runs it. Every row is a decoder of its own:
photographs a second, and CPU microseconds of this process's threads a photograph. A row that ends the process is told,
and the next goes on in another. `--list` names the rows; `SIDE` is the photographs' size, `ROW_S` the seconds that a
row is measured for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]
os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")

from layers.opening import photographs  # noqa: E402

from engines.container import examined  # noqa: E402
from engines.decode import DecodeLimits  # noqa: E402
from engines.gpu.device import Device, own_stream  # noqa: E402
from engines.gpu.jpegs import Jpegs  # noqa: E402
from engines.gpu.photographs import Photograph, photograph  # noqa: E402

ROW_S = float(os.environ.get("ROW_S", "0.5"))
BATCH = 128
QUALITY = 78  # 150 to 160 KB of 1,024 px: what G6 is measured at
FILES = 32
INSIDE = "--inside"
GIVE_UP = 3


class Row(Protocol):
    """`run` decodes `count` photographs and tells how many it refused."""

    count: int

    def run(self) -> int: ...


class Bare:
    """The library's decoder, by default as the benchmark's bare loop has it. `first`: photographs of its very first
    batch; `stages`: lists of images that take turns."""

    def __init__(
        self,
        *,
        kinds: tuple[str, ...] = (),
        options: str | None = None,
        threads: int = 0,
        first: int = 0,
        ours: bool = False,
        stream: str = "",
        anew: bool = True,
        keep: bool = True,
        stages: int = 1,
        step: int = 0,
        count: int = BATCH,
    ) -> None:
        import pycuda.driver as cuda
        from nvidia import nvimgcodec as codec

        self.codec, self.anew, self.keep, self.count, self.turn = codec, anew, keep, count, 0
        given: dict[str, Any] = {} if options is None else {"options": options}
        if kinds:
            given["backends"] = [codec.Backend(getattr(codec.BackendKind, kind)) for kind in kinds]
        self.decoder = codec.Decoder(device_id=0, max_num_cpu_threads=threads, **given)
        turned = {"apply_exif_orientation": False, "color_spec": codec.ColorSpec.SRGB} if ours else {}
        self.params = codec.DecodeParams(**turned)
        self.stream = {"": None, "ordinary": cuda.Stream, "own": own_stream}[stream]
        self.stream = self.stream and self.stream()
        self.end = self.stream.synchronize if self.stream else cuda.Context.synchronize
        self.blobs = files(count, step)
        self.streams = self.opened()
        if first:
            self.decode(self.opened()[:1] if first == 1 else [codec.CodeStream(self.blobs[0]) for _ in range(first)])
        self.images: list[list[Any]] = [self.decode(self.opened()) for _ in range(stages)]
        self.run()

    def opened(self) -> list[Any]:
        return [self.codec.CodeStream(blob) for blob in self.blobs]

    def decode(self, streams: list[Any], **given: Any) -> list[Any]:
        handle = {"cuda_stream": self.stream.handle} if self.stream else {}
        made: list[Any] = self.decoder.decode(streams, params=self.params, **handle, **given)
        return made

    def run(self) -> int:
        streams = self.opened() if self.anew else self.streams
        again = {"images": self.images[self.turn]} if self.keep else {}
        made = self.decode(streams, **again)
        self.images[self.turn] = made
        self.turn = (self.turn + 1) % len(self.images)
        if not self.turn:
            self.end()
        return made.count(None)


class Ours:
    """engines.gpu.jpegs. `anew` opens the photographs in the device's thread, as it was before."""

    def __init__(self, *, anew: bool = False, count: int = BATCH) -> None:
        self.jpegs, self.count, self.anew = Jpegs(0, DecodeLimits(), 512 << 20), count, anew
        self.blobs = files(count, 0)
        self.batch, self.reader = self.opened(), own_stream()
        self.run()
        self.run()

    def opened(self) -> list[Photograph]:
        return [opened(blob, self.jpegs) for blob in self.blobs]

    def run(self) -> int:
        stage, images = self.jpegs.decode(self.opened() if self.anew else self.batch)
        self.reader.wait_for_event(stage.decoded)
        stage.free.record(self.reader)
        stage.decoded.synchronize()
        return images.count(None)


class Host:
    """What the caller's thread does, without a device."""

    def __init__(self, work: Callable[[bytes], object]) -> None:
        self.count, self.blobs, self.work = BATCH, files(BATCH, 0), work

    def run(self) -> int:
        for blob in self.blobs:
            self.work(blob)
        return 0


def opened(blob: bytes, jpegs: Jpegs) -> Photograph:
    container = examined(blob)
    assert container is not None, "made by Pillow a moment ago"
    return photograph(blob, container, jpegs.opened, lambda: None)


def files(count: int, step: int) -> list[bytes]:
    """Objects of their own, as a batch's are."""
    made = photographs(FILES, quality=QUALITY, step=step)
    return [bytes(bytearray(made[at % FILES])) for at in range(count)]


@contextmanager
def busy(work: Callable[[], object]) -> Iterator[None]:
    """Another thread that does nothing else."""
    over = threading.Event()

    def turn() -> None:
        while not over.is_set():
            work()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def examining() -> object:
    blob = files(1, 0)[0]
    return busy(lambda: examined(blob))


def counting() -> object:
    return busy(lambda: sum(range(1000)))


OFTEN = ", switching often"  # the interpreter's threads take turns ten times as often while such a row is measured
OFTEN_S = 0.0005
PAIR = ("HW_GPU_ONLY", "HYBRID_CPU_GPU")
ROWS: dict[str, Callable[[], Row]] = {
    "bare": Bare,
    "two backends": lambda: Bare(kinds=PAIR),
    "hardware alone": lambda: Bare(kinds=PAIR[:1]),
    "hybrid alone": lambda: Bare(kinds=PAIR[1:]),
    "our parameters": lambda: Bare(ours=True),
    "an ordinary stream": lambda: Bare(stream="ordinary"),
    "a stream of its own": lambda: Bare(stream="own"),
    "streams opened before": lambda: Bare(anew=False),
    "images made anew": lambda: Bare(keep=False),
    "two stages": lambda: Bare(stages=2),
    "sizes that differ": lambda: Bare(step=8),
    "first batch of 1": lambda: Bare(first=1),
    "first batch of 256": lambda: Bare(first=256),
    "8 threads": lambda: Bare(threads=8),
    "4 threads": lambda: Bare(threads=4),
    "1 thread": lambda: Bare(threads=1),
    "no fancy upsampling": lambda: Bare(options=":fancy_upsampling=0"),
    "batches of 8": lambda: Bare(count=8),
    "batches of 64": lambda: Bare(count=64),
    "batches of 256": lambda: Bare(count=256),
    "beside examining": Bare,
    "opened before, beside examining": lambda: Bare(anew=False),
    "opened before, beside counting": lambda: Bare(anew=False),
    f"opened before, beside examining{OFTEN}": lambda: Bare(anew=False),
    f"opened before, beside counting{OFTEN}": lambda: Bare(anew=False),
    "all of ours": lambda: Bare(kinds=PAIR, ours=True, stream="own", anew=False, stages=2, first=256),
    "Jpegs": Ours,
    "Jpegs, opened in its thread": lambda: Ours(anew=True),
    "Jpegs, beside examining": Ours,
    "Jpegs, batches of 64": lambda: Ours(count=64),
    "legacy batch": lambda: Bare(options="nvjpeg_hw_decoder:force_legacy_batch=1"),
    "batch single": lambda: Bare(options="nvjpeg_hw_decoder:force_batch_single=1"),
    "host: examined": lambda: Host(examined),
    "host: examined, opened": lambda: Host(lambda blob: opened(blob, _JPEGS[0])),
    "the worker's way": lambda: Host(lambda blob: None),  # see `row`
    f"the worker's way{OFTEN}": lambda: Host(lambda blob: None),
}
BESIDE = {"beside examining": examining, "beside counting": counting}
_JPEGS: list[Jpegs] = []
_KEPT: list[Row] = []  # measured; taken down in any order, images after their stream, they end the process


def row(name: str, device: Device) -> str:
    usual_s = sys.getswitchinterval()
    if name.endswith(OFTEN):
        sys.setswitchinterval(OFTEN_S)
    try:
        if name.startswith("the worker's way"):
            return f"{name:32s} {_worker():9.0f}"
        if name.startswith("host:"):  # in this thread, as a caller
            if not _JPEGS:
                _JPEGS.append(device.run(lambda: Jpegs(0, DecodeLimits(), 512 << 20)))
            return measured(name)
        return device.run(lambda: measured(name))
    except Exception as error:  # the next row goes on
        return f"{name:32s} FAILED {type(error).__name__}: {error}"[:300]
    finally:
        sys.setswitchinterval(usual_s)


def _worker() -> float:
    from benchmarks.gpu.worker_decode import open_decode, rate_of

    with open_decode(224, on_device=True) as begin:
        return rate_of(begin, files(BATCH, 0), 2 * ROW_S)


def measured(name: str) -> str:
    made = ROWS[name]()
    _KEPT.append(made)
    around: Any = next(
        (begin() for ending, begin in BESIDE.items() if name.removesuffix(OFTEN).endswith(ending)), nullcontext()
    )
    with around:
        began, cpu, done, refused = time.perf_counter(), time.process_time(), 0, 0
        while (spent := time.perf_counter() - began) < ROW_S:
            refused += made.run()
            done += made.count
        cpu_us = (time.process_time() - cpu) / done * 1e6
    told = f"   {refused} refused" if refused else ""
    return f"{name:32s} {done / spent:9.0f} {cpu_us:9.0f} {spent / done * 1e6:9.1f}{told}"


def inside(names: list[str]) -> None:
    photographs(FILES, quality=QUALITY, step=0)
    device = Device()
    for name in names:
        print(row(name, device), flush=True)
    os._exit(0)  # what is left of the decoders need not be taken down in order


def main(asked: list[str]) -> None:
    waiting = asked or list(ROWS)
    if waiting == ["--list"]:
        print("\n".join(ROWS))
        return
    print(f"{'':32s} {'img/s':>9s} {'CPU us':>9s} {'us':>9s}   {BATCH} at once", flush=True)
    nothing = 0  # processes in a row that measured nothing
    while waiting and nothing < GIVE_UP:
        before, command = len(waiting), [sys.executable, __file__, INSIDE, *waiting]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                if waiting and line.startswith(waiting[0].ljust(32)):  # a library may have the last word
                    waiting.pop(0)
        nothing = nothing + 1 if len(waiting) == before else 0
        if waiting:
            print(f"{waiting.pop(0):32s} ENDED THE PROCESS with {process.returncode}", flush=True)


if __name__ == "__main__":
    inside(sys.argv[2:]) if sys.argv[1:2] == [INSIDE] else main(sys.argv[1:])
