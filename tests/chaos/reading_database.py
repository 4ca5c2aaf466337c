"""Reads what the database holds of a run: ends, verdicts, letters, starts, and rows that do not belong together."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import make_url

from tests.chaos.observation import AttemptRow, Headers, JobRow, LetterRow, Spread, StrayRow, VerdictRow

PAGE_ROWS = 5000
Row = dict[str, Any]

JOBS = """
SELECT tenant, job_id, encode(payload_digest, 'hex') AS payload_digest, state, result_id::text,
    dead_letter_id::text, src FROM assay.jobs
"""
# What was judged, and by what: equal ones must reach equal verdicts. Numbers are broken where any score is none.
VERDICTS = """
SELECT v.result_id::text, v.tenant, v.job_id, v.revision, v.supersedes::text, v.verdict,
    ARRAY(SELECT reason ->> 'code' FROM jsonb_array_elements(v.reasons) AS reason) AS reasons,
    encode(sha256(v.event), 'hex') AS event_digest, encode(v.digest, 'hex') AS digest, v.event_headers,
    md5(concat_ws('|', v.tenant, v.sku, v.category, views.content)) AS content,
    md5((v.provenance - 'build')::text) AS engine,
    coalesce(views.finite, true) AND coalesce(abs(v.p_genuine) <= 1, true) AND coalesce(abs(v.confidence) <= 1, true)
        AS numbers_finite
FROM assay.verdicts AS v LEFT JOIN (
    SELECT result_id,
        string_agg(concat_ws(' ', view, encode(sha256, 'hex'), usable, unusable_code), ',' ORDER BY view) AS content,
        bool_and(coalesce(abs(similarity) < 'Infinity' AND similarity <> 'NaN', true)
            AND coalesce(abs(deviation) < 'Infinity' AND deviation <> 'NaN', true)
            AND coalesce(abs(p_genuine) <= 1, true)) AS finite
    FROM assay.view_results GROUP BY result_id
) AS views USING (result_id)
"""
LETTERS = """
SELECT id::text AS letter_id, tenant, job_id, topic, partition, "offset", code, stage, key,
    encode(sha256(value), 'hex') AS value_digest, headers, attempt, replayed_at IS NOT NULL AS replayed
FROM assay.dead_letters
"""
ATTEMPTS = 'SELECT topic, partition, "offset", instance, process::text, solo FROM assay.attempts'
SPREADS = """
WITH probes AS (
    SELECT i.sha256, e.space, e.embedding,
        row_number() OVER (PARTITION BY i.sha256, e.space ORDER BY e.tenant, e.job_id, e.view) AS place
    FROM assay.probe_images AS i JOIN assay.probe_embeddings AS e USING (tenant, job_id, view)
)
SELECT encode(a.sha256, 'hex') AS photograph, a.space, count(*) + 1 AS embeddings,
    min(1 - (a.embedding <=> b.embedding)) AS least_cosine
FROM probes AS a JOIN probes AS b USING (sha256, space) WHERE b.place = 1 AND a.place > 1
GROUP BY a.sha256, a.space
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strays:
    """Rows that break `invariant`: each is told as `what` and the query's one text."""

    invariant: str
    what: str
    query: str


def _hanging(table: str) -> Strays:
    query = f"""
    SELECT concat_ws(' ', part.result_id, part.tenant, part.job_id, 'under', v.tenant, v.job_id) FROM {table} AS part
    LEFT JOIN assay.verdicts AS v USING (result_id, judged_at)
    WHERE v.tenant IS DISTINCT FROM part.tenant OR v.job_id IS DISTINCT FROM part.job_id
    """  # noqa: S608 # a constant of this module
    return Strays(invariant="I11", what=f"{table} hangs on another's verdict", query=query)


def _of_no_verdict(table: str) -> Strays:
    query = f"""
    SELECT DISTINCT concat_ws('/', part.tenant, part.job_id) FROM {table} AS part
    LEFT JOIN assay.jobs AS job USING (tenant, job_id) WHERE job.state IS DISTINCT FROM 'judged'
    """  # noqa: S608 # a constant of this module
    return Strays(invariant="I11", what=f"{table} holds what no judged job of that tenant brought", query=query)


STRAYS = (
    _hanging("assay.view_results"),
    _hanging("assay.attention_maps"),
    _of_no_verdict("assay.probe_images"),
    _of_no_verdict("assay.known_photographs"),
    _of_no_verdict("assay.probe_embeddings"),
    Strays(
        invariant="I11",
        what="a view was compared with a reference that its tenant must not see",
        query="""
        SELECT concat_ws(' ', view.tenant, view.job_id, view.view, 'with', r.id, 'of', r.tenant)
        FROM assay.view_results AS view, jsonb_array_elements(view.matches) AS match
        JOIN assay.reference_images AS r ON r.id::text = match ->> 'reference_id'
        WHERE r.tenant <> view.tenant AND NOT EXISTS (
            SELECT FROM assay.reference_grants AS g WHERE g.owner = r.tenant AND g.grantee = view.tenant)
        """,
    ),
    Strays(
        invariant="I1",
        what="a verdict without the views that it was reached with",
        query="""
        SELECT v.result_id::text FROM assay.verdicts AS v
        WHERE NOT EXISTS (SELECT FROM assay.view_results AS view WHERE view.result_id = v.result_id)
        """,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    jobs: tuple[JobRow, ...]
    verdicts: tuple[VerdictRow, ...]
    letters: tuple[LetterRow, ...]
    attempts: tuple[AttemptRow, ...]
    strays: tuple[StrayRow, ...]
    spreads: tuple[Spread, ...]


def read_stored(database_url: str) -> Stored:
    """All of it in one snapshot, as the owner or an auditor. Raises psycopg.Error."""
    plain = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, row_factory=dict_row) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.execute("SET statement_timeout = 0")
        return Stored(
            jobs=tuple(JobRow(**row) for row in _rows(connection, JOBS)),
            verdicts=tuple(_verdict(row) for row in _rows(connection, VERDICTS)),
            letters=tuple(_letter(row) for row in _rows(connection, LETTERS)),
            attempts=tuple(AttemptRow(**row) for row in _rows(connection, ATTEMPTS)),
            strays=tuple(_strays(connection)),
            spreads=tuple(Spread(**row) for row in _rows(connection, SPREADS)),
        )


def _rows(connection: psycopg.Connection[Row], query: str) -> Iterator[Row]:
    """By pages, so that the client never holds a whole table."""
    with connection.cursor("reading") as cursor:
        cursor.itersize = PAGE_ROWS
        yield from cursor.execute(query.encode())


def _strays(connection: psycopg.Connection[Row]) -> Iterator[StrayRow]:
    for kind in STRAYS:
        for row in _rows(connection, kind.query):
            yield StrayRow(invariant=kind.invariant, detail=f"{kind.what}: {next(iter(row.values()))}")


def _verdict(row: Row) -> VerdictRow:
    headers = tuple((name, text) for name, text in row["event_headers"] or ())
    return VerdictRow(**{**row, "reasons": tuple(row["reasons"]), "event_headers": headers})


def _letter(row: Row) -> LetterRow:
    return LetterRow(**{**row, "key": _bytes(row["key"]), "headers": _headers(row["headers"] or ())})


def _headers(stored: Sequence[Sequence[str]]) -> Headers:
    return tuple((name, b64decode(value)) for name, value in stored)


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
