"""Marks of the brand: type, emblem and stitches, each as a patch of coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from demo.goods.design import Emblem, Lettering, Stitch
from demo.goods.sheet import Patch, Pen, Point, Sheet, path_length

STEPS = 180


@lru_cache(maxsize=64)
def _font(height_px: int) -> ImageFont.FreeTypeFont:
    """Pillow's bundled outline font at a size in pixels."""
    font = ImageFont.load_default(height_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType; install a Pillow wheel that has it")
    return font


def type_line(
    sheet: Sheet, text: str, centre: Point, height: float, lettering: Lettering, *, space: float = 0.0
) -> Patch:
    """A line of type in the brand's lettering, `height` frames tall, centred at `centre`.

    `space` widens whatever is neither letter nor digit, as a share of the height.
    """
    em = max(8, round(2 * sheet.pixels(height)))
    wide = _drawn(text, em, lettering, space)
    lean = abs(lettering.slant) * wide.height
    out_px = (round((wide.width * lettering.stretch + lean) / 2), wide.height // 2)
    squeeze = 1.0 / lettering.stretch
    start = -(lean if lettering.slant > 0 else 0.0) * squeeze
    matrix = (2 * squeeze, 2 * lettering.slant * squeeze, start, 0.0, 2.0, 0.0)
    mask = wide.transform(out_px, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    middle = sheet.side / 2
    left = round(middle + sheet.pixels(centre[0]) - mask.width / 2)
    top = round(middle + sheet.pixels(centre[1]) - mask.height / 2)
    return _framed(mask, left, top, round(sheet.pixels(0.02)))


def _drawn(text: str, em: int, lettering: Lettering, space: float) -> Image.Image:
    """The line at twice the sheet's scale, upright and unstretched, letter by letter."""
    font = _font(em)
    stroke = em * lettering.weight
    gap = em * lettering.tracking + stroke
    steps = [font.getlength(letter) + gap + (0 if letter.isalnum() else em * space) for letter in text]
    image = Image.new("L", (math.ceil(sum(steps) + 2 * em * 0.2), math.ceil(em * 1.3)), 0)
    draw = ImageDraw.Draw(image)
    x = em * 0.2 + gap / 2
    for letter, step in zip(text, steps, strict=True):
        shift = 0 if letter.isalnum() else em * space / 2
        draw.text((x + shift, em * 0.65), letter, fill=255, font=font, anchor="lm", stroke_width=stroke)
        x += step
    return image


def _framed(mask: Image.Image, left: int, top: int, pad: int) -> Patch:
    """A mask with room around it for shading."""
    framed = Image.new("L", (mask.width + 2 * pad, mask.height + 2 * pad), 0)
    framed.paste(mask, (pad, pad))
    return Patch(mask=framed, left=left - pad, top=top - pad)


def emblem(sheet: Sheet, mark: Emblem, centre: Point, radius: float) -> Patch:
    """The brand's emblem, `radius` frames from its centre to its outer ring."""
    x, y = centre

    def paint(pen: Pen) -> None:
        pen.ring(centre, radius, mark.ring * radius)
        for curve in _curves(mark):
            pen.line([(x + u * radius, y + v * radius) for u, v in curve], mark.stroke * radius)
        if mark.kind in ("crest", "orbit"):
            pen.disc(centre, radius * mark.inner * 0.3)

    return sheet.patch((x - radius, y - radius, x + radius, y + radius), paint)


def _curves(mark: Emblem) -> list[list[Point]]:
    """The closed curves inside the ring, on a radius of 1."""
    turn = math.radians(mark.turn_deg)
    match mark.kind:
        case "rosette":
            return [_rosette(mark.inner, mark.swing, mark.lobes, turn)]
        case "lattice":
            step = math.pi / mark.lobes
            return [_ellipse(mark.inner + 0.1, mark.swing, turn + i * step) for i in range(mark.lobes)]
        case "crest":
            star = _star(mark.inner + 0.08, mark.inner * (1 - mark.swing * 1.6), mark.lobes, turn)
            return [star, _rosette(mark.inner * 0.55, 0.0, 1, 0.0)]
        case _:
            step = 2 * math.pi / mark.lobes
            reach = mark.inner * 0.62
            return [
                _shifted(_rosette(mark.inner * 0.45 + mark.swing * 0.3, 0.0, 1, 0.0), reach, turn + i * step)
                for i in range(mark.lobes)
            ]


def _rosette(radius: float, swing: float, lobes: int, turn: float) -> list[Point]:
    angles = [2 * math.pi * i / STEPS for i in range(STEPS + 1)]
    radii = [radius * (1 + swing * math.cos(lobes * a)) for a in angles]
    return [(r * math.cos(a + turn), r * math.sin(a + turn)) for r, a in zip(radii, angles, strict=True)]


def _ellipse(long: float, short: float, turn: float) -> list[Point]:
    angles = [2 * math.pi * i / STEPS for i in range(STEPS + 1)]
    flat = [(long * math.cos(a), short * math.sin(a)) for a in angles]
    return [(u * math.cos(turn) - v * math.sin(turn), u * math.sin(turn) + v * math.cos(turn)) for u, v in flat]


def _star(outer: float, inner: float, points: int, turn: float) -> list[Point]:
    radii = [outer if i % 2 == 0 else inner for i in range(2 * points + 1)]
    angles = [turn + math.pi * i / points for i in range(2 * points + 1)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _shifted(curve: list[Point], reach: float, angle: float) -> list[Point]:
    return [(u + reach * math.cos(angle), v + reach * math.sin(angle)) for u, v in curve]


def stitches(sheet: Sheet, path: Sequence[Point], stitch: Stitch, *, phase: float = 0.0) -> tuple[Patch, Patch]:
    """A run of stitches along a path: (the thread, the needle holes)."""
    ends = [_leaned(point, heading, stitch) for point, heading in along(path, stitch.pitch, phase)]
    xs, ys = [p[0] for p in path], [p[1] for p in path]
    box = (min(xs), min(ys), max(xs), max(ys))

    def thread(pen: Pen) -> None:
        for first, last in ends:
            pen.line((first, last), stitch.thickness)

    def holes(pen: Pen) -> None:
        for first, last in ends:
            pen.disc(first, stitch.thickness * 0.62)
            pen.disc(last, stitch.thickness * 0.62)

    pad = stitch.pitch + 0.02
    return sheet.patch(box, thread, pad=pad), sheet.patch(box, holes, pad=pad)


def _leaned(point: Point, heading: float, stitch: Stitch) -> tuple[Point, Point]:
    """Both ends of the stitch centred at `point`."""
    angle = heading + math.radians(stitch.angle_deg)
    half = stitch.pitch * stitch.length_share / 2
    dx, dy = half * math.cos(angle), half * math.sin(angle)
    return (point[0] - dx, point[1] - dy), (point[0] + dx, point[1] + dy)


def along(path: Sequence[Point], pitch: float, phase: float) -> list[tuple[Point, float]]:
    """Points every `pitch` along a polyline, counted from its middle, with the heading there in radians."""
    total = path_length(path)
    first = (total / 2 + phase * pitch) % pitch
    marks: list[tuple[Point, float]] = []
    walked = 0.0
    for a, b in pairwise(path):
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = math.hypot(dx, dy)
        while length > 0 and first <= walked + length:
            t = (first - walked) / length
            marks.append(((a[0] + t * dx, a[1] + t * dy), math.atan2(dy, dx)))
            first += pitch
        walked += length
    return marks


def offset(path: Sequence[Point], by: float) -> list[Point]:
    """A polyline moved sideways, to the right of its direction (down, for one that runs to the right)."""
    moved: list[Point] = []
    for i, (x, y) in enumerate(path):
        before, after = path[max(0, i - 1)], path[min(len(path) - 1, i + 1)]
        dx, dy = after[0] - before[0], after[1] - before[1]
        length = math.hypot(dx, dy) or 1.0
        moved.append((x - by * dy / length, y + by * dx / length))
    return moved


def arc(centre: Point, radius: float, start_deg: float, stop_deg: float, steps: int = 48) -> list[Point]:
    """A circular arc as a polyline; degrees clockwise from the right."""
    angles = [math.radians(start_deg + (stop_deg - start_deg) * i / steps) for i in range(steps + 1)]
    return [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]


def bezier(a: Point, b: Point, c: Point, d: Point, steps: int = 40) -> list[Point]:
    """A cubic curve as a polyline."""
    points: list[Point] = []
    for i in range(steps + 1):
        t = i / steps
        w = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        x, y = (w[0] * a[k] + w[1] * b[k] + w[2] * c[k] + w[3] * d[k] for k in (0, 1))
        points.append((x, y))
    return points
