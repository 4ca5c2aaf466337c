"""Section `decode`: the worker's decoding beside a bare nvJPEG loop and Pillow on all cores, by side and weight: G6."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from typing import Any, Final

from PIL import Image

from benchmarks.gpu.photographs import USUAL, WEIGHTS, GpuGoods, Weight, blobs_of, rendered_goods, told_of, weighed
from benchmarks.gpu.record import Section

SIZE: Final = 224
TIMED_S: Final = 2.0
BATCHES: Final = (64, 128, 256)


def decode_section(section: Section) -> None:
    small = section.dry
    goods = section.step("render", 30, lambda: rendered_goods(skus=1, specimens=1) if small else rendered_goods())
    if goods is None:
        return
    weights = (USUAL, Weight(side=512, bits=1.2)) if small else WEIGHTS
    rates = {w.name: section.step(w.name, 25, partial(_weight, section, goods, w)) or {} for w in weights}
    usual = rates.get(USUAL.name, {})
    worker, bare, pillow = (usual.get(name) for name in ("worker", "bare nvJPEG", "Pillow"))
    told = str({name: round(rate) for name, rate in usual.items()})
    section.find("G6", worker / bare if worker and bare else None, told)
    section.find("G6-pillow", worker / pillow if worker and pillow else None, told)


def _weight(section: Section, goods: GpuGoods, weight: Weight) -> dict[str, float]:
    """Images a second by way, at one side and weight; a way that fails is told and left out."""
    blobs = blobs_of(weighed(goods, weight, section.folder / "files", most=8))
    section.fact(f"JPEGs {weight.name}", told_of(blobs, weight))
    ways: dict[str, Callable[[], float]] = {
        "bare nvJPEG": lambda: max(bare_rates(blobs).values()),
        "worker": lambda: worker_rate(blobs, section.dry),
        "Pillow": lambda: pillow_rate(blobs, draft=False),
        "Pillow, reduced": lambda: pillow_rate(blobs, draft=True),
    }
    rates: dict[str, float] = {}
    for name, way in ways.items():
        try:
            rates[name] = round(way(), 1)
        except Exception as error:  # no decoder, or one that fails: the others still count
            section.fact(f"failed {weight.name} {name}", f"{type(error).__name__}: {error}"[:400])
        section.fact(f"img/s {weight.name}", rates)
    return rates


def bare_rates(blobs: Sequence[bytes]) -> dict[str, float]:
    """nvImageCodec alone, batch after batch, its buffers used again; images a second by batch."""
    import torch
    from nvidia import nvimgcodec

    decoder = nvimgcodec.Decoder(device_id=0)
    rates = {}
    for batch in BATCHES:
        taken = list(islice(cycle(blobs), batch))
        images: list[Any] = list(decoder.decode([nvimgcodec.CodeStream(b) for b in taken]))
        if any(image is None for image in images):
            raise RuntimeError(f"{sum(i is None for i in images)} of {batch} photographs were not decoded")

        def once(taken: list[bytes] = taken, images: list[Any] = images) -> None:
            decoder.decode([nvimgcodec.CodeStream(b) for b in taken], images=images)

        once()
        torch.cuda.synchronize()
        rates[str(batch)] = batch * _turns(once, torch.cuda.synchronize)
    return rates


def _turns(once: Callable[[], None], end: Callable[[], None] = lambda: None) -> float:
    """Turns a second."""
    began, turns = time.perf_counter(), 0
    while time.perf_counter() - began < TIMED_S:
        once()
        turns += 1
    end()
    return turns / (time.perf_counter() - began)


def worker_rate(blobs: Sequence[bytes], dry: bool) -> float:
    """The worker's own decoder, files examined and batches overlapped as there, pixels left on the device; in a dry run
    the CPU's, to squares."""
    from benchmarks.gpu.worker_decode import open_decode, rate_of

    with open_decode(SIZE, on_device=not dry) as begin:
        taken = list(islice(cycle(blobs), 128 if not dry else len(blobs)))
        return rate_of(begin, taken, TIMED_S)


def pillow_rate(blobs: Sequence[bytes], *, draft: bool) -> float:
    """All cores, full decode to RGB, or at a reduced scale."""
    cores = len(os.sched_getaffinity(0))
    taken = list(islice(cycle(blobs), 8 * cores))
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(partial(_pillow, draft), taken[:cores]))

        def once() -> None:
            list(pool.map(partial(_pillow, draft), taken))

        return len(taken) * _turns(once)


def _pillow(draft: bool, blob: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(blob)) as opened:
        if draft:
            opened.draft("RGB", (SIZE * 8 // 7, SIZE * 8 // 7))
        return opened.convert("RGB").size
