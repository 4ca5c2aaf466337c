"""Float weights on disk: FP16 in one .npz, named as the architectures name them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def save(path: Path, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Write weights as FP16; a variance stays FP32, since it may lie below FP16's range."""
    stored = {n: w if n.endswith("running_var") else w.astype(np.float16) for n, w in weights.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **stored)  # type: ignore[arg-type]


def load(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read weights as float32."""
    with np.load(path, allow_pickle=False) as stored:
        return {n: np.asarray(stored[n], np.float32) for n in stored.files}
