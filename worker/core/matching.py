"""Comparing probes with a gallery: exact search, never approximate; the NumPy twin of the device matcher."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.job import AuthenticationJob
from schemas.verdict import ReferenceMatch
from worker.core.deviation import Deviation, deviation
from worker.core.evidence import ReuseHit, Vector, ViewMatch, ViewProbe
from worker.core.gallery import GallerySnapshot, ReferenceSet, SpaceKey, ViewIndex
from worker.core.policy import CategoryProfile, Rectangle

NEAREST_SKUS = 5
REUSED_BITS = 4  # of 64: near enough to ask; core.grounds.copies confirms, since other specimens come as near


class NumpyMatcher:
    """Implements ports.Matcher. Stateless; any thread may call it."""

    def match(self, job: AuthenticationJob, probes: Sequence[ViewProbe], gallery: GallerySnapshot) -> list[ViewMatch]:
        """Compare each probe with the claimed SKU's references of its view and space; one match a probe, in order."""
        profile = gallery.policy.profiles.get(job.category)
        roles = sorted({probe.view for probe in probes} | ({r.view for r in profile.views} if profile else set()))
        return [_match(job, probe, gallery, profile, roles) for probe in probes]


def nearest_skus(
    matches: Sequence[ViewMatch], gallery: GallerySnapshot, *, category: str | None = None
) -> tuple[str, ...]:
    """At most five SKUs that the job's photographs resemble, best first.

    For a known SKU: the nearest others that matching already found. For a SKU without references: every SKU of
    `category` (None: of all) by its mean best cosine over the job's views.
    """
    if any(match.similarity is not None for match in matches):
        found = [(m.other_sku_similarity or 0.0, m.other_sku) for m in matches if m.other_sku is not None]
        ranked = [sku for _, sku in sorted(found, key=lambda pair: (-pair[0], pair[1]))]
        return tuple(dict.fromkeys(ranked))[:NEAREST_SKUS]
    return _ranked([match.probe for match in matches], gallery, category)


def reference_reuse(probes: Sequence[ViewProbe], gallery: GallerySnapshot) -> tuple[ReuseHit, ...]:
    """Views whose photograph is itself a reference, by digest or by perceptual hash."""
    hits = (_reference_hit(probe, gallery) for probe in probes)
    return tuple(hit for hit in hits if hit is not None)


def _match(
    job: AuthenticationJob,
    probe: ViewProbe,
    gallery: GallerySnapshot,
    profile: CategoryProfile | None,
    roles: Sequence[str],
) -> ViewMatch:
    space = probe.engine.embedding_space
    index = gallery.indexes.get((job.category, probe.view, space))
    other, other_similarity = _nearest_other(probe.embedding, index, job.sku)
    found = gallery.sets.get((job.sku, probe.view, space))
    if found is None:
        return ViewMatch(probe=probe, other_sku=other, other_sku_similarity=other_similarity)
    references = _best_first(found, probe.embedding)
    compared = _deviation(probe, found, _masked(profile, probe.view))
    return ViewMatch(
        probe=probe,
        references=references,
        similarity=references[0].similarity,
        counterfeit_similarity=_best(found.counterfeits, probe.embedding),
        other_sku=other,
        other_sku_similarity=other_similarity,
        deviation=compared.scalar if compared else None,
        deviation_map=compared.cells if compared else None,
        aligned=compared.aligned if compared else None,
        nearness=_nearness(compared, found),
        role_similarity=_role_similarity(job.sku, probe, gallery.sets, roles),
        reference_count=found.genuine_count,
    )


def _best_first(found: ReferenceSet, embedding: Vector) -> tuple[ReferenceMatch, ...]:
    cosines = _cosines(found.embeddings, embedding)
    order = sorted(range(len(cosines)), key=lambda row: (-cosines[row], found.ids[row]))
    return tuple(ReferenceMatch(reference_id=found.ids[row], similarity=float(cosines[row])) for row in order)


def _deviation(probe: ViewProbe, found: ReferenceSet, masked: Sequence[Rectangle]) -> Deviation | None:
    """None where the probe's patches are not of the references' shape: they cannot be compared."""
    same = probe.patch_grid == found.patch_grid and probe.patches.shape == found.patches.shape[1:]
    if not same or not np.isfinite(probe.patches).all():
        return None
    return deviation(probe.patches, found.patches, found.patch_grid, found.spread, masked)


def _nearness(compared: Deviation | None, found: ReferenceSet) -> float | None:
    if compared is None or not found.typical_distance:
        return None
    return compared.mean_distance / found.typical_distance


def _masked(profile: CategoryProfile | None, view: str) -> tuple[Rectangle, ...]:
    views = profile.views if profile else ()
    return next((requirement.masked for requirement in views if requirement.view == view), ())


def _nearest_other(embedding: Vector, index: ViewIndex | None, sku: str) -> tuple[str | None, float | None]:
    if index is None or index.embeddings.shape[1] != embedding.size:
        return None, None
    best = _best_by_sku(index, embedding)
    own = bisect_left(index.skus, sku)
    if own < len(index.skus) and index.skus[own] == sku:
        best[own] = -np.inf
    row = int(best.argmax())
    return (index.skus[row], float(best[row])) if np.isfinite(best[row]) else (None, None)


def _role_similarity(
    sku: str, probe: ViewProbe, sets: Mapping[SpaceKey, ReferenceSet], roles: Sequence[str]
) -> dict[str, float]:
    found = {role: sets.get((sku, role, probe.engine.embedding_space)) for role in roles}
    return {role: float(_cosines(s.embeddings, probe.embedding).max()) for role, s in found.items() if s is not None}


def _ranked(probes: Sequence[ViewProbe], gallery: GallerySnapshot, category: str | None) -> tuple[str, ...]:
    similarities: dict[str, list[float]] = defaultdict(list)
    for (of, view, space), index in sorted(gallery.indexes.items()):
        for probe in probes:
            if (view, space) == (probe.view, probe.engine.embedding_space) and category in (None, of):
                for sku, best in zip(index.skus, _best_by_sku(index, probe.embedding), strict=True):
                    similarities[sku].append(float(best))
    means = {sku: sum(values) / len(probes) for sku, values in similarities.items()}
    return tuple(sorted(means, key=lambda sku: (-means[sku], sku))[:NEAREST_SKUS])


def _best_by_sku(index: ViewIndex, embedding: Vector) -> NDArray[np.float32]:
    best: NDArray[np.float32] = np.maximum.reduceat(_cosines(index.embeddings, embedding), index.starts)
    return best


def _best(embeddings: NDArray[np.float32], embedding: Vector) -> float | None:
    return float(_cosines(embeddings, embedding).max()) if len(embeddings) else None


def _cosines(embeddings: NDArray[np.float32], embedding: Vector) -> NDArray[np.float32]:
    """Cosines [n] of L2-normalised rows, kept within [-1, 1] against rounding."""
    return np.asarray((embeddings @ embedding).clip(-1, 1), np.float32)


def _reference_hit(probe: ViewProbe, gallery: GallerySnapshot) -> ReuseHit | None:
    exact = gallery.reference_digests.get(probe.sha256)
    if exact is not None:
        return ReuseHit(view=probe.view, kind="reference", other=exact, exact=True)
    differing = np.bitwise_count(gallery.reference_phashes ^ np.uint64(probe.phash))
    if not differing.size or differing.min() > REUSED_BITS:
        return None
    return ReuseHit(
        view=probe.view, kind="reference", other=gallery.reference_ids[int(differing.argmin())], exact=False
    )
