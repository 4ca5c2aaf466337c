"""HostLooks: what of a comparison on a device the host does, in threads of its own and for many views at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from schemas.job import AuthenticationJob
from worker.core.alignment import Framing, framings
from worker.core.deviation import Deviation
from worker.core.evidence import ViewProbe
from worker.core.gallery import GallerySnapshot, ReferenceSet, ViewIndex
from worker.core.matching import Numbers, deviation_of, masked_of

DEPARTS: Final = 4.0  # deviation from which it is asked whether a view shows another section: of crops 0.99 lie above
_TOGETHER: Final = 8  # views: enough that NumPy's calls count for little, few enough for the caches


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedView:
    """One probe of one job, with what of the gallery it is compared with."""

    job: AuthenticationJob
    probe: ViewProbe
    gallery: GallerySnapshot
    roles: Sequence[str]
    found: ReferenceSet | None
    index: ViewIndex | None


class HostLooks:
    """Compares views whose patches found no room on the device, and looks how those that depart, or that are nearer to
    something else, lie over their references (core.quality asks), which the kernels do not say."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="framing")

    def completed(self, views: Sequence[ComparedView], numbers: Sequence[Numbers]) -> list[Numbers]:
        """The device's `numbers` with what was left to the host."""
        known = list(numbers)
        left = [at for at, one in enumerate(known) if one.compared is None and views[at].found is not None]
        for at, compared in zip(left, self._pool.map(_compared, [views[at] for at in left]), strict=True):
            known[at] = replace(known[at], compared=compared)
        for at, framing in self._framed(views, numbers):
            known[at] = replace(known[at], compared=_placed(known[at].compared, framing))
        return known

    def close(self) -> None:
        self._pool.shutdown(wait=True)

    def _framed(self, views: Sequence[ComparedView], numbers: Sequence[Numbers]) -> list[tuple[int, Framing]]:
        """The framing of each view that is in question, by its place."""
        asked = [at for at, one in enumerate(numbers) if _departs(one.compared) or _is_nearer_elsewhere(one)]
        asked.sort(key=lambda at: _shape(views[at]))
        groups = [group for _, alike in groupby(asked, lambda at: _shape(views[at])) for group in _cut(list(alike))]
        looked = self._pool.map(_framings, [[views[at] for at in group] for group in groups])
        return [pair for group, found in zip(groups, looked, strict=True) for pair in zip(group, found, strict=True)]


def _departs(compared: Deviation | None) -> bool:
    return compared is not None and (compared.scalar >= DEPARTS or not compared.aligned)


def _is_nearer_elsewhere(one: Numbers) -> bool:
    """To another SKU, or to another role of its own: it shows that one, unless it lies well over its references."""
    if one.compared is None or one.cosines is None:
        return False
    elsewhere = [*one.roles.values(), *([one.other[1]] if one.other else [])]
    return max(elsewhere, default=-1.0) > float(one.cosines.max())


def _placed(compared: Deviation | None, framing: Framing) -> Deviation | None:
    return replace(compared, placed=framing.placed, off_frame=framing.off_frame) if compared else None


def _compared(view: ComparedView) -> Deviation | None:
    masked = masked_of(view.job, view.probe.view, view.gallery)
    return deviation_of(view.probe, view.found, masked) if view.found else None


def _framings(views: Sequence[ComparedView]) -> list[Framing]:
    """Of views of one shape."""
    pairs = [(view.probe.patches, view.found.patches) for view in views if view.found is not None]
    return framings(pairs, views[0].probe.patch_grid)


def _shape(view: ComparedView) -> tuple[int, ...]:
    return *view.probe.patch_grid, view.probe.patches.shape[1]


def _cut(places: Sequence[int]) -> list[Sequence[int]]:
    return [places[first : first + _TOGETHER] for first in range(0, len(places), _TOGETHER)]
