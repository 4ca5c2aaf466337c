"""Photographs through an encoder in batches: the next one is loaded and started before the last is read back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from schemas.job import JobView
from worker.core.evidence import UnusableView, ViewProbe
from worker.ports import PendingViews, ViewEncoder

Photograph = TypeVar("Photograph")
Bad = TypeVar("Bad")
Encoded = TypeVar("Encoded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[Photograph]):
    """A photograph with its bytes, for as long as its batch lasts. Satisfies ports.EncodeView."""

    photograph: Photograph
    tenant: str
    view: JobView
    data: bytes = field(repr=False)
    encoder: str


Read = Callable[[Loaded[Photograph], ViewProbe | UnusableView], Encoded]


def encode_ahead(
    photographs: Iterable[Photograph],
    encoder: ViewEncoder,
    *,
    load: Callable[[Photograph], Loaded[Photograph] | Bad],
    read: Read[Photograph, Encoded],
    batch_images: int,
) -> Iterator[Encoded | Bad]:
    """One entry a photograph: what `load` gives in its place, or what `read` makes of the encoder's answer. The bytes
    of two batches are held at most."""
    source = iter(photographs)
    ahead: _Started[Photograph] | None = None
    while batch := list(islice(source, batch_images)):
        found = [load(photograph) for photograph in batch]
        loaded = [one for one in found if isinstance(one, Loaded)]
        started = _Started(loaded=loaded, pending=encoder.start(loaded)) if loaded else None
        yield from (one for one in found if not isinstance(one, Loaded))
        if ahead is not None:
            yield from ahead.finish(read)
        ahead = started
    if ahead is not None:
        yield from ahead.finish(read)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started(Generic[Photograph]):
    loaded: Sequence[Loaded[Photograph]]
    pending: PendingViews

    def finish(self, read: Read[Photograph, Encoded]) -> Iterator[Encoded]:
        for one, answer in zip(self.loaded, self.pending.result(), strict=True):
            yield read(one, answer)
