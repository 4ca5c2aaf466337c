"""References into another embedding space: their kept photographs, through the encoder that is to serve there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from schemas.job import JobView
from worker.core.evidence import UnusableView, ViewProbe
from worker.items import IMAGE_SUFFIXES
from worker.ports import PendingViews, ViewEncoder

Fetch = Callable[[str, str], bytes | None]  # tenant, sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePhotograph:
    """Which photograph a reference is made of."""

    reference_id: str
    tenant: str
    sku: str
    view: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unembedded:
    """A reference that got no vectors, and why; `kept` False: its photograph is not at hand."""

    photograph: ReferencePhotograph
    why: str
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reembedded:
    photograph: ReferencePhotograph
    probe: ViewProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """Satisfies ports.EncodeView."""

    photograph: ReferencePhotograph
    tenant: str
    view: JobView
    data: bytes = field(repr=False)
    encoder: str


def reembed(
    photographs: Iterable[ReferencePhotograph], fetch: Fetch, encoder: ViewEncoder, *, name: str, batch_images: int
) -> Iterator[Reembedded | Unembedded]:
    """Encode with the encoder `name` in batches, one ahead of the one that is read back; one entry a photograph."""
    source = iter(photographs)
    ahead: tuple[Sequence[_Loaded], PendingViews] | None = None
    while batch := list(islice(source, batch_images)):
        loaded = [_load(photograph, fetch, name) for photograph in batch]
        ready = [one for one in loaded if isinstance(one, _Loaded)]
        started = (ready, encoder.start(ready)) if ready else None
        yield from (one for one in loaded if isinstance(one, Unembedded))
        if ahead is not None:
            yield from _finish(*ahead)
        ahead = started
    if ahead is not None:
        yield from _finish(*ahead)


def photographs_in(folder: Path) -> dict[str, Path]:
    """The photographs below a folder, by SHA-256. Reads each once, and holds none."""
    found = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in found}


def _load(photograph: ReferencePhotograph, fetch: Fetch, name: str) -> _Loaded | Unembedded:
    data = fetch(photograph.tenant, photograph.sha256)
    if data is None:
        return Unembedded(photograph=photograph, why="its photograph was not kept", kept=False)
    view = JobView(view=photograph.view, sha256=photograph.sha256, data=data)
    return _Loaded(photograph=photograph, tenant=photograph.tenant, view=view, data=data, encoder=name)


def _finish(loaded: Sequence[_Loaded], pending: PendingViews) -> Iterator[Reembedded | Unembedded]:
    for one, answer in zip(loaded, pending.result(), strict=True):
        if isinstance(answer, UnusableView):
            yield Unembedded(photograph=one.photograph, why=f"{answer.code.value}: {answer.detail}", kept=True)
        else:
            yield Reembedded(photograph=one.photograph, probe=answer)
