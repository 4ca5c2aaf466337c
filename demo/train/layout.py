"""How rendered training data lies on disk: one flat array of pixels and one of masks, a fixed number of images a
group (a SKU and a view), and an index of the SKUs that were finished."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demo.goods import CATEGORIES

SIDE = 448  # px: what encoders look at
RENDER_SIDE = 512  # px: what is rendered
MASK_SIDE = 112  # cells: four a patch of 16 px, so that a mask survives the crop jitter

RESERVED_SKUS = 8  # the first training SKUs calibrate INT8 ranges and are never trained on

Kind = Literal["train", "eval"]
Pixels = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One image of a group: its specimen, and which of the group's two forgeries it shows (None: genuine)."""

    specimen: int
    forgery: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The images of every group. A forged image follows a genuine one of the same specimen: its twin."""

    slots: tuple[Slot, ...]

    @property
    def twins(self) -> tuple[tuple[int, int], ...]:
        """(genuine, forged) places in the group that show the same specimen."""
        genuine = {s.specimen: i for i, s in enumerate(self.slots) if s.forgery is None}
        return tuple((genuine[s.specimen], i) for i, s in enumerate(self.slots) if s.forgery is not None)


_GENUINE = tuple(Slot(specimen=i, forgery=None) for i in range(4))
PLANS = {
    "train": Plan(slots=(*_GENUINE, *(Slot(specimen=i, forgery=i // 2) for i in range(4)))),
    "eval": Plan(slots=(*_GENUINE, Slot(specimen=2, forgery=0), Slot(specimen=3, forgery=1))),
}


def group_key(group: int) -> tuple[int, str, str]:
    """SKU number, category and view of a group; SKUs take categories in turn, six views each."""
    views = next(iter(CATEGORIES.values()))
    sku, view = divmod(group, len(views))
    return sku, tuple(CATEGORIES)[sku % len(CATEGORIES)], views[view]


VIEWS_A_SKU = len(next(iter(CATEGORIES.values())))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Rendered groups. `pixels` uint8 [G,K,448,448,3], `masks` uint8 [G,K,112,112] (255 where changed), memory-mapped;
    `finished` the SKU numbers whose groups are complete, more of them later unless `complete`; `families` the names of
    each group's forgeries, [G][2]."""

    plan: Plan
    pixels_file: Path
    pixels: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    finished: tuple[int, ...]
    families: tuple[tuple[str, ...], ...]
    complete: bool = True

    @property
    def groups(self) -> NDArray[np.int64]:
        """The complete groups."""
        skus = np.asarray(self.finished, np.int64)
        return (skus[:, None] * VIEWS_A_SKU + np.arange(VIEWS_A_SKU)).ravel()


def arrays(root: Path, kind: Kind, skus: int, mode: Literal["r", "r+", "w+"]) -> tuple[Pixels, Pixels]:
    """The two memory maps of a set, of `skus` SKUs."""
    lead = (skus * VIEWS_A_SKU, len(PLANS[kind].slots))
    pixels = np.memmap(root / f"{kind}.pixels", np.uint8, mode, shape=(*lead, SIDE, SIDE, 3))
    return pixels, np.memmap(root / f"{kind}.masks", np.uint8, mode, shape=(*lead, MASK_SIDE, MASK_SIDE))


def load(root: Path, kind: Kind) -> Dataset:
    """A set as far as it is rendered; raises FileNotFoundError when that was not begun."""
    index = json.loads((root / f"{kind}.json").read_text())
    pixels, masks = arrays(root, kind, index["skus"], "r")
    return Dataset(
        plan=PLANS[kind],
        pixels_file=root / f"{kind}.pixels",
        pixels=pixels,
        masks=masks,
        finished=tuple(sorted(index["finished"])),
        families=tuple(tuple(f) for f in index["families"]),
        complete=index["complete"],
    )


def save_index(
    root: Path, kind: Kind, skus: int, finished: list[int], families: list[list[str]], *, complete: bool
) -> None:
    """Say how far a set is rendered; what this file does not name does not count."""
    part = root / f"{kind}.json.part"
    part.write_text(json.dumps({"skus": skus, "finished": finished, "families": families, "complete": complete}))
    part.replace(root / f"{kind}.json")
