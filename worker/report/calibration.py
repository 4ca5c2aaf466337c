"""A score calibration's report as a page of plots: `assay calibrate --page`."""

from __future__ import annotations

from collections.abc import Iterator

from worker.core.calibration_report import CalibrationReport, CategoryReport, Tally, wilson_interval
from worker.report.charts import Interval, interval, plot
from worker.report.measures import Grid, Intervals, Section, render_measures
from worker.report.words import humanised, percent, plain

AXIS = 0.2  # of error rates: budgets are small


def render_calibration(report: CalibrationReport) -> str:
    """The page as HTML, self-contained."""
    supported = sum(found.supported for found in report.categories)
    summary = [
        ("calibration", plain(report.calibration_id)),
        ("categories", str(len(report.categories))),
        ("whose budgets are supported", str(supported)),
        ("held-out items", str(sum(found.genuine.items + found.counterfeit.items for found in report.categories))),
    ]
    return render_measures(
        "Score calibration", summary, [*(_category(found) for found in report.categories), _cells(report)]
    )


def _category(found: CategoryReport) -> Section:
    return Section(
        title=plain(found.category),
        text=tuple(_words(found)),
        plots=(
            plot(
                "Reliability at the declared prior",
                x_title="stated probability of genuine",
                y_title="share that is genuine",
                curves=[("", [(one.stated, one.observed) for one in found.reliability])],
                marks=[(one.stated, one.observed, one.low, one.high, f"{one.n} items") for one in found.reliability],
                diagonal=True,
            ),
        )
        if found.reliability
        else (),
        intervals=(_errors(found), _abstention(found), _families(found)),
        grids=(_reasons(found),),
    )


def _words(found: CategoryReport) -> Iterator[str]:
    yield (
        f"Scores from {'its own items' if found.level == 'category' else 'all categories together'}: "
        f"{found.genuine_n} genuine and {found.counterfeit_n} counterfeit items. Its budgets need "
        f"{found.genuine_needed} and {found.counterfeit_needed}."
    )
    if not found.supported:
        yield "Refused: too few items for these budgets. Jobs of this category stay inconclusive until there are more."
    yield "What is told below was said of items whose own scores were left out. Read the intervals, not the rates."


def _errors(found: CategoryReport) -> Intervals:
    rows = (
        _row("counterfeit called authentic", found.counterfeit.authentic, found.counterfeit, found.alpha_accept),
        _row("genuine called counterfeit", found.genuine.counterfeit, found.genuine, found.alpha_reject),
    )
    title = f"Errors beside their budgets (axis to {percent(AXIS, 0)})"
    return Intervals(title=title, rows=rows, beside="the budget")


def _abstention(found: CategoryReport) -> Intervals:
    kinds = (("genuine", found.genuine), ("counterfeit", found.counterfeit))
    rows = tuple(_row(f"{name} inconclusive", tally.abstained, tally, None, of=1.0) for name, tally in kinds)
    return Intervals(title="Abstention", rows=rows)


def _families(found: CategoryReport) -> Intervals:
    rows = tuple(
        _row(humanised(name), tally.authentic, tally, found.alpha_accept, of=1.0)
        for name, tally in found.families.items()
    )
    return Intervals(title="Called authentic, by kind of forgery", rows=rows, beside="the budget of all kinds together")


def _row(label: str, hits: int, tally: Tally, budget: float | None, *, of: float = AXIS) -> Interval:
    low, high = wilson_interval(hits, tally.items)
    rate = hits / tally.items if tally.items else None
    return interval(label, rate, low, high, tally.items, beside=budget, of=of)


def _reasons(found: CategoryReport) -> Grid:
    rows = tuple((humanised(code.value), str(count)) for code, count in sorted(found.reasons.items()))
    return Grid(title="Why held-out items were inconclusive", columns=("first reason", "items"), rows=rows)


def _cells(report: CalibrationReport) -> Section:
    rows = tuple(
        (plain(cell.category), plain(cell.view), cell.engine[:12], str(cell.n), cell.level) for cell in report.cells
    )
    columns = ("category", "view", "engine", "items", "fitted on")
    return Section(title="Cells of the views", grids=(Grid(title="Items a cell", columns=columns, rows=rows),))
