"""Metal: a bevelled shape that reflects a studio with strip lights, looked up by the slope of its surface."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from demo.goods.design import Finish
from demo.goods.seeds import generator
from demo.goods.sheet import Patch, Sheet

LEVELS = 512
LINES = 16
BRASS = (196, 168, 84)
STRIPS = ((0.10, 0.06, 0.55), (0.34, 0.035, 0.75), (0.55, 0.10, 0.35), (0.80, 0.05, 0.65))


@lru_cache(maxsize=64)
def _studio(finish: Finish) -> npt.NDArray[np.uint8]:
    """The light that a direction sends back by how brushed a row is: uint8 RGB [LINES * LEVELS, 3], periodic."""
    brushed = np.linspace(-2.0, 2.0, LINES, dtype=np.float32) * np.float32(0.10 * finish.roughness)
    table = (1.0 + brushed)[:, None, None] * _polished(finish)
    return np.asarray(np.clip(table, 0, 255), np.uint8).reshape(-1, 3)


def _polished(finish: Finish) -> npt.NDArray[np.float32]:
    """The light that a direction sends back, as RGB: float32 [LEVELS, 3], 0 to 255."""
    where = np.arange(LEVELS, dtype=np.float32) / LEVELS
    light = np.full(LEVELS, 0.40, np.float32)
    for centre, width, power in STRIPS:
        apart = np.abs((where - centre + 0.5) % 1.0 - 0.5)
        soft = width * (1.0 + 2.5 * finish.roughness)
        light += np.float32(power) * np.exp(-((apart / soft) ** 4)).astype(np.float32) / (1 + 0.8 * finish.roughness)
    tint = np.asarray(finish.tint.rgb(), np.float32)
    tint += np.float32(finish.plating) * (np.asarray(BRASS, np.float32) - tint)
    body = np.minimum(light, 0.92)[:, None] * tint
    glint = np.clip(light - 0.92, 0, 1)[:, None] * 1.2
    return np.asarray(body + (255.0 - body) * np.minimum(glint, 1.0), np.float32)


def metal(sheet: Sheet, patch: Patch, finish: Finish, *, raised: float = 0.012, curve: float = 0.9) -> None:
    """Draw the patch as metal with a shadow; `curve` is how far reflections run over its flat parts."""
    sheet.shadow(patch, drop=raised, blur=raised * 1.2, opacity=0.6)
    sheet.picture(patch, _reflecting(sheet, patch, finish, curve))
    sheet.grained(patch, 0.0)
    sheet.relief(patch, width=0.003, gain=0.5)


def _reflecting(sheet: Sheet, patch: Patch, finish: Finish, curve: float) -> Image.Image:
    """The reflections of a patch, RGB of its size."""
    tall, wide = patch.mask.height, patch.mask.width
    slope = Image.fromarray(_slope(patch.mask.reduce(2), max(0.5, sheet.pixels(finish.bevel) / 2)))
    index = np.array(slope.resize((wide, tall), Image.Resampling.BILINEAR))
    rows = np.arange(tall, dtype=np.float32)[:, None] + np.float32(patch.top)
    columns = np.arange(wide, dtype=np.float32)[None, :] + np.float32(patch.left)
    step = np.float32(LEVELS * curve / sheet.size)
    index += rows * step + np.float32(finish.band * LEVELS)
    index += columns * (np.float32(0.35) * step)
    table = index.astype(np.int32)
    table &= LEVELS - 1
    table += _brushed(patch.top, tall, sheet)[:, None] * np.int32(LEVELS)
    return Image.fromarray(np.take(_studio(finish), table, axis=0), "RGB")


def _slope(mask: Image.Image, reach: float) -> npt.NDArray[np.float32]:
    """How far a bevel of `reach` pixels turns the reflection, in LEVELS: float32 of the mask's shape."""
    soft = mask.filter(ImageFilter.BoxBlur(reach)).filter(ImageFilter.BoxBlur(reach / 2))
    height = np.asarray(soft, np.float32) * np.float32(reach * 0.42 * LEVELS / 255.0)
    slope = np.zeros_like(height)
    slope[1:-1, 1:-1] = 0.62 * (height[2:, 1:-1] - height[:-2, 1:-1]) + 0.38 * (height[1:-1, 2:] - height[1:-1, :-2])
    return slope


def _brushed(top: int, count: int, sheet: Sheet) -> npt.NDArray[np.int32]:
    """Which of the LINES each row's fine horizontal scratch is: int32 [count], the same at every size."""
    lines = generator("brushed").standard_normal(2048).clip(-2.0, 2.0)
    levels = np.rint((lines + 2.0) * (LINES - 1) / 4.0).astype(np.int32)
    rows = (np.arange(top, top + count, dtype=np.float32) * (1024 / sheet.size)).astype(np.int32) % 2048
    return np.asarray(levels[rows], np.int32)
