"""DeviceGallery: which parts of galleries lie on a GPU. Tables of embeddings a tenant and space, and a category and
view; sets of patch features a SKU and view. All in one store of bounded size, so that the galleries of tenants who send
nothing leave first. All of it runs in the device's thread."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import structlog
from numpy.typing import NDArray

from engines.gpu.deviating import PatchSet, load_patch_set, patch_set_bytes, takes
from engines.gpu.device import Device
from engines.gpu.memory import Kept, Sized
from engines.gpu.search import Table, load_numbers, load_table, table_bytes
from worker.core.evidence import ViewProbe
from worker.core.gallery import GallerySnapshot, ReferenceSet, ViewIndex
from worker.core.matching import same_patches

Key = tuple[str, str, int]  # tenant, what it is, id of what it was made of
V = TypeVar("V", bound=Sized)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Where a SKU's rows lie in its tenant's table of one space. `roles`: by role, counted from `first`, the first row,
    how many genuine ones, and how many known counterfeits after them. The genuine rows of each role, then its fakes,
    begin at `starts`."""

    roles: Mapping[str, tuple[int, int, int]]
    first: int
    count: int
    starts: NDArray[np.intp]

    def best_by_role(self, cosines: NDArray[np.float32]) -> dict[str, float]:
        """The best cosine of the genuine rows of each role, from those with all `count` rows."""
        best = dict(zip(self.starts.tolist(), np.maximum.reduceat(cosines, self.starts).tolist(), strict=True))
        return {role: best[first] for role, (first, genuine, _) in self.roles.items() if genuine}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """All embeddings that a tenant's jobs are compared with in one space, those of a SKU side by side. Sized."""

    table: Table
    of: Mapping[str, Card]

    @property
    def size_bytes(self) -> int:
        return self.table.size_bytes

    def free(self) -> None:
        self.table.free()


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """An index's rows, and the number of each row's SKU (int32 [count]). Sized."""

    table: Table
    skus: Any

    @property
    def size_bytes(self) -> int:
        return self.table.size_bytes + 4 * self.table.count

    def free(self) -> None:
        self.table.free()
        self.skus.free()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A probe of a job that claims `sku`, with what of the gallery it is compared with."""

    gallery: GallerySnapshot
    sku: str
    probe: ViewProbe
    found: ReferenceSet | None
    index: ViewIndex | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What a probe is compared with, as far as it lies on the device; what is None is compared on the host."""

    cards: Cards | None
    card: Card | None
    rows: Numbered | None
    patches: PatchSet | None


@dataclass(slots=True)
class DeviceGallery:
    """`limit_bytes` bounds all of it. A table of at least `search_from` rows is there in half precision too."""

    device: Device
    limit_bytes: int = field(kw_only=True)
    search_from: int = field(kw_only=True)
    _kept: Kept[Key, Sized] = field(init=False)
    _refused: set[Key] = field(init=False, default_factory=set)  # tables that found no room
    # Keys hold ids: what they are of lives as long as a snapshot here does.
    _snapshots: dict[str, list[GallerySnapshot]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._kept = Kept(self.limit_bytes)

    def place(self, wanted: Sequence[Wanted]) -> list[Placed]:
        """Bring what is missing. What one of `wanted` was given stays for all of them."""
        self._follow([one.gallery for one in wanted])
        held: set[Key] = set()
        return [self._place(one, held) for one in wanted]

    def index(self, gallery: GallerySnapshot, index: ViewIndex, held: set[Key]) -> Numbered | None:
        """The rows of an index of a gallery that was followed."""
        count, dims = index.embeddings.shape
        size = table_bytes(count, dims, searched=count >= self.search_from) + 4 * count
        return self._table((gallery.tenant, "index", id(index)), lambda: size, lambda: self._numbered(index), held)

    def follow(self, gallery: GallerySnapshot) -> None:
        self._follow([gallery])

    def close(self) -> None:
        self._kept.close()

    @property
    def used_bytes(self) -> int:
        return self._kept.used_bytes

    def _follow(self, galleries: Sequence[GallerySnapshot]) -> None:
        """Where a tenant's snapshot is another one now, let go what the new one does not share with the old."""
        now: dict[str, list[GallerySnapshot]] = {}
        for gallery in {id(gallery): gallery for gallery in galleries}.values():
            now.setdefault(gallery.tenant, []).append(gallery)
        for tenant, snapshots in now.items():
            before = self._snapshots.get(tenant)
            self._snapshots[tenant] = snapshots
            if before is not None and [id(one) for one in before] != [id(one) for one in snapshots]:
                self._forget(tenant, {id(part) for one in snapshots for part in _parts(one)})

    def _forget(self, tenant: str, living: set[int]) -> None:
        self._kept.drop(lambda key: key[0] == tenant and key[2] not in living)
        self._refused = {key for key in self._refused if key[0] != tenant}

    def _place(self, one: Wanted, held: set[Key]) -> Placed:
        probe, found, index = one.probe, one.found, one.index
        cards = self._cards(one.gallery, probe.engine.embedding_space, held) if found else None
        comparable = index is not None and index.embeddings.shape[1] == probe.embedding.size
        return Placed(
            cards=cards,
            card=cards.of.get(one.sku) if cards else None,
            rows=self.index(one.gallery, index, held) if index is not None and comparable else None,
            patches=self._patches(one.gallery, found, held) if found and same_patches(probe, found) else None,
        )

    def _cards(self, gallery: GallerySnapshot, space: str, held: set[Key]) -> Cards | None:
        def sets() -> list[tuple[str, str, ReferenceSet]]:
            return [(sku, view, found) for (sku, view, of), found in sorted_sets(gallery) if of == space]

        def size() -> int:
            return sum(found.embeddings.nbytes + found.counterfeits.nbytes for _, _, found in sets())

        return self._table(
            (gallery.tenant, f"cards {space}", id(gallery.sets)), size, lambda: self._arranged(sets()), held
        )

    def _table(self, key: Key, size: Callable[[], int], make: Callable[[], V], held: set[Key]) -> V | None:
        held.add(key)
        found = self._kept.find(key)
        if found is None and key not in self._refused:
            found = self._kept.add(key, size(), make, held)
            if found is None:
                self._refused.add(key)
                _log.warning(
                    "gallery_beside_gpu", tenant=key[0], part=key[1], bytes=size(), limit_bytes=self.limit_bytes
                )
        return cast("V | None", found)

    def _patches(self, gallery: GallerySnapshot, found: ReferenceSet, held: set[Key]) -> PatchSet | None:
        if not takes(found.patch_grid, found.patches.shape[2]):
            return None
        key = gallery.tenant, "patches", id(found)
        held.add(key)
        size = patch_set_bytes(found.patches)
        there = self._kept.find(key) or self._kept.add(
            key, size, lambda: load_patch_set(found.patches, found.spread), held
        )
        return cast("PatchSet | None", there)

    def _arranged(self, sets: Sequence[tuple[str, str, ReferenceSet]]) -> Cards:
        rows = [part for _, _, found in sets for part in (found.embeddings, found.counterfeits)]
        return Cards(table=load_table(self.device, np.concatenate(rows), searched=False), of=cards_of(sets))

    def _numbered(self, index: ViewIndex) -> Numbered:
        searched = len(index.embeddings) >= self.search_from
        return Numbered(
            table=load_table(self.device, index.embeddings, searched=searched), skus=load_numbers(index.numbers())
        )


def _parts(gallery: GallerySnapshot) -> list[object]:
    """What keys are made of."""
    return [gallery.sets, *gallery.sets.values(), *gallery.indexes.values()]


def sorted_sets(gallery: GallerySnapshot) -> list[tuple[tuple[str, str, str], ReferenceSet]]:
    return sorted(gallery.sets.items(), key=lambda item: item[0])


def cards_of(sets: Sequence[tuple[str, str, ReferenceSet]]) -> dict[str, Card]:
    """Where rows lie when genuine references and known counterfeits of each (SKU, view) follow one another; `sets`
    ascend by SKU."""
    cards: dict[str, Card] = {}
    row = 0
    for sku, group in itertools.groupby(sets, key=lambda one: one[0]):
        first, roles = row, {}
        for _, view, found in group:
            genuine, fakes = len(found.embeddings), len(found.counterfeits)
            roles[view] = row - first, genuine, fakes
            row += genuine + fakes
        cards[sku] = Card(roles=roles, first=first, count=row - first, starts=_starts(roles))
    return cards


def _starts(roles: Mapping[str, tuple[int, int, int]]) -> NDArray[np.intp]:
    """Where runs of rows begin: empty ones have no beginning."""
    runs = [run for at, genuine, fakes in roles.values() for run in ((at, genuine), (at + genuine, fakes))]
    return np.array([at for at, count in runs if count], np.intp)
