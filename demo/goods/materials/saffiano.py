"""Saffiano leather: a hard, pressed cross-hatch of fine diagonal ridges."""

from __future__ import annotations

import numpy as np

from demo.goods.materials.spectrum import Heights, field, waves, whole


def saffiano(seed: int, scale: float) -> Heights:
    """Two crossing diagonal waves, bent a little."""
    bend = field("saffiano", seed, cycles=9, width=0.7)
    n = whole(30 / scale)
    m = whole(17 / scale)
    ridges = np.maximum(waves(n, m, bend, 0.10), waves(n, -m, bend, 0.10))
    return np.asarray(0.9 * ridges - 0.35 + 0.12 * field("press", seed, cycles=60, width=0.8), np.float32)
