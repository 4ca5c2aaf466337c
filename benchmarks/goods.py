"""The photographs that everything here is measured on: the demo's own catalogue, references and labelled jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from rich.console import Console

from demo.goods import catalogue
from demo.photographs import JOB_SPECIMENS, labelled, references
from demo.recalibrate import rendered
from demo.scenario import FORGED, GENUINE
from worker.items import Item, read_items

SIDE_PX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Goods:
    """`references` and `jobs` are manifests; `items` are those of `jobs`, `views` their photographs by role."""

    references: Path
    jobs: Path
    items: Sequence[Item]
    views: Sequence[dict[str, bytes]]

    @property
    def blobs(self) -> list[bytes]:
        return [blob for views in self.views for blob in views.values()]

    def facts(self) -> dict[str, object]:
        """What was measured on, for whoever repeats it."""
        sizes = sorted(len(blob) for blob in self.blobs)
        return {
            "distinct jobs": len(self.items),
            "views a job": mean(len(views) for views in self.views),
            "JPEG side, px": SIDE_PX,
            "JPEG bytes": {"mean": round(mean(sizes)), "least": sizes[0], "most": sizes[-1]},
            "bits a pixel": round(8 * mean(sizes) / SIDE_PX**2, 2),
            "data sha256": self._digest(),
        }

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for blob in self.blobs:
            digest.update(hashlib.sha256(blob).digest())
        return digest.hexdigest()


def goods(console: Console) -> Goods:
    """Render what the cache does not hold yet; the demo uses the same sets."""
    enrolled = rendered("references", references(catalogue()), console)
    specimens = labelled(catalogue(), first_specimen=JOB_SPECIMENS.start, genuine=GENUINE, forged=FORGED)
    jobs = rendered("jobs", specimens, console)
    items = read_items(jobs)
    return Goods(references=enrolled, jobs=jobs, items=items, views=[photographs(item) for item in items])


def photographs(item: Item) -> dict[str, bytes]:
    return {view: place.read_bytes() for view, place in item.views.items() if isinstance(place, Path)}
