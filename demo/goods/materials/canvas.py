"""Canvas: a plain weave of warp and weft with slubs."""

from __future__ import annotations

import numpy as np

from demo.goods.materials.spectrum import TILE, Heights, field, whole


def canvas(seed: int, scale: float) -> Heights:
    """Warp over weft in a chequer: each crossing is a bump drawn out along the thread on top."""
    threads = 2 * whole(13 / scale)
    bend = 0.10 * field("canvas", seed, cycles=7, width=0.7)
    steps = np.arange(TILE, dtype=np.float32) / TILE
    across = np.sin(np.pi * (threads * steps[None, :] + bend))
    down = np.sin(np.pi * (threads * steps[:, None] + bend.T))
    round_x, round_y = np.abs(across), np.abs(down)
    warp = round_x**0.9 * round_y**0.3
    weft = round_y**0.9 * round_x**0.3
    slub = field("slub", seed, cycles=40, width=0.6)
    return np.asarray(1.5 * np.where(across * down > 0, warp, weft) - 1.0 + 0.12 * slub, np.float32)
