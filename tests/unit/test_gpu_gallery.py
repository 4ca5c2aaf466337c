"""The host's side of the gallery on a GPU: what may lie there, what leaves first, and why a search misses nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from core_goods import POLICY, Goods, unit

from engines.gpu.memory import Kept, allowance
from engines.gpu.search import GROUP, chosen_groups, score_bound
from worker.adapters.device_gallery import cards_of, sorted_sets
from worker.core.enrolment import build_snapshot

GPU_FOLDER = Path(__file__).resolve().parents[2] / "engines" / "gpu"
GOODS = Goods()


@dataclass
class Piece:
    size_bytes: int
    freed: list[str] = field(default_factory=list)
    name: str = ""

    def free(self) -> None:
        self.freed.append(self.name)


class Store:
    """A store of 100 bytes, and what left it."""

    def __init__(self) -> None:
        self.kept: Kept[str, Piece] = Kept(100)
        self.freed: list[str] = []

    def add(self, name: str, size: int, *held: str) -> Piece | None:
        return self.kept.add(name, size, lambda: Piece(size, self.freed, name), set(held))


def test_what_was_used_longest_ago_leaves_first() -> None:
    store = Store()
    for name in "abc":
        store.add(name, 30)
    assert store.kept.find("a") is not None
    assert store.add("d", 40) is not None
    assert store.freed == ["b"]
    assert store.kept.used_bytes == 100
    assert store.kept.find("b") is None


def test_what_is_held_stays_and_what_does_not_fit_beside_it_is_not_made() -> None:
    store = Store()
    store.add("a", 60)
    store.add("b", 30)
    assert store.add("c", 50, "a") is None
    assert store.freed == [], "nothing leaves in vain"
    assert store.add("c", 40, "a") is not None
    assert store.freed == ["b"]
    assert store.add("d", 101) is None


def test_what_is_not_asked_for_any_more_gives_its_memory_back() -> None:
    store = Store()
    for name in "abc":
        store.add(name, 20)
    store.kept.drop(lambda name: name != "b")
    assert (store.freed, store.kept.used_bytes) == (["a", "c"], 20)
    store.kept.close()
    assert (store.freed, store.kept.used_bytes) == (["a", "c", "b"], 0)


@pytest.mark.parametrize(("free", "total", "may"), [(100, 100, 80), (30, 100, 10), (20, 100, 0), (5, 100, 0)])
def test_a_fifth_of_the_gpu_stays_free(free: int, total: int, may: int) -> None:
    assert allowance(free, total) == may


def halved(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as half precision has them, and of each (lost, left)."""
    left = rows.astype(np.float16).astype(np.float64)
    return left, np.stack([np.linalg.norm(rows - left, axis=1), np.linalg.norm(left, axis=1)], axis=1)


def near_ties(seed: int, rows: int = 64 * GROUP, dims: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A gallery in which many rows lie within half precision's rounding of each other, and probes near to them."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(8, dims)))
    gallery = unit(centres[rng.integers(0, 8, rows)] + 1e-4 * rng.normal(size=(rows, dims)))
    return gallery.astype(np.float64), unit(centres + 0.02 * rng.normal(size=centres.shape)).astype(np.float64)


def missed(seed: int, wanted: int, *, widened: float) -> int:
    """How many of the nearest rows lie in no chosen group, with the bound times `widened`."""
    gallery, probes = near_ties(seed)
    (half_gallery, lengths), (half_probes, probe_lengths) = halved(gallery), halved(probes)
    rough = (half_probes.astype(np.float32) @ half_gallery.astype(np.float32).T).reshape(len(probes), -1, GROUP)
    nearest = np.argsort(-(probes @ gallery.T), axis=1, kind="stable")[:, :wanted]
    count = 0
    for number, largest in enumerate(rough.max(axis=2)):
        bound = widened * score_bound(tuple(probe_lengths[number]), tuple(lengths.max(axis=0)), gallery.shape[1])
        count += len(set(nearest[number] // GROUP) - set(chosen_groups(largest, bound, wanted).tolist()))
    return count


@pytest.mark.parametrize("wanted", [1, 5, 100])
def test_no_group_that_holds_one_of_the_nearest_rows_is_left_out(wanted: int) -> None:
    assert sum(missed(seed, wanted, widened=1.0) for seed in range(5)) == 0


def test_without_the_bound_rows_would_be_missed() -> None:
    assert sum(missed(seed, 5, widened=0.0) for seed in range(5)) > 0


def test_the_bound_holds_and_is_worth_having() -> None:
    gallery, probes = near_ties(9)
    (half_gallery, lengths), (half_probes, probe_lengths) = halved(gallery), halved(probes)
    rough = half_probes.astype(np.float32) @ half_gallery.astype(np.float32).T
    off = np.abs(rough - probes @ gallery.T).max(axis=1)
    bounds = [score_bound(tuple(of), tuple(lengths.max(axis=0)), gallery.shape[1]) for of in probe_lengths]
    assert (off <= bounds).all()
    assert max(bounds) < 1e-3


def test_a_skus_rows_stand_side_by_side_by_role() -> None:
    fake = GOODS.reference("a", "logo", 9, genuine=False)
    snapshot = build_snapshot("acme", 1, [*GOODS.references(("b", "a"), count=3), fake], POLICY)
    sets = [(sku, view, found) for (sku, view, _), found in sorted_sets(snapshot)]
    cards = cards_of(sets)
    rows = np.concatenate([part for _, _, found in sets for part in (found.embeddings, found.counterfeits)])
    for sku, view, found in sets:
        card = cards[sku]
        first, genuine, fakes = card.roles[view]
        at = card.first + first
        assert np.array_equal(rows[at : at + genuine], found.embeddings)
        assert np.array_equal(rows[at + genuine : at + genuine + fakes], found.counterfeits)
        cosines = rows[card.first : card.first + card.count] @ found.embeddings[0]
        assert card.best_by_role(cosines)[view] == cosines[first : first + genuine].max()
    assert (cards["a"].count, cards["b"].count) == (10, 9)
    assert cards["a"].best_by_role(np.arange(10, dtype=np.float32)).keys() == {"lining", "logo", "stitching"}


def test_an_index_tells_whose_a_row_is() -> None:
    (index, *_) = build_snapshot("acme", 1, GOODS.references(("b", "d"), count=3), POLICY).indexes.values()
    assert [index.rows_of(sku) for sku in ("a", "b", "c", "d", "e")] == [(0, 0), (0, 3), (0, 0), (3, 6), (0, 0)]
    assert [index.sku_of(row) for row in range(6)] == ["b"] * 3 + ["d"] * 3
    assert index.numbers().tolist() == [0, 0, 0, 1, 1, 1]


def test_what_a_revision_does_not_change_stays_the_very_same() -> None:
    references = GOODS.references()
    first = build_snapshot("acme", 1, references, POLICY)
    same = build_snapshot("acme", 2, references, POLICY, previous=first)
    assert all(same.sets[key] is found for key, found in first.sets.items())
    assert all(same.indexes[key] is index for key, index in first.indexes.items())
    grown = build_snapshot("acme", 3, [*references, GOODS.reference("a", "logo", 9)], POLICY, previous=first)
    changed = {key[:2] for key, found in first.sets.items() if grown.sets[key] is not found}
    assert changed == {("a", "logo")}
    assert {key[1] for key, index in first.indexes.items() if grown.indexes[key] is not index} == {"logo"}


def test_the_kernels_were_compiled_from_the_files_beside_them() -> None:
    for line in (GPU_FOLDER / "gallery.sha256").read_text().splitlines():
        digest, name = line.split()
        found = hashlib.sha256((GPU_FOLDER / name).read_bytes()).hexdigest()
        assert found == digest, f"{name} changed: run engines/gpu/build.sh"
