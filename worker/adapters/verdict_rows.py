"""A verdict as rows: of the verdict itself, its views, its maps, and the probes it was reached with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from hashlib import sha256

from pgvector import HalfVector
from sqlalchemy import Connection, Table, text
from sqlalchemy.dialects.postgresql import insert

from migrations.tables import attention_maps, probe_embeddings, probe_images, verdicts, view_results
from schemas.verdict import EngineUse, Grid, Provenance, Timings, VerdictEvent, ViewResult, result_id
from worker.adapters.bulk import Row, copy, document
from worker.adapters.outputs import Answer
from worker.adapters.phash import bands, signed
from worker.core.evidence import ViewProbe
from worker.outcomes import Judged

TIMINGS = tuple(field.name for field in fields(Timings))
ENGINE = tuple(field.name for field in fields(EngineUse))
DECLARE_SPACES = text("""
INSERT INTO assay.embedding_spaces (space, dims)
SELECT * FROM unnest(CAST(:space AS text[]), CAST(:dims AS int[]))
ON CONFLICT (space) DO NOTHING
""")


def write_verdicts(connection: Connection, judged: Sequence[tuple[Judged, Answer]]) -> None:
    """Append the rows of verdicts that won their jobs: five statements, however many; of later revisions two more."""
    for table, rows in rows_of(judged):
        copy(connection, table, rows)
    outcomes = [outcome for outcome, _ in judged]
    _add_probes(connection, [(o, probe) for o in outcomes if o.job.supersedes is not None for probe in _probes(o)])


def rows_of(judged: Sequence[tuple[Judged, Answer]]) -> list[tuple[Table, list[Row]]]:
    """What is copied of verdicts, by table. Of the probes only those of first revisions."""
    outcomes = [outcome for outcome, _ in judged]
    firsts = [(o, probe) for o in outcomes if o.job.supersedes is None for probe in _probes(o)]
    return [
        (verdicts, [_verdict(outcome, answer) for outcome, answer in judged]),
        (view_results, [_view(o, view) for o in outcomes for view in o.event.views]),
        (attention_maps, [row for o in outcomes for row in _maps(o.event)]),
        (probe_images, [_probe(o, probe) for o, probe in firsts]),
        (probe_embeddings, [_embedding(o, probe) for o, probe in firsts]),
    ]


def _add_probes(connection: Connection, later: Sequence[tuple[Judged, ViewProbe]]) -> None:
    """What another look at a job found, where the first left nothing: views that could not be used, other spaces."""
    if later:
        connection.execute(insert(probe_images).on_conflict_do_nothing(), [_probe(o, probe) for o, probe in later])
        vectors = [_embedding(o, probe) for o, probe in later]
        connection.execute(insert(probe_embeddings).on_conflict_do_nothing(), vectors)


def spaces(judged: Iterable[Judged]) -> dict[str, int]:
    """The embedding spaces of the probes, with the length of their vectors."""
    return {probe.engine.embedding_space: len(probe.embedding) for o in judged for probe in _probes(o)}


def declare_spaces(connection: Connection, dims: dict[str, int]) -> None:
    connection.execute(DECLARE_SPACES, {"space": sorted(dims), "dims": [dims[space] for space in sorted(dims)]})


def _verdict(outcome: Judged, answer: Answer) -> Row:
    event = outcome.event
    before = result_id(event.tenant, event.job_id, event.revision - 1) if event.revision > 1 else None
    return {
        "result_id": event.result_id,
        "judged_at": event.judged_at,
        "revision": event.revision,
        "supersedes": before,
        "tenant": event.tenant,
        "job_id": event.job_id,
        "sku": event.sku,
        "category": event.category,
        "verdict": event.verdict.value,
        "confidence": event.confidence,
        "p_genuine": event.p_genuine,
        "reasons": document([{"code": r.code, "view": r.view, "detail": r.detail} for r in event.reasons]),
        "missing_views": list(event.missing_views),
        "nearest_skus": list(event.nearest_skus),
        "provenance": document(_provenance(event.provenance)),
        "timings": document({name: getattr(event.timings, name) for name in TIMINGS}),
        "event": answer.value,
        "event_headers": document([[name, value.decode()] for name, value in answer.headers]),
        "digest": sha256(answer.value).digest(),
        "submitted_at": outcome.job.submitted_at,
        "serial": outcome.job.serial,
        "labels": document(dict(outcome.job.labels)),
    }


def _provenance(provenance: Provenance) -> dict[str, object]:
    return {
        "engines": [{name: getattr(engine, name) for name in ENGINE} for engine in provenance.engines],
        "degraded": provenance.degraded,
        "gallery_revision": provenance.gallery_revision,
        "calibration_id": provenance.calibration_id,
        "build": provenance.build,
    }


def _view(outcome: Judged, view: ViewResult) -> Row:
    event = outcome.event
    return {
        "result_id": event.result_id,
        "view": view.view,
        "judged_at": event.judged_at,
        "tenant": event.tenant,
        "job_id": event.job_id,
        "sku": event.sku,
        "category": event.category,
        "sha256": bytes.fromhex(view.sha256),
        "usable": view.usable,
        "unusable_code": view.unusable_code.value if view.unusable_code else None,
        "encoder": view.encoder,
        "similarity": view.similarity,
        "counterfeit_similarity": view.counterfeit_similarity,
        "other_sku": view.other_sku,
        "other_sku_similarity": view.other_sku_similarity,
        "deviation": view.deviation,
        "p_genuine": view.p_genuine,
        "aligned": view.aligned,
        "quality": document(dict(view.quality)),
        "matches": document([{"reference_id": m.reference_id, "similarity": m.similarity} for m in view.references]),
        "media_type": next((sent.media_type for sent in outcome.job.views if sent.view == view.view), None),
    }


def _maps(event: VerdictEvent) -> Iterator[Row]:
    """One row where the verdict has any map."""
    index: list[dict[str, object]] = []
    cells = bytearray()
    for view, kind, grid in _grids(event):
        place = {"view": view, "kind": kind, "height": grid.height, "width": grid.width, "start": len(cells)}
        index.append(place)
        cells += grid.cells
    if index:
        yield {
            "result_id": event.result_id,
            "judged_at": event.judged_at,
            "tenant": event.tenant,
            "job_id": event.job_id,
            "index": document(index),
            "cells": bytes(cells),
        }


def _grids(event: VerdictEvent) -> Iterator[tuple[str, str, Grid]]:
    for view in event.views:
        if view.attention is not None:
            yield view.view, "attention", view.attention
        if view.deviation_map is not None:
            yield view.view, "deviation", view.deviation_map


def _probes(outcome: Judged) -> Iterator[ViewProbe]:
    return (match.probe for match in outcome.evidence.matches)


def _probe(outcome: Judged, probe: ViewProbe) -> Row:
    job = outcome.job
    return {
        "tenant": job.tenant,
        "job_id": job.job_id,
        "view": probe.view,
        "sha256": bytes.fromhex(probe.sha256),
        "phash": signed(probe.phash),
        "bands": bands(probe.phash),
        "sku": job.sku,
        "subject": job.subject,
        "at": outcome.event.judged_at,
    }


def _embedding(outcome: Judged, probe: ViewProbe) -> Row:
    return {
        "tenant": outcome.job.tenant,
        "job_id": outcome.job.job_id,
        "view": probe.view,
        "space": probe.engine.embedding_space,
        "embedding": HalfVector(probe.embedding),
    }
