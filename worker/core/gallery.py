"""The gallery as the matcher sees it: immutable arrays of one tenant at one revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.core.policy import Policy

SpaceKey = tuple[str, str, str]  # sku, view, embedding space


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One enrolled photograph in one embedding space. `patches` are int8: value / 127 is the L2-normalised feature."""

    reference_id: str
    sku: str
    category: str
    view: str
    genuine: bool  # False: a known counterfeit of the SKU
    sha256: str
    phash: int
    space: str
    embedding: NDArray[np.float32]  # [D]
    patches: NDArray[np.int8]  # [h*w, d]
    patch_grid: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSet:
    """The references of one (SKU, view, space), ready to match: at most m genuine medoids.

    `embeddings` [n, D], `patches` [n, h*w, d] int8 (value / 127; a quarter of the memory of float32), `spread` [h, w]:
    the leave-one-out patch distance among the SKU's own genuine references at that place; `counterfeits` [k, D].
    """

    ids: tuple[str, ...]
    embeddings: NDArray[np.float32]
    patches: NDArray[np.int8]
    patch_grid: tuple[int, int]
    spread: NDArray[np.float32]
    counterfeit_ids: tuple[str, ...]
    counterfeits: NDArray[np.float32]
    genuine_count: int  # active genuine references before the medoids were chosen
    typical_distance: float | None = None  # mean leave-one-out patch distance, without the spread's floor


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewIndex:
    """All genuine references of one (category, view, space), for the nearest other SKU: `embeddings` [N, D].

    Rows stand in ascending order of SKU: the rows of `skus[i]` begin at `starts[i]`.
    """

    skus: tuple[str, ...]  # distinct, ascending
    starts: NDArray[np.intp]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class GallerySnapshot:
    """Everything a tenant's jobs are compared with and judged by, at one gallery revision."""

    tenant: str
    revision: int
    sets: Mapping[SpaceKey, ReferenceSet]
    indexes: Mapping[SpaceKey, ViewIndex]  # keyed by category, view, space
    sku_category: Mapping[str, str]
    reference_digests: Mapping[str, str] = field(default_factory=dict)  # sha256 -> reference id
    reference_phashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    reference_ids: tuple[str, ...] = ()  # beside reference_phashes
    policy: Policy = field(default_factory=Policy)
