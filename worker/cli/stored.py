"""What Postgres holds of jobs, read for people: lists, one job, its report, dead letters. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Engine, Row, Select, and_, exists, func, select

from migrations.tables import (
    calibrations,
    categories,
    dead_letters,
    jobs,
    reference_embeddings,
    reference_images,
    verdicts,
)
from schemas.codec import InvalidMessage, decode_verdict
from schemas.codes import ErrorCode
from schemas.message import Headers
from schemas.verdict import VerdictEvent
from worker.adapters.database import retrying
from worker.adapters.letters import read_letters
from worker.adapters.outputs import DeadLetter
from worker.errors import AssayError


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """One job of a list; verdict fields are None for a dead letter, error fields for a verdict."""

    tenant: str
    job_id: str
    state: str
    sku: str | None
    verdict: str | None
    confidence: float | None
    reasons: tuple[str, ...]
    error_code: str | None
    ended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterLine:
    """One dead letter of a list."""

    id: UUID
    tenant: str | None
    job_id: str | None
    code: str
    stage: str
    detail: str
    source: str
    created_at: datetime
    replayed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledVectors:
    """A reference photograph in one embedding space."""

    sku: str
    view: str
    sha256: str
    genuine: bool
    space: str


def list_jobs(
    database: Engine, *, tenant: str | None = None, verdict: str | None = None, limit: int = 50
) -> list[JobLine]:
    """The latest jobs that have an end, newest first."""
    wanted = _jobs_query().order_by(jobs.c.created_at.desc()).limit(limit)
    if tenant is not None:
        wanted = wanted.where(jobs.c.tenant == tenant)
    if verdict is not None:
        wanted = wanted.where(verdicts.c.verdict == verdict)
    return [_job_line(row) for row in _rows(database, wanted)]


def find_job(database: Engine, job_id: str, *, tenant: str | None = None) -> JobLine:
    """Raises AssayError where there is no such job, or several tenants have one."""
    wanted = _jobs_query().where(jobs.c.job_id == job_id)
    if tenant is not None:
        wanted = wanted.where(jobs.c.tenant == tenant)
    found = [_job_line(row) for row in _rows(database, wanted)]
    if not found:
        raise AssayError(f"there is no answer to job {job_id!r} yet: check the id with `assay results list`")
    if len(found) > 1:
        raise AssayError(f"job {job_id!r} exists for tenants {_names(found)}: name one with --tenant")
    return found[0]


def read_event(database: Engine, tenant: str, job_id: str) -> VerdictEvent:
    """The latest verdict of a job, as published. Raises AssayError where it has none."""
    wanted = (
        select(verdicts.c.event, verdicts.c.event_headers)
        .where(verdicts.c.tenant == tenant, verdicts.c.job_id == job_id)
        .order_by(verdicts.c.revision.desc())
        .limit(1)
    )
    rows = _rows(database, wanted)
    if not rows:
        raise AssayError(f"job {job_id!r} of tenant {tenant!r} has no verdict: see `assay dlq list`")
    try:
        return decode_verdict(rows[0].event, _headers(rows[0].event_headers))
    except InvalidMessage as error:
        raise AssayError(f"the stored verdict of job {job_id!r} cannot be read: {error.detail}") from error


def calibration_n(database: Engine, calibration_id: str | None) -> int | None:
    """How many labelled items a score calibration was fitted on; None where it is not known."""
    if calibration_id is None:
        return None
    rows = _rows(database, select(calibrations.c.n).where(calibrations.c.id == calibration_id))
    return int(rows[0].n) if rows else None


def reference_digests(database: Engine, reference_ids: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """Reference id to its owner and the sha256 (hex) of its photograph; ids that are unknown are left out."""
    known = [UUID(text) for text in reference_ids if _is_uuid(text)]
    columns = (reference_images.c.id, reference_images.c.tenant, reference_images.c.sha256)
    rows = _rows(database, select(*columns).where(reference_images.c.id.in_(known))) if known else []
    return {str(row.id): (row.tenant, bytes(row.sha256).hex()) for row in rows}


def known_categories(database: Engine) -> set[str]:
    """Categories that have a profile."""
    return {str(row.category) for row in _rows(database, select(categories.c.category))}


def enrolled_vectors(database: Engine, tenant: str, skus: Sequence[str]) -> list[EnrolledVectors]:
    """Which photographs of these SKUs are enrolled, once an embedding space."""
    columns = (reference_images.c.sku, reference_images.c.view, reference_images.c.sha256, reference_images.c.genuine)
    wanted = (
        select(*columns, reference_embeddings.c.space)
        .join(reference_embeddings, reference_embeddings.c.reference_id == reference_images.c.id)
        .where(reference_images.c.tenant == tenant, reference_images.c.sku.in_(skus))
    )
    return [
        EnrolledVectors(
            sku=row.sku, view=row.view, sha256=bytes(row.sha256).hex(), genuine=row.genuine, space=row.space
        )
        for row in _rows(database, wanted)
    ]


def list_letters(
    database: Engine,
    *,
    tenant: str | None = None,
    code: str | None = None,
    unreplayed: bool = False,
    limit: int = 50,
) -> list[LetterLine]:
    """The latest dead letters, newest first."""
    filters: list[ColumnElement[bool]] = []
    if tenant is not None:
        filters.append(dead_letters.c.tenant == tenant)
    if code is not None:
        filters.append(dead_letters.c.code == code)
    if unreplayed:
        filters += [dead_letters.c.replayed_at.is_(None), dead_letters.c.code != ErrorCode.ERASED.value]
    wanted = select(dead_letters).where(*filters).order_by(dead_letters.c.created_at.desc()).limit(limit)
    return [_letter_line(row) for row in _rows(database, wanted)]


def read_letter(database: Engine, letter_id: str) -> tuple[DeadLetter, LetterLine]:
    """One dead letter with its original bytes, and its line. Raises AssayError."""
    if not _is_uuid(letter_id):
        raise AssayError(f"{letter_id!r} is no dead letter id: ids are UUIDs, see `assay dlq list`")
    key = UUID(letter_id)

    def read() -> tuple[DeadLetter | None, Row[Any] | None]:
        with database.connect() as connection:
            line = connection.execute(select(dead_letters).where(dead_letters.c.id == key)).one_or_none()
            return read_letters(connection, [key]).get(key), line

    letter, line = retrying(read)
    if letter is None or line is None:
        raise AssayError(f"there is no dead letter {letter_id}: see `assay dlq list`")
    return letter, _letter_line(line)


def _jobs_query() -> Select[Any]:
    """Each job with its latest verdict, or the dead letter that it points at."""
    later = verdicts.alias("later")
    latest = ~exists().where(later.c.supersedes == verdicts.c.result_id)
    own = and_(verdicts.c.tenant == jobs.c.tenant, verdicts.c.job_id == jobs.c.job_id)
    answered = and_(jobs.c.state == "judged", own, latest)
    return (
        select(
            jobs.c.tenant,
            jobs.c.job_id,
            jobs.c.state,
            jobs.c.created_at,
            verdicts.c.sku,
            verdicts.c.verdict,
            verdicts.c.confidence,
            func.coalesce(verdicts.c.reasons, func.jsonb_build_array()).label("reasons"),
            dead_letters.c.code,
        )
        .select_from(jobs)
        .outerjoin(verdicts, answered)
        .outerjoin(dead_letters, and_(dead_letters.c.id == jobs.c.dead_letter_id, jobs.c.state == "dead"))
    )


def _rows(database: Engine, wanted: Select[Any]) -> list[Row[Any]]:
    def read() -> list[Row[Any]]:
        with database.connect() as connection:
            return list(connection.execute(wanted))

    return retrying(read)


def _job_line(row: Row[Any]) -> JobLine:
    return JobLine(
        tenant=row.tenant,
        job_id=row.job_id,
        state=row.state,
        sku=row.sku,
        verdict=row.verdict,
        confidence=row.confidence,
        reasons=tuple(dict.fromkeys(str(reason["code"]) for reason in row.reasons)),
        error_code=row.code,
        ended_at=row.created_at,
    )


def _letter_line(row: Row[Any]) -> LetterLine:
    return LetterLine(
        id=row.id,
        tenant=row.tenant,
        job_id=row.job_id,
        code=row.code,
        stage=row.stage,
        detail=row.detail,
        source=f"{row.topic}/{row.partition}/{row.offset}",
        created_at=row.created_at,
        replayed_at=row.replayed_at,
    )


def _headers(stored: Sequence[Sequence[str]]) -> Headers:
    return tuple((name, text.encode()) for name, text in stored)


def _names(found: Sequence[JobLine]) -> str:
    return ", ".join(repr(line.tenant) for line in found)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
