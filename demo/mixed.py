"""Jobs with one view that is not of the item, and what is said of them: `python -m demo.mixed`.

On the score calibration's SKUs: of an honest specimen one required view in turn is taken from another SKU of its
category, or from another specimen of its own SKU. Its own job stands beside. The evaluation's goods are not looked at.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from demo.evaluate.jobs import ROLES
from demo.evaluate.run import calibration, profiles
from demo.framing import Bench, open_bench
from demo.photographs import Specimen, references
from demo.recalibrate import calibration_set, calibration_skus, rendered
from schemas.codes import ReasonCode
from worker.calibrate import collect
from worker.core.decision import Judgement, judge
from worker.core.enrolment import build_snapshot
from worker.core.gallery import GallerySnapshot, Reference, reference_of
from worker.core.matching import NumpyMatcher
from worker.core.policy import Policy
from worker.items import Item, read_items

SKUS, SPECIMENS = 24, 5
OWN, SPECIMEN, SKU = "as taken", "one view of another specimen", "one view of another SKU"
TOLD = (ReasonCode.VIEW_OF_OTHER_ITEM, ReasonCode.RESEMBLES_OTHER_SKU)


def gallery(bench: Bench, enrolled: Sequence[Item]) -> GallerySnapshot:
    """The references as the worker holds them, without a database."""
    policy = Policy(profiles=profiles(), calibrations=(calibration(),))
    made = [one for item in enrolled for one in _references(bench, item)]
    return build_snapshot("demo", 1, made, policy)


def _references(bench: Bench, item: Item) -> Iterator[Reference]:
    for view, path in item.views.items():
        (probe,) = bench.probes(item.category, view, [Path(path).read_bytes()])
        id_ = f"{item.name}/{view}"
        yield reference_of(probe, reference_id=id_, sku=item.sku, category=item.category, genuine=True)


def mixed(items: Sequence[Item]) -> dict[str, list[tuple[Item, str]]]:
    """By kind, items and the view that was exchanged: with the next specimen, and with one of the next SKU."""
    by_sku: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_sku[item.sku].append(item)
    found: dict[str, list[tuple[Item, str]]] = {OWN: [], SPECIMEN: [], SKU: []}
    for sku, own in by_sku.items():
        siblings = [other for other in by_sku if other.partition("-")[0] == sku.partition("-")[0]]
        other = by_sku[siblings[(siblings.index(sku) + 1) % len(siblings)]]
        for at, item in enumerate(own):
            view = ROLES[at % len(ROLES)]
            found[OWN].append((item, view))
            found[SPECIMEN].append((_with(item, view, own[(at + 1) % len(own)]), view))
            found[SKU].append((_with(item, view, other[at % len(other)]), view))
    return found


def _with(item: Item, view: str, other: Item) -> Item:
    return replace(item, views={**item.views, view: other.views[view]})


def judged(bench: Bench, held: GallerySnapshot, items: Sequence[Item]) -> list[Judgement]:
    encoded = collect(
        items, bench.encoder, NumpyMatcher(), held, encoder_for=bench.engines.encoder_for, batch_images=32
    )
    return judge([one.evidence for one in encoded], held.policy)


def said(found: Sequence[tuple[Item, str]], judgements: Sequence[Judgement]) -> Mapping[str, int]:
    """Jobs, the verdicts, and of how many the exchanged view, or any other, is told by which reason."""
    counts = Counter(one.verdict.value for one in judgements)
    for (_, view), one in zip(found, judgements, strict=True):
        for code in TOLD:
            views = {reason.view for reason in one.reasons if reason.code is code}
            counts[f"{code.value} of the view"] += view in views
            counts[f"{code.value} of another"] += bool(views - {view})
    return {"jobs": len(found), **counts}


def _genuine(specimens: Sequence[Specimen], count: int) -> list[Specimen]:
    taken: Counter[str] = Counter()
    kept = []
    for one in specimens:
        taken[one.sku.sku_id] += one.family is None
        if one.family is None and taken[one.sku.sku_id] <= count:
            kept.append(one)
    return kept


def main() -> None:
    console, skus = Console(), calibration_skus()[: int(sys.argv[1]) if len(sys.argv) > 1 else SKUS]
    bench = open_bench()
    wanted = {one.name for one in _genuine([one for one in calibration_set() if one.sku in skus], SPECIMENS)}
    items = [one for one in read_items(rendered("calibration-items", calibration_set(), console)) if one.name in wanted]
    held = gallery(bench, read_items(rendered("calibration-references", references(calibration_skus()), console)))
    for kind, found in mixed(items).items():
        told = ", ".join(
            f"{name} {n}" for name, n in said(found, judged(bench, held, [one for one, _ in found])).items()
        )
        console.print(f"{kind}: {told}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
