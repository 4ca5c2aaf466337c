"""From enrolled references to a gallery snapshot: medoids, spread maps and the indexes that matching needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.core.deviation import SpreadLater
from worker.core.gallery import GallerySnapshot, Reference, ReferenceSet, SpaceKey, ViewIndex
from worker.core.policy import Policy

Floats = NDArray[np.float32]


def build_snapshot(
    tenant: str,
    revision: int,
    references: Sequence[Reference],
    policy: Policy,
    *,
    max_medoids: int = 5,
    previous: GallerySnapshot | None = None,
) -> GallerySnapshot:
    """Arrange the active `references` of a tenant, in any order, for matching.

    Sets whose references are those of `previous` are taken from it, so that a revision costs what it changed. A set
    whose references disagree in their shapes raises ValueError.
    """
    ordered = sorted(references, key=lambda reference: reference.reference_id)
    known = previous.sets if previous else {}
    return GallerySnapshot(
        tenant=tenant,
        revision=revision,
        sets=_sets(ordered, known, max_medoids),
        indexes=_indexes(ordered, previous.indexes if previous else {}),
        sku_category={reference.sku: reference.category for reference in ordered},
        reference_digests={reference.sha256: reference.reference_id for reference in ordered},
        reference_phashes=np.array([reference.phash for reference in ordered], np.uint64),
        reference_ids=tuple(reference.reference_id for reference in ordered),
        policy=policy,
    )


def medoids(embeddings: Floats, count: int) -> list[int]:
    """Rows of at most `count` medoids of `embeddings` [n, D] by cosine, greedily, best first.

    Each step takes the row that most raises the sum over all rows of their similarity to the nearest taken one.
    """
    similarity = embeddings @ embeddings.T
    covered = np.full(len(embeddings), -1, np.float32)
    chosen: list[int] = []
    for _ in range(min(count, len(embeddings))):
        gain = np.maximum(similarity, covered).sum(axis=1, dtype=np.float64)
        gain[chosen] = -np.inf
        chosen.append(int(gain.argmax()))
        covered = np.maximum(covered, similarity[chosen[-1]])
    return chosen


def _sets(
    references: Iterable[Reference], known: Mapping[SpaceKey, ReferenceSet], max_medoids: int
) -> dict[SpaceKey, ReferenceSet]:
    groups: dict[SpaceKey, list[Reference]] = defaultdict(list)
    for reference in references:
        groups[reference.sku, reference.view, reference.space].append(reference)
    return {
        key: _reference_set(group, known.get(key), max_medoids)
        for key, group in groups.items()
        if any(reference.genuine for reference in group)
    }


def _reference_set(group: Sequence[Reference], known: ReferenceSet | None, max_medoids: int) -> ReferenceSet:
    genuine = [reference for reference in group if reference.genuine]
    fakes = [reference for reference in group if not reference.genuine]
    embeddings = np.stack([reference.embedding for reference in genuine])
    chosen = [genuine[row] for row in medoids(embeddings, max_medoids)]
    ids = tuple(reference.reference_id for reference in chosen)
    patches = np.stack([reference.patches for reference in chosen])
    fake_ids = tuple(reference.reference_id for reference in fakes)
    if known and (known.ids, known.counterfeit_ids, known.genuine_count) == (ids, fake_ids, len(genuine)):
        return known  # the very same: what a device keeps of it stays good
    later = known.measured if known and known.ids == ids else SpreadLater(patches, chosen[0].patch_grid)
    return ReferenceSet(
        ids=ids,
        embeddings=np.stack([reference.embedding for reference in chosen]),
        patches=patches,
        patch_grid=chosen[0].patch_grid,
        measured=later,
        counterfeit_ids=fake_ids,
        counterfeits=np.stack([fake.embedding for fake in fakes]) if fakes else embeddings[:0],
        genuine_count=len(genuine),
        phashes=np.array([reference.phash for reference in chosen], np.uint64),
    )


def _indexes(references: Iterable[Reference], known: Mapping[SpaceKey, ViewIndex]) -> dict[SpaceKey, ViewIndex]:
    groups: dict[SpaceKey, list[Reference]] = defaultdict(list)
    for reference in references:
        if reference.genuine:
            groups[reference.category, reference.view, reference.space].append(reference)
    return {key: _index(group, known.get(key)) for key, group in groups.items()}


def _index(group: Sequence[Reference], known: ViewIndex | None) -> ViewIndex:
    ordered = sorted(group, key=lambda reference: (reference.sku, reference.reference_id))
    skus, starts = np.unique([reference.sku for reference in ordered], return_index=True)
    made = ViewIndex(
        skus=tuple(str(sku) for sku in skus),
        starts=starts.astype(np.intp),
        embeddings=np.stack([reference.embedding for reference in ordered]),
    )
    return known if known and made.same_as(known) else made
