"""The items that can be rendered: categories, view roles, and the disjoint seed ranges of the demo's sets.

Seed ranges (a seed and a category name one SKU for ever):

- catalogue: 1,000 to 9,999, the demo's own goods
- held out: 10,000 to 99,999, evaluation only
- training: 100,000 and above, encoders and nothing else
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from demo.goods.names import product_name

VIEWS: tuple[str, ...] = ("overview", "logo", "stitching", "hardware", "serial", "lining")
CATEGORIES: Mapping[str, tuple[str, ...]] = MappingProxyType({"bag": VIEWS, "watch": VIEWS, "sneaker": VIEWS})

CATALOGUE_SEEDS = range(1_000, 10_000)
HELDOUT_SEEDS = range(10_000, 100_000)
TRAINING_SEEDS = range(100_000, 2**31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sku:
    """One item of the catalogue; everything about its looks follows from (category, seed)."""

    sku_id: str
    category: str
    seed: int
    name: str


def make_sku(category: str, seed: int) -> Sku:
    """The SKU of a category and a seed. Raises ValueError for an unknown category or a negative seed."""
    if category not in CATEGORIES:
        raise ValueError(f"category {category!r} is not one of {', '.join(CATEGORIES)}")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; use 0 or more")
    return Sku(sku_id=f"{category}-{seed:06d}", category=category, seed=seed, name=product_name(category, seed))


def catalogue(n: int = 24) -> tuple[Sku, ...]:
    """The demo's fixed catalogue: categories in turn, so that 24 are 8 of each."""
    return _from(CATALOGUE_SEEDS, n)


def heldout_skus(n: int) -> tuple[Sku, ...]:
    """SKUs for evaluation: in no training set and not in the catalogue."""
    return _from(HELDOUT_SEEDS, n)


def training_skus(n: int) -> tuple[Sku, ...]:
    """SKUs that encoders may be trained on."""
    return _from(TRAINING_SEEDS, n)


def _from(seeds: range, n: int) -> tuple[Sku, ...]:
    """The first `n` SKUs of a range, one seed each, categories in turn."""
    if not 0 <= n <= len(seeds):
        raise ValueError(f"{n} SKUs asked of a range of {len(seeds)} seeds")
    names = tuple(CATEGORIES)
    return tuple(make_sku(names[i % len(names)], seeds[i]) for i in range(n))
