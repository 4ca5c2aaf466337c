"""Photographs as data URIs: decoded with limits, turned upright, made small enough for a page and encoded anew.

Encoding anew also means that no byte of a sender's file reaches the page.
"""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]  # [height, width, 3], RGB
KINDS = ("JPEG", "PNG", "WEBP")  # what a worker takes; Pillow's other decoders are not for strangers' files
LARGEST_PIXELS = 64_000_000
JPEG_QUALITY = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image of a page. `uri` is a data URI; sizes are pixels."""

    uri: str
    width: int
    height: int


def decode(data: bytes, longest_px: int) -> Pixels | None:
    """Decode a photograph upright, its longer side at most `longest_px`; None where it is no usable image."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=KINDS) as opened:
            warnings.simplefilter("ignore")
            if opened.width * opened.height > LARGEST_PIXELS:
                return None
            opened.draft("RGB", (longest_px, longest_px))
            upright = ImageOps.exif_transpose(opened).convert("RGB")
            upright.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
            return np.asarray(upright, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError):  # bad files do that
        return None


def centre_square(pixels: Pixels) -> Pixels:
    """The centred square of a photograph: what the encoders see, and what the maps lie over."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def picture(pixels: Pixels) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri=f"data:image/jpeg;base64,{encoded}", width=pixels.shape[1], height=pixels.shape[0])


def is_square(pixels: Pixels) -> bool:
    height, width = pixels.shape[:2]
    return bool(abs(height - width) <= 1)
