"""DeviceMatcher: the gallery's exact mirror in GPU memory, and what NumpyMatcher computes computed there.

Embeddings of every reference that a tenant's jobs are compared with lie there; patch features do as they are needed,
those used longest ago leaving first. What finds no room, and shapes that the kernels do not take, the host computes as
NumpyMatcher would: slower, and the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.gpu.cosines import CosineKernels, Looked
from engines.gpu.deviating import Comparison, DeviationKernels, Deviations
from engines.gpu.device import Device
from engines.gpu.memory import allowance
from engines.gpu.search import NEEDS, NearestKernels
from schemas.job import AuthenticationJob
from worker.adapters.device_gallery import Card, DeviceGallery, Key, Numbered, Placed, Wanted
from worker.adapters.encoder import EXIT_ENGINE
from worker.adapters.host_looks import ComparedView, HostLooks
from worker.core.alignment import Fits, framings
from worker.core.deviation import Deviation, mask_of
from worker.core.evidence import ViewMatch, ViewProbe
from worker.core.gallery import GallerySnapshot, ViewIndex
from worker.core.matching import (
    MatchRequest,
    Numbers,
    NumpyMatcher,
    best_by_sku,
    best_cosine,
    cosines_with,
    masked_of,
    nearest_other,
    nearest_skus,
    role_similarity_of,
    roles_of,
    view_match,
)
from worker.core.policy import Rectangle
from worker.errors import Fatal
from worker.ports import Matcher

SEARCH_FROM_ROWS: Final = 16_384  # a gallery of that many is searched by tensor cores, a smaller one read whole
GALLERY_SHARE: Final = 0.5  # of what may be taken of the GPU; the rest is for buffers, and engines that are swapped
T = TypeVar("T")
Floats = NDArray[np.float32]


class DeviceMatcher:
    """Implements ports.Matcher. Any thread but the device's own may call it; `limit_bytes` (None: what may be taken of
    the GPU, divided by the `workers` on it) bounds the mirror."""

    def __init__(
        self,
        device: Device,
        *,
        limit_bytes: int | None = None,
        workers: int = 1,
        search_from: int = SEARCH_FROM_ROWS,
    ) -> None:
        self._device = device
        searches = device.capability >= NEEDS
        self._kernels = device.run(lambda: _Kernels(device, searches=searches))
        if limit_bytes is None:
            limit_bytes = int(GALLERY_SHARE * allowance(*device.run(device.memory_bytes))) // workers
        search_from = search_from if searches else 1 << 62
        self._gallery = DeviceGallery(device, limit_bytes=limit_bytes, search_from=search_from)
        self._host = HostLooks()

    def match(self, job: AuthenticationJob, probes: Sequence[ViewProbe], gallery: GallerySnapshot) -> list[ViewMatch]:
        """Compare each probe with the claimed SKU's references of its view and space; one match a probe, in order."""
        return self.match_many([MatchRequest(job=job, probes=probes, gallery=gallery)])[0]

    def match_many(self, requests: Sequence[MatchRequest]) -> list[list[ViewMatch]]:
        """The same for many jobs at once. Raises Fatal where the device failed."""
        views = [view for request in requests for view in _views(request)]
        numbers = self._host.completed(views, self._on_device(lambda: self._numbers(views)))
        matched = iter([view_match(v.probe, v.found, found) for v, found in zip(views, numbers, strict=True)])
        return [[next(matched) for _ in request.probes] for request in requests]

    def nearest_skus(
        self, matches: Sequence[ViewMatch], gallery: GallerySnapshot, *, category: str | None = None
    ) -> tuple[str, ...]:
        """At most five SKUs that the job's photographs resemble, best first. Raises Fatal."""
        best_of = lambda pairs: self._on_device(lambda: self._best_of(gallery, pairs)) if pairs else []  # noqa: E731
        return nearest_skus(matches, gallery, category=category, best_of=best_of)

    @property
    def used_bytes(self) -> int:
        """What the mirror takes of the GPU."""
        return self._gallery.used_bytes

    def close(self) -> None:
        """Give all memory back; nothing may be asked afterwards. Before the device is closed."""
        self._host.close()
        self._device.run(self._let_go)

    def _let_go(self) -> None:
        self._gallery.close()
        del self._kernels

    def _on_device(self, call: Callable[[], T]) -> T:
        try:
            return self._device.run(call)
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "pycuda":
                raise
            # After an error of CUDA's nothing that this process computes can be trusted.
            raise Fatal(f"comparing on the GPU failed: {error}", exit_code=EXIT_ENGINE) from error

    def _best_of(self, gallery: GallerySnapshot, pairs: Sequence[tuple[ViewIndex, Floats]]) -> Sequence[Floats]:
        held: set[Key] = set()
        self._gallery.follow(gallery)
        placed = [self._gallery.index(gallery, index, held) for index, _ in pairs]
        there = [(rows, pair) for rows, pair in zip(placed, pairs, strict=True) if rows is not None]
        looked = [Looked(embedding=e, table=rows.table, first=0, count=rows.table.count) for rows, (_, e) in there]
        skus = [(rows.skus, len(index.skus)) for rows, (index, _) in there]
        found = iter(self._kernels.cosines.by_sku(looked, skus) if looked else [])
        return [next(found) if rows else best_by_sku(*pair) for rows, pair in zip(placed, pairs, strict=True)]

    def _numbers(self, views: Sequence[ComparedView]) -> list[Numbers]:
        """In the device's thread: place what is missing, and compute."""
        placed = self._gallery.place(
            [Wanted(gallery=v.gallery, sku=v.job.sku, probe=v.probe, found=v.found, index=v.index) for v in views]
        )
        cosines = self._cosines(views, placed)
        others = self._others(views, placed)
        compared = self._compared(views, placed)
        return [
            _numbers_of(view, place.card, own, other, deviation)
            for view, place, own, other, deviation in zip(views, placed, cosines, others, compared, strict=True)
        ]

    def _cosines(self, views: Sequence[ComparedView], placed: Sequence[Placed]) -> list[Floats | None]:
        looked = [
            Looked(embedding=view.probe.embedding, table=place.cards.table, first=card.first, count=card.count)
            for view, place in zip(views, placed, strict=True)
            if place.cards and (card := place.card)
        ]
        found = iter(self._kernels.cosines.all(looked) if looked else [])
        return [next(found) if place.cards and place.card else None for place in placed]

    def _others(self, views: Sequence[ComparedView], placed: Sequence[Placed]) -> list[tuple[str, float] | None]:
        """The nearest other SKU of each view."""
        found: dict[int, tuple[str, float] | None] = {}
        read: list[int] = []
        searched: dict[int, list[int]] = {}
        for number, (view, place) in enumerate(zip(views, placed, strict=True)):
            if place.rows is None:
                found[number] = nearest_other(view.probe.embedding, view.index, view.job.sku)
            elif place.rows.table.halves is None:
                read.append(number)
            else:
                searched.setdefault(id(place.rows), []).append(number)
        found |= self._read_whole(read, views, placed)
        for group in searched.values():
            found |= self._searched(group, views, placed)
        return [found[number] for number in range(len(views))]

    def _read_whole(
        self, numbers: Sequence[int], views: Sequence[ComparedView], placed: Sequence[Placed]
    ) -> dict[int, tuple[str, float] | None]:
        looked = [_looked(views[number], placed[number].rows) for number in numbers]
        found = self._kernels.cosines.nearest(looked) if looked else []
        return {
            number: (_index(views[number]).sku_of(pair[0]), pair[1]) if pair else None
            for number, pair in zip(numbers, found, strict=True)
        }

    def _searched(
        self, numbers: Sequence[int], views: Sequence[ComparedView], placed: Sequence[Placed]
    ) -> dict[int, tuple[str, float] | None]:
        """All of one table; what the search does not know is read whole."""
        rows, search = placed[numbers[0]].rows, self._kernels.search
        assert rows is not None and search is not None  # noqa: S101 (tables are searchable only where search is)
        probes = np.stack([views[number].probe.embedding for number in numbers])
        own = [_index(views[number]).rows_of(views[number].job.sku) for number in numbers]
        nearest = search.search(rows.table, probes, own, 1)
        found: dict[int, tuple[str, float] | None] = {}
        for number, row, score in zip(numbers, nearest.rows[:, 0].tolist(), nearest.scores[:, 0].tolist(), strict=True):
            cosine = float(np.float32(min(1.0, max(-1.0, score))))
            found[number] = (_index(views[number]).sku_of(row), cosine) if row >= 0 else None
        unknown = [number for number, known in zip(numbers, nearest.known, strict=True) if not known]
        return found | self._read_whole(unknown, views, placed)

    def _compared(self, views: Sequence[ComparedView], placed: Sequence[Placed]) -> list[Deviation | None]:
        comparisons = [
            Comparison(probe=view.probe.patches, references=place.patches, kept=_kept(view))
            for view, place in zip(views, placed, strict=True)
            if place.patches
        ]
        found = iter(deviations_of(self._kernels.deviations.run(comparisons)) if comparisons else [])
        return [next(found) if place.patches else None for place in placed]


def open_matcher(device: Device | None, closing: ExitStack, *, workers: int) -> Matcher:
    """On the device where there is one, of which `workers` make use, else on the host."""
    if device is None:
        return NumpyMatcher()
    matcher = DeviceMatcher(device, workers=workers)
    closing.callback(matcher.close)
    return matcher


class _Kernels:
    def __init__(self, device: Device, *, searches: bool) -> None:
        self.cosines = CosineKernels(device)
        self.deviations = DeviationKernels(device)
        self.search = NearestKernels(device) if searches else None


def _views(request: MatchRequest) -> list[ComparedView]:
    job, gallery = request.job, request.gallery
    roles = roles_of(job, request.probes, gallery)
    return [
        ComparedView(
            job=job,
            probe=probe,
            gallery=gallery,
            roles=roles,
            found=gallery.sets.get((job.sku, probe.view, probe.engine.embedding_space)),
            index=gallery.indexes.get((job.category, probe.view, probe.engine.embedding_space)),
        )
        for probe in request.probes
    ]


def _numbers_of(
    view: ComparedView,
    card: Card | None,
    cosines: Floats | None,
    other: tuple[str, float] | None,
    compared: Deviation | None,
) -> Numbers:
    found, embedding = view.found, view.probe.embedding
    if found is None:
        return Numbers(other=other)
    if card is None or cosines is None:
        own, fakes = cosines_with(found.embeddings, embedding), best_cosine(found.counterfeits, embedding)
        roles = role_similarity_of(view.job.sku, view.probe, view.gallery.sets, view.roles)
        return Numbers(cosines=own, counterfeit=fakes, other=other, roles=roles, compared=compared)
    first, genuine, fake = card.roles[view.probe.view]
    best = card.best_by_role(cosines)
    return Numbers(
        cosines=cosines[first : first + genuine],
        counterfeit=float(cosines[first + genuine : first + genuine + fake].max()) if fake else None,
        other=other,
        roles={role: best[role] for role in view.roles if role in best},
        compared=compared,
    )


def _looked(view: ComparedView, rows: Numbered | None) -> Looked:
    assert rows is not None  # noqa: S101 (asked for views whose index lies on the device)
    own = _index(view).rows_of(view.job.sku)
    return Looked(embedding=view.probe.embedding, table=rows.table, first=0, count=rows.table.count, own=own)


def _index(view: ComparedView) -> ViewIndex:
    assert view.index is not None  # noqa: S101 (asked for views whose index lies on the device)
    return view.index


def _kept(view: ComparedView) -> NDArray[np.bool_]:
    return _kept_of(view.probe.patch_grid, masked_of(view.job, view.probe.view, view.gallery))


@lru_cache(maxsize=256)
def _kept_of(grid: tuple[int, int], masked: tuple[Rectangle, ...]) -> NDArray[np.bool_]:
    return ~mask_of(grid, masked)


def deviations_of(found: Sequence[Deviations]) -> list[Deviation | None]:
    """What the device found of views, at least one; None of those whose patches are no numbers."""
    overlays = np.concatenate([one.overlays for one in found])
    fits = Fits(
        inliers=overlays[:, 0],
        affine=overlays[:, 1:7].reshape(-1, 3, 2),
        free=overlays[:, 7:].reshape(-1, 3, 2),
    )
    framed = framings(fits, [len(one.overlays) for one in found], [_grid(one) for one in found])
    return [
        Deviation(
            cells=one.cells,
            scalar=one.scalar,
            aligned=one.aligned,
            mean_distance=one.mean_distance,
            placed=framing.placed,
            off_frame=framing.off_frame,
        )
        if one.finite
        else None
        for one, framing in zip(found, framed, strict=True)
    ]


def _grid(found: Deviations) -> tuple[int, int]:
    height, width = found.cells.shape
    return height, width
