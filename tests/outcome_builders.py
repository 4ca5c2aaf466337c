"""Small, valid jobs, verdicts and outcomes, for tests of whatever stores or publishes them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

import numpy as np

from schemas import headers as names
from schemas.codes import ErrorCode, ReasonCode, Verdict, ViewCode
from schemas.job import AuthenticationJob, JobView
from schemas.message import Headers, InputRecord, Source
from schemas.verdict import (
    EngineUse,
    Grid,
    Provenance,
    Reason,
    ReferenceMatch,
    Timings,
    VerdictEvent,
    ViewResult,
    result_id,
)
from worker.core.evidence import JobEvidence, ViewMatch, ViewProbe
from worker.outcomes import Judged, Rejected, Retry

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENGINE = EngineUse(name="demo", digest="e" * 64, backend="openvino", precision="int8", embedding_space="s" * 64)


class Topics:
    results = "assay.results"
    dlq = "assay.jobs.dlq"
    retry = ("assay.jobs.retry.1", "assay.jobs.retry.2")
    jobs_slow = "assay.jobs.slow"


def hex_digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def a_record(
    offset: int = 0, *, value: bytes = b"job", headers: Headers = (), topic: str = "assay.jobs"
) -> InputRecord:
    return InputRecord(
        source=Source(topic="assay.jobs", partition=0, offset=offset),
        epoch=1,
        key=b"acme/job",
        value=value,
        headers=((names.CE_TYPE, b"assay.job.v1"), (names.TRACEPARENT, TRACE), *headers),
        timestamp_ms=1_773_489_600_000,
    )


def a_job(
    job_id: str = "job-1", *, tenant: str = "acme", sku: str = "SKU-1", content: str = "", serial: str | None = None
) -> AuthenticationJob:
    return AuthenticationJob(
        job_id=job_id,
        tenant=tenant,
        sku=sku,
        category="bag",
        submitted_at=NOON,
        views=(JobView(view="logo", sha256=hex_digest(f"{job_id} photograph"), uri="file:///logo.jpg"),),
        payload_digest=hex_digest(f"{tenant} {job_id} {sku} {content}"),
        serial=serial,
    )


def a_probe(*, photograph: str = "photograph", phash: int | None = None, view: str = "logo") -> ViewProbe:
    numbers = np.random.default_rng(int(hex_digest(photograph)[:8], 16))
    embedding = numbers.standard_normal(8).astype(np.float32)
    return ViewProbe(
        view=view,
        sha256=hex_digest(photograph),
        engine=ENGINE,
        embedding=embedding / np.linalg.norm(embedding),
        patches=np.eye(4, dtype=np.float32),
        patch_grid=(2, 2),
        attention=np.full((2, 2), 0.25, np.float32),
        quality={"sharpness": 0.5},
        phash=int(hex_digest(photograph)[:16], 16) if phash is None else phash,
        source_size=(1024, 1024),
    )


def an_evidence(job: AuthenticationJob, *probes: ViewProbe) -> JobEvidence:
    probes = probes or (a_probe(photograph=f"{job.tenant} {job.job_id} photograph"),)
    return JobEvidence(
        job=job,
        matches=tuple(ViewMatch(probe=probe) for probe in probes),
        unusable=(),
        nearest_skus=("SKU-2",),
        gallery_revision=3,
    )


def an_event(job: AuthenticationJob, *, judged_at: datetime = NOON, detail: str = "close") -> VerdictEvent:
    grid = Grid(height=2, width=2, cells=bytes([0, 80, 160, 255]))
    view = ViewResult(
        view="logo",
        sha256=hex_digest("logo"),
        usable=True,
        encoder="demo",
        similarity=0.9,
        deviation=1.1,
        p_genuine=0.97,
        aligned=True,
        quality={"sharpness": 0.5},
        references=(ReferenceMatch(reference_id="r1", similarity=0.9),),
        attention=grid,
        deviation_map=grid,
    )
    broken = ViewResult(view="lining", sha256=hex_digest("l"), usable=False, unusable_code=ViewCode.TRUNCATED)
    return VerdictEvent(
        result_id=result_id(job.tenant, job.job_id, job.revision),
        revision=job.revision,
        job_id=job.job_id,
        tenant=job.tenant,
        sku=job.sku,
        category=job.category,
        verdict=Verdict.AUTHENTIC,
        confidence=0.97,
        p_genuine=0.97,
        reasons=(Reason(code=ReasonCode.CONSISTENT_WITH_REFERENCES, view="logo", detail=detail),),
        views=(view, broken),
        missing_views=("serial",),
        nearest_skus=("SKU-2",),
        provenance=Provenance(
            engines=(ENGINE,), degraded=False, gallery_revision=3, calibration_id="cal-1", build="test"
        ),
        timings=Timings(fetch_ms=1.0, embed_ms=2.0, judge_ms=0.1, queue_ms=3.0, total_ms=6.5),
        judged_at=judged_at,
        payload_digest=job.payload_digest,
    )


def judged(
    offset: int = 0,
    job: AuthenticationJob | None = None,
    *,
    headers: Headers = (),
    judged_at: datetime = NOON,
    detail: str = "close",
    evidence: JobEvidence | None = None,
) -> Judged:
    job = job or a_job()
    return Judged(
        record=a_record(offset, value=job.payload_digest.encode(), headers=headers),
        job=job,
        event=an_event(job, judged_at=judged_at, detail=detail),
        evidence=evidence or an_evidence(job),
        attempt=1,
    )


def rejected(
    offset: int = 0,
    job: AuthenticationJob | None = None,
    *,
    code: ErrorCode = ErrorCode.NO_USABLE_VIEW,
    headers: Headers = (),
    value: bytes = b"original",
    detail: str = "no view could be used",
) -> Rejected:
    return Rejected(
        record=a_record(offset, value=value, headers=headers),
        job=job,
        code=code,
        stage="embed",
        detail=detail,
        attempt=2,
        first_seen=NOON,
    )


def retry(offset: int = 0, job: AuthenticationJob | None = None, *, attempt: int = 1) -> Retry:
    return Retry(
        record=a_record(offset),
        job=job or a_job(),
        stage="fetch",
        detail="timed out",
        attempt=attempt,
        due=NOON.replace(minute=5),
        first_seen=NOON,
    )


def with_source(outcome: Judged | Rejected, topic: str, offset: int) -> Judged | Rejected:
    source = replace(outcome.record.source, topic=topic, offset=offset)
    return replace(outcome, record=replace(outcome.record, source=source))
