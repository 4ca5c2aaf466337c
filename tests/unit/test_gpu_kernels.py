"""The kernels' own source beside Pillow and the CPU's measures, on this CPU. tests/gpu runs them on the device."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from kernels_on_cpu import built, call, compiler, squares_of
from numpy.typing import NDArray
from PIL import Image

from engines.decode import TURNS
from engines.golden import golden_pixels
from engines.gpu.looks import sharpness
from engines.preprocess import Preprocessing, normalised, resized
from engines.quality import BLOCK, HASH_SIDE, hashes_from, measured, measures_from, perceptual_hash

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler on this machine")
RULE = Preprocessing()
MEAN = np.asarray(RULE.mean, np.float32)
SCALE = np.float32(1.0) / np.asarray(RULE.std, np.float32)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return built(tmp_path_factory.mktemp("kernels"))


def photograph(width: int, height: int, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def row_first(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The CPU's rule as two passes of one axis each: rows, rounded to bytes, then columns."""
    height, width = pixels.shape[:2]
    cut = min(width, height)
    left, top = (width - cut) / 2, (height - cut) / 2
    rows = Image.fromarray(pixels).resize((side, height), Image.Resampling.BILINEAR, (left, 0, left + cut, height))
    return np.asarray(rows.resize((side, side), Image.Resampling.BILINEAR, (0, top, side, top + cut)))


@pytest.mark.parametrize("side", [64, 97])
def test_a_ragged_batch_has_the_bytes_of_pillow(kernels: ctypes.CDLL, side: int) -> None:
    sizes = [(side, side), (side + 1, side), (640, 480), (127, 301), (1023, 777), (side, 1501), (2000, 131)]
    photographs = [photograph(*size) for size in sizes]
    squares = squares_of(kernels, photographs, [1] * len(sizes), side)
    for pixels, square in zip(photographs, squares, strict=True):
        assert np.array_equal(square, row_first(pixels, side))
        whole = np.asarray(resized(Image.fromarray(pixels), side)).astype(np.int16)
        assert np.abs(square - whole).max() <= 1, "Pillow may turn the order of its two passes round"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_as_the_cpu_does(kernels: ctypes.CDLL, orientation: int) -> None:
    pixels = photograph(131, 90)
    (square,) = squares_of(kernels, [pixels], [orientation], 64)
    expected = resized(Image.fromarray(pixels), 64)
    if orientation in TURNS:
        expected = expected.transpose(TURNS[orientation])
    assert np.array_equal(square, np.asarray(expected))


@pytest.mark.parametrize("side", [64, 100, 224, 448])
def test_what_is_measured_is_what_the_cpu_measures(kernels: ctypes.CDLL, side: int) -> None:
    bright = golden_pixels(side)[0].copy()
    bright[side // 4 : side // 2, side // 4 : side // 2] = 255
    bright[:, -3 * BLOCK :] = 253
    squares = np.stack([*golden_pixels(side), bright, np.full_like(bright, 255)])
    count, cells = len(squares), side // BLOCK
    levels, edges = np.zeros((count, 256), np.uint32), np.zeros((count, 2), np.int64)
    burnt, small = np.full((count, cells, cells), 9, np.uint8), np.zeros((count, HASH_SIDE, HASH_SIDE), np.uint8)
    call(kernels, "measure", squares, levels, edges, burnt, count, side)
    call(kernels, "shrink", squares, small, count, side)
    images = [Image.fromarray(square) for square in squares]
    for found, image in zip(measures_from(levels, sharpness(edges, side), burnt.astype(bool)), images, strict=True):
        expected = measured(image)
        assert found.sharpness == pytest.approx(expected.sharpness, rel=1e-4)
        for name in ("brightness", "clipped_low", "clipped_high", "glare", "contrast"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-9), name
    assert measures_from(levels, sharpness(edges, side), burnt.astype(bool))[2].glare > 0
    assert hashes_from(small) == [perceptual_hash(image) for image in images]


def test_an_input_is_normalised_for_every_form_that_a_plan_may_ask_for(kernels: ctypes.CDLL) -> None:
    squares = golden_pixels(64)
    expected = normalised(squares, RULE)
    single, half = np.full((2, 3, 64, 64), 9, np.float32), np.full((2, 4, 64, 64), 9, np.float16)
    call(kernels, "normalise", squares, single, MEAN, SCALE, 64, 2, 3)
    assert np.array_equal(single, expected)
    call(kernels, "normalise_half", squares, half, MEAN, SCALE, 64, 2, 4)
    assert np.array_equal(half[:, :3], expected.astype(np.float16)) and not half[:, 3].any()
    step, levels = np.float32(0.0207), np.full((2, 64, 64, 4), 9, np.int8)
    call(kernels, "quantise", squares, levels, MEAN, SCALE, ctypes.c_float(step), 64, 2)
    wanted = np.clip(np.rint(expected / step), -128, 127).transpose(0, 2, 3, 1)
    assert np.array_equal(levels[..., :3], wanted) and not levels[..., 3].any()
