"""What makes a photograph a copy of another, and an index of the photographs of a few jobs in memory.

Measured on the demo's goods (512 px, 6 SKUs): recompressed and resized copies differ in 0 to 4 bits of the perceptual
hash, but so do 11 % of the pairs of *other specimens* of one SKU in one view, and 4 % of the pairs of other SKUs. So a
near hash only proposes; the embeddings of both decide, and between specimens of one SKU only equal bytes count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from schemas.job import AuthenticationJob
from worker.adapters.phash import MOST_BITS, bands
from worker.core.evidence import JobEvidence, ReuseHit, Vector, ViewProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRule:
    """A near copy: at most `bits` (0 to 4) of the hash differ, and the embeddings' cosine is at least `cosine`."""

    bits: int = MOST_BITS
    cosine: float = 0.97

    def alike(self, one: Vector, other: Vector | None) -> bool:
        """`one`, `other`: L2-normalised embeddings of one space; None where the other has none in that space."""
        return other is not None and float(one @ other) >= self.cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    job: AuthenticationJob
    probe: ViewProbe


@dataclass(slots=True)
class ReuseIndex:
    """The photographs of jobs seen so far, by tenant; the twin of the tables for a call's own jobs and for tests."""

    rule: CopyRule = field(default_factory=CopyRule)
    _by_digest: dict[tuple[str, str], list[_Seen]] = field(default_factory=lambda: defaultdict(list))
    _by_band: dict[tuple[str, int], list[_Seen]] = field(default_factory=lambda: defaultdict(list))

    def add(self, evidence: JobEvidence) -> None:
        tenant = evidence.job.tenant
        for match in evidence.matches:
            seen = _Seen(job=evidence.job, probe=match.probe)
            self._by_digest[tenant, match.probe.sha256].append(seen)
            for band in bands(match.probe.phash):
                self._by_band[tenant, band].append(seen)

    def hits(self, evidence: JobEvidence) -> list[ReuseHit]:
        """At most one a view, an exact one where there is any."""
        found = (self._first(evidence.job, match.probe) for match in evidence.matches)
        return [hit for hit in found if hit is not None]

    def _first(self, job: AuthenticationJob, probe: ViewProbe) -> ReuseHit | None:
        for seen in _before(job, self._by_digest.get((job.tenant, probe.sha256), ())):
            if differs(job, seen.job):
                return ReuseHit(view=probe.view, kind="job", other=seen.job.job_id, exact=True)
        for seen in self._near(job, probe):
            if self._copied(job, probe, seen):
                return ReuseHit(view=probe.view, kind="job", other=seen.job.job_id, exact=False)
        return None

    def _near(self, job: AuthenticationJob, probe: ViewProbe) -> Iterator[_Seen]:
        for band in bands(probe.phash):
            yield from _before(job, self._by_band.get((job.tenant, band), ()))

    def _copied(self, job: AuthenticationJob, probe: ViewProbe, seen: _Seen) -> bool:
        if job.job_id == seen.job.job_id or job.sku == seen.job.sku:
            return False
        near = (probe.phash ^ seen.probe.phash).bit_count() <= self.rule.bits
        same_space = probe.engine.embedding_space == seen.probe.engine.embedding_space
        return near and self.rule.alike(probe.embedding, seen.probe.embedding if same_space else None)


def _before(job: AuthenticationJob, seen: Iterable[_Seen]) -> Iterator[_Seen]:
    """A job that is decided again is compared with what was there before its first look."""
    return iter(seen) if job.supersedes is None else takewhile(lambda one: one.job.job_id != job.job_id, seen)


def differs(job: AuthenticationJob, other: AuthenticationJob) -> bool:
    """Whether equal photographs of both jobs are a reuse: another SKU, or another subject where both name one."""
    if job.job_id == other.job_id:
        return False
    subjects = job.subject, other.subject
    return job.sku != other.sku or (None not in subjects and subjects[0] != subjects[1])


def within_call(jobs: Sequence[JobEvidence], rule: CopyRule) -> list[list[ReuseHit]]:
    """Hits among the jobs of one call: each against those before it. Jobs that are decided again were seen before."""
    index = ReuseIndex(rule)
    hits: list[list[ReuseHit]] = []
    for evidence in jobs:
        again = evidence.job.supersedes is not None
        hits.append([] if again else index.hits(evidence))
        if not again:
            index.add(evidence)
    return hits
