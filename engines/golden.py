"""The self-test of a loaded engine: fixed synthetic images whose outputs travel with the engine. A runner that does
not reproduce them (another kernel, a miscompiled graph, the wrong preprocessing) is refused."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineRefused, RefusalCode
from engines.runner import EncoderOutputs, Runner

IMAGES: Final = 2
_PATCH_STRIDE: Final = 7  # every seventh local feature is enough to tell
_LEAST_COSINE: Final = 0.999
_LEAST_DETAIL_COSINE: Final = 0.99  # mean over local features, and attention: INT8 rounding shows more there


def golden_pixels(size: int) -> NDArray[np.uint8]:
    """Two synthetic images, uint8 [2,S,S,3]: waves, discs and grain, the same on every machine."""
    return _golden_pixels(size).copy()


@lru_cache(maxsize=2)  # engines of a process look at one size, and drawing costs as much as running them
def _golden_pixels(size: int) -> NDArray[np.uint8]:
    rng = np.random.Generator(np.random.PCG64(7))
    row, column = np.mgrid[0:size, 0:size].astype(np.float64) / size
    images = np.empty((IMAGES, size, size, 3), np.float64)
    for image in images:
        for channel in range(3):
            wave = rng.uniform(2.0, 40.0, 2)
            image[..., channel] = 128 + 60 * np.sin(wave[0] * row + wave[1] * column + rng.uniform(0, 6))
        for _ in range(12):
            y, x, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.02, 0.2)
            image[(row - y) ** 2 + (column - x) ** 2 < radius**2] = rng.uniform(0, 255, 3)
        image += rng.normal(0, 6, image.shape)
    return np.clip(images, 0, 255).astype(np.uint8)


def golden_bytes(outputs: EncoderOutputs) -> bytes:
    """The golden file of an engine, from what a trusted run of `golden_pixels` gave."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        embedding=outputs.embedding,
        patches=outputs.patches[:, ::_PATCH_STRIDE].astype(np.float16),
        attention=outputs.attention.astype(np.float16),
    )
    return buffer.getvalue()


def self_test(runner: Runner, golden: bytes) -> None:
    """Run the golden images; raises EngineRefused (golden_mismatch) when an output departs from the stored one."""
    stored = np.load(io.BytesIO(golden), allow_pickle=False)
    got = runner.start(golden_pixels(runner.info.input_size)).result()
    found = {
        "embedding": float(_cosines(got.embedding, stored["embedding"]).min()),
        "patches": float(_cosines(got.patches[:, ::_PATCH_STRIDE], stored["patches"]).mean()),
        "attention": float(_cosines(_rows(got.attention), _rows(stored["attention"])).min()),
    }
    least = {"embedding": _LEAST_COSINE, "patches": _LEAST_DETAIL_COSINE, "attention": _LEAST_DETAIL_COSINE}
    # a NaN fails too: no comparison with it holds
    if not all(found[name] >= least[name] for name in found):
        told = ", ".join(f"{n} {found[n]:.5f} (at least {least[n]})" for n in found)
        message = f"{runner.info.name} on {runner.info.backend} departs from its golden outputs: cosine {told}"
        fix = "use another backend on this machine, and report the pair of engine and backend"
        raise EngineRefused(RefusalCode.GOLDEN_MISMATCH, message, fix)


def _rows(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    return maps.reshape(len(maps), -1)


def _cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(axis=-1) / np.maximum(lengths, 1e-12))
