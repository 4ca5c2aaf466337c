"""Erases jobs: their photographs, embeddings, maps, messages and rows. What is left says that there was a job.

The order makes a run that died half-way repeatable: photographs and Redis first, while the rows still say which ones;
then all rows and the record for the ledger in one transaction. The ledger keeps its entries, which hold digests alone.
"""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import IntegrityError

from migrations.tables import audit_records
from schemas.canonical import instant_text
from schemas.codec import InvalidMessage, parse_job
from schemas.message import InputRecord, Source
from worker.adapters.audit_rows import Place
from worker.adapters.database import retrying
from worker.core.ledger import ERASURE

BATCH_JOBS = 200
CLAIMED_MEANWHILE = 3

_THESE = "tenant = :tenant AND job_id = ANY(CAST(:job_ids AS text[]))"
OF_SUBJECTS = text("""
SELECT DISTINCT job_id FROM assay.probe_images WHERE tenant = :tenant AND subject = ANY(CAST(:subjects AS text[]))
ORDER BY job_id
""")
STATES = text(f"SELECT job_id, state FROM assay.jobs WHERE {_THESE}")  # noqa: S608 # constants of ours
VERDICTS = text(f"SELECT result_id, judged_at FROM assay.verdicts WHERE {_THESE} ORDER BY judged_at, result_id")  # noqa: S608
# Photographs that no other job of the tenant, and no reference, needs.
PHOTOGRAPHS = text(f"""
WITH own AS (
    SELECT sha256 FROM assay.view_results WHERE {_THESE}
    UNION SELECT sha256 FROM assay.probe_images WHERE {_THESE}
)
SELECT encode(sha256, 'hex') AS sha256 FROM own
WHERE NOT EXISTS (
        SELECT FROM assay.probe_images o WHERE o.tenant = :tenant AND o.sha256 = own.sha256
            AND o.job_id <> ALL(CAST(:job_ids AS text[])))
    AND NOT EXISTS (SELECT FROM assay.reference_images r WHERE r.tenant = :tenant AND r.sha256 = own.sha256)
ORDER BY 1
""")  # noqa: S608 # constants of ours
BY_RESULT = ("view_results", "attention_maps", "verdicts")
COUNTED = ("verdicts", "view_results", "dead_letters", "reviews")  # those with an index by job
BY_JOB = (
    "later_verdicts", "alarm_jobs", "engine_comparisons", "engine_golden", "probe_embeddings", "probe_images",
    "dead_letters", "reviews",
)  # fmt: skip
DELETE_RESULTS = {
    table: text(f"""
DELETE FROM assay.{table} USING unnest(CAST(:ids AS uuid[]), CAST(:times AS timestamptz[])) AS gone (id, at)
WHERE result_id = gone.id AND judged_at = gone.at
""")  # noqa: S608 # constants of ours
    for table in BY_RESULT
}
DELETE_JOBS = {table: text(f"DELETE FROM assay.{table} WHERE {_THESE}") for table in BY_JOB}  # noqa: S608
TAKE_JOBS = text(f"DELETE FROM assay.jobs WHERE {_THESE} RETURNING job_id, src, created_at")  # noqa: S608
KEEP_JOBS = text("""
INSERT INTO assay.jobs (tenant, job_id, payload_digest, state, src, created_at)
SELECT CAST(:tenant AS text), job_id, CAST('' AS bytea), 'erased', src, coalesce(created_at, now())
FROM unnest(CAST(:job_ids AS text[]), CAST(:srcs AS text[]), CAST(:times AS timestamptz[]))
    AS job (job_id, src, created_at)
""")


LETTERS = text("""
SELECT job_id, topic, partition, "offset", key, value, headers FROM assay.dead_letters
WHERE tenant = :tenant AND job_id IS NOT NULL
""")
COUNTS = text(
    f"SELECT {', '.join(f'(SELECT count(*) FROM assay.{t} WHERE {_THESE}) AS {t}' for t in COUNTED)}"  # noqa: S608
)


class Photographs(Protocol):
    def remove(self, tenant: str, sha256: str) -> bool:
        """Delete what was kept; whether there was anything. Raises ServiceUnavailable."""


class Caches(Protocol):
    def forget(self, tenant: str, *, photographs: Iterable[str], job_ids: Iterable[str]) -> int:
        """Delete what is cached of these photographs and jobs; how many entries. Raises ServiceUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Who erases, and why: kept for good in the ledger, so it should name no data subject."""

    by: str
    why: str


@dataclass(slots=True, kw_only=True)
class Erased:
    """What was removed, or would be. `rows` counts by table; `waiting`: jobs that have no end so far."""

    jobs: int = 0
    waiting: int = 0
    photographs: int = 0
    cached: int = 0
    rows: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """For the role assay_eraser. `photographs` and `caches` are None where the deployment has none."""

    database: Engine
    photographs: Photographs | None = None
    caches: Caches | None = None

    def jobs_of(self, tenant: str, subjects: Sequence[str]) -> list[str]:
        """The jobs whose sender named one of these subjects, by id. Raises ServiceUnavailable."""
        return retrying(lambda: self._jobs_of(tenant, subjects))

    def plan(self, tenant: str, job_ids: Sequence[str]) -> Erased:
        """What `erase` would remove; changes nothing. Raises ServiceUnavailable."""
        total = Erased()
        for some in _batches(job_ids):
            self._count(_These(tenant=tenant, job_ids=some), total)
        return total

    def erase(self, tenant: str, job_ids: Sequence[str], reason: Reason) -> Erased:
        """Erase the jobs, a few hundred at a time. One that has no end so far is answered `erased` when it comes.

        Raises ServiceUnavailable; what was not erased then is erased by the next run.
        """
        total = Erased()
        for some in _batches(job_ids):
            these = _These(tenant=tenant, job_ids=some)
            self._forget(these, total)
            rows = _insisting(partial(self._delete, these, reason))
            total.jobs += rows.pop("jobs")
            total.rows += rows
        return total

    def _jobs_of(self, tenant: str, subjects: Sequence[str]) -> list[str]:
        with self.database.connect() as connection:
            found = set(connection.scalars(OF_SUBJECTS, {"tenant": tenant, "subjects": list(subjects)}))
            letters = connection.execute(LETTERS, {"tenant": tenant}, execution_options={"yield_per": 100})
            found |= {row.job_id for row in letters if _subject(row) in subjects}
        return sorted(found)

    def _count(self, these: _These, total: Erased) -> None:
        with self.database.connect() as connection:
            states = {row.job_id: row.state for row in connection.execute(STATES, these.values)}
            total.jobs += len(these.job_ids)
            total.waiting += len(these.job_ids) - len(states)
            total.photographs += len(list(connection.scalars(PHOTOGRAPHS, these.values)))
            total.rows += Counter(connection.execute(COUNTS, these.values).mappings().one())

    def _forget(self, these: _These, total: Erased) -> None:
        """Photographs and caches, while the rows still say which."""
        with self.database.connect() as connection:
            shown = list(connection.scalars(PHOTOGRAPHS, these.values))
        if self.photographs is not None:
            total.photographs += sum(self.photographs.remove(these.tenant, sha256) for sha256 in shown)
        if self.caches is not None:
            total.cached += self.caches.forget(these.tenant, photographs=shown, job_ids=these.job_ids)

    def _delete(self, these: _These, reason: Reason) -> Counter[str]:
        """All rows of the jobs and the record, in one transaction; how many rows by table, and `jobs`."""
        with self.database.begin() as connection:
            _take_jobs(connection, these)
            verdicts = [(row.result_id, row.judged_at) for row in connection.execute(VERDICTS, these.values)]
            places = {"ids": [key for key, _ in verdicts], "times": [at for _, at in verdicts]}
            rows = Counter({table: connection.execute(s, places).rowcount for table, s in DELETE_RESULTS.items()})
            rows += Counter({table: connection.execute(s, these.values).rowcount for table, s in DELETE_JOBS.items()})
            connection.execute(audit_records.insert(), _record(these, verdicts, reason))
        return rows + Counter(jobs=len(these.job_ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class _These:
    """The jobs of one transaction."""

    tenant: str
    job_ids: Sequence[str]

    @property
    def values(self) -> dict[str, object]:
        return {"tenant": self.tenant, "job_ids": list(self.job_ids)}


def _insisting(delete: Callable[[], Counter[str]]) -> Counter[str]:
    """Again where a worker ended one of the jobs meanwhile: the row that was not there is there now."""
    for _ in range(CLAIMED_MEANWHILE):
        with suppress(IntegrityError):
            return retrying(delete)
    return retrying(delete)


def _take_jobs(connection: Connection, these: _These) -> None:
    """Put `erased` in place of the jobs' rows, and of those that are to come. A worker that claims one waits here."""
    rows = {row.job_id: row for row in connection.execute(TAKE_JOBS, these.values)}
    srcs = [rows[job_id].src if job_id in rows else "" for job_id in these.job_ids]
    times = [rows[job_id].created_at if job_id in rows else None for job_id in these.job_ids]
    connection.execute(KEEP_JOBS, {**these.values, "srcs": srcs, "times": times})


def _record(these: _These, verdicts: Sequence[Place], reason: Reason) -> dict[str, object]:
    named = [[str(result_id), instant_text(judged_at)] for result_id, judged_at in verdicts]
    return {
        "id": uuid4(),
        "tenant": these.tenant,
        "kind": ERASURE,
        "by": reason.by,
        "why": reason.why,
        "facts": {"verdicts": named, "jobs": len(these.job_ids)},
    }


def _subject(row: Row[Any]) -> str | None:
    """The subject of a dead letter's job, where it can still be read."""
    headers = tuple((name, b64decode(value)) for name, value in row.headers)
    source = Source(topic=row.topic, partition=row.partition, offset=row.offset)
    record = InputRecord(source=source, epoch=0, key=row.key, value=row.value, headers=headers, timestamp_ms=0)
    try:
        return parse_job(record, max_bytes=len(row.value)).subject
    except InvalidMessage:
        return None


def _batches(job_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    unique = sorted(set(job_ids))
    return (unique[at : at + BATCH_JOBS] for at in range(0, len(unique), BATCH_JOBS))
