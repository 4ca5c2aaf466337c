"""Twill: the diagonal rib of a woven lining."""

from __future__ import annotations

import numpy as np

from demo.goods.materials.spectrum import Heights, field, waves, whole


def twill(seed: int, scale: float) -> Heights:
    """Diagonal ribs crossed by their threads."""
    bend = field("twill", seed, cycles=8, width=0.7)
    n = whole(24 / scale)
    ribs = waves(n, 2 * n, bend, 0.10)
    threads = waves(3 * n, -n, bend, 0.06)
    return np.asarray(0.65 * ribs + 0.22 * threads + 0.10 * field("fibre", seed, cycles=90, width=0.5), np.float32)
