"""Photographs as a hurried person takes them: what the quality gate must notice, and what it makes of honest ones.

Each makes one view of a job bad, from the bytes of the good one; lengths are shares of the photograph's side.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from schemas.codes import ReasonCode

Change = Callable[[Image.Image], Image.Image]
QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """`code` is the reason that should say so, None where no measure of the gate is made for it."""

    name: str
    code: ReasonCode | None
    change: Change


def degraded(data: bytes, change: Change) -> bytes:
    """The photograph after `change`, as an upright JPEG."""
    with Image.open(io.BytesIO(data)) as opened:
        return _jpeg(change(ImageOps.exif_transpose(opened).convert("RGB")))


def _blurred(share: float) -> Change:
    return lambda photo: photo.filter(ImageFilter.GaussianBlur(share * photo.width))


def _exposed(gain: float, lift: int) -> Change:
    levels = [min(255, round(level * gain) + lift) for level in range(256)] * 3
    return lambda photo: photo.point(levels)


def _glare(photo: Image.Image) -> Image.Image:
    """A burnt-out spot of a lamp over the middle, a tenth of the area, with a soft edge."""
    side = photo.width
    spot = Image.new("L", photo.size, 0)
    ImageDraw.Draw(spot).ellipse((side * 0.33, side * 0.36, side * 0.71, side * 0.72), fill=255)
    soft = spot.filter(ImageFilter.GaussianBlur(side * 0.02))
    lifted = np.minimum(255, np.asarray(soft, np.int16) * 3 // 2).astype(np.uint8)
    return Image.composite(Image.new("RGB", photo.size, (255, 255, 255)), photo, Image.fromarray(lifted))


def _cropped(photo: Image.Image) -> Image.Image:
    """Too near and off the centre: six tenths of the side, the lower right of the photograph."""
    first, last = round(photo.width * 0.35), round(photo.width * 0.95)
    return photo.crop((first, first, last, last))


def _jpeg(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


DEGRADATIONS: Mapping[str, Degradation] = MappingProxyType(
    {
        made.name: made
        for made in (
            Degradation(name="blur, slight", code=ReasonCode.VIEW_BLURRED, change=_blurred(0.003)),
            Degradation(name="blur, strong", code=ReasonCode.VIEW_BLURRED, change=_blurred(0.008)),
            Degradation(name="too dark", code=ReasonCode.VIEW_BADLY_EXPOSED, change=_exposed(0.15, 0)),
            Degradation(name="too bright", code=ReasonCode.VIEW_BADLY_EXPOSED, change=_exposed(2.2, 60)),
            Degradation(name="glare", code=ReasonCode.VIEW_GLARE, change=_glare),
            Degradation(name="crop", code=ReasonCode.VIEW_MISFRAMED, change=_cropped),
        )
    }
)
EXCHANGED, DOUBLED = "two roles exchanged", "one photograph in two roles"
ROLE_CODES: Mapping[str, ReasonCode] = MappingProxyType(
    {EXCHANGED: ReasonCode.VIEW_WRONG_ROLE, DOUBLED: ReasonCode.DUPLICATE_PHOTOGRAPH}
)
