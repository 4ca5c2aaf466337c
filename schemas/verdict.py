"""VerdictEvent v1: what Assay says of one job, where it looked, and on what grounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid5

from schemas.codes import ReasonCode, Verdict, ViewCode

RESULT_NAMESPACE = UUID("6c7b1a52-6f0e-5d0a-9a43-0d8f5b8f3b61")


def result_id(tenant: str, job_id: str, revision: int) -> UUID:
    """The id of a job's answer; a re-evaluation is the next revision."""
    return uuid5(RESULT_NAMESPACE, f"{tenant}\x00{job_id}\x00{revision}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A small map: row-major 8-bit cells, 0 = none, 255 = most; at most 4,096 cells."""

    height: int
    width: int
    cells: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    code: ReasonCode
    view: str | None = None
    detail: str = ""  # one sentence for a person, naming values


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceMatch:
    """A genuine reference that was compared, best first."""

    reference_id: str
    similarity: float  # cosine, larger is closer


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewResult:
    view: str
    sha256: str
    usable: bool
    unusable_code: ViewCode | None = None
    encoder: str | None = None
    similarity: float | None = None  # best cosine to a genuine reference of the claimed SKU
    counterfeit_similarity: float | None = None  # best cosine to a known counterfeit of the SKU
    other_sku: str | None = None  # nearest other SKU
    other_sku_similarity: float | None = None
    deviation: float | None = None  # mean of the top 5 % of cells, in the references' own spread
    p_genuine: float | None = None  # calibrated, this view alone
    aligned: bool | None = None
    quality: dict[str, float] = field(default_factory=dict)
    references: tuple[ReferenceMatch, ...] = ()
    attention: Grid | None = None
    deviation_map: Grid | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUse:
    """An engine that took part in the verdict."""

    name: str
    digest: str
    backend: str
    precision: str
    embedding_space: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    engines: tuple[EngineUse, ...]
    degraded: bool
    gallery_revision: int
    calibration_id: str | None
    build: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Milliseconds of this job in each stage, and from its submission to its judgement."""

    fetch_ms: float
    embed_ms: float
    judge_ms: float
    queue_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictEvent:
    result_id: UUID
    revision: int
    job_id: str
    tenant: str
    sku: str
    category: str
    verdict: Verdict
    confidence: float | None  # probability of the stated verdict; None when inconclusive
    p_genuine: float | None  # None when nothing could be scored
    reasons: tuple[Reason, ...]
    views: tuple[ViewResult, ...]
    missing_views: tuple[str, ...]
    nearest_skus: tuple[str, ...]
    provenance: Provenance
    timings: Timings
    judged_at: datetime  # aware, UTC
    payload_digest: str
