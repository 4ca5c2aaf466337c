"""Moulded rubber: a matte stipple over a faint diamond relief."""

from __future__ import annotations

import numpy as np

from demo.goods.materials.spectrum import Heights, field, waves, whole


def rubber(seed: int, scale: float) -> Heights:
    """Diamonds of whole cycles with stipple."""
    bend = field("mould", seed, cycles=4, width=0.6)
    n = whole(13 / scale)
    diamonds = waves(n, n, bend, 0.01) + waves(n, -n, bend, 0.01)
    return np.asarray(np.tanh(1.6 * diamonds) * 0.55 + 0.16 * field("stipple", seed, cycles=95, width=0.5), np.float32)
