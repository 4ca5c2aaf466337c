"""Rendered luxury-like goods: photographs of genuine and forged specimens, with the ground truth of every forgery."""

from __future__ import annotations

from demo.goods.families import FAMILIES, Family
from demo.goods.rendering import Rendering, jpeg, render
from demo.goods.skus import CATEGORIES, Sku, catalogue, heldout_skus, make_sku, training_skus

__all__ = [
    "CATEGORIES",
    "FAMILIES",
    "Family",
    "Rendering",
    "Sku",
    "catalogue",
    "heldout_skus",
    "jpeg",
    "make_sku",
    "render",
    "training_skus",
]
