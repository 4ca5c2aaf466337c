"""Photographs that come back: as a reference, or in another job of the tenant under another SKU or subject.

One statement a call. Same bytes, or perceptual hashes within `most_bits`; jobs of the same call count in their order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection, text

from worker.adapters.phash import BANDS, bands, signed
from worker.core.evidence import JobEvidence, ReuseHit

_BAND_ARRAYS = ", ".join(f"CAST(:band{place} AS int[])" for place in range(BANDS))
_BAND_NAMES = ", ".join(f"band{place}" for place in range(BANDS))
_NEAR = "bit_count((seen.phash # probe.phash)::bit(64)) <= :most_bits"
_DIFFERS = "seen.job_id <> probe.job_id AND (seen.sku <> probe.sku OR seen.subject <> probe.subject)"
_LIKE = f"(seen.sha256 = probe.sha256 OR (seen.bands && probe.bands AND {_NEAR}))"

# Digest and bands are searched apart, each by its own index. A subject that is null differs from nothing. A retired
# reference is still a known photograph; a draft is nobody's yet.
FIND = text(
    f"""
WITH probe AS MATERIALIZED (
    SELECT position, tenant, job_id, sku, subject, view, sha256, phash, ARRAY[{_BAND_NAMES}] AS bands
    FROM unnest(CAST(:position AS int[]), CAST(:tenant AS text[]), CAST(:job_id AS text[]), CAST(:sku AS text[]),
        CAST(:subject AS text[]), CAST(:view AS text[]), CAST(:sha256 AS bytea[]), CAST(:phash AS bigint[]),
        {_BAND_ARRAYS}) AS given (position, tenant, job_id, sku, subject, view, sha256, phash, {_BAND_NAMES})
), hit AS (
    SELECT probe.position, probe.view, 'job' AS kind, seen.job_id AS other, true AS exact
    FROM probe JOIN assay.probe_images AS seen ON seen.tenant = probe.tenant AND seen.sha256 = probe.sha256
    WHERE {_DIFFERS}
    UNION ALL
    SELECT probe.position, probe.view, 'job', seen.job_id, seen.sha256 = probe.sha256
    FROM probe JOIN assay.probe_images AS seen ON seen.bands && probe.bands
    WHERE seen.tenant = probe.tenant AND {_NEAR} AND {_DIFFERS}
    UNION ALL
    SELECT probe.position, probe.view, 'job', seen.job_id, seen.sha256 = probe.sha256
    FROM probe JOIN probe AS seen ON seen.tenant = probe.tenant AND seen.position < probe.position
    WHERE {_LIKE} AND {_DIFFERS}
    UNION ALL
    SELECT probe.position, probe.view, 'reference', CAST(seen.id AS text), seen.sha256 = probe.sha256
    FROM probe JOIN assay.reference_images AS seen ON seen.sha256 = probe.sha256 OR seen.bands && probe.bands
    WHERE {_LIKE} AND seen.state <> 'draft' AND (seen.tenant = probe.tenant OR EXISTS (
        SELECT FROM assay.reference_grants AS share WHERE share.owner = seen.tenant AND share.grantee = probe.tenant))
)
SELECT DISTINCT ON (position, view, kind) position, view, kind, other, exact
FROM hit ORDER BY position, view, kind DESC, exact DESC, other
"""  # noqa: S608 # constants of this module
)


def find_reused(connection: Connection, jobs: Sequence[JobEvidence], *, most_bits: int) -> list[tuple[ReuseHit, ...]]:
    """At most one hit a view and kind, job by job, the exact one first."""
    hits: dict[int, list[ReuseHit]] = defaultdict(list)
    for row in connection.execute(FIND, {**_probes(jobs), "most_bits": most_bits}):
        hits[row.position].append(ReuseHit(view=row.view, kind=row.kind, other=row.other, exact=row.exact))
    return [tuple(hits[position]) for position in range(len(jobs))]


def _probes(jobs: Sequence[JobEvidence]) -> dict[str, list[object]]:
    """The statement's arrays: one place a usable view."""
    columns: dict[str, list[object]] = defaultdict(list)
    for position, evidence in enumerate(jobs):
        for match in evidence.matches:
            job, probe = evidence.job, match.probe
            columns["position"].append(position)
            columns["tenant"].append(job.tenant)
            columns["job_id"].append(job.job_id)
            columns["sku"].append(job.sku)
            columns["subject"].append(job.subject)
            columns["view"].append(probe.view)
            columns["sha256"].append(bytes.fromhex(probe.sha256))
            columns["phash"].append(signed(probe.phash))
            for place, band in enumerate(bands(probe.phash)):
                columns[f"band{place}"].append(band)
    return columns
