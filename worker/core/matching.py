"""Comparing probes with a gallery: exact search, never approximate; the NumPy twin of the device matcher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from schemas.job import AuthenticationJob
from schemas.verdict import ReferenceMatch
from worker.core.deviation import Deviation, deviation
from worker.core.evidence import ReuseHit, StoredView, Vector, ViewMatch, ViewProbe
from worker.core.gallery import GallerySnapshot, ReferenceSet, SpaceKey, ViewIndex
from worker.core.policy import Rectangle

BestOf = Callable[[Sequence[tuple[ViewIndex, Vector]]], Sequence[NDArray[np.float32]]]
NEAREST_SKUS = 5
REUSED_BITS = 4  # of 64: near enough to ask; core.grounds.copies confirms, since other specimens come as near


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchRequest:
    """A job's probes and the gallery that they are compared with."""

    job: AuthenticationJob
    probes: Sequence[ViewProbe]
    gallery: GallerySnapshot


class NumpyMatcher:
    """Implements ports.Matcher. Stateless; any thread may call it."""

    def match_many(self, requests: Sequence[MatchRequest]) -> list[list[ViewMatch]]:
        """The matches of each request; a device does them together, this one after another."""
        return [self.match(request.job, request.probes, request.gallery) for request in requests]

    def nearest_skus(
        self, matches: Sequence[ViewMatch], gallery: GallerySnapshot, *, category: str | None = None
    ) -> tuple[str, ...]:
        """As the function of that name."""
        return nearest_skus(matches, gallery, category=category)

    def match(self, job: AuthenticationJob, probes: Sequence[ViewProbe], gallery: GallerySnapshot) -> list[ViewMatch]:
        """Compare each probe with the claimed SKU's references of its view and space; one match a probe, in order."""
        roles = roles_of(job, probes, gallery)
        found = [gallery.sets.get((job.sku, probe.view, probe.engine.embedding_space)) for probe in probes]
        return [
            view_match(probe, references, _numbers(job, probe, references, gallery, roles))
            for probe, references in zip(probes, found, strict=True)
        ]


def with_stored(matches: Sequence[ViewMatch], stored: Sequence[StoredView]) -> tuple[ViewMatch, ...]:
    """What was found of patches when the views were first matched, in the matches of views that have none now."""
    kept = {view.probe.view: view for view in stored}
    return tuple(_with_stored(match, kept.get(match.probe.view)) for match in matches)


def _with_stored(match: ViewMatch, view: StoredView | None) -> ViewMatch:
    if view is None or match.similarity is None:
        return match
    return replace(
        match,
        deviation=view.deviation,
        deviation_map=view.deviation_map,
        aligned=view.aligned,
        nearness=0.0 if view.copied else None,
    )


def nearest_skus(
    matches: Sequence[ViewMatch],
    gallery: GallerySnapshot,
    *,
    category: str | None = None,
    best_of: BestOf | None = None,
) -> tuple[str, ...]:
    """At most five SKUs that the job's photographs resemble, best first.

    For a known SKU: the nearest others that matching already found. For a SKU without references: every SKU of
    `category` (None: of all) by its mean best cosine over the job's views. `best_of` (None: on the host) gives the best
    cosine of each SKU of an index with an embedding, for many pairs of them.
    """
    if any(match.similarity is not None for match in matches):
        found = [(m.other_sku_similarity or 0.0, m.other_sku) for m in matches if m.other_sku is not None]
        ranked = [sku for _, sku in sorted(found, key=lambda pair: (-pair[0], pair[1]))]
        return tuple(dict.fromkeys(ranked))[:NEAREST_SKUS]
    return _ranked([match.probe for match in matches], gallery, category, best_of or _best_of)


def reference_reuse(probes: Sequence[ViewProbe], gallery: GallerySnapshot) -> tuple[ReuseHit, ...]:
    """Views whose photograph is itself a reference, by digest or by perceptual hash."""
    hits = (_reference_hit(probe, gallery) for probe in probes)
    return tuple(hit for hit in hits if hit is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What comparing one probe comes to, wherever it is computed.

    `cosines` [n] to the claimed SKU's references of the view and space, None where it has none; `counterfeit` the best
    to its known counterfeits; `other` the nearest other SKU and its cosine; `roles` the best cosine by role; `compared`
    is None where patches cannot be compared.
    """

    cosines: NDArray[np.float32] | None = None
    counterfeit: float | None = None
    other: tuple[str, float] | None = None
    roles: Mapping[str, float] = field(default_factory=dict)
    compared: Deviation | None = None


def view_match(probe: ViewProbe, found: ReferenceSet | None, numbers: Numbers) -> ViewMatch:
    """`found` is the claimed SKU's set of the probe's view and space."""
    other, other_similarity = numbers.other or (None, None)
    if found is None or numbers.cosines is None:
        return ViewMatch(probe=probe, other_sku=other, other_sku_similarity=other_similarity)
    references = _best_first(found, numbers.cosines)
    compared = numbers.compared
    return ViewMatch(
        probe=probe,
        references=references,
        similarity=references[0].similarity,
        counterfeit_similarity=numbers.counterfeit,
        other_sku=other,
        other_sku_similarity=other_similarity,
        deviation=compared.scalar if compared else None,
        deviation_map=compared.cells if compared else None,
        aligned=compared.aligned if compared else None,
        placing=_placing(probe, found, compared),
        nearness=_nearness(compared, found),
        role_similarity=numbers.roles,
        reference_count=found.genuine_count,
    )


def roles_of(job: AuthenticationJob, probes: Sequence[ViewProbe], gallery: GallerySnapshot) -> list[str]:
    """Roles that a probe may turn out to be of: the job's own and its category's."""
    profile = gallery.policy.profiles.get(job.category)
    return sorted({probe.view for probe in probes} | ({r.view for r in profile.views} if profile else set()))


def masked_of(job: AuthenticationJob, view: str, gallery: GallerySnapshot) -> tuple[Rectangle, ...]:
    """What of a view the job's category leaves out of the deviation."""
    profile = gallery.policy.profiles.get(job.category)
    views = profile.views if profile else ()
    return next((requirement.masked for requirement in views if requirement.view == view), ())


def same_patches(probe: ViewProbe, found: ReferenceSet) -> bool:
    """Patches of another shape than the references' cannot be compared."""
    return probe.patch_grid == found.patch_grid and probe.patches.shape == found.patches.shape[1:]


def _numbers(
    job: AuthenticationJob, probe: ViewProbe, found: ReferenceSet | None, gallery: GallerySnapshot, roles: Sequence[str]
) -> Numbers:
    space = probe.engine.embedding_space
    other = nearest_other(probe.embedding, gallery.indexes.get((job.category, probe.view, space)), job.sku)
    if found is None:
        return Numbers(other=other)
    return Numbers(
        cosines=cosines_with(found.embeddings, probe.embedding),
        counterfeit=best_cosine(found.counterfeits, probe.embedding),
        other=other,
        roles=role_similarity_of(job.sku, probe, gallery.sets, roles),
        compared=deviation_of(probe, found, masked_of(job, probe.view, gallery)),
    )


def _best_first(found: ReferenceSet, cosines: NDArray[np.float32]) -> tuple[ReferenceMatch, ...]:
    order = sorted(zip((-cosines).tolist(), found.ids, strict=True))
    return tuple(ReferenceMatch(reference_id=reference, similarity=-negated) for negated, reference in order)


def deviation_of(probe: ViewProbe, found: ReferenceSet, masked: Sequence[Rectangle]) -> Deviation | None:
    if not same_patches(probe, found) or not np.isfinite(probe.patches).all():
        return None
    return deviation(probe.patches, found.patches, found.patch_grid, found.spread, masked)


def _placing(probe: ViewProbe, found: ReferenceSet, compared: Deviation | None) -> dict[str, float]:
    if compared is None:
        return {}
    placing = {"placed": compared.placed, "off_frame": compared.off_frame}
    if len(found.phashes):
        placing["hash_bits"] = float(np.bitwise_count(found.phashes ^ np.uint64(probe.phash)).min())
    return placing


def _nearness(compared: Deviation | None, found: ReferenceSet) -> float | None:
    if compared is None or not found.typical_distance:
        return None
    return compared.mean_distance / found.typical_distance


def nearest_other(embedding: Vector, index: ViewIndex | None, sku: str) -> tuple[str, float] | None:
    if index is None or index.embeddings.shape[1] != embedding.size:
        return None
    best = best_by_sku(index, embedding)
    own = index.position(sku)
    if own is not None:
        best[own] = -np.inf
    row = int(best.argmax())
    return (index.skus[row], float(best[row])) if np.isfinite(best[row]) else None


def role_similarity_of(
    sku: str, probe: ViewProbe, sets: Mapping[SpaceKey, ReferenceSet], roles: Sequence[str]
) -> dict[str, float]:
    found = {role: sets.get((sku, role, probe.engine.embedding_space)) for role in roles}
    return {
        role: float(cosines_with(s.embeddings, probe.embedding).max()) for role, s in found.items() if s is not None
    }


def _ranked(
    probes: Sequence[ViewProbe], gallery: GallerySnapshot, category: str | None, best_of: BestOf
) -> tuple[str, ...]:
    pairs = [
        (index, probe.embedding)
        for (of, view, space), index in sorted(gallery.indexes.items(), key=lambda item: item[0])
        for probe in probes
        if (view, space) == (probe.view, probe.engine.embedding_space) and category in (None, of)
    ]
    similarities: dict[str, list[float]] = defaultdict(list)
    for (index, _), bests in zip(pairs, best_of(pairs), strict=True):
        for sku, best in zip(index.skus, bests.tolist(), strict=True):
            similarities[sku].append(best)
    means = {sku: sum(values) / len(probes) for sku, values in similarities.items()}
    return tuple(sorted(means, key=lambda sku: (-means[sku], sku))[:NEAREST_SKUS])


def _best_of(pairs: Sequence[tuple[ViewIndex, Vector]]) -> list[NDArray[np.float32]]:
    return [best_by_sku(index, embedding) for index, embedding in pairs]


def best_by_sku(index: ViewIndex, embedding: Vector) -> NDArray[np.float32]:
    best: NDArray[np.float32] = np.maximum.reduceat(cosines_with(index.embeddings, embedding), index.starts)
    return best


def best_cosine(embeddings: NDArray[np.float32], embedding: Vector) -> float | None:
    return float(cosines_with(embeddings, embedding).max()) if len(embeddings) else None


def cosines_with(embeddings: NDArray[np.float32], embedding: Vector) -> NDArray[np.float32]:
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
