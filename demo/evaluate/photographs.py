"""The evaluation's photographs and their ground truth in the cache folder that git ignores, rendered once.

One task is a SKU, view by view: a design's scene is drawn once and shared by all its specimens.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import sched_getaffinity
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.evaluate.plan import HEADLINE, Plan, at
from demo.goods import CATEGORIES, FAMILIES, Rendering, jpeg, render
from demo.photographs import Specimen, cache_folder

Mask = NDArray[np.bool_]
Progress = Callable[[int, int], None]


def folder_of(plan: Plan) -> Path:
    return cache_folder() / f"evaluation-{plan.name}"


def touched(specimen: Specimen) -> tuple[str, ...]:
    """The views that the specimen's forgery shows in; none of a genuine one."""
    return FAMILIES[specimen.family].views if specimen.family else ()


def photograph_of(folder: Path, specimen: Specimen, view: str) -> Path:
    """A weaker forgery shares what it does not touch with the one of strength 1."""
    shown = specimen if view in touched(specimen) or not specimen.family else at(specimen, HEADLINE)
    return folder / shown.name / f"{view}.jpg"


def mask_of(folder: Path, specimen: Specimen, view: str) -> Mask:
    """What the forgery changed in this view, bool [side, side]. Raises OSError for a view that it does not touch."""
    with Image.open(photograph_of(folder, specimen, view).with_suffix(".png")) as opened:
        return np.asarray(opened.convert("1"), np.bool_)


def render_all(plan: Plan, *, progress: Progress = lambda done, of: None) -> Path:
    """Render what the folder does not hold yet, on all cores, the weaker forgeries last; returns the folder."""
    folder = folder_of(plan)
    tasks = [
        (specimens, folder)
        for stage in ((*plan.references, *plan.genuine, *plan.forged), plan.weaker)
        for specimens in _by_sku(stage)
        if _missing(specimens, folder)
    ]
    with ProcessPoolExecutor(len(sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(_render_sku, tasks), start=1):
            progress(done, len(tasks))
    return folder


def manifest(folder: Path, title: str, specimens: Sequence[Specimen]) -> Path:
    """Items as `assay enroll`, `calibrate` and `submit` read them."""
    path = folder / f"{title}.jsonl"
    path.write_text("".join(f"{json.dumps(_line(folder, specimen), sort_keys=True)}\n" for specimen in specimens))
    return path


def _by_sku(specimens: Sequence[Specimen]) -> Iterable[list[Specimen]]:
    found: dict[str, list[Specimen]] = defaultdict(list)
    for specimen in specimens:
        found[specimen.sku.sku_id].append(specimen)
    return found.values()


def _missing(specimens: Sequence[Specimen], folder: Path) -> bool:
    return any(not photograph_of(folder, specimen, view).is_file() for specimen in specimens for view in specimen.views)


def _render_sku(task: tuple[Sequence[Specimen], Path]) -> None:
    specimens, folder = task
    for view in CATEGORIES[specimens[0].sku.category]:
        for specimen in sorted(specimens, key=lambda one: (one.family or "", one.strength)):
            path = photograph_of(folder, specimen, view)
            if not path.is_file():
                _write(path, _rendered(specimen, view), masked=view in touched(specimen))


def _rendered(specimen: Specimen, view: str) -> Rendering:
    return render(specimen.sku, view, specimen=specimen.specimen, family=specimen.family, strength=specimen.strength)


def _write(path: Path, shown: Rendering, *, masked: bool) -> None:
    """The mask first and each atomically, so that a photograph that is there is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if masked:
        buffer = io.BytesIO()
        Image.fromarray(shown.mask).save(buffer, "PNG")
        _replace(path.with_suffix(".png"), buffer.getvalue())
    _replace(path, jpeg(shown.image, orientation=shown.orientation))


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.rename(path)


def _line(folder: Path, specimen: Specimen) -> dict[str, object]:
    facts = {"family": specimen.family, "strength": specimen.strength, "forged_views": ",".join(touched(specimen))}
    return {
        "name": specimen.name,
        "sku": specimen.sku.sku_id,
        "category": specimen.sku.category,
        "label": "counterfeit" if specimen.family else "genuine",
        "views": {view: str(photograph_of(folder, specimen, view).relative_to(folder)) for view in specimen.views},
        "serial": f"S{specimen.specimen:06d}",
        "meta": facts if specimen.family else {},
    }
