"""What the hollow device answers: fixed numbers for each of some dozens of kinds of photograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from engines.gpu.deviating import OVERLAY
from engines.manifest import EngineManifest
from engines.preprocess import Preprocessing
from engines.quality import BLOCK, HASH_SIDE

Likeness = Literal["near", "far"]

KINDS: Final = 1024  # of photographs
SIDE_PX: Final = 224
_DIGIT: Final = 128  # no byte of a scan may look like a marker
NAME: Final = "hollow"
MANIFEST: Final = EngineManifest(
    name=NAME,
    family="resnet50",
    onnx_sha256="a" * 64,
    golden_sha256="b" * 64,
    precision="int8",
    groups=(("convolutions", "int8"),),
    embedding_space="c" * 64,
    preprocessing=Preprocessing(size=SIDE_PX),
    tiling="1x1",
    embedding_dim=2048,
    patch_dim=64,
    patch_grid=(14, 14),
    attention_grid=(7, 7),
    opset=17,
    calibration=None,
    profiles=(1, 32, 256),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """By kind. `outputs` of the engine and `measured` of the kernels, by name; `comparison`, `cells` and `overlay`."""

    outputs: dict[str, NDArray[np.float32]]
    measured: dict[str, NDArray[np.generic]]
    comparison: tuple[float, float, float, float]  # scalar, mean distance, aligned, finite
    cells: NDArray[np.float32]
    overlay: NDArray[np.float32]  # of a pair: inliers, and twice an affine that moves nothing
    cosines: NDArray[np.float32]


def answers_of(likeness: Likeness, seed: int = 1) -> Answers:
    """`near`: views are much like their references. `far`: each departs from them."""
    rng = np.random.default_rng(seed)
    near = likeness == "near"
    rows, columns = MANIFEST.patch_grid
    return Answers(
        outputs={
            "embedding": unit(rng.standard_normal((KINDS, MANIFEST.embedding_dim))),
            "attention": _shares(rng.random((KINDS, *MANIFEST.attention_grid))),
        },
        measured=_measured(rng),
        comparison=(1.3, 0.1, 1.0, 1.0) if near else (4.0, 0.5, 0.0, 1.0),
        cells=(rng.random((KINDS, rows * columns)) * (1.5 if near else 5.0)).astype(np.float32),
        overlay=np.array([rows * columns * (0.9 if near else 0.2), *[0.0] * (OVERLAY - 1)], np.float32).round(),
        cosines=((0.9 if near else 0.3) + 0.05 * rng.random(KINDS)).astype(np.float32),
    )


def told_kind(jpeg: bytes, kind: int) -> bytes:
    """The JPEG with its kind written into the end of its scan."""
    return jpeg[:-4] + bytes((kind // _DIGIT, kind % _DIGIT)) + jpeg[-2:]


def kind_of(jpeg: bytes) -> int:
    """What `told_kind` wrote."""
    return jpeg[-4] * _DIGIT + jpeg[-3]


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def _shares(maps: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(maps / maps.sum(axis=(1, 2), keepdims=True), np.float32)


def _measured(rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
    """As engines.gpu.looks.Measured: well lit, sharp photographs with hashes of their own."""
    blocks = SIDE_PX // BLOCK
    levels = rng.multinomial(SIDE_PX * SIDE_PX, np.full(256, 1 / 256), size=KINDS)
    return {
        "levels": levels.astype(np.uint32),
        "edges": np.tile(np.array([0, 500 * SIDE_PX * SIDE_PX], np.int64), (KINDS, 1)),
        "burnt": np.zeros((KINDS, blocks, blocks), np.uint8),
        "small": rng.integers(0, 256, (KINDS, HASH_SIDE, HASH_SIDE), dtype=np.uint8),
    }
