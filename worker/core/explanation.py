"""From a judgement to the event that is published, with its maps, and maps laid over photographs.

Scaling of the 8-bit maps: attention is divided by its largest cell; a deviation cell is 255 * sqrt(deviation / 16),
clipped, so that 64 is typical of the references, 128 four times and 255 sixteen times that or more. The root keeps
peaks apart that a line would clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from schemas.job import JobView
from schemas.verdict import EngineUse, Grid, Provenance, Timings, VerdictEvent, ViewResult, result_id
from worker.core.decision import Judgement
from worker.core.evidence import JobEvidence, Map, UnusableView, ViewMatch

Scale = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Pixels = NDArray[np.uint8]  # [H, W, 3] RGB
Colour = tuple[int, int, int]

MAX_CELLS = 4096
DEVIATION_FULL_SCALE = 16.0
TINT = 0.6


def build_event(
    evidence: JobEvidence, judgement: Judgement, *, judged_at: datetime, judge_ms: float, total_ms: float, build: str
) -> VerdictEvent:
    """The answer of the revision that the job asks for. Values that are not finite are left out."""
    job = evidence.job
    return VerdictEvent(
        result_id=result_id(job.tenant, job.job_id, job.revision),
        revision=job.revision,
        job_id=job.job_id,
        tenant=job.tenant,
        sku=job.sku,
        category=job.category,
        verdict=judgement.verdict,
        confidence=judgement.confidence,
        p_genuine=judgement.p_genuine,
        reasons=judgement.reasons,
        views=_views(evidence, judgement),
        missing_views=judgement.missing_views,
        nearest_skus=evidence.nearest_skus,
        provenance=_provenance(evidence, judgement, build),
        timings=_timings(evidence, judge_ms, total_ms),
        judged_at=judged_at,
        payload_digest=job.payload_digest,
    )


def deviation_of(cells: NDArray[np.float32]) -> Map:
    """The deviation [h, w] that the `cells` of a map tell, 0 to 255: the inverse of the scaling above."""
    return np.asarray(np.square(cells / np.float32(255)) * np.float32(DEVIATION_FULL_SCALE), np.float32)


def lay_over(photo: Pixels, grid: Grid, *, colour: Colour) -> Pixels:
    """Tint `photo` by `grid`, interpolated between the cells' centres; the strongest cell takes 60 % of `colour`."""
    weight = _upsampled(grid, photo.shape[0], photo.shape[1])[..., None] * np.float32(TINT / 255)
    return np.asarray(np.rint(photo * (1 - weight) + np.asarray(colour, np.float32) * weight), np.uint8)


def _views(evidence: JobEvidence, judgement: Judgement) -> tuple[ViewResult, ...]:
    """One a view, in the job's order."""
    matches = {match.probe.view: match for match in evidence.matches}
    unusable = {view.view: view for view in evidence.unusable}
    attention = dict(zip(matches, _attention_grids([m.probe.attention for m in matches.values()]), strict=True))
    mapped = {view: m.deviation_map for view, m in matches.items() if m.deviation_map is not None}
    deviation = dict(zip(mapped, _deviation_grids(list(mapped.values())), strict=True))
    return tuple(
        _seen(view, match, judgement, attention[view.view], deviation.get(view.view))
        if (match := matches.get(view.view))
        else _unseen(view, unusable.get(view.view))
        for view in evidence.job.views
    )


def _unseen(view: JobView, unusable: UnusableView | None) -> ViewResult:
    code = unusable.code if unusable else None
    return ViewResult(view=view.view, sha256=view.sha256, usable=False, unusable_code=code)


def _seen(view: JobView, match: ViewMatch, judgement: Judgement, attention: Grid, deviation: Grid | None) -> ViewResult:
    return ViewResult(
        view=view.view,
        sha256=match.probe.sha256,
        usable=True,
        encoder=match.probe.engine.name,
        similarity=_known(match.similarity),
        counterfeit_similarity=_known(match.counterfeit_similarity),
        other_sku=match.other_sku,
        other_sku_similarity=_known(match.other_sku_similarity),
        deviation=_known(match.deviation),
        p_genuine=judgement.view_p_genuine.get(view.view),
        aligned=match.aligned,
        quality=_measures(match),
        references=tuple(found for found in match.references if math.isfinite(found.similarity)),
        attention=attention,
        deviation_map=deviation,
    )


def _measures(match: ViewMatch) -> dict[str, float]:
    """Of the photograph, and of how it lies over the references: all that the quality gate goes by."""
    measures = {**match.probe.quality, **match.placing}
    return {name: value for name, value in sorted(measures.items()) if math.isfinite(value)}


def _provenance(evidence: JobEvidence, judgement: Judgement, build: str) -> Provenance:
    return Provenance(
        engines=_engines(match.probe.engine for match in evidence.matches),
        degraded=evidence.degraded,
        gallery_revision=evidence.gallery_revision,
        calibration_id=judgement.calibration_id,
        build=build,
    )


def _engines(used: Iterable[EngineUse]) -> tuple[EngineUse, ...]:
    distinct = {(engine.digest, engine.backend): engine for engine in used}
    return tuple(distinct[key] for key in sorted(distinct))


def _timings(evidence: JobEvidence, judge_ms: float, total_ms: float) -> Timings:
    times = evidence.times
    return Timings(
        fetch_ms=times.fetch_ms,
        embed_ms=times.embed_ms,
        judge_ms=judge_ms,
        queue_ms=times.queue_ms,
        total_ms=total_ms,
    )


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _attention_grids(maps: Sequence[Map]) -> list[Grid]:
    def scaled(cells: NDArray[np.float64]) -> NDArray[np.float64]:
        largest = np.maximum(cells.max(axis=(1, 2), initial=0), 1e-12)
        return np.asarray(cells / largest[:, None, None] * 255)

    return _grids(maps, scaled)


def _deviation_grids(maps: Sequence[Map]) -> list[Grid]:
    return _grids(maps, lambda cells: np.sqrt(np.maximum(cells, 0) / DEVIATION_FULL_SCALE) * 255)


def _grids(maps: Sequence[Map], scaled: Scale) -> list[Grid]:
    """`scaled` takes [n, h, w]. Maps of one shape go through NumPy together: most of the time is its calls."""
    if len({cells.shape for cells in maps}) > 1:
        return [grid for cells in maps for grid in _grids([cells], scaled)]
    if not maps:
        return []
    values = scaled(_finite(np.stack(maps)))
    height, width = values.shape[1:]
    small = values if height * width <= MAX_CELLS else _block_max(values, _shrinking(height, width))
    cells = np.rint(np.minimum(np.maximum(small, 0), 255)).astype(np.uint8)
    return [Grid(height=cells.shape[1], width=cells.shape[2], cells=one.tobytes()) for one in cells]


def _finite(cells: Map) -> NDArray[np.float64]:
    values = np.asarray(cells, np.float64)
    if np.isfinite(values).all():
        return values
    return np.nan_to_num(values, nan=0.0, posinf=1e6, neginf=0.0)


def _shrinking(height: int, width: int) -> int:
    """By how much each side must shrink."""
    factor = math.ceil(math.sqrt(height * width / MAX_CELLS))
    while -(-height // factor) * -(-width // factor) > MAX_CELLS:
        factor += 1
    return factor


def _block_max(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """The largest cell of each factor x factor block of [n, h, w]: a small peak must not fade."""
    rows = np.maximum.reduceat(values, np.arange(0, values.shape[1], factor), axis=1)
    return np.maximum.reduceat(rows, np.arange(0, values.shape[2], factor), axis=2)


def _upsampled(grid: Grid, height: int, width: int) -> NDArray[np.float32]:
    """The grid's values [height, width], interpolated linearly between cell centres, flat beyond the outer ones."""
    cells = np.frombuffer(grid.cells, np.uint8).reshape(grid.height, grid.width).astype(np.float32)
    rows = _steps(grid.height, height) @ cells
    return np.asarray(rows @ _steps(grid.width, width).T, np.float32)


def _steps(cells: int, pixels: int) -> NDArray[np.float32]:
    """Weights [pixels, cells] of linear interpolation."""
    place = ((np.arange(pixels) + 0.5) * cells / pixels - 0.5).clip(0, cells - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells))), np.float32)
