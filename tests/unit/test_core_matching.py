"""Matching and snapshots: exact answers against plain loops, and what is said where there is nothing to compare."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from core_goods import GRID, POLICY, SPACE, VIEWS, Goods, evidence_of, job_of, unit

from worker.core import deviation
from worker.core.deviation import Int8s
from worker.core.enrolment import build_snapshot, medoids
from worker.core.matching import NumpyMatcher, nearest_skus, reference_reuse

GOODS = Goods()
SKUS = ("a", "b", "c")
GALLERY = GOODS.snapshot(skus=SKUS)


def match(probe, gallery=GALLERY, sku="a"):
    return NumpyMatcher().match(job_of([probe], sku=sku), [probe], gallery)[0]


def test_similarities_are_exact() -> None:
    probe = GOODS.probe("a", "logo", "s")
    found = match(probe)
    references = GOODS.references(SKUS)
    cosine = {r.reference_id: float(r.embedding @ probe.embedding) for r in references if r.view == "logo"}
    own = {name: value for name, value in cosine.items() if name.startswith("a/")}
    assert [r.reference_id for r in found.references] == sorted(own, key=lambda name: -own[name])
    assert np.isclose(found.similarity, max(own.values()), atol=1e-6)
    other = max((name for name in cosine if not name.startswith("a/")), key=cosine.__getitem__)
    assert (found.other_sku, found.other_sku_similarity) == (other[0], np.float32(found.other_sku_similarity))
    assert np.isclose(found.other_sku_similarity, cosine[other], atol=1e-6)
    assert found.reference_count == 4
    assert found.counterfeit_similarity is None


def test_known_counterfeits_are_compared_and_are_no_references() -> None:
    fake = GOODS.reference("a", "logo", 9, genuine=False)
    gallery = build_snapshot("acme", 1, [*GOODS.references(SKUS), fake], POLICY)
    probe = replace(GOODS.probe("a", "logo", "s"), embedding=fake.embedding)
    found = match(probe, gallery)
    assert np.isclose(found.counterfeit_similarity, 1.0, atol=1e-6)
    assert fake.reference_id not in [r.reference_id for r in found.references]


def test_a_view_in_the_wrong_role_is_nearer_to_the_other_role() -> None:
    probe = replace(GOODS.probe("a", "lining", "s"), view="logo")
    roles = match(probe).role_similarity
    assert max(roles, key=roles.__getitem__) == "lining"
    assert set(roles) == set(VIEWS)


def test_spaces_are_never_compared() -> None:
    probe = GOODS.probe("a", "logo", "s")
    foreign = replace(probe, engine=replace(probe.engine, embedding_space="space-2"))
    found = match(foreign)
    assert (found.similarity, found.deviation, found.other_sku, found.role_similarity) == (None, None, None, {})


def test_patches_of_another_shape_give_no_deviation() -> None:
    probe = GOODS.probe("a", "logo", "s")
    odd = replace(probe, patches=probe.patches[: 8 * 8], patch_grid=(8, 8))
    assert match(odd).deviation is None
    assert match(odd).similarity is not None
    broken = replace(probe, patches=np.full_like(probe.patches, np.nan))
    assert match(broken).deviation is None


def test_an_unknown_sku_gets_the_nearest_ones() -> None:
    probes = [GOODS.probe("c", view, "s") for view in VIEWS]
    evidence = evidence_of(probes, GALLERY, sku="unknown")
    assert all(m.similarity is None and m.other_sku == "c" for m in evidence.matches)
    assert evidence.nearest_skus[0] == "c"
    assert set(evidence.nearest_skus) == set(SKUS)
    assert nearest_skus(evidence.matches, GALLERY, category="watch") == ()
    assert nearest_skus(evidence.matches, GALLERY, category="bag") == evidence.nearest_skus


def test_a_snapshot_does_not_depend_on_the_order_of_references() -> None:
    references = GOODS.references(SKUS, count=7)
    shuffled = random.Random(1).sample(references, len(references))
    first, second = (build_snapshot("acme", 1, refs, POLICY) for refs in (references, shuffled))
    assert first.sets.keys() == second.sets.keys()
    for key, found in first.sets.items():
        assert found.ids == second.sets[key].ids
        assert len(found.ids) == 5 and found.genuine_count == 7
        assert np.array_equal(found.spread, second.sets[key].spread)
    index = first.indexes["bag", "logo", SPACE]
    assert index.skus == SKUS and index.starts.tolist() == [0, 7, 14]


def test_a_new_revision_keeps_the_spread_of_what_did_not_change() -> None:
    more = [*GOODS.references(SKUS), GOODS.reference("a", "logo", 8)]
    newer = build_snapshot("acme", 8, more, POLICY, previous=GALLERY)
    assert newer.sets["b", "logo", SPACE].spread is GALLERY.sets["b", "logo", SPACE].spread
    assert newer.sets["a", "logo", SPACE].spread is not GALLERY.sets["a", "logo", SPACE].spread


def test_a_spread_is_measured_when_somebody_asks_for_it_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    real = deviation.spread_of

    def counted(references: Int8s, grid: tuple[int, int]) -> deviation.Spread:
        measured.append(len(references))
        return real(references, grid)

    monkeypatch.setattr(deviation, "spread_of", counted)
    made = build_snapshot("acme", 1, GOODS.references(SKUS), POLICY).sets["a", "logo", SPACE]
    assert measured == []
    assert made.typical_distance is not None
    assert np.array_equal(made.spread, real(made.patches, GRID).cells)
    assert measured == [len(made.ids)]


def test_medoids_cover_each_cluster() -> None:
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(3, 16)))
    rows = unit(np.repeat(centres, 10, axis=0) + 0.02 * rng.normal(size=(30, 16)))
    assert sorted(row // 10 for row in medoids(rows, 3)) == [0, 1, 2]
    assert len(medoids(rows[:2], 5)) == 2


def test_a_photograph_that_is_a_reference_is_seen() -> None:
    reference = GOODS.references(SKUS)[0]
    fresh = GOODS.probe("a", "lining", "s")
    same = replace(GOODS.probe("a", "logo", "s"), sha256=reference.sha256)
    copied = replace(GOODS.probe("a", "logo", "s"), phash=reference.phash)
    alike = replace(copied, phash=reference.phash ^ 0b111111)
    assert reference_reuse([fresh, alike], GALLERY) == ()
    (exact,) = reference_reuse([fresh, same], GALLERY)
    assert (exact.view, exact.other, exact.exact) == ("logo", reference.reference_id, True)
    (copy,) = reference_reuse([copied], GALLERY)
    assert (copy.other, copy.exact) == (reference.reference_id, False)
    assert reference_reuse([copied], build_snapshot("acme", 1, [], POLICY)) == ()


def test_grid_of_the_synthetic_goods_is_what_the_sets_hold() -> None:
    found = GALLERY.sets["a", "logo", SPACE]
    assert found.patch_grid == GRID and found.patches.dtype == np.int8
