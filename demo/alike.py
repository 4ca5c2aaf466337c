"""How alike forged views are to the shipped encoders: `python -m demo.alike`.

Of held-out SKUs, for each view that a family forges: the distance between two photographs over the shorter way of
either to its nearest genuine reference, which `assay watch` compares with ASSAY_WATCH__ALIKE. Pairs of one family (one
forger's hand), of two families (two hands), and of a forged and a genuine specimen are counted apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from rich.console import Console

from demo.framing import Bench, open_bench
from demo.goods import FAMILIES, Sku, heldout_skus, jpeg, render
from worker.core.evidence import Vector
from worker.settings import Settings

SKUS = 6  # of those that the score calibration uses: the evaluation's stay unseen
VIEWS = ("logo", "stitching", "hardware")
FAMILIES_A_VIEW = 3
SPECIMENS = 3
REFERENCES = range(5)
FORGED, GENUINE = 500, 900  # first specimens


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A probe's embedding [D], and its distance to the nearest genuine reference."""

    family: str | None
    embedding: Vector
    to_genuine: float


def all_shown(bench: Bench, sku: Sku, view: str) -> Iterator[Shown]:
    references = np.array([embedded(bench, sku, view, number) for number in REFERENCES])
    forging = [name for name in sorted(FAMILIES) if view in FAMILIES[name].views][:FAMILIES_A_VIEW]
    wanted = [(family, FORGED + SPECIMENS * at + n) for at, family in enumerate(forging) for n in range(SPECIMENS)]
    for family, specimen in (*wanted, *((None, GENUINE + n) for n in range(SPECIMENS))):
        embedding = embedded(bench, sku, view, specimen, family)
        yield Shown(family=family, embedding=embedding, to_genuine=1 - float((references @ embedding).max()))


def embedded(bench: Bench, sku: Sku, view: str, specimen: int, family: str | None = None) -> Vector:
    shot = render(sku, view, specimen=specimen, family=family)
    (probe,) = bench.probes(sku.category, view, [jpeg(shot.image)])
    return probe.embedding


def kind(one: Shown, other: Shown) -> str:
    if one.family is None or other.family is None:
        return "with a genuine one"
    return "one hand" if one.family == other.family else "two hands"


def ratio(one: Shown, other: Shown) -> float:
    return (1 - float(one.embedding @ other.embedding)) / max(min(one.to_genuine, other.to_genuine), 1e-9)


def main() -> None:
    settings, console, bench = Settings(), Console(), open_bench()
    found: dict[str, list[float]] = defaultdict(list)
    for sku in heldout_skus(SKUS):
        for view in VIEWS:
            for one, other in combinations(all_shown(bench, sku, view), 2):
                found[kind(one, other)].append(ratio(one, other))
    for name, ratios in sorted(found.items()):
        alike = np.mean(np.array(ratios) <= settings.watch.alike)
        low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
        console.print(
            f"{name}: {len(ratios)} pairs, {alike:.1%} alike; 5 %, median, 95 %: {low:.2f}, {middle:.2f}, {high:.2f}",
            soft_wrap=True,
        )


if __name__ == "__main__":
    main()
