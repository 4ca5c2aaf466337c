"""Views as a verdict's rows hold them, to decide the job again without its photographs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Engine, Row, text

from schemas.codes import ErrorCode, ReasonCode, ViewCode
from schemas.job import AuthenticationJob, JobView
from schemas.verdict import EngineUse, result_id
from worker.adapters.database import retrying
from worker.adapters.phash import unsigned
from worker.core.evidence import Map, StoredView, UnusableView, ViewProbe
from worker.core.explanation import deviation_of
from worker.errors import RejectJob

FIND = text("""
SELECT r.usable, r.unusable_code, r.encoder, r.deviation, r.aligned, r.quality, v.provenance, v.reasons, p.phash,
    e.embedding, m.index AS places, m.cells
FROM assay.verdicts v
JOIN assay.view_results r ON r.result_id = v.result_id AND r.judged_at = v.judged_at
LEFT JOIN assay.probe_images p ON p.tenant = v.tenant AND p.job_id = v.job_id AND p.view = r.view
LEFT JOIN assay.probe_embeddings e
    ON e.tenant = v.tenant AND e.job_id = v.job_id AND e.view = r.view AND e.space = :space
LEFT JOIN assay.attention_maps m ON m.result_id = v.result_id AND m.judged_at = v.judged_at
WHERE v.result_id = :result_id AND r.view = :view AND r.sha256 = :sha256
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresStoredViews:
    """Any thread may call it."""

    database: Engine

    def read(self, job: AuthenticationJob, view: JobView, space: str) -> StoredView | UnusableView:
        """The view of the verdict that `job` supersedes, in an embedding space. Raises RejectJob (evidence_gone) where
        the rows do not hold it, and ServiceUnavailable."""
        row = retrying(lambda: self._find(job, view, space))
        if row is not None and not row.usable:
            code = ViewCode(row.unusable_code) if row.unusable_code else ViewCode.NOT_FOUND
            return UnusableView(view=view.view, sha256=view.sha256, code=code, detail="it could not be used then")
        engine = _engine(row, space) if row is not None else None
        if row is None or engine is None or row.embedding is None or row.phash is None:
            detail = f"revision {job.supersedes} holds no probe of {view.view} in space {space[:12]!r}"
            raise RejectJob(ErrorCode.EVIDENCE_GONE, detail)
        return _stored(view, row, engine)

    def _find(self, job: AuthenticationJob, view: JobView, space: str) -> Row[Any] | None:
        wanted = {
            "result_id": result_id(job.tenant, job.job_id, job.revision - 1),
            "view": view.view,
            "sha256": bytes.fromhex(view.sha256),
            "space": space,
        }
        with self.database.connect() as connection:
            return connection.execute(FIND, wanted).one_or_none()


def _stored(view: JobView, row: Row[Any], engine: EngineUse) -> StoredView:
    attention = _cells(row, view.view, "attention")
    deviation = _cells(row, view.view, "deviation")
    probe = ViewProbe(
        view=view.view,
        sha256=view.sha256,
        engine=engine,
        embedding=_unit(np.asarray(row.embedding.to_list(), np.float32)),
        patches=np.empty((0, 0), np.float32),
        patch_grid=(0, 0),
        attention=np.zeros((1, 1), np.float32) if attention is None else attention,
        quality=row.quality,
        phash=unsigned(row.phash),
        source_size=(0, 0),  # nobody judges by it
    )
    return StoredView(
        probe=probe,
        deviation=row.deviation,
        deviation_map=None if deviation is None else deviation_of(deviation),
        aligned=row.aligned,
        copied=any(_is_copy(reason, view.view) for reason in row.reasons),
        degraded=bool(row.provenance["degraded"]),
    )


def _engine(row: Row[Any], space: str) -> EngineUse | None:
    """The engine that looked at the view."""
    used = (EngineUse(**engine) for engine in row.provenance["engines"])
    return next((e for e in used if e.name == row.encoder and e.embedding_space == space), None)


def _cells(row: Row[Any], view: str, kind: str) -> Map | None:
    """The cells [h, w] of a map as they were published, 0 to 255; None where that verdict has none."""
    for place in row.places or ():
        if (place["view"], place["kind"]) == (view, kind):
            shape = place["height"], place["width"]
            cells = np.frombuffer(row.cells, np.uint8, shape[0] * shape[1], place["start"])
            return cells.reshape(shape).astype(np.float32)
    return None


def _is_copy(reason: Mapping[str, object], view: str) -> bool:
    return reason["code"] == ReasonCode.IMAGE_REUSED.value and reason["view"] == view


def _unit(embedding: Map) -> Map:
    """16-bit floats lose a little of the length."""
    return embedding / np.float32(np.linalg.norm(embedding) or 1.0)
