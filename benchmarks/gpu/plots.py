"""Pictures of what was measured, as SVG without scripts or fonts: latency over load, the stages beside the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
DASHES: Final = ("", "7 4", "2 3")
_STYLE: Final = 'font-family="sans-serif" font-size="12" fill="#222"'


def curves(title: str, x_title: str, y_title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines over axes from 0 to the largest values; told apart by their dashes."""
    points = [point for line in lines.values() for point in line]
    most_x, most_y = (max((p[axis] for p in points), default=1.0) or 1.0 for axis in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (WIDTH - LEFT - RIGHT) * x / most_x, (HEIGHT - TOP - BOTTOM) * y / most_y
        return round(LEFT + across, 1), round(HEIGHT - BOTTOM - up, 1)

    parts = [_text(LEFT, 20, title, bold=True), *_axes(x_title, y_title, most_x, most_y)]
    for place, (name, line) in enumerate(lines.items()):
        path = " ".join(f"{'L' if n else 'M'}{x},{y}" for n, (x, y) in enumerate(at(*p) for p in line))
        dash = DASHES[place % len(DASHES)]
        parts.append(f'<path d="{path}" fill="none" stroke="#1f4e79" stroke-width="2" stroke-dasharray="{dash}"/>')
        x, y = at(*line[-1])
        parts.append(_text(x - 34, y - 8, name))
    return _svg(parts)


def bars(title: str, unit: str, values: Mapping[str, float]) -> str:
    """One bar a value, the figure at its end."""
    most = max(values.values(), default=1.0) or 1.0
    step = (HEIGHT - TOP - 20) / max(len(values), 1)
    parts = [_text(LEFT, 20, title, bold=True)]
    for place, (name, value) in enumerate(values.items()):
        y, length = TOP + place * step, (WIDTH - 300) * value / most
        parts.append(_text(8, y + step * 0.55, name))
        parts.append(f'<rect x="190" y="{y:.1f}" width="{length:.1f}" height="{step * 0.7:.1f}" fill="#1f4e79"/>')
        parts.append(_text(196 + length, y + step * 0.55, f"{value:,.0f} {unit}"))
    return _svg(parts)


def draw(records: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write what the records have figures for; returns the files."""
    facts: dict[str, Any] = {}
    for record in records:
        facts |= record["facts"]
    made: dict[str, str] = {}
    if loads := _under_load(facts.get("latency, ms", {})):
        made["latency.svg"] = curves("Latency under open-loop load", "jobs/s", "ms", loads)
    alone, whole = facts.get("resnet50 stages alone, jobs/s"), facts.get("resnet50 by URI")
    if alone and whole:
        values = {**alone, "end to end": whole["jobs_per_s"]}
        made["stages.svg"] = bars("Stages alone, and the whole", "jobs/s", values)
    for name, content in made.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in made]


def _under_load(told: Mapping[str, Mapping[str, float]]) -> dict[str, list[tuple[float, float]]]:
    """By percentile: (jobs a second, ms); legs are named `30% of 1000 jobs/s`."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, found in told.items():
        share, _, rest = name.partition("% of ")
        if rest:
            rate = float(share) / 100 * float(rest.split()[0])
            for percentile in ("P50", "P95", "P99"):
                lines.setdefault(percentile, []).append((rate, found[percentile]))
    return lines


def _axes(x_title: str, y_title: str, most_x: float, most_y: float) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    lines = [f'<path d="M{LEFT},{TOP} V{bottom} H{right}" fill="none" stroke="#888"/>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = LEFT + (right - LEFT) * share, bottom - (bottom - TOP) * share
        lines += [_text(x - 12, bottom + 16, f"{most_x * share:.0f}"), _text(26, y + 4, f"{most_y * share:.0f}")]
    return [*lines, _text(right - 60, HEIGHT - 12, x_title), _text(26, TOP - 10, y_title)]


def _text(x: float, y: float, words: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" {_STYLE}{weight}>{escape(words)}</text>'


def _svg(parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    return "\n".join((head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *parts, "</svg>\n"))
