"""Sets of rendered photographs on disk, as JSONL manifests that `assay enroll`, `calibrate` and `submit` read.

Rendering is deterministic, so a set is kept in a cache folder named after the renderer's source and reused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from os import sched_getaffinity
from pathlib import Path

from demo.goods import CATEGORIES, FAMILIES, Sku, jpeg, render

ROOT = Path(__file__).resolve().parent
REFERENCE_SPECIMENS = range(0, 5)
CALIBRATION_SPECIMENS = range(100, 1_000)
JOB_SPECIMENS = range(10_000, 20_000)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """One physical item of a SKU, photographed once a view; forged by `family` or genuine."""

    sku: Sku
    specimen: int
    family: str | None = None
    strength: float = 1.0

    @property
    def name(self) -> str:
        forged = f"-{self.family}-{self.strength:g}" if self.family else ""
        return f"{self.sku.sku_id}-{self.specimen}{forged}"

    @property
    def views(self) -> tuple[str, ...]:
        return CATEGORIES[self.sku.category]


def references(skus: Sequence[Sku]) -> list[Specimen]:
    """The genuine specimens that are enrolled."""
    return [Specimen(sku=sku, specimen=n) for sku in skus for n in REFERENCE_SPECIMENS]


def labelled(
    skus: Sequence[Sku], *, first_specimen: int, genuine: int, forged: int, families: Sequence[str] = tuple(FAMILIES)
) -> list[Specimen]:
    """Genuine and forged specimens of each SKU; forgers take the families in turn, so that every one is met."""
    families, made = sorted(families), []
    for turn, sku in enumerate(skus):
        made += [Specimen(sku=sku, specimen=first_specimen + n) for n in range(genuine)]
        for n in range(forged):
            family = families[(turn * forged + n) % len(families)]
            made.append(Specimen(sku=sku, specimen=first_specimen + genuine + n, family=family))
    return made


def photograph(specimens: Sequence[Specimen], folder: Path, *, progress: Progress = lambda done, of: None) -> Path:
    """Render what `folder` does not hold yet, on all cores; returns the manifest `folder/items.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(specimen, folder) for specimen in specimens if not _complete(specimen, folder)]
    with ProcessPoolExecutor(len(sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(_render_specimen, wanted), start=1):
            progress(done, len(wanted))
    manifest = folder / "items.jsonl"
    manifest.write_text("".join(f"{json.dumps(_line(specimen), sort_keys=True)}\n" for specimen in specimens))
    return manifest


@cache
def cache_folder() -> Path:
    """Where sets of this renderer are kept: a change of its source starts a new folder."""
    digest = hashlib.sha256()
    for source in sorted((ROOT / "goods").rglob("*.py")):
        digest.update(source.read_bytes())
    return ROOT.parent / ".cache" / "goods" / digest.hexdigest()[:16]


def _complete(specimen: Specimen, folder: Path) -> bool:
    return all((folder / _path(specimen, view)).is_file() for view in specimen.views)


def _render_specimen(task: tuple[Specimen, Path]) -> None:
    specimen, folder = task
    for view in specimen.views:
        shot = render(
            specimen.sku, view, specimen=specimen.specimen, family=specimen.family, strength=specimen.strength
        )
        _write(folder / _path(specimen, view), jpeg(shot.image, orientation=shot.orientation))


def _write(path: Path, data: bytes) -> None:
    """Atomic, so that a render that was cut short is not taken for a photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.rename(path)


def _path(specimen: Specimen, view: str) -> str:
    return f"{specimen.name}/{view}.jpg"


def _line(specimen: Specimen) -> dict[str, object]:
    forged_views = ",".join(FAMILIES[specimen.family].views) if specimen.family else ""
    return {
        "name": specimen.name,
        "sku": specimen.sku.sku_id,
        "category": specimen.sku.category,
        "label": "counterfeit" if specimen.family else "genuine",
        "views": {view: _path(specimen, view) for view in specimen.views},
        "serial": f"S{specimen.specimen:06d}",
        "meta": {"family": specimen.family, "strength": specimen.strength, "forged_views": forged_views}
        if specimen.family
        else {},
    }
