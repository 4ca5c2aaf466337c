"""Score calibration's use case: labelled items through the same encoders and matcher as jobs, then fitted.

Against the ports only: where the gallery comes from and where the calibration goes is the caller's.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np

from schemas.codes import ViewCode
from schemas.job import AuthenticationJob, JobView
from worker.core.evidence import JobEvidence, UnusableView, ViewMatch, ViewProbe
from worker.core.gallery import GallerySnapshot
from worker.core.labelled import LabelledEvidence
from worker.core.matching import nearest_skus, reference_reuse
from worker.core.policy import CategoryProfile
from worker.errors import AssayError
from worker.items import Item
from worker.ports import Matcher, PendingViews, ViewEncoder

BATCHES_IN_FLIGHT = 2
EncoderFor = Callable[[str, str], str]  # (category, view) -> encoder


class UnlabelledItems(AssayError):
    """Score calibration learns from labels; the message names the items without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemView:
    """One photograph of one item with its bytes, for as long as its batch lasts. Satisfies ports.EncodeView."""

    place: int  # of the item in its list
    tenant: str
    view: JobView
    data: bytes = field(repr=False)
    encoder: str


@dataclass(slots=True)
class _Gathered:
    """An item whose views come back from one batch or several."""

    waiting: int
    probes: list[ViewProbe] = field(default_factory=list)
    unusable: list[UnusableView] = field(default_factory=list)


def collect(
    items: Sequence[Item],
    encoder: ViewEncoder,
    matcher: Matcher,
    gallery: GallerySnapshot,
    *,
    encoder_for: EncoderFor,
    batch_images: int,
) -> Iterator[LabelledEvidence]:
    """Evidence of each item, in order, as a job of the gallery's tenant would have it.

    An item's facts (`meta`) may name the `family` of a forgery and, comma-separated, the `forged_views` that show it.
    Batches run over many items, two in flight. Vectors are left out of the evidence once they are matched, so that
    thousands of items fit in memory. Raises UnlabelledItems before anything is encoded.
    """
    check_labels(items)
    open_items = [_Gathered(waiting=len(item.views)) for item in items]
    done = 0
    for place, result in _encoded(items, encoder, gallery.tenant, encoder_for, batch_images):
        _gather(open_items[place], result)
        while done < len(items) and not open_items[done].waiting:
            yield _labelled(items[done], open_items[done], matcher, gallery)
            open_items[done] = _Gathered(waiting=0)
            done += 1


def with_budgets(
    profiles: Mapping[str, CategoryProfile], *, alpha_accept: float | None, alpha_reject: float | None
) -> dict[str, CategoryProfile]:
    """The profiles with other error budgets, where they are given."""
    return {
        category: replace(
            profile,
            alpha_accept=profile.alpha_accept if alpha_accept is None else alpha_accept,
            alpha_reject=profile.alpha_reject if alpha_reject is None else alpha_reject,
        )
        for category, profile in profiles.items()
    }


def check_labels(items: Sequence[Item]) -> None:
    """Raises UnlabelledItems."""
    bare = [item.name or item.sku for item in items if item.label is None]
    if bare:
        names = ", ".join(bare[:3])
        raise UnlabelledItems(f"{len(bare)} items have no label ({names}): give each genuine or counterfeit")


def _encoded(
    items: Sequence[Item], encoder: ViewEncoder, tenant: str, encoder_for: EncoderFor, batch_images: int
) -> Iterator[tuple[int, ViewProbe | UnusableView]]:
    """Results with their item's place, those that could not be read among them."""
    views = _loaded(items, tenant, encoder_for)
    flights: deque[tuple[list[ItemView], PendingViews]] = deque()
    while batch := list(islice(views, batch_images)):
        yield from ((place, entry) for place, entry in batch if isinstance(entry, UnusableView))
        requests = [entry for _, entry in batch if isinstance(entry, ItemView)]
        if requests:
            flights.append((requests, encoder.start(requests)))
        if len(flights) >= BATCHES_IN_FLIGHT:
            yield from _read_back(*flights.popleft())
    for flight in flights:
        yield from _read_back(*flight)


def _read_back(requests: Iterable[ItemView], pending: PendingViews) -> Iterator[tuple[int, ViewProbe | UnusableView]]:
    for request, result in zip(requests, pending.result(), strict=True):
        yield request.place, result


def _loaded(
    items: Sequence[Item], tenant: str, encoder_for: EncoderFor
) -> Iterator[tuple[int, ItemView | UnusableView]]:
    for place, item in enumerate(items):
        for view, path in item.views.items():
            data = _read(view, path)
            if isinstance(data, UnusableView):
                yield place, data
                continue
            job_view = JobView(view=view, sha256=hashlib.sha256(data).hexdigest(), data=data)
            encoder = encoder_for(item.category, view)
            yield place, ItemView(place=place, tenant=tenant, view=job_view, data=data, encoder=encoder)


def _read(view: str, path: Path | str) -> bytes | UnusableView:
    if not isinstance(path, Path):
        detail = "score calibration reads photographs of this machine: give a path, not a URI"
        return UnusableView(view=view, sha256="", code=ViewCode.URI_NOT_ALLOWED, detail=detail)
    try:
        return path.read_bytes()
    except OSError as error:
        detail = f"{path} cannot be read: {error.strerror}"
        return UnusableView(view=view, sha256="", code=ViewCode.NOT_FOUND, detail=detail)


def _gather(gathered: _Gathered, result: ViewProbe | UnusableView) -> None:
    gathered.waiting -= 1
    if isinstance(result, UnusableView):
        gathered.unusable.append(result)
    else:
        gathered.probes.append(result)


def _labelled(item: Item, gathered: _Gathered, matcher: Matcher, gallery: GallerySnapshot) -> LabelledEvidence:
    job = _job(item, gathered, gallery.tenant)
    matches = tuple(matcher.match(job, gathered.probes, gallery))
    evidence = JobEvidence(
        job=job,
        matches=tuple(_without_vectors(match) for match in matches),
        unusable=tuple(gathered.unusable),
        nearest_skus=nearest_skus(matches, gallery),
        gallery_revision=gallery.revision,
        reuse=reference_reuse(gathered.probes, gallery),
    )
    return LabelledEvidence(
        evidence=evidence,
        genuine=item.label == "genuine",
        family=item.meta.get("family") or None,
        forged_views=_forged_views(item),
    )


def _forged_views(item: Item) -> frozenset[str] | None:
    """The facts `forged_views`: comma-separated names."""
    named = item.meta.get("forged_views")
    return frozenset(view.strip() for view in named.split(",")) if named else None


def _job(item: Item, gathered: _Gathered, tenant: str) -> AuthenticationJob:
    views = [(probe.view, probe.sha256) for probe in gathered.probes]
    views += [(unusable.view, unusable.sha256) for unusable in gathered.unusable]
    digest = hashlib.sha256(repr((item.sku, sorted(views))).encode()).hexdigest()
    return AuthenticationJob(
        job_id=item.name or digest[:32],
        tenant=tenant,
        sku=item.sku,
        category=item.category,
        submitted_at=datetime.now(UTC),
        views=tuple(JobView(view=view, sha256=sha256) for view, sha256 in views),
        payload_digest=digest,
        serial=item.serial,
        labels=dict(item.labels),
    )


def _without_vectors(match: ViewMatch) -> ViewMatch:
    nothing = np.empty((0, 0), np.float32)
    probe = replace(match.probe, embedding=nothing[0:0].ravel(), patches=nothing, attention=nothing)
    return replace(match, probe=probe)
