"""The evaluation's jobs: every specimen as it is, and some with one bad photograph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.evaluate.degraded import DEGRADATIONS, DOUBLED, EXCHANGED, Degradation, degraded
from demo.evaluate.photographs import photograph_of
from demo.evaluate.plan import Plan
from demo.photographs import Specimen
from schemas.job import AuthenticationJob
from worker.cli.submission import build_job
from worker.items import Item

# Roles that every category of demo/profiles.toml requires: a bad photograph of one must be noticed.
ROLES = ("overview", "logo", "stitching", "hardware", "serial")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One job and its truth. `spoilt` names what was done to the photograph of the role `view`, "" for nothing."""

    item: Item
    specimen: Specimen
    spoilt: str = ""
    view: str = ""

    @property
    def job_id(self) -> str:
        return f"{self.specimen.name}~{slug(self.spoilt)}" if self.spoilt else self.specimen.name

    @property
    def genuine(self) -> bool:
        return self.specimen.family is None


def slug(title: str) -> str:
    return title.replace(",", "").replace(" ", "-")


def cases(plan: Plan, folder: Path) -> list[Case]:
    """As taken first, then the bad ones, whose photographs are written below `folder`."""
    taken = (*plan.genuine, *plan.forged, *plan.weaker)
    made = [Case(item=_item(specimen, _views(specimen, folder)), specimen=specimen) for specimen in taken]
    made += _exchanged(plan, folder)
    return made + [case for found in DEGRADATIONS.values() for case in _degraded(plan, folder, found)]


def job_of(case: Case, folder: Path, tenant: str) -> AuthenticationJob:
    """By URI: a worker that serves `file:` from `folder` fetches the photographs itself."""
    return build_job(case.item, tenant=tenant, transport="uri", file_root=folder, job_id=case.job_id)


def _item(specimen: Specimen, views: Mapping[str, Path]) -> Item:
    return Item(
        sku=specimen.sku.sku_id,
        category=specimen.sku.category,
        views=dict(views),
        label="counterfeit" if specimen.family else "genuine",
        serial=f"S{specimen.specimen:06d}",
        name=specimen.name,
    )


def _views(specimen: Specimen, folder: Path) -> dict[str, Path]:
    return {view: photograph_of(folder, specimen, view) for view in specimen.views}


def _chosen(plan: Plan) -> Iterable[tuple[Specimen, str]]:
    """As many genuine as forged specimens, the first of the plan, with the required roles in turn."""
    for specimens in (plan.genuine[: plan.degraded], plan.forged[: plan.degraded]):
        for number, specimen in enumerate(specimens):
            yield specimen, ROLES[number % len(ROLES)]


def _exchanged(plan: Plan, folder: Path) -> Iterable[Case]:
    for specimen, view in _chosen(plan):
        views, other = _views(specimen, folder), ROLES[(ROLES.index(view) + 1) % len(ROLES)]
        swapped = {**views, view: views[other], other: views[view]}
        yield Case(item=_item(specimen, swapped), specimen=specimen, spoilt=EXCHANGED, view=view)
        again = Degradation(name=DOUBLED, code=None, change=lambda photo: photo)
        copied = _spoilt(folder, specimen, other, again)
        yield Case(item=_item(specimen, {**views, view: copied}), specimen=specimen, spoilt=DOUBLED, view=view)


def _degraded(plan: Plan, folder: Path, found: Degradation) -> Iterable[Case]:
    for specimen, view in _chosen(plan):
        views = {**_views(specimen, folder), view: _spoilt(folder, specimen, view, found)}
        yield Case(item=_item(specimen, views), specimen=specimen, spoilt=found.name, view=view)


def _spoilt(folder: Path, specimen: Specimen, view: str, found: Degradation) -> Path:
    """Made anew each time, so that a change of its recipe is never taken from a cache."""
    path = folder / "spoilt" / specimen.name / view / f"{slug(found.name)}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(degraded(photograph_of(folder, specimen, view).read_bytes(), found.change))
    return path
