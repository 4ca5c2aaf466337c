"""The photographs that the GPU sections run on: rendered goods, and the jobs' photographs again as JPEGs of a given
side and weight, so that figures compare with published ones."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from os import sched_getaffinity
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.goods import catalogue
from demo.photographs import JOB_SPECIMENS, cache_folder, labelled, photograph, references
from schemas.job import JobView
from worker.items import Item, read_items

WEIGHT_TOLERANCE: Final = 0.05
_NOISE: Final = (0, 6, 12, 24, 48)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """Of a JPEG: its side in px and bits a pixel."""

    side: int
    bits: float

    @property
    def name(self) -> str:
        return f"{self.side}px-{self.bits:g}bit"


USUAL: Final = Weight(side=1024, bits=1.2)
WEIGHTS: Final = (USUAL, Weight(side=512, bits=1.2), Weight(side=2048, bits=1.2), Weight(side=1024, bits=3.4))


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuGoods:
    """`references` and `jobs` are manifests; `items` are those of `jobs`."""

    references: Path
    jobs: Path
    items: Sequence[Item]


def rendered_goods(*, skus: int = 3, specimens: int = 4) -> GpuGoods:
    """Render what the cache does not hold, on all cores: about a second a photograph and core."""
    wanted = catalogue(skus)
    title = f"gpu-{skus}-{specimens}"
    enrolled = photograph(references(wanted), cache_folder() / f"{title}-references")
    made = labelled(wanted, first_specimen=JOB_SPECIMENS.start, genuine=specimens, forged=specimens)
    jobs = photograph(made, cache_folder() / f"{title}-jobs")
    return GpuGoods(references=enrolled, jobs=jobs, items=read_items(jobs))


def weighed(goods: GpuGoods, weight: Weight, root: Path, *, most: int = 0) -> list[Item]:
    """The items with their photographs of this weight, below `root`; of the first `most` items where that is given."""
    items = list(goods.items[: most or None])
    tasks = [
        (Path(place), root / weight.name / item.name / f"{view}.jpg")
        for item in items
        for view, place in item.views.items()
        if isinstance(place, Path)
    ]
    waiting = [task for task in tasks if not task[1].exists()]
    if waiting:
        with ProcessPoolExecutor(len(sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(_weigh, weight), waiting))
    manifest = root / f"{weight.name}.jsonl"
    manifest.write_text("".join(_line(item, weight) for item in items))
    return read_items(manifest)


def _weigh(weight: Weight, task: tuple[Path, Path]) -> None:
    source, target = task
    with Image.open(source) as opened:
        image = np.asarray(opened.convert("RGB").resize((weight.side, weight.side), Image.Resampling.BICUBIC))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_bytes(jpeg_of(image, weight.bits))
    part.rename(target)


def jpeg_of(image: NDArray[np.uint8], bits: float) -> bytes:
    """A baseline 4:2:0 JPEG of about `bits` a pixel: by its quality, and by noise where that is not enough."""
    rng = np.random.default_rng(1)
    wanted = bits * image.shape[0] * image.shape[1] / 8
    made = b""
    for noise in _NOISE:
        grain = rng.integers(-noise, noise + 1, image.shape) if noise else 0
        noisy = (image.astype(np.int16) + grain).clip(0, 255).astype(np.uint8)
        made = _nearest(Image.fromarray(noisy), wanted)
        if len(made) > wanted * (1 - WEIGHT_TOLERANCE):
            break
    return made


def _nearest(image: Image.Image, wanted: float) -> bytes:
    """By bisection over the quality, whose sizes grow."""
    low, high, best = 20, 96, b""
    while low <= high:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        made = buffer.getvalue()
        best = made if not best or abs(len(made) - wanted) < abs(len(best) - wanted) else best
        low, high = (quality + 1, high) if len(made) < wanted else (low, quality - 1)
    return best


def _line(item: Item, weight: Weight) -> str:
    views = {view: f"{weight.name}/{item.name}/{view}.jpg" for view in item.views}
    told = {
        "name": item.name,
        "sku": item.sku,
        "category": item.category,
        "label": item.label,
        "views": views,
        "serial": item.serial,
    }
    return json.dumps(told, sort_keys=True) + "\n"


def blobs_of(items: Sequence[Item]) -> list[bytes]:
    return [place.read_bytes() for item in items for place in item.views.values() if isinstance(place, Path)]


def told_of(blobs: Sequence[bytes], weight: Weight) -> dict[str, object]:
    """For whoever repeats it."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(blob).digest() for blob in blobs)).hexdigest()
    size = sum(map(len, blobs)) / max(len(blobs), 1)
    return {
        "side": weight.side,
        "files": len(blobs),
        "mean bytes": round(size),
        "bits a pixel": round(8 * size / weight.side**2, 3),
        "sha256": digest[:16],
    }


def views_of(item: Item, root: Path, *, inline: bool) -> tuple[JobView, ...]:
    """The item's views as a job carries them, inline or as `file:` URIs below `root`."""
    made = []
    for view, place in item.views.items():
        assert isinstance(place, Path)
        data = place.read_bytes()
        uri = None if inline else f"file:{place.resolve().relative_to(root.resolve()).as_posix()}"
        made.append(
            JobView(
                view=view,
                sha256=hashlib.sha256(data).hexdigest(),
                uri=uri,
                data=data if inline else None,
                media_type="image/jpeg",
            )
        )
    return tuple(made)
