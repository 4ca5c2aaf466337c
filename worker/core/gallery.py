"""The gallery as the matcher sees it: immutable arrays of one tenant at one revision."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worker.core.deviation import SpreadLater
from worker.core.evidence import ViewProbe
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


def int8_patches(patches: NDArray[np.float32]) -> NDArray[np.int8]:
    """Patch features in -1..1 as round(127 * x), of any shape."""
    return np.rint(np.clip(patches, -1, 1) * 127).astype(np.int8)


def reference_of(probe: ViewProbe, *, reference_id: str, sku: str, category: str, genuine: bool) -> Reference:
    """A photograph that an encoder has seen, as a reference."""
    return Reference(
        reference_id=reference_id,
        sku=sku,
        category=category,
        view=probe.view,
        genuine=genuine,
        sha256=probe.sha256,
        phash=probe.phash,
        space=probe.engine.embedding_space,
        embedding=probe.embedding,
        patches=int8_patches(probe.patches),
        patch_grid=probe.patch_grid,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSet:
    """The references of one (SKU, view, space), ready to match: at most m genuine medoids.

    `embeddings` [n, D], `patches` [n, h*w, d] int8 (value / 127; a quarter of the memory of float32), `counterfeits`
    [k, D].
    """

    ids: tuple[str, ...]
    embeddings: NDArray[np.float32]
    patches: NDArray[np.int8]
    patch_grid: tuple[int, int]
    measured: SpreadLater
    counterfeit_ids: tuple[str, ...]
    counterfeits: NDArray[np.float32]
    genuine_count: int  # active genuine references before the medoids were chosen
    phashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))  # [n], beside `ids`

    @property
    def spread(self) -> NDArray[np.float32]:
        """[h, w]: the leave-one-out patch distance among the SKU's own genuine references in the view."""
        return self.measured.spread.cells

    @property
    def typical_distance(self) -> float | None:
        """Mean leave-one-out patch distance, without the spread's floor; None of a single reference."""
        return self.measured.spread.typical_distance


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewIndex:
    """All genuine references of one (category, view, space), for the nearest other SKU: `embeddings` [N, D].

    Rows stand in ascending order of SKU: the rows of `skus[i]` begin at `starts[i]`.
    """

    skus: tuple[str, ...]  # distinct, ascending
    starts: NDArray[np.intp]
    embeddings: NDArray[np.float32]

    def same_as(self, other: ViewIndex) -> bool:
        same = self.skus == other.skus and np.array_equal(self.starts, other.starts)
        return same and np.array_equal(self.embeddings, other.embeddings)

    def position(self, sku: str) -> int | None:
        """Where in `skus` it stands."""
        at = bisect_left(self.skus, sku)
        return at if at < len(self.skus) and self.skus[at] == sku else None

    def rows_of(self, sku: str) -> tuple[int, int]:
        """Its rows, from and to; the same twice where there are none."""
        at = self.position(sku)
        if at is None:
            return 0, 0
        after = at + 1
        return int(self.starts[at]), int(self.starts[after]) if after < len(self.skus) else len(self.embeddings)

    def numbers(self) -> NDArray[np.int32]:
        """Of each row, where its SKU stands in `skus`."""
        counts = np.diff([*self.starts, len(self.embeddings)])
        return np.repeat(np.arange(len(self.skus), dtype=np.int32), counts)

    def sku_of(self, row: int) -> str:
        return self.skus[int(np.searchsorted(self.starts, row, side="right")) - 1]


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
