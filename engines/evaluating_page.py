"""The evaluation as JSON, and as one self-contained HTML page with plots: no address outside it, every name escaped."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from engines.drafts import Record
from engines.evaluating import VERDICTS, Check, Curve, Evaluation, Figures, Rate

WIDTH: Final = 320  # of a plot's square, in its own units
_COSINE_BARS: Final = 24


def as_record(found: Evaluation, checks: Sequence[Check], told: Mapping[str, object]) -> dict[str, object]:
    """All that was measured, as JSON values; `told` is what the caller knows of the set and the machine."""
    moved = found.moved
    return {
        **told,
        "fp32": dataclasses.asdict(found.exact),
        "candidate": dataclasses.asdict(found.candidate),
        "cosine": {"mean": found.cosine_mean, "p1": found.cosine_p1, "photographs": len(found.cosines)},
        "verdicts": None
        if moved is None
        else {
            "order": list(VERDICTS),
            "matrix": [list(row) for row in moved.matrix],
            "judged": moved.judged,
            "hard_flips": moved.hard_flips,
            "abstention_changes": moved.abstention_changes,
            "changed": [list(item) for item in moved.items],
        },
        "no_verdicts": found.no_verdicts,
        "checks": [{**dataclasses.asdict(check), "holds": check.holds} for check in checks],
        "within_budget": all(check.holds for check in checks),
    }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar of a plot: place and length in the plot's units, and what it says."""

    at: float
    length: float
    label: str
    value: str
    thick: float = 0.0


def render_page(found: Evaluation, checks: Sequence[Check], record: Record, told: Mapping[str, object]) -> str:
    """The page. `record` is the candidate's own, from `assay engine quantize`, where it has one."""
    return (
        _templates()
        .get_template("evaluation.html.j2")
        .render(
            name=found.candidate.name,
            within=all(check.holds for check in checks),
            checks=[_check_row(check) for check in checks],
            engines=(found.exact, found.candidate),
            rows=_rows(found.exact, found.candidate),
            verdicts=VERDICTS,
            moved=found.moved,
            no_verdicts=found.no_verdicts,
            width=WIDTH,
            roc=[_line(engine.roc) for engine in (found.exact, found.candidate)],
            reliability=[_dots(engine.reliability) for engine in (found.exact, found.candidate)],
            cosines=_cosine_bars(found),
            lowest=f"{found.cosines.min():.5f}",
            mean=f"{found.cosine_mean:.5f}",
            p1=f"{found.cosine_p1:.5f}",
            photographs=len(found.cosines),
            harm=_harm_bars(record),
            methods=_methods(record),
            told=told,
        )
    )


def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("engines"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _check_row(check: Check) -> dict[str, Any]:
    sign = "at most" if check.at_most else "at least"
    value = "not measured" if check.found is None else f"{check.found:.5f}"
    return {
        "name": check.name,
        "found": value,
        "limit": f"{sign} {check.limit:g}",
        "holds": check.holds,
        "told": check.told,
    }


def _rows(exact: Figures, candidate: Figures) -> list[tuple[str, str, str]]:
    def both(title: str, of: Any) -> tuple[str, str, str]:
        return title, of(exact), of(candidate)

    return [
        both("precision", lambda f: f.precision),
        both("runs on", lambda f: f.backend),
        both("finds the SKU (recall@1)", lambda f: _rate(f.recall_at_1)),
        both("verification, ROC area", lambda f: _rate(f.auc)),
        both("calibration error", lambda f: _rate(f.calibration_error)),
        both("photographs a second", lambda f: f"{f.images_per_s:.1f}"),
        both("file, MB", lambda f: f"{f.bytes / 1e6:.2f}"),
        both("graph", lambda f: f.onnx_sha256[:16]),
    ]


def _rate(rate: Rate | None) -> str:
    return f"{rate.value:.4f} (n = {rate.of})" if rate else "not measured"


def _line(curve: Curve) -> str:
    """Points of an SVG polyline, the origin below on the left."""
    return " ".join(f"{x * WIDTH:.1f},{(1 - y) * WIDTH:.1f}" for x, y in curve)


def _dots(curve: Curve) -> list[tuple[str, str]]:
    return [(f"{x * WIDTH:.1f}", f"{(1 - y) * WIDTH:.1f}") for x, y in curve]


def _cosine_bars(found: Evaluation) -> list[Bar]:
    low = min(float(found.cosines.min()), 1 - 1e-6)
    counts, edges = np.histogram(found.cosines, _COSINE_BARS, (low, 1.0))
    step = WIDTH / _COSINE_BARS
    most = max(int(counts.max()), 1)
    return [
        Bar(at=i * step, length=count / most * WIDTH * 0.9, label=f"{edges[i]:.5f}", value=str(count), thick=step - 1)
        for i, count in enumerate(counts)
    ]


def _harm_bars(record: Record) -> list[Bar]:
    """The most harmful layers, if the candidate's record has them."""
    harm = record.get("harm")
    if not isinstance(harm, dict) or not harm:
        return []
    search = record.get("search")
    floats = set(search["floats"]) if isinstance(search, dict) else set()
    worst = sorted(harm.items(), key=lambda pair: -pair[1])[:20]
    most = max(worst[0][1], 1e-12)
    kept = {True: " (left float)", False: ""}
    return [
        Bar(at=i * 18.0, length=max(value, 0.0) / most * WIDTH, label=name + kept[name in floats], value=f"{value:.2e}")
        for i, (name, value) in enumerate(worst)
    ]


def _methods(record: Record) -> list[tuple[str, str, str, bool]]:
    methods = record.get("methods")
    if not isinstance(methods, dict):
        return []
    return [(m, f"{c['mean']:.5f}", f"{c['p1']:.5f}", m == record.get("method")) for m, c in methods.items()]
