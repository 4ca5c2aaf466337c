"""One photograph of one specimen: where the camera stood, how the light fell, what the sensor added.

All nuisances come from (SKU, view, specimen) and never from the forgery, so that a forged item and its genuine twin
share them. They are drawn once as numbers (`Shot`) and then applied in order: wear, lens, light, sensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from demo.goods.seeds import generator

Picture = npt.NDArray[np.uint8]

ROTATION_DEG = 4.0
SHIFT = 0.02
SCALE = 0.04
KEYSTONE = 0.025
BRIGHTNESS = 0.12
WHITE_BALANCE = 0.03
BLUR_PX = (0.25, 0.8)  # at 1024
NOISE_LEVELS = (0.6, 2.0)  # standard deviation, of 255
NOISE_ROOM = 256
ORIENTATIONS = ((1, 0.7), (6, 0.12), (8, 0.1), (3, 0.08))  # EXIF: how the camera was held, and how often


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """The nuisances of a photograph. Lengths are in frames, gains are factors, noise is in 8-bit levels.

    `orientation` is EXIF's number, for the file: pixels are rendered upright.
    """

    rotation_deg: float
    shift: tuple[float, float]
    scale: float
    keystone: tuple[float, float]
    gains: tuple[float, float, float]
    contrast: float
    slope: tuple[float, float]
    vignette: float
    blur_px: float
    noise_levels: float
    noise_at: tuple[int, int]
    grain_at: tuple[float, float]
    orientation: int
    backdrop: tuple[float, float, float]
    scuffs: tuple[tuple[float, float, float, float, int], ...]


def shot_of(sku_id: str, view: str, specimen: int) -> Shot:
    """The nuisances of a specimen's photograph; the light is shared by all views of the specimen."""
    session = generator("session", sku_id, specimen)
    light = 1.0 + session.uniform(-BRIGHTNESS, BRIGHTNESS) * 0.7
    warm = session.uniform(-WHITE_BALANCE, WHITE_BALANCE, 2)
    backdrop = tuple(float(v) for v in session.uniform(0.82, 1.06) * session.uniform(0.97, 1.03, 3))
    rng = generator("shot", sku_id, view, specimen)
    exposure = light * (1.0 + rng.uniform(-BRIGHTNESS, BRIGHTNESS) * 0.3)
    return Shot(
        rotation_deg=float(rng.uniform(-ROTATION_DEG, ROTATION_DEG)),
        shift=_pair(rng, SHIFT),
        scale=float(1.0 + rng.uniform(-SCALE, SCALE)),
        keystone=_pair(rng, KEYSTONE),
        gains=(float(exposure * (1 + warm[0])), float(exposure), float(exposure * (1 + warm[1]))),
        contrast=float(rng.uniform(0.95, 1.05)),
        slope=_pair(rng, 0.14),
        vignette=float(rng.uniform(0.05, 0.3)),
        blur_px=float(rng.uniform(*BLUR_PX)),
        noise_levels=float(rng.uniform(*NOISE_LEVELS)),
        noise_at=(int(rng.integers(NOISE_ROOM)), int(rng.integers(NOISE_ROOM))),
        grain_at=(float(rng.random()), float(rng.random())),
        orientation=_orientation(sku_id, view, specimen),
        backdrop=(backdrop[0], backdrop[1], backdrop[2]),
        scuffs=_scuffs(rng),
    )


def _orientation(sku_id: str, view: str, specimen: int) -> int:
    numbers, shares = zip(*ORIENTATIONS, strict=True)
    return int(generator("orientation", sku_id, view, specimen).choice(numbers, p=shares))


def _pair(rng: np.random.Generator, reach: float) -> tuple[float, float]:
    return float(rng.uniform(-reach, reach)), float(rng.uniform(-reach, reach))


def _scuffs(rng: np.random.Generator) -> tuple[tuple[float, float, float, float, int], ...]:
    """Fine scratches as (x, y, dx, dy, signed opacity); most specimens have a few."""
    count = int(rng.integers(0, 7))
    middle = rng.uniform(-0.5, 0.5, (count, 2))
    reach = rng.uniform(-0.06, 0.06, (count, 2))
    opacity = rng.integers(10, 42, count) * rng.choice([-1, 1], count)
    rows = zip(middle.tolist(), reach.tolist(), opacity.tolist(), strict=True)
    return tuple((m[0], m[1], r[0], r[1], int(o)) for m, r, o in rows)


def scuff(picture: Image.Image, shot: Shot, size: int) -> None:
    """Draw the specimen's wear into the sheet's picture, in place."""
    draw = ImageDraw.Draw(picture, "RGBA")
    middle = picture.width / 2
    for x, y, dx, dy, opacity in shot.scuffs:
        ends = (middle + x * size, middle + y * size, middle + (x + dx) * size, middle + (y + dy) * size)
        colour = (255, 250, 240) if opacity > 0 else (10, 8, 6)
        draw.line(ends, fill=(*colour, abs(opacity)), width=max(1, round(size / 512)))


def through_lens(picture: Image.Image, shot: Shot, size: int) -> Image.Image:
    """The part of the sheet that the camera frames, [size, size], any mode."""
    return picture.transform(
        (size, size), Image.Transform.PERSPECTIVE, _homography(shot, picture.width, size), Image.Resampling.BILINEAR
    )


def _homography(shot: Shot, side: int, size: int) -> tuple[float, ...]:
    """Pillow's eight coefficients from a photograph's pixel to the sheet's."""
    turn = np.deg2rad(shot.rotation_deg)
    cos, sin = shot.scale * np.cos(turn), shot.scale * np.sin(turn)
    place = np.array([[cos, -sin, shot.shift[0]], [sin, cos, shot.shift[1]], [*shot.keystone, 1.0]])
    to_frame = np.array([[1 / size, 0, -0.5], [0, 1 / size, -0.5], [0, 0, 1]])
    to_sheet = np.array([[size, 0, side / 2], [0, size, side / 2], [0, 0, 1]])
    matrix = to_sheet @ place @ to_frame
    matrix /= matrix[2, 2]
    return tuple(float(v) for v in matrix.ravel()[:8])


def exposed(picture: Image.Image, shot: Shot, size: int) -> Picture:
    """Blur, light and sensor noise: uint8 [size, size, 3]."""
    soft = picture.filter(ImageFilter.BoxBlur(shot.blur_px * size / 1024))
    light = np.asarray(soft.point(_tone_curves(shot)), np.float32)
    light = light * _falloff(shot, size)[..., None]
    top, left = shot.noise_at
    light += _noise(size)[top : top + size, left : left + size] * np.float32(shot.noise_levels)
    np.clip(light, 0, 255, out=light)
    return light.astype(np.uint8)


def _tone_curves(shot: Shot) -> list[int]:
    """Exposure, white balance and contrast as three tables of 256."""
    levels = np.arange(256, dtype=np.float64)
    tables = [(levels * gain - 128.0) * shot.contrast + 128.0 for gain in shot.gains]
    return [int(v) for v in np.clip(np.rint(np.concatenate(tables)), 0, 255)]


def _falloff(shot: Shot, size: int) -> npt.NDArray[np.float32]:
    """Uneven light and vignette, float32 [size, size] around 1."""
    steps = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    across = 1.0 + shot.slope[0] * steps - shot.vignette * steps**2
    down = shot.slope[1] * steps - shot.vignette * steps**2
    return np.asarray(across[None, :] + down[:, None], np.float32)


@lru_cache(maxsize=4)
def _noise(size: int) -> npt.NDArray[np.float32]:
    """Sensor noise of unit variance, slightly smoothed as cameras do, with room to shift: [size + 256, .., 3]."""
    rng = generator("sensor", size)
    side = size + NOISE_ROOM
    white = rng.standard_normal((side, side, 3), dtype=np.float32)
    soft = white + np.float32(0.6) * (np.roll(white, 1, 0) + np.roll(white, 1, 1))
    return np.asarray(soft / soft.std(), np.float32)
