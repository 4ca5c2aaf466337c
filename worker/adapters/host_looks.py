"""HostLooks: what of a comparison on a device the host does, in threads of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from schemas.job import AuthenticationJob
from worker.core.deviation import Deviation
from worker.core.evidence import ViewProbe
from worker.core.gallery import GallerySnapshot, ReferenceSet, ViewIndex
from worker.core.matching import Numbers, deviation_of, masked_of


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
    """Compares views whose patches found no room on the device, each as NumpyMatcher would."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="compare")

    def completed(self, views: Sequence[ComparedView], numbers: Sequence[Numbers]) -> list[Numbers]:
        """The device's `numbers` with what was left to the host."""
        known = list(numbers)
        left = [at for at, one in enumerate(known) if one.compared is None and views[at].found is not None]
        for at, compared in zip(left, self._pool.map(_compared, [views[at] for at in left]), strict=True):
            known[at] = replace(known[at], compared=compared)
        return known

    def close(self) -> None:
        self._pool.shutdown(wait=True)


def _compared(view: ComparedView) -> Deviation | None:
    masked = masked_of(view.job, view.probe.view, view.gallery)
    return deviation_of(view.probe, view.found, masked) if view.found else None
