"""Events and maps: what is measured is what is told, in the scale that is documented."""

from __future__ import annotations

import math
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from core_goods import NOW, POLICY, VIEWS, Goods, specimen

from schemas.codec import decode_verdict, encode_verdict
from schemas.codes import ViewCode
from schemas.verdict import Grid, VerdictEvent, ViewResult
from worker.core.decision import judge
from worker.core.evidence import JobEvidence, UnusableView
from worker.core.explanation import build_event, deviation_of, lay_over

GOODS = Goods()
EVIDENCE = specimen(GOODS, GOODS.snapshot(), "s")


def event_of(evidence: JobEvidence) -> VerdictEvent:
    judgement = judge([evidence], POLICY)[0]
    return build_event(evidence, judgement, judged_at=NOW, judge_ms=1.5, total_ms=40.0, build="abc")


def cells(grid: Grid | None) -> np.ndarray:
    assert grid is not None
    return np.frombuffer(grid.cells, np.uint8).reshape(grid.height, grid.width)


def test_an_event_tells_what_was_measured() -> None:
    event = event_of(EVIDENCE)
    match, view = EVIDENCE.matches[0], event.views[0]
    assert isinstance(event.result_id, UUID) and event.revision == 1
    assert (view.view, view.sha256, view.usable) == ("logo", match.probe.sha256, True)
    assert (view.similarity, view.deviation, view.references) == (match.similarity, match.deviation, match.references)
    assert [engine.name for engine in event.provenance.engines] == ["resnet"]
    assert (event.provenance.gallery_revision, event.provenance.build) == (7, "abc")
    assert (event.timings.judge_ms, event.timings.total_ms) == (1.5, 40.0)
    assert match.deviation_map is not None and cells(event.views[0].deviation_map).shape == match.deviation_map.shape


def test_views_stand_in_the_order_of_the_job_usable_or_not() -> None:
    broken = UnusableView(view="logo", sha256="f" * 64, code=ViewCode.TRUNCATED)
    evidence = replace(EVIDENCE, matches=tuple(reversed(EVIDENCE.matches[1:])), unusable=(broken,))
    event = event_of(evidence)
    assert tuple(view.view for view in event.views) == VIEWS
    assert (event.views[0].usable, event.views[0].unusable_code) == (False, ViewCode.TRUNCATED)
    assert event.missing_views == ("logo",)


@pytest.mark.parametrize("encoding", ["avro", "json"])
def test_an_event_with_numbers_that_are_none_can_be_published(encoding: str) -> None:
    first, *rest = EVIDENCE.matches
    probe = replace(first.probe, quality={"sharpness": math.nan}, attention=np.full((2, 2), np.nan, np.float32))
    numbers = {"similarity": math.nan, "deviation": math.inf, "placing": {"placed": math.nan}}
    broken = replace(first, probe=probe, deviation_map=probe.attention, **numbers)
    event = event_of(replace(EVIDENCE, matches=(broken, *rest)))
    assert (event.views[0].similarity, event.views[0].deviation, event.views[0].quality) == (None, None, {})
    encoded = encode_verdict(event, encoding=encoding, source="test")
    assert decode_verdict(encoded.value, encoded.headers).reasons == event.reasons


def told(**maps: np.ndarray) -> ViewResult:
    """The logo's view of an event whose match has these maps."""
    first, *rest = EVIDENCE.matches
    shown = replace(first, probe=replace(first.probe, attention=maps.get("attention", first.probe.attention)))
    shown = replace(shown, deviation_map=maps.get("deviation", first.deviation_map))
    return event_of(replace(EVIDENCE, matches=(shown, *rest))).views[0]


def test_the_scale_of_maps_is_as_documented() -> None:
    deviation = np.array([[0.0, 1.0], [4.0, 100.0]], np.float32)
    assert cells(told(deviation=deviation).deviation_map).tolist() == [[0, 64], [128, 255]]
    assert cells(told(attention=np.array([[0.1, 0.4]], np.float32)).attention).tolist() == [[64, 255]]
    assert not cells(told(attention=np.zeros((3, 3), np.float32)).attention).any()


def test_a_map_tells_the_deviation_that_it_was_made_of() -> None:
    deviation = np.linspace(0, 15.9, 12, dtype=np.float32).reshape(3, 4)
    back = deviation_of(cells(told(deviation=deviation).deviation_map).astype(np.float32))
    assert np.abs(np.sqrt(back) - np.sqrt(deviation)).max() <= 2 / 255


@pytest.mark.parametrize("shape", [(64, 64), (65, 64), (200, 130), (1, 9000)])
def test_large_maps_shrink_to_4096_cells_and_keep_their_peak(shape: tuple[int, int]) -> None:
    deviation = np.ones(shape, np.float32)
    deviation[shape[0] // 2, shape[1] // 2] = 16.0
    grid = told(deviation=deviation).deviation_map
    assert grid is not None and len(grid.cells) == grid.height * grid.width <= 4096
    assert cells(grid).max() == 255 and (cells(grid) == 255).sum() == 1


def test_a_tint_is_strongest_where_the_map_is() -> None:
    photo = np.full((80, 120, 3), 100, np.uint8)
    grid = Grid(height=2, width=3, cells=bytes([255, 0, 0, 0, 0, 0]))
    laid = lay_over(photo, grid, colour=(255, 0, 0))
    assert laid.shape == photo.shape and laid.dtype == np.uint8
    assert laid[0, 0].tolist() == [193, 40, 40]
    assert laid[-1, -1].tolist() == [100, 100, 100]
    assert (np.diff(laid[0, :60, 0].astype(int)) <= 0).all()
