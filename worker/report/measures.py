"""A page of measures: sections of words, plots and tables, self-contained as every report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.report.charts import Interval, Plot
from worker.report.page import templates
from worker.report.words import STANDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Rates under one another. `beside` says what the upright stroke of a row is; `what` names the value."""

    title: str
    rows: tuple[Interval, ...]
    beside: str = ""
    what: str = "rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A plain table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    text: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    intervals: tuple[Intervals, ...] = ()
    grids: tuple[Grid, ...] = ()


def render_measures(title: str, summary: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """The page as HTML; `summary` is a list of (label, value) for its head."""
    page = templates().get_template("measures.html.j2")
    return page.render(title=title, summary=summary, sections=sections, standing=STANDING)
