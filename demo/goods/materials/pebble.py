"""Pebbled leather: plump bumps between thin dark creases."""

from __future__ import annotations

import numpy as np

from demo.goods.materials.spectrum import Heights, field


def pebble(seed: int, scale: float) -> Heights:
    """The absolute value of band-limited noise: its zeros are the creases."""
    bumps = np.minimum(np.abs(field("pebble", seed, cycles=17 / scale, width=0.45)), 1.6)
    fine = field("pore", seed, cycles=80 / scale, width=0.6)
    return np.asarray(1.35 * np.sqrt(bumps) - 1.2 + 0.08 * fine, np.float32)
