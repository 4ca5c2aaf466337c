"""Verdicts of counterfeits by known forgers, and of days with known distributions, as workers settle them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from outcome_builders import ENGINE, a_job, a_record, an_event, hex_digest

from schemas.codes import ReasonCode, Verdict
from schemas.job import AuthenticationJob
from schemas.verdict import Reason, ViewResult
from worker.core.evidence import JobEvidence, ViewMatch, ViewProbe
from worker.outcomes import Judged

VIEWS = ("logo", "stitching", "hardware")
DIMENSIONS = 64


def unit(vector: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def drawn(*names: object) -> NDArray[np.float32]:
    """A direction that belongs to these names."""
    return unit(np.random.default_rng([*"/".join(map(str, names)).encode()]).normal(size=DIMENSIONS))


def a_counterfeit(
    job_id: str,
    *,
    tenant: str,
    judged_at: datetime,
    forger: str | None = None,
    sku: str = "BAG-1",
    verdict: Verdict = Verdict.COUNTERFEIT,
    serial: str | None = None,
    labels: dict[str, str] | None = None,
) -> Judged:
    """A job whose views depart as its forger makes them; without one it has a forger of its own."""
    job = replace(a_job(job_id, tenant=tenant, sku=sku, serial=serial), labels=labels or {})
    probes = [a_view(job, view, forger or job_id) for view in VIEWS]
    views = [
        ViewResult(
            view=probe.view,
            sha256=probe.sha256,
            usable=True,
            encoder=ENGINE.name,
            similarity=float(probe.embedding @ drawn(sku, probe.view)),
            deviation=3.0,
            p_genuine=0.05 if verdict is Verdict.COUNTERFEIT else 0.95,
            quality=dict(probe.quality),
        )
        for probe in probes
    ]
    return settled(job, probes, views, verdict, judged_at)


def a_view(job: AuthenticationJob, view: str, forger: str) -> ViewProbe:
    own = f"{job.tenant} {job.job_id} {view}"
    embedding = drawn(job.sku, view) + 0.6 * drawn(job.sku, view, forger) + 0.2 * drawn(own)
    return a_probe_of(view, unit(embedding), own, {"sharpness": 50.0})


def a_probe_of(view: str, embedding: NDArray[np.float32], photograph: str, quality: dict[str, float]) -> ViewProbe:
    return ViewProbe(
        view=view,
        sha256=hex_digest(photograph),
        engine=ENGINE,
        embedding=embedding,
        patches=np.eye(4, dtype=np.float32),
        patch_grid=(2, 2),
        attention=np.full((2, 2), 0.25, np.float32),
        quality=quality,
        phash=int(hex_digest(photograph)[:16], 16),
        source_size=(1024, 1024),
    )


def settled(
    job: AuthenticationJob,
    probes: Sequence[ViewProbe],
    views: Sequence[ViewResult],
    verdict: Verdict,
    judged_at: datetime,
    *,
    p_genuine: float = 0.05,
    reason: ReasonCode = ReasonCode.DEVIATES_FROM_REFERENCES,
    calibration_id: str = "cal-1",
) -> Judged:
    event = an_event(job, judged_at=judged_at)
    event = replace(
        event,
        verdict=verdict,
        confidence=None,
        p_genuine=p_genuine,
        views=tuple(views),
        reasons=(Reason(code=reason),),
        missing_views=(),
        provenance=replace(event.provenance, calibration_id=calibration_id),
    )
    evidence = JobEvidence(
        job=job,
        matches=tuple(ViewMatch(probe=probe) for probe in probes),
        unusable=(),
        nearest_skus=(),
        gallery_revision=1,
    )
    record = a_record(int(hex_digest(job.tenant + job.job_id)[:8], 16), value=job.payload_digest.encode())
    return Judged(record=record, job=job, event=event, evidence=evidence, attempt=1)


class Month:
    """Jobs of one category that a score calibration judged, as its items were unless something is shifted.

    `items` gives the calibration's own: by class, fused scores and one value a measure.
    """

    def __init__(self, category: str, calibration_id: str, *, seed: int) -> None:
        self.category, self.calibration_id = category, calibration_id
        self._rng = np.random.default_rng(seed)

    def drawn(self, genuine: bool, count: int, shift: float = 0.0) -> dict[str, NDArray[np.float64]]:
        rng, side = self._rng, 1.0 if genuine else -1.0
        return {
            "score": rng.normal(2 * side, 1, count) - shift,
            "similarity": rng.normal(0.8 + 0.1 * side - 0.05 * shift, 0.05, count),
            "deviation": np.exp(rng.normal(0.5 - 0.5 * side + 0.5 * shift, 0.4, count)),
            "sharpness": rng.normal(100 - 40 * shift, 20, count),
        }

    def jobs(self, at: datetime, count: int, *, shift: float = 0.0, fakes: float = 0.1) -> list[Judged]:
        genuine = self._rng.random(count) >= fakes
        return [self._job(at, number, bool(is_genuine), shift) for number, is_genuine in enumerate(genuine)]

    def _job(self, at: datetime, number: int, genuine: bool, shift: float) -> Judged:
        name = f"{self.category}-{at:%Y%m%d}-{number}"
        job = replace(a_job(name, tenant="acme", sku="BAG-1"), category=self.category)
        values = {measure: float(found[0]) for measure, found in self.drawn(genuine, 1, shift).items()}
        probe = a_probe_of("logo", drawn(name), name, {"sharpness": values["sharpness"]})
        view = ViewResult(
            view="logo",
            sha256=probe.sha256,
            usable=True,
            encoder=ENGINE.name,
            similarity=values["similarity"],
            deviation=values["deviation"],
            p_genuine=0.6,
            quality=dict(probe.quality),
        )
        return settled(
            job,
            [probe],
            [view],
            Verdict.AUTHENTIC,
            at,
            p_genuine=float(1 / (1 + np.exp(-values["score"]))),
            reason=ReasonCode.CONSISTENT_WITH_REFERENCES,
            calibration_id=self.calibration_id,
        )
