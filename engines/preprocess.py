"""From a decoded photograph to the square the encoders see: an antialiased resize of the short side to S, a centre
crop, and the normalisation the manifest states. The CPU runners and the training share this file; the device kernel
is held to it by the parity gate."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ResizeRule = Literal["short_side_centre_crop"]

_MEAN: Final = (123.675, 116.28, 103.53)
_STD: Final = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What happens to a photograph before the graph. `mean` and `std` are in 8-bit levels, RGB order."""

    size: int = 448
    resize: ResizeRule = "short_side_centre_crop"
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    colour: Literal["sRGB"] = "sRGB"


def resized(image: Image.Image, size: int) -> Image.Image:
    """`image` cut to its centred square and resized, antialiased, to size x size. The short side must be >= size."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # the box cuts and scales in one pass, and may lie between pixels
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def normalised(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """uint8 [n,S,S,3] to the float32 [n,3,S,S] that the graph takes."""
    mean = np.asarray(preprocessing.mean, np.float32)
    scale = np.float32(1.0) / np.asarray(preprocessing.std, np.float32)
    channels_first = np.ascontiguousarray(((pixels - mean) * scale).transpose(0, 3, 1, 2), dtype=np.float32)
    return channels_first
