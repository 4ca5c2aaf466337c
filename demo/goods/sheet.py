"""The sheet a scene is drawn on: a picture somewhat larger than the frame, shaded as it is drawn.

Coordinates are in frames with the origin in the middle: x to the right, y down; the frame is -0.5 to 0.5 and the
sheet reaches MARGIN further, so that the camera can move without running off it. Shapes are drawn at twice the
size into small patches and halved, which smooths their edges. The light comes from the upper left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from demo.goods.design import Rgb

MARGIN = 0.085
EDGE = 0.5 + MARGIN
EVERYWHERE = (-EDGE, -EDGE, EDGE, EDGE)
SMOOTH_POINTS = 16

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pen:
    """Draws coverage (0 to 255) into a patch at twice the sheet's scale, in frame coordinates."""

    draw: ImageDraw.ImageDraw
    scale: float
    origin: Point

    def at(self, point: Point) -> Point:
        """Frame coordinates to pixels of the doubled patch."""
        return (point[0] - self.origin[0]) * self.scale, (point[1] - self.origin[1]) * self.scale

    def polygon(self, points: Sequence[Point], level: int = 255) -> None:
        self.draw.polygon([self.at(p) for p in points], fill=level)

    def disc(self, centre: Point, radius: float, level: int = 255) -> None:
        x, y = self.at(centre)
        r = radius * self.scale
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=level)

    def ring(self, centre: Point, radius: float, width: float, level: int = 255) -> None:
        """An annulus whose outer edge is at `radius`."""
        x, y = self.at(centre)
        r = radius * self.scale
        self.draw.ellipse((x - r, y - r, x + r, y + r), outline=level, width=max(1, round(width * self.scale)))

    def line(self, points: Sequence[Point], width: float, level: int = 255) -> None:
        """A polyline with round ends, and round joints where its points are few."""
        pixels = [self.at(p) for p in points]
        wide = max(1, round(width * self.scale))
        self.draw.line(pixels, fill=level, width=wide)
        for x, y in pixels if len(pixels) < SMOOTH_POINTS else (pixels[0], pixels[-1]):
            self.draw.ellipse((x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2), fill=level)

    def rounded(self, box: Box, radius: float, level: int = 255) -> None:
        left, top = self.at(box[:2])
        right, bottom = self.at(box[2:])
        self.draw.rounded_rectangle((left, top, right, bottom), radius=radius * self.scale, fill=level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A coverage mask ("L") and where its upper left corner lies on the sheet, in pixels."""

    mask: Image.Image
    left: int
    top: int

    def within(self, other: Patch) -> Patch:
        """This patch, cut to where `other` covers."""
        window = (self.left - other.left, self.top - other.top)
        cut = other.mask.crop((*window, window[0] + self.mask.width, window[1] + self.mask.height))
        return Patch(mask=ImageChops.multiply(self.mask, cut), left=self.left, top=self.top)


class Sheet:
    """A picture under construction, with the planes the camera needs later.

    `rgb` is the shaded picture, `grain` says where (and how strongly) the material's grain lies, `backdrop` where
    the studio background shows; all are [side, side]. Owner: the scene that draws it.
    """

    __slots__ = ("backdrop", "grain", "rgb", "side", "size")

    def __init__(self, size: int, ground: Rgb) -> None:
        self.size = size
        self.side = 2 * round(size * EDGE)
        self.rgb = Image.new("RGB", (self.side, self.side), ground)
        self.grain = Image.new("L", (self.side, self.side), 0)
        self.backdrop: Image.Image | None = None

    def pixels(self, length: float) -> float:
        return length * self.size

    def patch(self, box: Box, paint: Callable[[Pen], None], *, pad: float = 0.03) -> Patch:
        """A patch that covers `box` and `pad` around it, painted by `paint`."""
        middle = self.side / 2
        left, top = (max(0, int(middle + (v - pad) * self.size)) for v in box[:2])
        right, bottom = (min(self.side, int(middle + (v + pad) * self.size) + 1) for v in box[2:])
        doubled = Image.new("L", (2 * max(4, right - left), 2 * max(4, bottom - top)), 0)
        origin = ((left - middle) / self.size, (top - middle) / self.size)
        paint(Pen(draw=ImageDraw.Draw(doubled), scale=2.0 * self.size, origin=origin))
        return Patch(mask=doubled.reduce(2), left=left, top=top)

    def shape(self, points: Sequence[Point]) -> Patch:
        """A filled polygon."""
        return self.patch(bounds(points), lambda pen: pen.polygon(points))

    def stroke(self, points: Sequence[Point], width: float) -> Patch:
        """A polyline with round ends."""
        return self.patch(bounds(points), lambda pen: pen.line(points, width), pad=0.03 + width / 2)

    def disc(self, centre: Point, radius: float) -> Patch:
        return self.patch(around(centre, radius), lambda pen: pen.disc(centre, radius))

    def ring(self, centre: Point, radius: float, width: float) -> Patch:
        """An annulus whose outer edge is at `radius`."""
        return self.patch(around(centre, radius), lambda pen: pen.ring(centre, radius, width))

    def oblong(self, box: Box, radius: float = 0.0) -> Patch:
        """A rectangle with rounded corners."""
        return self.patch(box, lambda pen: pen.rounded(box, radius))

    def scattered(self, patch: Patch, shifts: Sequence[Point]) -> Patch:
        """Copies of a patch moved by each of `shifts` (in frames), as one patch over the whole sheet."""
        everywhere = Image.new("L", (self.side, self.side), 0)
        for dx, dy in shifts:
            corner = (patch.left + round(self.pixels(dx)), patch.top + round(self.pixels(dy)))
            everywhere.paste(255, corner, patch.mask)
        return Patch(mask=everywhere, left=0, top=0)

    def fill(self, patch: Patch, colour: Rgb, opacity: float = 1.0) -> None:
        self.rgb.paste(colour, (patch.left, patch.top), _scaled(patch.mask, opacity))

    def picture(self, patch: Patch, image: Image.Image) -> None:
        """Paste an RGB image of the patch's size through its mask."""
        self.rgb.paste(image, (patch.left, patch.top), patch.mask)

    def grained(self, patch: Patch, level: float) -> None:
        """Set how strongly the grain shows inside the patch, 0 to 1."""
        self.grain.paste(round(255 * level), (patch.left, patch.top), patch.mask)

    def shadow(self, patch: Patch, *, drop: float, blur: float, opacity: float = 0.55) -> None:
        """A soft shadow thrown to the lower right; draw it before the shape itself."""
        reach = self.pixels(blur)
        factor = 4 if reach >= 8 else 1
        room = math.ceil(1.5 * reach / factor) + 1
        small = patch.mask.reduce(factor) if factor > 1 else patch.mask
        wider = Image.new("L", (small.width + 2 * room, small.height + 2 * room), 0)
        wider.paste(small, (room, room))
        soft = _scaled(_softened(wider, reach / factor), opacity)
        if factor > 1:
            soft = soft.resize((factor * soft.width, factor * soft.height), Image.Resampling.BILINEAR)
        shift = round(self.pixels(drop)) - factor * room
        self.rgb.paste((8, 6, 5), (patch.left + shift, patch.top + shift), soft)

    def relief(self, patch: Patch, *, width: float, gain: float, spill: bool = False) -> None:
        """Light the edges of a shape: raised for a positive gain, sunk for a negative one.

        `width` is that of the rounded edge in frames; `spill` lets the light fall outside the shape too.
        """
        reach = max(0.6, self.pixels(width))
        soft = _softened(patch.mask, reach * 0.7)
        step = max(1, round(reach * 0.6))
        behind = soft.copy()
        behind.paste(soft, (step, step))
        towards, away = ImageChops.subtract(soft, behind), ImageChops.subtract(behind, soft)
        bright, dark = (towards, away) if gain > 0 else (away, towards)
        for colour, plane, share in (((255, 250, 242), bright, 0.8 if spill else 1.2), ((6, 4, 3), dark, 1.2)):
            lit = plane if spill else ImageChops.multiply(plane, patch.mask)
            self._tint(patch, lit, colour, share * abs(gain))

    def _tint(self, patch: Patch, plane: Image.Image, colour: Rgb, gain: float) -> None:
        """Paste a colour where a plane of the patch's size is not empty."""
        box = plane.getbbox()
        if box is not None:
            where = (patch.left + box[0], patch.top + box[1])
            self.rgb.paste(colour, where, _scaled(plane.crop(box), gain))

    def panel(self, patch: Patch, colour: Rgb, *, grain: float = 0.0, raised: float = 0.012) -> None:
        """A piece of material lying on what is below: shadow, colour, rounded edge."""
        self.shadow(patch, drop=raised * 0.7, blur=raised)
        self.fill(patch, colour)
        self.grained(patch, grain)
        self.relief(patch, width=raised, gain=0.9)


def bounds(points: Sequence[Point]) -> Box:
    """The box around a polyline."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return min(xs), min(ys), max(xs), max(ys)


def around(centre: Point, reach: float) -> Box:
    """The square box `reach` around a point."""
    return centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach


def path_length(points: Sequence[Point]) -> float:
    """Length of a polyline, in frames."""
    return sum(math.dist(a, b) for a, b in pairwise(points))


def _softened(mask: Image.Image, reach: float) -> Image.Image:
    """The mask blurred over about `reach` pixels; wide blurs are made on a smaller copy."""
    if reach < 2:
        return mask.filter(ImageFilter.BoxBlur(reach))
    if reach < 8 or min(mask.size) < 16:
        return mask.filter(ImageFilter.BoxBlur(reach)).filter(ImageFilter.BoxBlur(reach / 2))
    small = mask.reduce(4).filter(ImageFilter.BoxBlur(reach / 4)).filter(ImageFilter.BoxBlur(reach / 8))
    return small.resize(mask.size, Image.Resampling.BILINEAR)


def _scaled(mask: Image.Image, gain: float) -> Image.Image:
    """The mask times `gain`, saturating."""
    return mask if gain == 1.0 else mask.point([min(255, round(v * gain)) for v in range(256)])
