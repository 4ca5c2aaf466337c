"""How often forgeries like those of the calibration pass, on more of them: `python -m demo.evaluate.more [N]`.

The evaluation's 315 leave such a rate an interval of six points. These are N further specimens of the families that
training has seen, at strength 1, on the same SKUs, through the same real worker; nothing is published.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.evaluate.jobs import cases
from demo.evaluate.measure import BUDGETS, coverage
from demo.evaluate.outcomes import Outcome
from demo.evaluate.plan import more
from demo.evaluate.run import calibration, profiles
from demo.evaluate.session import ended, outcomes_of, photographs
from worker.core.calibration_report import wilson_interval
from worker.core.policy import CategoryProfile, ScoreCalibration

FORGED = 1_005  # each family meets each SKU once
Node = Mapping[str, Any]  # of demo.evaluate.measure
MEASURES = {"called authentic": "forged_called_authentic", "inconclusive": "forged_inconclusive"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.evaluate.more", description="Error rates on more forgeries")
    parser.add_argument("forged", nargs="?", type=int, default=FORGED, help="how many specimens (default %(default)s)")
    forged = parser.parse_args(arguments).forged
    if forged < 1:
        parser.error(f"{forged} specimens: one at least is judged")
    return ended(partial(_judge, forged))


def _judge(forged: int, console: Console) -> int:
    plan = more(forged)
    folder = photographs(plan, console)
    found = outcomes_of(plan, cases(plan, folder), folder, console)
    for table in rates(found, calibration(), profiles()):
        console.print(table)
    return 0


def rates(
    forged: Sequence[Outcome], fitted: ScoreCalibration, categories: Mapping[str, CategoryProfile]
) -> list[Table]:
    """Shares of seen forgeries by pair of budgets, with Wilson's interval: all, each category, each family."""
    rows = dict(_rows(forged, fitted, categories))
    return [_table(what, key, rows) for what, key in MEASURES.items()]


def _rows(
    forged: Sequence[Outcome], fitted: ScoreCalibration, categories: Mapping[str, CategoryProfile]
) -> Iterator[tuple[str, list[Node]]]:
    """A row's figures, pair by pair of BUDGETS."""
    every: list[Node] = list(coverage(forged, fitted, categories))
    yield "all", every
    for name in every[0]["categories"]:
        yield name, [pair["categories"][name] for pair in every]
    for family in sorted({one.family for one in forged}):
        yield family, list(coverage([one for one in forged if one.family == family], fitted, categories))


def _table(what: str, key: str, rows: Mapping[str, Sequence[Node]]) -> Table:
    title = f"Seen forgeries {what} (95 %), by budgets of forged called authentic, genuine called counterfeit"
    table = Table("", title=title, title_justify="left")
    for accept, reject in BUDGETS:
        table.add_column(f"{accept:.0%}, {reject:.0%}", justify="right", no_wrap=True)
    for name, pairs in rows.items():
        table.add_row(name, *(_told(pair[key]) for pair in pairs))
    return table


def _told(share: Node) -> str:
    """From the counts: the document's own rates are rounded already."""
    hits, of = share["hits"], share["n"]
    low, high = wilson_interval(hits, of)
    return f"{hits} of {of:,}, {hits / of:.1%} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    sys.exit(main())
