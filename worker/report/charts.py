"""Plots as inline SVG by the reports' templates: lines over a unit square, and rates with their intervals.

Two shapes are all that our pages need, and they are drawn without scripts, fonts or a plotting library at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 380.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 46.0
BAR = 300.0  # length of an interval's axis
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
DASHES = ("", "7 4", "2 3", "9 3 2 3")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve: `path` is SVG's; lines are told apart by their dashes, never by colour alone."""

    name: str
    path: str
    dash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point with a whisker, in SVG units."""

    x: float
    y: float
    low: float
    high: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Both axes from 0 to 1 unless `bottom` says otherwise; `diagonal` is drawn for chance, or the ideal."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    diagonal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A rate beside its interval, as lengths along an axis of BAR; `beside` marks a budget, a goal or chance."""

    label: str
    told: str
    value: float
    low: float
    high: float
    beside: float | None
    n: int


def plot(
    title: str,
    *,
    x_title: str,
    y_title: str,
    curves: Sequence[tuple[str, Points]] = (),
    marks: Sequence[tuple[float, float, float, float, str]] = (),
    bottom: float = 0.0,
    diagonal: bool = False,
) -> Plot:
    """`curves` are named points; `marks` are (x, y, low, high, label) of values with an interval."""
    return Plot(
        title=title,
        x_title=x_title,
        y_title=y_title,
        lines=tuple(
            Line(name=name, path=_path(points, bottom), dash=DASHES[number % len(DASHES)])
            for number, (name, points) in enumerate(curves)
        ),
        marks=tuple(
            Mark(x=_x(x), y=_y(y, bottom), low=_y(low, bottom), high=_y(high, bottom), label=label)
            for x, y, low, high, label in marks
        ),
        x_ticks=tuple(Tick(at=_x(value), label=f"{value:g}") for value in TICKS),
        y_ticks=tuple(_tick(bottom + value * (1 - bottom), bottom) for value in TICKS),
        diagonal=_path([(0.0, 0.0), (1.0, 1.0)], bottom) if diagonal else "",
    )


def interval(
    label: str, value: float | None, low: float, high: float, n: int, *, beside: float | None = None, of: float = 1.0
) -> Interval:
    """`of` is what the whole axis stands for; a value that is unknown is told as such and drawn at nothing."""
    known = 0.0 if value is None else value
    return Interval(
        label=label,
        told="—" if value is None else f"{value:.3f} ({low:.3f} to {high:.3f})",
        value=_along(known, of),
        low=_along(low, of),
        high=_along(high, of),
        beside=None if beside is None else _along(beside, of),
        n=n,
    )


def _along(value: float, of: float) -> float:
    return round(BAR * min(max(value / of, 0.0), 1.0), 1)


def _path(points: Points, bottom: float) -> str:
    return " ".join(f"{'M' if i == 0 else 'L'}{_x(x)} {_y(y, bottom)}" for i, (x, y) in enumerate(points))


def _tick(value: float, bottom: float) -> Tick:
    return Tick(at=_y(value, bottom), label=f"{value:.3g}")


def _x(value: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * value, 1)


def _y(value: float, bottom: float) -> float:
    inside = min(max((value - bottom) / (1 - bottom), 0.0), 1.0)
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * inside, 1)
