"""How photographs lie over their references, honest, cropped, forged and of another part: `python -m demo.framing`.

On the score calibration's SKUs: what the evaluation judges is not looked at. The profiles' `min_placed` is made of how
honest references lie over each other; this says which others the gate notices with it, and which honest ones it stops.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from demo.evaluate.degraded import Change, degraded
from demo.goods import CATEGORIES, FAMILIES, Sku
from demo.photographs import REFERENCE_SPECIMENS, Specimen, cache_folder, references
from demo.recalibrate import calibration_skus, rendered
from schemas.codes import ReasonCode
from schemas.job import JobView
from worker.adapters.encoder import SessionEncoder
from worker.app import open_encoder
from worker.calibrate import ItemView
from worker.core.alignment import align
from worker.core.evidence import ViewMatch, ViewProbe
from worker.core.gallery import int8_patches
from worker.core.policy import QualityLimits
from worker.core.quality import quality_issues
from worker.engine_settings import EngineSettings
from worker.items import Item, read_items
from worker.settings import Settings

# Of what all but one in a hundred honest photographs place. One below is not stopped by that alone: its shapes must
# differ from every reference's as well (core.quality).
ROOM, LEAST = 0.85, 0.01
FURTHER = 700  # first specimen that is no reference
HONEST = "honest"
SKUS = 12


def _crop(share: float, first: float) -> Change:
    def change(photo: Image.Image) -> Image.Image:
        start, end = round(photo.width * first), round(photo.width * (first + share))
        return photo.crop((start, start, end, end))

    return change


CROPS: Mapping[str, Change] = {
    "crop to 0.60, off the centre": _crop(0.6, 0.35),
    "crop to 0.60, the centre": _crop(0.6, 0.2),
    "crop to 0.75, the centre": _crop(0.75, 0.125),
    "crop to 0.85, the centre": _crop(0.85, 0.075),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Framed:
    """One photograph in one role of one SKU."""

    kind: str
    category: str
    view: str
    match: ViewMatch

    @property
    def placed(self) -> float:
        return self.match.placing["placed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    encoder: SessionEncoder
    engines: EngineSettings

    def probes(self, category: str, view: str, photographs: Sequence[bytes]) -> list[ViewProbe]:
        """Raises TypeError for a photograph that cannot be used."""
        name = self.engines.encoder_for(category, view)
        views = [JobView(view=view, sha256=hashlib.sha256(data).hexdigest(), data=data) for data in photographs]
        asked = [
            ItemView(place=0, tenant="demo", view=v, data=data, encoder=name)
            for v, data in zip(views, photographs, strict=True)
        ]
        answers = self.encoder.start(asked).result()
        found = [answer for answer in answers if isinstance(answer, ViewProbe)]
        if len(found) < len(answers):
            raise TypeError(f"a photograph of {category} {view} could not be used")
        return found


def open_bench() -> Bench:
    settings = Settings()
    return Bench(encoder=open_encoder(settings), engines=settings.engines)


def honest(bench: Bench, items: Sequence[Item]) -> Iterator[Framed]:
    """Each reference over the others of its SKU and view."""
    for category, view, paths in _by_view(items):
        probes = bench.probes(category, view, [path.read_bytes() for path in paths])
        for left_out, probe in enumerate(probes):
            others = [other for at, other in enumerate(probes) if at != left_out]
            yield Framed(kind=HONEST, category=category, view=view, match=_over(probe, others))


def least_placed(found: Iterable[Framed]) -> dict[str, float]:
    """The limit of each category: of what honest photographs place, with room."""
    placed: dict[str, list[float]] = defaultdict(list)
    for one in found:
        placed[one.category].append(one.placed)
    return {category: round(ROOM * float(np.quantile(values, LEAST)), 2) for category, values in placed.items()}


def others(bench: Bench, items: Sequence[Item], further: Sequence[Item]) -> Iterator[Framed]:
    """Crops of each SKU's first reference, and its other views in place of each, over the rest; further specimens."""
    photographs = {(sku, view): paths for sku, view, paths in _by_sku(items)}
    for (sku, view), paths in photographs.items():
        category = sku.partition("-")[0]
        rest = bench.probes(category, view, [path.read_bytes() for path in paths[1:]])
        shown = paths[0].read_bytes()
        asked = [(kind, degraded(shown, change)) for kind, change in CROPS.items()]
        asked += [
            ("another role", photographs[sku, role][0].read_bytes()) for role in CATEGORIES[category] if role != view
        ]
        asked += [(kind, path.read_bytes()) for kind, path in _of_role(further, sku, view)]
        for (kind, _), probe in zip(asked, bench.probes(category, view, [data for _, data in asked]), strict=True):
            yield Framed(kind=kind, category=category, view=view, match=_over(probe, rest))


def _of_role(items: Sequence[Item], sku: str, view: str) -> Iterator[tuple[str, Path]]:
    """Views that a forgery touches, and those of honest specimens."""
    for item in items:
        touched = item.meta.get("forged_views", view).split(",")
        if item.sku == sku and view in touched:
            yield ("forged" if item.label == "counterfeit" else "honest, other specimens"), Path(item.views[view])


def noticed(one: Framed, limits: Mapping[str, float]) -> bool:
    found = quality_issues([one.match], lambda _: QualityLimits(min_placed=limits[one.category]))
    return any(reason.code is ReasonCode.VIEW_MISFRAMED for reason in found[one.view])


def _over(probe: ViewProbe, references: Sequence[ViewProbe]) -> ViewMatch:
    stored = int8_patches(np.stack([reference.patches for reference in references]))
    found = align(probe.patches, stored, probe.patch_grid)
    bits = min((probe.phash ^ reference.phash).bit_count() for reference in references)
    placing = {"placed": found.placed, "off_frame": found.off_frame, "hash_bits": float(bits)}
    return ViewMatch(probe=probe, placing=placing)


def _by_view(items: Sequence[Item]) -> Iterator[tuple[str, str, list[Path]]]:
    return ((sku.partition("-")[0], view, paths) for sku, view, paths in _by_sku(items))


def _by_sku(items: Sequence[Item]) -> Iterator[tuple[str, str, list[Path]]]:
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for item in items:
        for view, path in item.views.items():
            found[item.sku, view].append(Path(path))
    return ((sku, view, paths) for (sku, view), paths in found.items())


def further_specimens(skus: Sequence[Sku]) -> list[Specimen]:
    """Two forged ones a SKU, the families in turn, and two honest ones that no limit is made of."""
    families = sorted(FAMILIES)
    forged = [
        Specimen(sku=sku, specimen=FURTHER + n, family=families[(2 * at + n) % len(families)])
        for at, sku in enumerate(skus)
        for n in range(2)
    ]
    return forged + [Specimen(sku=sku, specimen=FURTHER + n) for sku in skus for n in (2, 3)]


def main() -> None:
    console, skus = Console(), calibration_skus()[: int(sys.argv[1]) if len(sys.argv) > 1 else SKUS]
    bench = open_bench()
    items = read_items(rendered("calibration-references", references(skus), console))
    further = read_items(rendered("framing", further_specimens(skus), console))
    found = list(honest(bench, items))
    limits = least_placed(found)
    found += others(bench, items, further)
    console.print(f"{len(skus)} SKUs, {len(REFERENCE_SPECIMENS)} references of a view, cache {cache_folder().name}")
    console.print(f"min_placed: {limits}", highlight=False)
    for kind in dict.fromkeys(one.kind for one in found):
        own = [one for one in found if one.kind == kind]
        low, middle, high = np.quantile([one.placed for one in own], (0.0, 0.5, 1.0))
        stopped = sum(noticed(one, limits) for one in own)
        told = f"{kind}: {stopped} of {len(own)} noticed; placed from {low:.2f}, median {middle:.2f}, to {high:.2f}"
        console.print(told, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
