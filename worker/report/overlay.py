"""Maps over photographs, readable without colour: a tint, and an outline around the strongest cells.

The outline is an SVG path in grid cells, and a phrase says where it lies, so that a page printed in grey or read
aloud tells the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.verdict import Grid
from worker.core.explanation import lay_over
from worker.report.pictures import Picture, Pixels, picture

Mask = NDArray[np.bool_]  # [height, width] of a grid
Colour = tuple[int, int, int]
ATTENTION_COLOUR: Colour = (42, 91, 148)
DEVIATION_COLOUR: Colour = (178, 58, 44)
FAR = 128  # core.explanation: four times what is typical of the references
MOST = 0.5  # share of the cells
SCATTERED = 0.22  # standard deviation of the cells' places; that of evenly spread ones is 0.29
ROWS = ("upper", "middle", "lower")
COLUMNS = ("left", "centre", "right")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A photograph under a map. `outline` is an SVG path over `columns` x `rows` cells, "" where nothing stands out."""

    picture: Picture
    rows: int
    columns: int
    outline: str
    place: str


def attention_overlay(square: Pixels, grid: Grid) -> Overlay:
    """Outlines the cells that together hold half of the attention."""
    return _overlay(square, grid, ATTENTION_COLOUR, half_of_all(cells(grid)))


def deviation_overlay(square: Pixels, grid: Grid) -> Overlay:
    """Outlines the cells that depart at least four times as far as the references typically do among themselves."""
    return _overlay(square, grid, DEVIATION_COLOUR, cells(grid) >= FAR)


def _overlay(square: Pixels, grid: Grid, colour: Colour, strong: Mask) -> Overlay:
    laid = lay_over(square, grid, colour=colour)
    return Overlay(
        picture=picture(laid), rows=grid.height, columns=grid.width, outline=outline(strong), place=place(strong)
    )


def cells(grid: Grid) -> NDArray[np.uint8]:
    """The grid as an array [height, width]; missing cells of a short map are 0."""
    flat = np.zeros(grid.height * grid.width, np.uint8)
    given = np.frombuffer(grid.cells, np.uint8)[: flat.size]
    flat[: given.size] = given
    return flat.reshape(grid.height, grid.width)


def half_of_all(values: NDArray[np.uint8]) -> Mask:
    """The fewest cells whose sum is at least half of the map's."""
    order = np.argsort(values, axis=None)[::-1]
    sums = np.cumsum(values.ravel()[order], dtype=np.int64)
    mask = np.zeros(values.size, np.bool_)
    if sums.size and sums[-1] > 0:
        mask[order[: int(np.searchsorted(sums, (sums[-1] + 1) // 2)) + 1]] = True
    return mask.reshape(values.shape)


def outline(strong: Mask) -> str:
    """The border between strong cells and others as an SVG path of unit steps."""
    padded = np.pad(strong, 1)
    across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])  # horizontal borders: row line, column
    down = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])  # vertical borders: row, column line
    steps = [f"M{x} {y}h1" for y, x in across.tolist()] + [f"M{x} {y}v1" for y, x in down.tolist()]
    return "".join(steps)


def place(strong: Mask) -> str:
    """Where the strong cells lie, in words."""
    if not strong.any():
        return "nowhere in particular"
    found = np.argwhere(strong) / strong.shape
    if strong.mean() > MOST or found.std(axis=0).max() > SCATTERED:
        return "spread over the view"
    row, column = found.mean(axis=0)
    vertical, horizontal = ROWS[min(2, int(row * 3))], COLUMNS[min(2, int(column * 3))]
    if (vertical, horizontal) == ("middle", "centre"):
        return "at the centre"
    return f"at the {vertical} {horizontal}"
