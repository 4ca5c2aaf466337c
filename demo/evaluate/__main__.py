"""`make evaluate`: how good the verdicts are, on held-out rendered goods, through the real worker.

Writes the figures and a page of plots; the worst errors are drawn in benchmarks/out, which git ignores. `--quick` runs
all of it on a few goods of other seeds, to see that it works; its figures say nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic

from rich.console import Console

from demo.evaluate.controls import controls
from demo.evaluate.jobs import cases
from demo.evaluate.measure import (
    Figures,
    agreement,
    areas,
    confusion,
    coverage,
    gate,
    pointing,
    reliability,
    shuffled,
)
from demo.evaluate.outcomes import Outcome
from demo.evaluate.page import render
from demo.evaluate.plan import Plan, first_skus, full, quick
from demo.evaluate.run import calibration, profiles
from demo.evaluate.session import ROOT, ended, outcomes_of, photographs
from demo.evaluate.sheets import draw_worst
from demo.evaluate.untrained import untrained
from demo.goods import FAMILIES
from demo.unseen import UNSEEN_FAMILIES

PUBLISHED = ROOT / "docs" / "measurements"
SCRATCH = ROOT / "benchmarks" / "out" / "verdicts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    plan: Plan
    out: Path
    render_only: bool


def main(arguments: list[str] | None = None) -> int:
    return ended(partial(_evaluate, _options(arguments)))


def _options(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m demo.evaluate", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--quick", action="store_true", help="a few goods of other seeds: does it run?")
    parser.add_argument("--skus", type=int, help="the first so many SKUs of the full plan only; not published")
    parser.add_argument("--render-only", action="store_true", help="fill the cache of photographs and stop")
    parser.add_argument("--out", type=Path, help="folder of the figures and the page")
    given = parser.parse_args(arguments)
    plan = quick() if given.quick else full()
    if given.skus is not None:
        plan = first_skus(plan, given.skus)
    whole = not given.quick and given.skus is None
    return Options(plan=plan, out=given.out or (PUBLISHED if whole else SCRATCH), render_only=given.render_only)


def _evaluate(options: Options, console: Console) -> int:
    started_s = monotonic()
    folder = photographs(options.plan, console)
    console.print(f"photographs in {folder}  ({monotonic() - started_s:.0f} s)")
    if options.render_only:
        return 0
    all_cases = cases(options.plan, folder)
    found = outcomes_of(options.plan, all_cases, folder, console)
    console.print(f"{len(found)} verdicts  ({monotonic() - started_s:.0f} s)")
    told = figures(options.plan, found, folder)
    options.out.mkdir(parents=True, exist_ok=True)
    written = options.out / "verdicts.json"
    written.write_text(_lines(told), encoding="utf-8")
    page = options.out / "verdicts.html"
    page.write_text(render(told), encoding="utf-8")
    worst = draw_worst(found, folder, SCRATCH / "worst")
    digest = hashlib.sha256(written.read_bytes()).hexdigest()[:16]
    console.print(f"figures: {written}, sha256 {digest}\npage: {page}", highlight=False)
    console.print(f"worst errors: {worst}  ({monotonic() - started_s:.0f} s)", highlight=False)
    return 0


def figures(plan: Plan, found: list[Outcome], folder: Path) -> Figures:
    """Everything that was measured; the same goods, engines and calibration give the same figures."""
    fitted, categories = calibration(), profiles()
    taken = [one for one in found if not one.judged.case.spoilt]
    return {
        "goods": _goods(plan, taken, found),
        "ran_on": _ran_on(found[0], folder),
        "roc": areas(taken),
        "coverage": coverage(taken, fitted, categories),
        "replayed_verdicts": agreement(taken, fitted, categories),
        "confusion": confusion(taken),
        "reliability": reliability(taken),
        "pointing": pointing(taken, folder),
        "gate": gate(found),
        "controls": {
            **controls(taken),
            "labels_shuffled": shuffled(taken),
            "untrained_encoder": untrained(plan, folder),
        },
    }


def _lines(told: Figures) -> str:
    """A line a topic: small, and a change shows where it is."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in told.items()) + "\n}\n"


def _goods(plan: Plan, taken: list[Outcome], found: list[Outcome]) -> Figures:
    return {
        "plan": plan.name,
        "skus": len(plan.skus),
        "seeds": [plan.skus[0].seed, plan.skus[-1].seed],
        "references_a_sku": len(plan.references) // len(plan.skus),
        "genuine_jobs": len(plan.genuine),
        "forged_jobs": len(plan.forged),
        "strengths": list(plan.strengths),
        "jobs_as_taken": len(taken),
        "jobs_with_a_bad_photograph": len(found) - len(taken),
        "families": sorted(FAMILIES),
        "families_kept_from_training": list(UNSEEN_FAMILIES),
    }


def _ran_on(one: Outcome, folder: Path) -> Figures:
    provenance = one.judged.event.provenance
    return {
        "engines": {
            engine.name: f"{engine.digest[:16]} {engine.precision} {engine.backend}" for engine in provenance.engines
        },
        "calibration": provenance.calibration_id,
        "renderer": folder.parent.name,
    }


if __name__ == "__main__":
    sys.exit(main())
