"""Which goods are judged in an evaluation, fixed by seeds that nothing else uses.

A SKU's seed and a specimen's number name a photograph for ever. The encoders' own test set takes the first held-out
seeds, the score calibration and the demo some of the same; these ranges begin far behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from demo.goods import CATEGORIES, FAMILIES, Sku, make_sku
from demo.photographs import JOB_SPECIMENS, REFERENCE_SPECIMENS, Specimen
from demo.unseen import SEEN_FAMILIES

FULL_SEEDS = range(50_000, 60_000)
QUICK_SEEDS = range(90_000, 91_000)  # for development and tests, so that nobody tunes on the evaluation's goods

HEADLINE = 1.0
STRENGTHS = (0.4, 0.7, HEADLINE)

Name = Literal["full", "quick"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The goods of one evaluation. `forged` are of strength 1; each is judged once more at every other strength, with
    its untouched views as they were. `degraded` of the genuine and of the forged are sent again with one bad view."""

    name: Name
    skus: tuple[Sku, ...]
    genuine: tuple[Specimen, ...]
    forged: tuple[Specimen, ...]
    strengths: tuple[float, ...]
    degraded: int

    @property
    def references(self) -> list[Specimen]:
        return [Specimen(sku=sku, specimen=number) for sku in self.skus for number in REFERENCE_SPECIMENS]

    @property
    def weaker(self) -> list[Specimen]:
        """The forgeries at the strengths below 1."""
        return [
            at(specimen, strength) for strength in self.strengths if strength != HEADLINE for specimen in self.forged
        ]


def full() -> Plan:
    """201 SKUs, 504 genuine and 504 forged specimens: every family 63 times, 21 times a category."""
    return _plan("full", FULL_SEEDS, skus=201, each=504, strengths=STRENGTHS, degraded=48)


def quick() -> Plan:
    """Twelve SKUs of other seeds, 24 genuine and 24 forged specimens: whether all of it runs, not how good it is."""
    return _plan("quick", QUICK_SEEDS, skus=12, each=24, strengths=(0.4, HEADLINE), degraded=2)


def more(count: int) -> Plan:
    """So many further forgeries at strength 1 of the families that training has seen, on the full plan's SKUs, and no
    genuine job; each family meets each SKU once before it meets one again."""
    whole, first = full(), JOB_SPECIMENS.start + 2_000
    skus = len(whole.skus)
    forged = tuple(
        Specimen(
            sku=whole.skus[n % skus],
            specimen=first + n // skus,
            family=SEEN_FAMILIES[(n + n // skus) % len(SEEN_FAMILIES)],
        )
        for n in range(count)
    )
    return replace(whole, genuine=(), forged=forged, strengths=(HEADLINE,), degraded=0)


def first_skus(plan: Plan, count: int) -> Plan:
    """The part of a plan that concerns its first `count` SKUs."""
    kept = plan.skus[:count]
    return replace(
        plan,
        skus=kept,
        genuine=tuple(specimen for specimen in plan.genuine if specimen.sku in kept),
        forged=tuple(specimen for specimen in plan.forged if specimen.sku in kept),
    )


def at(specimen: Specimen, strength: float) -> Specimen:
    """The same forgery, more or less of it."""
    return Specimen(sku=specimen.sku, specimen=specimen.specimen, family=specimen.family, strength=strength)


def skus_of(seeds: Sequence[int], count: int) -> tuple[Sku, ...]:
    """One SKU a seed, categories in turn."""
    names = tuple(CATEGORIES)
    return tuple(make_sku(names[i % len(names)], seed) for i, seed in enumerate(seeds[:count]))


def _plan(name: Name, seeds: range, *, skus: int, each: int, strengths: tuple[float, ...], degraded: int) -> Plan:
    goods, families = skus_of(seeds, skus), sorted(FAMILIES)
    first, second = JOB_SPECIMENS.start, JOB_SPECIMENS.start + 1_000
    return Plan(
        name=name,
        skus=goods,
        genuine=tuple(Specimen(sku=goods[n % skus], specimen=first + n // skus) for n in range(each)),
        forged=tuple(
            Specimen(sku=goods[n % skus], specimen=second + n // skus, family=families[n % len(families)])
            for n in range(each)
        ),
        strengths=strengths,
        degraded=degraded,
    )
