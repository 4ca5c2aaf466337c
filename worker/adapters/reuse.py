"""Photographs that come back: as a reference, or in another job of the tenant under another SKU or subject.

One statement a call. Equal bytes decide alone; a near perceptual hash only proposes candidates of another SKU, a few a
view, which the embeddings then confirm (see reuse_index). Jobs of the same call count in their order. A job that is
decided again is compared with what was there before its first look: who used its photographs later is the thief.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from sqlalchemy import Connection, text

from worker.adapters.phash import signed
from worker.adapters.reuse_index import CopyRule, within_call
from worker.core.evidence import JobEvidence, ReuseHit, Vector

CANDIDATES = 8  # nearest hashes a view whose embeddings are looked at

_BITS = "bit_count((seen.phash # probe.phash)::bit(64))"
_VISIBLE = """seen.state <> 'draft' AND (seen.tenant = probe.tenant OR EXISTS (SELECT
        FROM assay.reference_grants AS share WHERE share.owner = seen.tenant AND share.grantee = probe.tenant))"""

_EQUAL = """SELECT seen.job_id FROM assay.known_photographs AS seen WHERE seen.tenant = probe.tenant
        AND seen.sha256 = probe.sha256 AND seen.job_id <> probe.job_id AND seen.at < probe.until"""

# Each search has its own index. A subject that is empty differs from nothing. A retired reference is still a known
# photograph; a draft is nobody's yet. OFFSET 0 keeps what is around it out of a search: of tables that grew since they
# were last analysed, the planner would read all photographs of the tenant for each view, or all vectors for one.
FIND = text(
    f"""
WITH probe AS MATERIALIZED (
    SELECT position, tenant, job_id, sku, coalesce(subject, '') AS subject, view, space, sha256, phash,
        assay.phash_pairs(phash) AS pairs,
        CASE WHEN again THEN coalesce((SELECT min(own.at) FROM assay.probe_images AS own
            WHERE own.tenant = given.tenant AND own.job_id = given.job_id), 'infinity') ELSE 'infinity' END AS until
    FROM unnest(CAST(:position AS int[]), CAST(:tenant AS text[]), CAST(:job_id AS text[]), CAST(:sku AS text[]),
        CAST(:subject AS text[]), CAST(:view AS text[]), CAST(:space AS text[]), CAST(:sha256 AS bytea[]),
        CAST(:phash AS bigint[]), CAST(:again AS boolean[]))
        AS given (position, tenant, job_id, sku, subject, view, space, sha256, phash, again)
)
SELECT probe.position, probe.view, 'job' AS kind, hit.job_id AS other, true AS exact, CAST(NULL AS halfvec) AS embedding
FROM probe CROSS JOIN LATERAL (
    ({_EQUAL} AND seen.sku < probe.sku LIMIT 1)
    UNION ALL ({_EQUAL} AND seen.sku > probe.sku LIMIT 1)
    UNION ALL ({_EQUAL} AND seen.sku = probe.sku AND '' NOT IN (seen.subject, probe.subject)
        AND seen.subject <> probe.subject LIMIT 1)
    LIMIT 1
) AS hit
UNION ALL
SELECT probe.position, probe.view, 'job', hit.job_id, false, vector.embedding
FROM probe CROSS JOIN LATERAL (
    SELECT seen.tenant, seen.job_id, seen.view
    FROM (SELECT * FROM assay.known_photographs AS known
        WHERE assay.phash_pairs(known.phash) && probe.pairs OFFSET 0) AS seen
    WHERE seen.tenant = probe.tenant AND seen.space = probe.space
        AND seen.job_id <> probe.job_id AND seen.at < probe.until AND seen.sku <> probe.sku AND {_BITS} <= :bits
    ORDER BY {_BITS} LIMIT {CANDIDATES}
) AS hit CROSS JOIN LATERAL (
    SELECT kept.embedding FROM assay.probe_embeddings AS kept
    WHERE (kept.tenant, kept.job_id, kept.view, kept.space) = (hit.tenant, hit.job_id, hit.view, probe.space) OFFSET 0
) AS vector
UNION ALL
SELECT probe.position, probe.view, 'reference', CAST(hit.id AS text), true, NULL
FROM probe CROSS JOIN LATERAL (
    SELECT seen.id FROM assay.reference_images AS seen WHERE seen.sha256 = probe.sha256 AND {_VISIBLE} LIMIT 1
) AS hit
UNION ALL
SELECT probe.position, probe.view, 'reference', CAST(hit.id AS text), false, CAST(vector.embedding AS halfvec)
FROM probe CROSS JOIN LATERAL (
    SELECT seen.id
    FROM (SELECT * FROM assay.reference_images AS known
        WHERE assay.phash_pairs(known.phash) && probe.pairs OFFSET 0) AS seen
    WHERE seen.sku <> probe.sku AND {_BITS} <= :bits AND {_VISIBLE}
    ORDER BY {_BITS} LIMIT {CANDIDATES}
) AS hit CROSS JOIN LATERAL (
    SELECT kept.embedding FROM assay.reference_embeddings AS kept
    WHERE (kept.reference_id, kept.space) = (hit.id, probe.space) OFFSET 0
) AS vector
"""  # noqa: S608 # constants of this module
)

_WRITTEN = {"position", "sha256", "phash", "again"}
_Key = tuple[int, str, str]  # position, view, kind


def find_reused(connection: Connection, jobs: Sequence[JobEvidence], *, rule: CopyRule) -> list[tuple[ReuseHit, ...]]:
    """At most one hit a view and kind, job by job, the exact one first."""
    looks = {(at, match.probe.view): match.probe.embedding for at, job in enumerate(jobs) for match in job.matches}
    hits: dict[_Key, ReuseHit] = {}
    for position, hit in _stored(connection, jobs, looks, rule):
        _keep(hits, position, hit)
    for position, found in enumerate(within_call(jobs, rule)):
        for hit in found:
            _keep(hits, position, hit)
    grouped: dict[int, list[ReuseHit]] = defaultdict(list)
    for (position, _view, _kind), hit in sorted(hits.items(), key=lambda entry: entry[0]):
        grouped[position].append(hit)
    return [tuple(grouped[position]) for position in range(len(jobs))]


def _stored(
    connection: Connection, jobs: Sequence[JobEvidence], looks: Mapping[tuple[int, str], Vector], rule: CopyRule
) -> Iterable[tuple[int, ReuseHit]]:
    found: set[_Key] = set()
    for row in connection.execute(FIND, {**arrays_of(jobs), "bits": rule.bits}):
        key = row.position, row.view, row.kind
        if not row.exact and key in found:  # eight candidates a view are many vectors to read
            continue
        stored = None if row.embedding is None else np.asarray(row.embedding.to_numpy(), np.float32)
        if row.exact or rule.alike(looks[row.position, row.view], stored):
            found.add(key)
            yield row.position, ReuseHit(view=row.view, kind=row.kind, other=row.other, exact=row.exact)


def _keep(hits: dict[_Key, ReuseHit], position: int, hit: ReuseHit) -> None:
    key = (position, hit.view, hit.kind)
    if key not in hits or (hit.exact and not hits[key].exact):
        hits[key] = hit


def arrays_of(jobs: Sequence[JobEvidence]) -> dict[str, list[object] | str]:
    """The statement's arrays: one place a usable view. Those of numbers are written here, as PostgreSQL reads them:
    psycopg would write each number by itself."""
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
            columns["space"].append(probe.engine.embedding_space)
            columns["sha256"].append(f'"\\\\x{probe.sha256}"')
            columns["phash"].append(signed(probe.phash))
            columns["again"].append(job.supersedes is not None)
    return {
        name: f"{{{','.join(map(str, column))}}}" if name in _WRITTEN else column for name, column in columns.items()
    }
