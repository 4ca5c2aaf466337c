"""Rendering of the training and evaluation sets in a pool of processes, into memory-mapped arrays. Stops handing out
SKUs when its time is up: what is finished by then is the set."""

from __future__ import annotations

import io
import logging
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.goods import CATEGORIES, FAMILIES, Family, Sku, heldout_skus, jpeg, render, training_skus
from demo.train.layout import MASK_SIDE, PLANS, RENDER_SIDE, SIDE, VIEWS_A_SKU, Kind, arrays, load, save_index
from demo.train.near import NEAR_MISSES
from demo.unseen import SEEN_FAMILIES
from engines.preprocess import resized

LOG = logging.getLogger(__name__)

_EVAL_STRENGTH = 0.8
_TRAIN_STRENGTHS = (0.35, 1.0)  # weaker ones cannot be told from the camera's own colours
_NEAR_SHARE = 0.5  # of the groups in which another family shows: the second forgery is a near miss all the same
_TOLD_EACH = 8  # SKUs


def render_set(root: Path, kind: Kind, numbers: range, seconds: float, workers: int) -> int:
    """Render the SKUs of these numbers, unless the set is there already; gives the number of finished SKUs.

    The index is written anew after every few SKUs, so that training can begin on them."""
    if (root / f"{kind}.json").exists() and load(root, kind).complete:
        return len(load(root, kind).finished)
    root.mkdir(parents=True, exist_ok=True)
    skus = numbers.stop
    arrays(root, kind, skus, "w+")
    began = time.monotonic()
    finished: list[int] = []
    families = [[family.name for family in _families(kind, g)] for g in range(skus * VIEWS_A_SKU)]
    save_index(root, kind, skus, finished, families, complete=False)
    for number in _finished_skus(root, kind, numbers, began + seconds, workers):
        finished.append(number)
        if len(finished) % _TOLD_EACH == 0:
            save_index(root, kind, skus, finished, families, complete=False)
        if len(finished) % (8 * _TOLD_EACH) == 0:
            LOG.info("%s: %d SKUs in %.0f s", kind, len(finished), time.monotonic() - began)
    save_index(root, kind, skus, finished, families, complete=True)
    LOG.info("%s: %d of %d SKUs in %.0f s", kind, len(finished), len(numbers), time.monotonic() - began)
    return len(finished)


def _finished_skus(root: Path, kind: Kind, wanted: range, deadline: float, workers: int) -> Iterator[int]:
    """SKU numbers as they are finished; two tasks a worker are in flight, so that little runs past the deadline."""
    numbers = iter(wanted)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: set[Future[int]] = set()
        while True:
            if time.monotonic() < deadline:
                room = 2 * workers - len(running)
                running |= {pool.submit(_render_sku, root, kind, wanted.stop, n) for n in islice(numbers, room)}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def _sku(kind: Kind, skus: int, number: int) -> Sku:
    return (training_skus(skus) if kind == "train" else heldout_skus(skus))[number]


def _render_sku(root: Path, kind: Kind, skus: int, number: int) -> int:
    """All images of one SKU, written in one piece: page faults of a memory map are slow on some hosts."""
    sku = _sku(kind, skus, number)
    parts = [
        _render_group(sku, view, kind, number * VIEWS_A_SKU + i) for i, view in enumerate(CATEGORIES[sku.category])
    ]
    for name, arrays_of_groups in (("pixels", [p for p, _ in parts]), ("masks", [m for _, m in parts])):
        whole = np.stack(arrays_of_groups)
        with (root / f"{kind}.{name}").open("r+b") as file:
            file.seek(number * whole.nbytes)
            file.write(whole.data)
    return number


def _render_group(sku: Sku, view: str, kind: Kind, group: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels [K,448,448,3] and masks [K,112,112] of one group."""
    families = _families(kind, group)
    rng = np.random.Generator(np.random.PCG64([group, kind == "eval"]))
    strengths = [_EVAL_STRENGTH if kind == "eval" else float(rng.uniform(*_TRAIN_STRENGTHS)) for _ in families]
    slots = PLANS[kind].slots
    pixels = np.empty((len(slots), SIDE, SIDE, 3), np.uint8)
    masks = np.empty((len(slots), MASK_SIDE, MASK_SIDE), np.uint8)
    for index, slot in enumerate(slots):
        family = None if slot.forgery is None else families[slot.forgery]
        strength = 1.0 if slot.forgery is None else strengths[slot.forgery]
        shown = render(sku, view, specimen=slot.specimen, family=family, strength=strength, size=RENDER_SIDE)
        pixels[index] = _square(shown.image, int(rng.integers(88, 93)))
        masks[index] = _small(shown.mask)
    return pixels, masks


def _families(kind: Kind, group: int) -> tuple[Family, Family]:
    """The forgers of a group. In an evaluation two families that show in its view, seen or not; in training a seen one
    and another, or a near miss."""
    sku, place = divmod(group, VIEWS_A_SKU)
    view = tuple(next(iter(CATEGORIES.values())))[place]
    rng = np.random.Generator(np.random.PCG64([7, sku, place, kind == "eval"]))
    fitting = [
        FAMILIES[name] for name in (FAMILIES if kind == "eval" else SEEN_FAMILIES) if view in FAMILIES[name].views
    ]
    chosen = [fitting[i] for i in rng.permutation(len(fitting))[:2]]
    if kind == "eval":
        return chosen[0], chosen[1]
    near = [family for family in NEAR_MISSES if view in family.views]
    other = near[int(rng.integers(len(near)))]
    return chosen[0], other if len(chosen) < 2 or rng.random() < _NEAR_SHARE else chosen[1]


def _square(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Through JPEG and the encoders' own resize."""
    with Image.open(io.BytesIO(jpeg(image, quality=quality))) as opened:
        return np.asarray(resized(opened.convert("RGB"), SIDE))


def _small(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    levels = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(levels.resize((MASK_SIDE, MASK_SIDE), Image.Resampling.BOX))
