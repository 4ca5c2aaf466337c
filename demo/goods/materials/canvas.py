"""Canvas: a plain weave of warp and weft with slubs."""

from __future__ import annotations

import numpy as np

from demo.goods.materials.spectrum import TILE, Heights, field, waves, whole


def canvas(seed: int, scale: float) -> Heights:
    """Warp over weft in a chequer of whole threads."""
    bend = field("canvas", seed, cycles=7, width=0.7)
    n = whole(26 / scale)
    warp = waves(2 * n, 0, bend, 0.10)
    weft = waves(0, 2 * n, bend, 0.10)
    over = waves(n, 0, bend, 0.05) * waves(0, n, bend, 0.05)
    slub = field("slub", seed, cycles=24, width=0.5, stretch=TILE / 120)
    return np.asarray(np.where(over > 0, warp, weft) * 0.75 + 0.14 * slub, np.float32)
