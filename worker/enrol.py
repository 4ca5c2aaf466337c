"""Enrolment: photographs of labelled items on their way to be references, through the same encoders that judge.

It reads, and encodes in batches with one batch ahead; where references are stored is the caller's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.job import JobView
from worker.core.evidence import UnusableView, ViewProbe
from worker.encoding_ahead import Loaded, encode_ahead
from worker.items import Item
from worker.ports import ViewEncoder

PhotographKey = tuple[str, str, str]  # sku, view, sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """One photograph to enrol, by its path and digest."""

    tenant: str
    item: Item
    view: str
    path: Path
    sha256: str
    genuine: bool

    @property
    def key(self) -> PhotographKey:
        return self.item.sku, self.view, self.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class BadPhotograph:
    """A photograph that cannot become a reference, and why."""

    item: str
    view: str
    place: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A photograph as its engine saw it."""

    loaded: Loaded[Photograph]
    probe: ViewProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lies on disk: to encode, enrolled already, and unfit."""

    photographs: tuple[Photograph, ...]
    known: tuple[Photograph, ...]
    bad: tuple[BadPhotograph, ...]


def find_photographs(
    items: Sequence[Item], *, tenant: str, known: Mapping[PhotographKey, bool], counterfeit: bool = False
) -> Found:
    """Digest each item's photographs and pass over those that are `known`, and repetitions. Holds no bytes.

    `known` tells of enrolled photographs whether they are genuine: one that is enrolled as the other kind is bad. An
    item without a label is genuine, or a known counterfeit where `counterfeit` says so of all.
    """
    kinds = dict(known)
    fresh: dict[PhotographKey, Photograph] = {}
    passed: list[Photograph] = []
    bad: list[BadPhotograph] = []
    for item, view in [(one, view) for one in items for view in one.views]:
        found = _find(item, view, tenant, counterfeit)
        if isinstance(found, BadPhotograph):
            bad.append(found)
        elif kinds.setdefault(found.key, found.genuine) is not found.genuine:
            other = "a known counterfeit" if found.genuine else "genuine"
            bad.append(_bad(item, view, f"the same photograph is enrolled as {other}: correct the label"))
        elif found.key in known:
            passed.append(found)
        else:
            fresh.setdefault(found.key, found)
    return Found(photographs=tuple(fresh.values()), known=tuple(passed), bad=tuple(bad))


def encode(
    photographs: Iterable[Photograph],
    encoder: ViewEncoder,
    *,
    encoder_for: Callable[[str, str], str],
    batch_images: int,
) -> Iterator[Encoded | BadPhotograph]:
    """Encode in batches, one ahead of the one that is read back; yields one entry a photograph.

    `encoder_for` maps (category, view) to the name of an encoder, as the worker's settings do.
    """
    return encode_ahead(
        photographs,
        encoder,
        load=lambda photograph: _load(photograph, encoder_for),
        read=_read,
        batch_images=batch_images,
    )


def _find(item: Item, view: str, tenant: str, counterfeit: bool) -> Photograph | BadPhotograph:
    place = item.views[view]
    if not isinstance(place, Path):
        return _bad(item, view, "enrolment reads photographs of this machine: give a path, not a URI")
    try:
        digest = hashlib.sha256(place.read_bytes()).hexdigest()
    except OSError as error:
        return _bad(item, view, f"cannot be read: {error.strerror}")
    genuine = not counterfeit if item.label is None else item.label == "genuine"
    return Photograph(tenant=tenant, item=item, view=view, path=place, sha256=digest, genuine=genuine)


def _load(photograph: Photograph, encoder_for: Callable[[str, str], str]) -> Loaded[Photograph] | BadPhotograph:
    item, view = photograph.item, photograph.view
    try:
        data = photograph.path.read_bytes()
    except OSError as error:
        return _bad(item, view, f"cannot be read: {error.strerror}")
    if hashlib.sha256(data).hexdigest() != photograph.sha256:
        return _bad(item, view, "changed while it was being enrolled: enrol it again")
    return Loaded(
        photograph=photograph,
        tenant=photograph.tenant,
        view=JobView(view=view, sha256=photograph.sha256, data=data),
        data=data,
        encoder=encoder_for(item.category, view),
    )


def _read(loaded: Loaded[Photograph], answer: ViewProbe | UnusableView) -> Encoded | BadPhotograph:
    if isinstance(answer, UnusableView):
        return _bad(loaded.photograph.item, loaded.photograph.view, f"{answer.code.value}: {answer.detail}")
    return Encoded(loaded=loaded, probe=answer)


def _bad(item: Item, view: str, why: str) -> BadPhotograph:
    return BadPhotograph(item=item.name, view=view, place=str(item.views[view]), why=why)
