"""The latest verdicts of jobs, oldest first, with what a re-evaluation needs to know of them; and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Row, TextClause, text

from schemas.verdict import EngineUse
from worker.adapters.database import retrying
from worker.core.reevaluation import PastVerdict, PastView

PAGE = 500

# An engine is named as verdicts name it, by the beginning of its graph's digest, or by that of its id in the registry.
FIND = text("""
SELECT v.tenant, v.job_id, v.result_id, v.revision, v.sku, v.category, v.verdict, v.p_genuine, v.judged_at,
    v.submitted_at, v.serial, v.labels, v.provenance -> 'engines' AS engines,
    encode(j.payload_digest, 'hex') AS payload_digest,
    (SELECT count(DISTINCT every.provenance -> 'engines') = 1 FROM assay.verdicts every
        WHERE every.tenant = v.tenant AND every.job_id = v.job_id) AS one_look,
    (SELECT jsonb_agg(jsonb_build_object('view', r.view, 'sha256', encode(r.sha256, 'hex'), 'usable', r.usable,
            'encoder', r.encoder, 'media_type', r.media_type,
            'spaces', ARRAY(SELECT e.space FROM assay.probe_embeddings e
                WHERE e.tenant = v.tenant AND e.job_id = v.job_id AND e.view = r.view)) ORDER BY r.view)
        FROM assay.view_results r WHERE r.result_id = v.result_id AND r.judged_at = v.judged_at) AS views
FROM assay.verdicts v JOIN assay.jobs j ON j.tenant = v.tenant AND j.job_id = v.job_id AND j.state = 'judged'
WHERE v.judged_at >= :since AND v.judged_at < :until AND (v.judged_at, v.result_id) > (:after_at, :after_id)
    AND NOT EXISTS (SELECT FROM assay.verdicts later WHERE later.supersedes = v.result_id)
    AND (CAST(:tenant AS text) IS NULL OR v.tenant = :tenant)
    AND (CAST(:verdict AS text) IS NULL OR v.verdict = :verdict)
    AND (CAST(:engine AS text) IS NULL OR EXISTS (
        SELECT FROM jsonb_array_elements(v.provenance -> 'engines') AS used
        WHERE used ->> 'name' = :engine OR (length(:engine) >= 8 AND (starts_with(used ->> 'digest', :engine)
            OR used ->> 'digest' IN (SELECT digest FROM assay.engines WHERE starts_with(id, :engine))))))
ORDER BY v.judged_at, v.result_id LIMIT :limit
""")
FLIPPED = text("""
SELECT after.tenant, after.job_id, after.sku, after.revision, before.verdict AS before, after.verdict AS after,
    before.p_genuine AS p_genuine_before, after.p_genuine, after.judged_at,
    ARRAY(SELECT DISTINCT reason ->> 'code' FROM jsonb_array_elements(after.reasons) AS reason ORDER BY 1) AS reasons
FROM assay.later_verdicts l
JOIN assay.verdicts after ON after.result_id = l.result_id AND after.judged_at = l.judged_at
JOIN assay.verdicts before ON before.result_id = after.supersedes
WHERE l.judged_at >= :since AND before.verdict <> after.verdict
    AND (CAST(:tenant AS text) IS NULL OR l.tenant = :tenant)
ORDER BY l.judged_at, l.tenant, l.job_id LIMIT :limit
""")
BEGINNING = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which verdicts: decided in [since, until); of a tenant, of one kind, or that an engine took part in. An engine is
    given by its name, or by the first 8 or more digits of its digest or of its id in the registry."""

    since: datetime
    until: datetime
    tenant: str | None = None
    verdict: str | None = None
    engine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A verdict that replaced another kind of verdict."""

    tenant: str
    job_id: str
    sku: str
    revision: int
    before: str
    after: str
    p_genuine_before: float | None
    p_genuine: float | None
    reasons: tuple[str, ...]
    judged_at: datetime


def read_past(database: Engine, wanted: Wanted, *, limit: int) -> Iterator[PastVerdict]:
    """At most `limit`, by the time of their decision, in pages. Raises ServiceUnavailable."""
    place: dict[str, object] = {"after_at": wanted.since, "after_id": BEGINNING}
    left = limit
    while left > 0:
        values = {**_values(wanted), **place, "limit": min(PAGE, left)}
        rows = _rows(database, FIND, values)
        yield from map(_past, rows)
        left -= len(rows)
        if len(rows) < values["limit"]:
            return
        place = {"after_at": rows[-1].judged_at, "after_id": rows[-1].result_id}


def read_flips(database: Engine, *, since: datetime, tenant: str | None, limit: int) -> list[Flip]:
    """Raises ServiceUnavailable."""
    rows = _rows(database, FLIPPED, {"since": since, "tenant": tenant, "limit": limit})
    return [_flip(row) for row in rows]


def _rows(database: Engine, statement: TextClause, values: Mapping[str, object]) -> list[Row[Any]]:
    def read() -> list[Row[Any]]:
        with database.connect() as connection:
            return list(connection.execute(statement, values))

    return retrying(read)


def _values(wanted: Wanted) -> dict[str, Any]:
    return {
        "since": wanted.since,
        "until": wanted.until,
        "tenant": wanted.tenant,
        "verdict": wanted.verdict,
        "engine": wanted.engine,
    }


def _flip(row: Row[Any]) -> Flip:
    return Flip(
        tenant=row.tenant,
        job_id=row.job_id,
        sku=row.sku,
        revision=row.revision,
        before=row.before,
        after=row.after,
        p_genuine_before=row.p_genuine_before,
        p_genuine=row.p_genuine,
        reasons=tuple(row.reasons),
        judged_at=row.judged_at,
    )


def _past(row: Row[Any]) -> PastVerdict:
    return PastVerdict(
        tenant=row.tenant,
        job_id=row.job_id,
        result_id=row.result_id,
        revision=row.revision,
        sku=row.sku,
        category=row.category,
        verdict=row.verdict,
        p_genuine=row.p_genuine,
        judged_at=row.judged_at,
        submitted_at=row.submitted_at,
        serial=row.serial,
        labels=row.labels or {},
        payload_digest=row.payload_digest,
        engines=tuple(EngineUse(**engine) for engine in row.engines),
        one_look=row.one_look,
        views=tuple(_view(view) for view in row.views or ()),
    )


def _view(view: Mapping[str, Any]) -> PastView:
    return PastView(
        view=view["view"],
        sha256=view["sha256"],
        usable=view["usable"],
        encoder=view["encoder"],
        media_type=view["media_type"],
        spaces=frozenset(view["spaces"]),
    )
