"""VerdictEvent v1 to and from a plain record, the same for Avro and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar, cast
from uuid import UUID

from schemas.codes import ReasonCode, Verdict, ViewCode
from schemas.fields import Fields
from schemas.invalid import malformed, shown
from schemas.verdict import EngineUse, Grid, Provenance, Reason, ReferenceMatch, Timings, VerdictEvent, ViewResult

MAX_CELLS = 4096
MAPS = ("attention", "deviation_map")
GRID = "assay.v1.Grid"  # as the published schema names it
TIMINGS = ("fetch_ms", "embed_ms", "judge_ms", "queue_ms", "total_ms")
ENGINE = ("name", "digest", "backend", "precision", "embedding_space")

Code = TypeVar("Code", bound=StrEnum)


def verdict_record(event: VerdictEvent) -> dict[str, object]:
    """The record of an event. Raises ValueError where a map has the wrong size."""
    return {
        "result_id": str(event.result_id),
        "revision": int(event.revision),
        "job_id": event.job_id,
        "tenant": event.tenant,
        "sku": event.sku,
        "category": event.category,
        "verdict": event.verdict.value,
        "confidence": _number(event.confidence),
        "p_genuine": _number(event.p_genuine),
        "reasons": [_reason_record(reason) for reason in event.reasons],
        "views": [_view_record(view) for view in event.views],
        "missing_views": list(event.missing_views),
        "nearest_skus": list(event.nearest_skus),
        "provenance": _provenance_record(event.provenance),
        "timings": {name: float(getattr(event.timings, name)) for name in TIMINGS},
        "judged_at": event.judged_at,
        "payload_digest": event.payload_digest,
    }


def with_branches(record: dict[str, object]) -> dict[str, object]:
    """The record with each map named as the branch of its union that it is: an encoder otherwise tries them all."""
    views = cast("list[dict[str, object]]", record["views"])
    return record | {"views": [view | {name: _branch(view[name]) for name in MAPS} for view in views]}


def _branch(grid: object) -> object:
    return None if grid is None else (GRID, grid)


def verdict_from(fields: Fields) -> VerdictEvent:
    """Raises InvalidMessage (malformed_payload)."""
    return VerdictEvent(
        result_id=_uuid(fields, "result_id"),
        revision=fields.integer("revision"),
        job_id=fields.text("job_id"),
        tenant=fields.text("tenant"),
        sku=fields.text("sku"),
        category=fields.text("category"),
        verdict=_code(Verdict, fields, "verdict"),
        confidence=fields.optional_number("confidence"),
        p_genuine=fields.optional_number("p_genuine"),
        reasons=tuple(_reason_from(reason) for reason in fields.records("reasons")),
        views=tuple(_view_from(view) for view in fields.records("views")),
        missing_views=fields.texts("missing_views"),
        nearest_skus=fields.texts("nearest_skus"),
        provenance=_provenance_from(fields.record_at("provenance")),
        timings=_timings_from(fields.record_at("timings")),
        judged_at=fields.instant("judged_at"),
        payload_digest=fields.text("payload_digest"),
    )


def _number(value: float | None) -> float | None:
    # NumPy scalars come out of the judge now and then; the encoders take Python's own
    return None if value is None else float(value)


def _reason_record(reason: Reason) -> dict[str, object]:
    return {"code": reason.code.value, "view": reason.view, "detail": reason.detail}


def _view_record(view: ViewResult) -> dict[str, object]:
    return {
        "view": view.view,
        "sha256": view.sha256,
        "usable": bool(view.usable),
        "unusable_code": view.unusable_code.value if view.unusable_code else None,
        "encoder": view.encoder,
        "similarity": _number(view.similarity),
        "counterfeit_similarity": _number(view.counterfeit_similarity),
        "other_sku": view.other_sku,
        "other_sku_similarity": _number(view.other_sku_similarity),
        "deviation": _number(view.deviation),
        "p_genuine": _number(view.p_genuine),
        "aligned": None if view.aligned is None else bool(view.aligned),
        "quality": {name: float(value) for name, value in sorted(view.quality.items())},
        "references": [
            {"reference_id": match.reference_id, "similarity": float(match.similarity)} for match in view.references
        ],
        "attention": _grid_record(view.attention),
        "deviation_map": _grid_record(view.deviation_map),
    }


def _grid_record(grid: Grid | None) -> dict[str, object] | None:
    if grid is None:
        return None
    if not 1 <= len(grid.cells) == grid.height * grid.width <= MAX_CELLS:
        raise ValueError(f"a map of {grid.height} x {grid.width} has {len(grid.cells)} cells: at most {MAX_CELLS}")
    return {"height": int(grid.height), "width": int(grid.width), "cells": grid.cells}


def _provenance_record(provenance: Provenance) -> dict[str, object]:
    return {
        "engines": [{name: getattr(use, name) for name in ENGINE} for use in provenance.engines],
        "degraded": bool(provenance.degraded),
        "gallery_revision": int(provenance.gallery_revision),
        "calibration_id": provenance.calibration_id,
        "build": provenance.build,
    }


def _code(codes: type[Code], fields: Fields, name: str) -> Code:
    text = fields.text(name)
    try:
        return codes(text)
    except ValueError as error:
        raise malformed(f"{fields.path}{name} is {shown(text)}: no {codes.__name__} of this version") from error


def _uuid(fields: Fields, name: str) -> UUID:
    try:
        return UUID(fields.text(name))
    except ValueError as error:
        raise fields.wrong(name, "a UUID") from error


def _reason_from(fields: Fields) -> Reason:
    return Reason(
        code=_code(ReasonCode, fields, "code"), view=fields.optional_text("view"), detail=fields.text("detail")
    )


def _view_from(fields: Fields) -> ViewResult:
    return ViewResult(
        view=fields.text("view"),
        sha256=fields.text("sha256"),
        usable=fields.truth("usable"),
        unusable_code=None if fields.absent("unusable_code") else _code(ViewCode, fields, "unusable_code"),
        encoder=fields.optional_text("encoder"),
        similarity=fields.optional_number("similarity"),
        counterfeit_similarity=fields.optional_number("counterfeit_similarity"),
        other_sku=fields.optional_text("other_sku"),
        other_sku_similarity=fields.optional_number("other_sku_similarity"),
        deviation=fields.optional_number("deviation"),
        p_genuine=fields.optional_number("p_genuine"),
        aligned=fields.optional_truth("aligned"),
        quality=fields.number_map("quality"),
        references=tuple(
            ReferenceMatch(reference_id=match.text("reference_id"), similarity=match.number("similarity"))
            for match in fields.records("references")
        ),
        attention=_grid_from(fields.optional_record("attention")),
        deviation_map=_grid_from(fields.optional_record("deviation_map")),
    )


def _grid_from(fields: Fields | None) -> Grid | None:
    if fields is None:
        return None
    grid = Grid(height=fields.integer("height"), width=fields.integer("width"), cells=fields.binary("cells"))
    if grid.height < 1 or not 1 <= len(grid.cells) == grid.height * grid.width <= MAX_CELLS:
        raise malformed(f"{fields.path}cells holds {len(grid.cells)} cells: {grid.height} x {grid.width} are named")
    return grid


def _provenance_from(fields: Fields) -> Provenance:
    engines = (_texts(use, ENGINE) for use in fields.records("engines"))
    return Provenance(
        engines=tuple(EngineUse(**use) for use in engines),
        degraded=fields.truth("degraded"),
        gallery_revision=fields.integer("gallery_revision"),
        calibration_id=fields.optional_text("calibration_id"),
        build=fields.text("build"),
    )


def _texts(fields: Fields, names: tuple[str, ...]) -> Mapping[str, str]:
    return {name: fields.text(name) for name in names}


def _timings_from(fields: Fields) -> Timings:
    return Timings(**{name: fields.number(name) for name in TIMINGS})
