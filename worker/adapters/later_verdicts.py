"""Verdicts after a job's first: who was first with each revision, in statements that take many jobs at once.

A job's row points at its first verdict for ever. A record that supersedes claims the next revision instead, and may
where the job was judged, says again what it said, and has the revision that is to be replaced. The job's row is locked
meanwhile, so that an erasure comes before or after, never between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

from worker.adapters.claims import Claim, JobKey, Standing
from worker.adapters.letters import read_letters
from worker.adapters.outputs import DeadLetter, letter_id
from worker.outcomes import Judged

RevisionKey = tuple[str, str, int]  # tenant, job_id, revision

INSERT = text("""
INSERT INTO assay.later_verdicts (tenant, job_id, revision, result_id, judged_at, src)
SELECT claim.tenant, claim.job_id, claim.revision, claim.result_id, claim.judged_at, claim.src
FROM unnest(CAST(:tenant AS text[]), CAST(:job_id AS text[]), CAST(:payload_digest AS bytea[]),
    CAST(:revision AS int[]), CAST(:result_id AS uuid[]), CAST(:judged_at AS timestamptz[]), CAST(:src AS text[]))
    AS claim (tenant, job_id, payload_digest, revision, result_id, judged_at, src)
JOIN assay.jobs AS job ON job.tenant = claim.tenant AND job.job_id = claim.job_id
WHERE job.state = 'judged' AND job.payload_digest = claim.payload_digest
    AND (claim.revision = 2 OR EXISTS (SELECT FROM assay.later_verdicts AS before WHERE before.tenant = claim.tenant
        AND before.job_id = claim.job_id AND before.revision = claim.revision - 1))
ORDER BY claim.tenant, claim.job_id FOR KEY SHARE OF job
ON CONFLICT (tenant, job_id, revision) DO NOTHING
RETURNING tenant, job_id, revision
""")

STANDING = text("""
SELECT later.* FROM unnest(CAST(:tenant AS text[]), CAST(:job_id AS text[]), CAST(:revision AS int[]))
    AS wanted (tenant, job_id, revision)
JOIN assay.later_verdicts AS later USING (tenant, job_id, revision)
""")


def revision_of(claim: Claim) -> RevisionKey:
    return (*claim.key, claim.job.revision)


def take_later(connection: Connection, claims: Sequence[Claim]) -> set[int]:
    """Write the claims of revisions that are still to come; return the winners' positions. A record that was answered
    with a dead letter already claims nothing."""
    judged = [claim for claim in claims if isinstance(claim.outcome, Judged)]
    buried = read_letters(connection, (letter_id(claim.outcome.record) for claim in judged))
    open_claims = [claim for claim in judged if letter_id(claim.outcome.record) not in buried]
    firsts = {revision_of(claim): claim for claim in reversed(open_claims)}
    if not firsts:
        return set()
    rows = [_row(firsts[key]) for key in sorted(firsts)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    won = connection.execute(INSERT, columns)
    return {firsts[row.tenant, row.job_id, row.revision].position for row in won}


def read_later(connection: Connection, claims: Sequence[Claim]) -> dict[RevisionKey, Standing]:
    """What stands of the revisions that these claim."""
    wanted = sorted({revision_of(claim) for claim in claims})
    if not wanted:
        return {}
    tenants, job_ids, revisions = map(list, zip(*wanted, strict=True))
    rows = connection.execute(STANDING, {"tenant": tenants, "job_id": job_ids, "revision": revisions})
    return {
        (row.tenant, row.job_id, row.revision): Standing(
            erased=False,
            payload_digest="",
            src=row.src,
            result_id=row.result_id,
            judged_at=row.judged_at,
            dead_letter_id=None,
        )
        for row in rows
    }


def read_own_letters(connection: Connection, claims: Sequence[Claim]) -> dict[int, DeadLetter]:
    """By position, the letters that these records were answered with before."""
    ids = {claim.position: letter_id(claim.outcome.record) for claim in claims}
    found = read_letters(connection, ids.values())
    return {position: found[key] for position, key in ids.items() if key in found}


def why_not(claim: Claim, jobs: Mapping[JobKey, Standing]) -> str:
    """In words, why a claim that nothing else refuses has nothing to supersede."""
    standing = jobs.get(claim.key)
    if standing is None:
        return f"there is no job {claim.job.job_id!r} that was answered"
    if standing.result_id is None:
        return f"job {claim.job.job_id!r} has no verdict but a dead letter: replay that"
    return f"job {claim.job.job_id!r} has no verdict of revision {claim.job.supersedes}"


def _row(claim: Claim) -> dict[str, object]:
    assert isinstance(claim.outcome, Judged)  # noqa: S101 # no other claims a revision
    event = claim.outcome.event
    return {
        "tenant": claim.job.tenant,
        "job_id": claim.job.job_id,
        "payload_digest": bytes.fromhex(claim.job.payload_digest),
        "revision": event.revision,
        "result_id": event.result_id,
        "judged_at": event.judged_at,
        "src": claim.src,
    }
