"""The device matcher beside its NumPy twin: the same verdict's worth of numbers, whatever lies where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from core_goods import POLICY, VIEWS, Goods, job_of, unit

from engines.gpu.cosines import CosineKernels, Looked
from engines.gpu.deviating import Comparison, DeviationKernels, load_patch_set
from engines.gpu.device import Device
from engines.gpu.search import NearestKernels, load_table
from schemas.job import AuthenticationJob
from worker.adapters.device_matcher import DeviceMatcher, deviations_of
from worker.core.deviation import deviation, mask_of, spread_of
from worker.core.enrolment import build_snapshot
from worker.core.evidence import ViewMatch, ViewProbe
from worker.core.gallery import GallerySnapshot
from worker.core.matching import MatchRequest, NumpyMatcher

pytestmark = pytest.mark.gpu
GOODS = Goods()
SKUS = ("a", "b", "c")
FAKE = GOODS.reference("a", "logo", 9, genuine=False)
GALLERY = build_snapshot("acme", 1, [*GOODS.references(SKUS), FAKE], POLICY)


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    device = Device()
    yield device
    device.close()


@pytest.fixture(scope="module")
def matcher(device: Device) -> Iterator[DeviceMatcher]:
    matcher = DeviceMatcher(device, limit_bytes=64 << 20)
    yield matcher
    matcher.close()


def twin(job: AuthenticationJob, probes: Sequence[ViewProbe], gallery: GallerySnapshot = GALLERY) -> list[ViewMatch]:
    return NumpyMatcher().match(job, probes, gallery)


def assert_alike(found: Sequence[ViewMatch], expected: Sequence[ViewMatch]) -> None:
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert [r.reference_id for r in got.references] == [r.reference_id for r in want.references]
        assert (got.other_sku, got.aligned, got.reference_count) == (want.other_sku, want.aligned, want.reference_count)
        assert got.role_similarity.keys() == want.role_similarity.keys()
        numbers = ("similarity", "counterfeit_similarity", "other_sku_similarity", "deviation", "nearness")
        for name in numbers:
            got_value, want_value = getattr(got, name), getattr(want, name)
            assert (got_value is None) == (want_value is None), name
            assert got_value is None or abs(got_value - want_value) < 1e-4, name
        for role, value in want.role_similarity.items():
            assert abs(got.role_similarity[role] - value) < 1e-5
        assert_framed_alike(got, want)
        assert (got.deviation_map is None) == (want.deviation_map is None)
        if want.deviation_map is not None and got.deviation_map is not None:
            assert got.deviation_map.shape == want.deviation_map.shape
            assert np.abs(got.deviation_map - want.deviation_map).max() < 1e-3


def assert_framed_alike(got: ViewMatch, want: ViewMatch) -> None:
    """Where two cells are equally near but for rounding, another may be the nearest: two of the 64 coarse ones may
    differ. Fits to the same cells have differed by 5e-6 of what is allowed."""
    assert got.placing.keys() == want.placing.keys()
    tolerances = {"placed": 2 / 64 + 1e-9, "off_frame": 1e-2, "hash_bits": 0}
    for name, value in want.placing.items():
        assert abs(got.placing[name] - value) <= tolerances[name], name


def nearer(probe: ViewProbe) -> ViewProbe:
    """As if the camera had come nearer: a quarter of the cells, each seen twice."""
    cells = probe.patches.reshape(*probe.patch_grid, -1)[7:15, 7:15].repeat(2, axis=0).repeat(2, axis=1)
    return replace(probe, patches=cells.reshape(probe.patches.shape))


def specimens(count: int) -> list[tuple[AuthenticationJob, list[ViewProbe]]]:
    """Jobs that claim a known SKU with its photographs, forged ones or another SKU's, and one of an unknown SKU."""
    made = []
    for number in range(count):
        of, forged = SKUS[number % 3], 2.0 * (number % 2)
        probes = [GOODS.probe(of, view, f"s{number}", forged=forged) for view in VIEWS]
        claimed = "unknown" if number == 3 else SKUS[number % 2]
        made.append((job_of(probes, sku=claimed, job_id=f"job-{number}"), probes))
    return made


def test_many_jobs_at_once_are_matched_as_the_twin_matches_each(matcher: DeviceMatcher) -> None:
    jobs = specimens(8)
    found = matcher.match_many([MatchRequest(job=job, probes=probes, gallery=GALLERY) for job, probes in jobs])
    for (job, probes), got in zip(jobs, found, strict=True):
        assert_alike(got, twin(job, probes))


@pytest.mark.parametrize("limit_bytes", [0, 3_000, 40_000])
def test_what_finds_no_room_is_compared_on_the_host(device: Device, limit_bytes: int) -> None:
    small = DeviceMatcher(device, limit_bytes=limit_bytes)
    for job, probes in specimens(4):
        assert_alike(small.match(job, probes, GALLERY), twin(job, probes))
        assert small.used_bytes <= limit_bytes
    small.close()
    assert small.used_bytes == 0


def test_a_gallery_that_is_searched_gives_what_one_that_is_read_gives(device: Device) -> None:
    searching = DeviceMatcher(device, limit_bytes=64 << 20, search_from=1)
    for job, probes in specimens(4):
        assert_alike(searching.match(job, probes, GALLERY), twin(job, probes))
    searching.close()


def test_odd_probes_are_answered_as_by_the_twin(matcher: DeviceMatcher) -> None:
    probe = GOODS.probe("a", "logo", "s")
    odd = [
        replace(probe, patches=probe.patches[:64], patch_grid=(8, 8)),
        replace(probe, patches=np.full_like(probe.patches, np.nan)),
        replace(probe, patches=np.where(np.arange(256)[:, None] == 7, np.inf, probe.patches).astype(np.float32)),
        replace(probe, engine=replace(probe.engine, embedding_space="another")),
        nearer(probe),
    ]
    for one in odd:
        job = job_of([one])
        assert_alike(matcher.match(job, [one], GALLERY), twin(job, [one]))
    assert twin(job_of(odd[-1:]), odd[-1:])[0].placing["off_frame"] > 1


def test_a_new_revision_is_compared_with_and_the_old_one_let_go(device: Device) -> None:
    matcher = DeviceMatcher(device, limit_bytes=64 << 20)
    job, probes = specimens(1)[0]
    matcher.match(job, probes, GALLERY)
    first = matcher.used_bytes
    references = [*GOODS.references(SKUS, count=5), FAKE]
    grown = build_snapshot("acme", 2, references, POLICY, previous=GALLERY)
    assert_alike(matcher.match(job, probes, grown), twin(job, probes, grown))
    same = build_snapshot("acme", 3, references, POLICY, previous=grown)
    assert_alike(matcher.match(job, probes, same), twin(job, probes, same))
    assert first < matcher.used_bytes < 2 * first
    both = [MatchRequest(job=job, probes=probes, gallery=gallery) for gallery in (GALLERY, same)]
    old, new = matcher.match_many(both)
    assert_alike(old, twin(job, probes))
    assert_alike(new, twin(job, probes, same))
    matcher.close()


def test_an_unknown_sku_gets_the_nearest_ones(matcher: DeviceMatcher) -> None:
    probes = [GOODS.probe("c", view, "s") for view in VIEWS]
    matches = matcher.match(job_of(probes, sku="unknown"), probes, GALLERY)
    for category in ("bag", None, "watch"):
        want = NumpyMatcher().nearest_skus(matches, GALLERY, category=category)
        assert matcher.nearest_skus(matches, GALLERY, category=category) == want


@pytest.mark.parametrize(("grid", "depth", "count"), [((28, 28), 128, 5), ((9, 12), 16, 3), ((17, 23), 48, 2)])
@pytest.mark.parametrize("kind", ["same", "alien", "one alien reference", "all masked"])
def test_deviations_are_the_twins(device: Device, grid: tuple[int, int], depth: int, count: int, kind: str) -> None:
    rng = np.random.default_rng(5)
    field = _smooth(rng.normal(size=(grid[0] + 8, grid[1] + 8, depth)))
    other = _smooth(rng.normal(size=field.shape))
    references = np.stack([_int8(_seen(rng, field, grid)) for _ in range(count)])
    if kind == "one alien reference":
        references[0] = _int8(_seen(rng, other, grid))
    probe = _seen(rng, other if kind == "alien" else field, grid)
    spread = spread_of(references, grid).cells
    rectangles = [(0.0, 0.0, 1.0, 1.0)] if kind == "all masked" else [(0.1, 0.1, 0.5, 0.6)]
    want = deviation(probe, references, grid, spread, rectangles)
    kept = ~mask_of(grid, rectangles)

    def run():
        held = load_patch_set(references, spread)
        one = Comparison(probe=probe, references=held, kept=kept)
        answers = DeviationKernels(device).run([one] * 3)
        held.free()
        return answers

    for got in device.run(run):
        assert (got.aligned, got.finite) == (want.aligned, True)
        assert np.abs(got.cells - want.cells).max() < 1e-3
        assert abs(got.scalar - want.scalar) < 1e-4
        assert abs(got.mean_distance - want.mean_distance) < 1e-5
        (framed,) = [one for one in deviations_of([got]) if one]
        assert abs(framed.placed - want.placed) < 0.02  # a cell or two of 108 and more, were there ties
        assert abs(framed.off_frame - want.off_frame) < 1e-2


@pytest.mark.parametrize(
    ("probes", "rows", "dims", "wanted"), [(1, 1, 32, 1), (5, 1000, 100, 4), (70, 20_000, 192, 10)]
)
def test_a_search_misses_nothing(device: Device, probes: int, rows: int, dims: int, wanted: int) -> None:
    """Near ties everywhere: every row has a hundred others within the rounding of half precision."""
    rng = np.random.default_rng(rows)
    centres = unit(rng.normal(size=(-(-rows // 100), dims)))
    gallery = unit(centres[np.arange(rows) // 100] + 1e-4 * rng.normal(size=(rows, dims)))
    asked = unit(gallery[rng.integers(0, rows, probes)] + 0.01 * rng.normal(size=(probes, dims)))
    own = [(int(at), int(at) + number % 70) for number, at in enumerate(rng.integers(0, rows, probes))]
    scores = asked.astype(np.float64) @ gallery.astype(np.float64).T
    for number, (first, end) in enumerate(own):
        scores[number, first:end] = -np.inf
    want = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]

    def run():
        kernels, table = NearestKernels(device), load_table(device, gallery, searched=True)
        found = kernels.search(table, asked, own, wanted)
        table.free()
        return found

    found = device.run(run)
    assert found.known.all()
    there = np.isfinite(np.take_along_axis(scores, want, axis=1))
    assert np.array_equal(found.rows[there], want[there])
    assert (found.rows[~there] == -1).all()
    assert np.allclose(found.scores[there], np.take_along_axis(scores, want, axis=1)[there], atol=1e-12, rtol=0)


def test_too_many_rows_as_near_as_the_nearest_are_said_to_be_unknown(device: Device) -> None:
    gallery = unit(np.ones((20_000, 32)))

    def run():
        kernels, table = NearestKernels(device), load_table(device, gallery, searched=True)
        looked = Looked(embedding=gallery[0], table=table, first=0, count=len(gallery), own=(0, 3))
        return kernels.search(table, gallery[:2], [(0, 0), (0, 5)], 1), CosineKernels(device).nearest([looked])

    found, read = device.run(run)
    assert not found.known.any()
    assert read[0] is not None and read[0][0] == 3


def _seen(rng: np.random.Generator, field: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    down, over = rng.integers(2, 6, 2)
    cells = field[down : down + grid[0], over : over + grid[1]]
    return unit((cells + 0.3 * rng.normal(size=cells.shape)).reshape(-1, field.shape[-1]))


def _smooth(field: np.ndarray) -> np.ndarray:
    for axis in (0, 1, 0, 1):
        field = (np.roll(field, 1, axis) + field + np.roll(field, -1, axis)) / 3
    return field / field.std()


def _int8(patches: np.ndarray) -> np.ndarray:
    return np.rint(patches * 127).astype(np.int8)
