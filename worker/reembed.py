"""References into another embedding space: their kept photographs, through the encoder that is to serve there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas.job import JobView
from worker.core.evidence import UnusableView, ViewProbe
from worker.encoding_ahead import Loaded, encode_ahead
from worker.items import IMAGE_SUFFIXES
from worker.ports import ViewEncoder

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


def reembed(
    photographs: Iterable[ReferencePhotograph], fetch: Fetch, encoder: ViewEncoder, *, name: str, batch_images: int
) -> Iterator[Reembedded | Unembedded]:
    """Encode with the encoder `name` in batches, one ahead of the one that is read back; one entry a photograph."""
    return encode_ahead(
        photographs,
        encoder,
        load=lambda photograph: _load(photograph, fetch, name),
        read=_read,
        batch_images=batch_images,
    )


def photographs_in(folder: Path) -> dict[str, Path]:
    """The photographs below a folder, by SHA-256. Reads each once, and holds none."""
    found = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in found}


def photograph_at(path: Path, sha256: str) -> bytes | None:
    """None where the file is gone, or no longer what it was when its digest was taken."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def _load(photograph: ReferencePhotograph, fetch: Fetch, name: str) -> Loaded[ReferencePhotograph] | Unembedded:
    data = fetch(photograph.tenant, photograph.sha256)
    if data is None:
        return Unembedded(photograph=photograph, why="its photograph was not kept", kept=False)
    view = JobView(view=photograph.view, sha256=photograph.sha256, data=data)
    return Loaded(photograph=photograph, tenant=photograph.tenant, view=view, data=data, encoder=name)


def _read(loaded: Loaded[ReferencePhotograph], answer: ViewProbe | UnusableView) -> Reembedded | Unembedded:
    if isinstance(answer, UnusableView):
        return Unembedded(photograph=loaded.photograph, why=f"{answer.code.value}: {answer.detail}", kept=True)
    return Reembedded(photograph=loaded.photograph, probe=answer)
