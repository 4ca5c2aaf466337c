"""Who was first: the claims on `assay.jobs`, in statements that take many jobs at once.

A claim is a judged job or a dead one whose message could be read. `INSERT ... ON CONFLICT DO NOTHING` lets one claim a
job through, in this process or any other; rows are sorted by key, so that two transactions wait for each other in one
order. The losers are read by a later statement, which sees what the winner committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, TextClause, text

from migrations.tables import verdicts
from schemas.job import AuthenticationJob
from worker.adapters.outputs import Answer, DeadLetter, replay_of
from worker.outcomes import Judged, Rejected

JobKey = tuple[str, str]  # tenant, job_id

_COLUMNS = """
unnest(CAST(:tenant AS text[]), CAST(:job_id AS text[]), CAST(:payload_digest AS bytea[]), CAST(:state AS text[]),
    CAST(:result_id AS uuid[]), CAST(:judged_at AS timestamptz[]), CAST(:dead_letter_id AS uuid[]),
    CAST(:src AS text[]), CAST(:replay_of AS uuid[]))
AS claim (tenant, job_id, payload_digest, state, result_id, judged_at, dead_letter_id, src, replay_of)
"""

INSERT = text(f"""
INSERT INTO assay.jobs (tenant, job_id, payload_digest, state, result_id, judged_at, dead_letter_id, src)
SELECT tenant, job_id, payload_digest, state, result_id, judged_at, dead_letter_id, src FROM {_COLUMNS}
ON CONFLICT (tenant, job_id) DO NOTHING
RETURNING tenant, job_id
""")  # noqa: S608 # a constant of this module

REPLAY = text(f"""
UPDATE assay.jobs AS job SET state = claim.state, result_id = claim.result_id, judged_at = claim.judged_at,
    dead_letter_id = coalesce(claim.dead_letter_id, job.dead_letter_id), src = claim.src
FROM {_COLUMNS}
WHERE job.tenant = claim.tenant AND job.job_id = claim.job_id AND job.payload_digest = claim.payload_digest
    AND job.state = 'dead' AND job.dead_letter_id = claim.replay_of
RETURNING job.tenant, job.job_id
""")  # noqa: S608 # a constant of this module

STANDING = text("""
SELECT job.* FROM unnest(CAST(:tenant AS text[]), CAST(:job_id AS text[])) AS wanted (tenant, job_id)
JOIN assay.jobs AS job USING (tenant, job_id)
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job's end that may become the one that is kept. Exactly one of `answer` and `letter` is set."""

    position: int  # in the call's outcomes
    outcome: Judged | Rejected
    job: AuthenticationJob
    answer: Answer | None = None
    letter: DeadLetter | None = None

    @property
    def key(self) -> JobKey:
        return self.job.tenant, self.job.job_id

    @property
    def later(self) -> bool:
        """It claims a revision after the job's first, not the job."""
        return self.job.supersedes is not None

    @property
    def src(self) -> str:
        return str(self.outcome.record.source)

    @property
    def replay_of(self) -> UUID | None:
        """The dead letter that this job is a replay of, as the record says."""
        return replay_of(self.outcome.record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A job's row. `erased`: the job had an end, and its data was erased."""

    erased: bool
    payload_digest: str
    src: str
    result_id: UUID | None
    judged_at: datetime | None
    dead_letter_id: UUID | None


def take(connection: Connection, claims: Sequence[Claim]) -> set[int]:
    """Write the claims of jobs without an end, and of replays of dead ones; return the winners' positions."""
    won = _won(connection, INSERT, claims)
    replays = [claim for claim in claims if claim.position not in won and claim.replay_of is not None]
    return won | _won(connection, REPLAY, replays)


def read_standing(connection: Connection, keys: Iterable[JobKey]) -> dict[JobKey, Standing]:
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    rows = connection.execute(STANDING, {"tenant": [key[0] for key in wanted], "job_id": [key[1] for key in wanted]})
    return {
        (row.tenant, row.job_id): Standing(
            erased=row.state == "erased",
            payload_digest=row.payload_digest.hex(),
            src=row.src,
            result_id=row.result_id,
            judged_at=row.judged_at,
            dead_letter_id=None if row.result_id else row.dead_letter_id,
        )
        for row in rows
    }


def read_answers(connection: Connection, standing: Iterable[Standing]) -> dict[UUID, Answer]:
    """The stored messages. Their partitions are named, so that no other is searched."""
    judged = [row for row in standing if row.result_id is not None]
    if not judged:
        return {}
    columns = (verdicts.c.result_id, verdicts.c.tenant, verdicts.c.job_id, verdicts.c.event, verdicts.c.event_headers)
    rows = connection.execute(
        verdicts.select()
        .with_only_columns(*columns)
        .where(verdicts.c.result_id.in_([row.result_id for row in judged]))
        .where(verdicts.c.judged_at.in_([row.judged_at for row in judged]))
    )
    return {row.result_id: _answer(row.tenant, row.job_id, row.event, row.event_headers) for row in rows}


def _won(connection: Connection, statement: TextClause, claims: Sequence[Claim]) -> set[int]:
    """Run `statement` with the first claim of each job; return the positions of those that it let through."""
    firsts = {claim.key: claim for claim in reversed(claims)}
    if not firsts:
        return set()
    rows = [_row(firsts[key]) for key in sorted(firsts)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {firsts[row.tenant, row.job_id].position for row in connection.execute(statement, columns)}


def _row(claim: Claim) -> dict[str, object]:
    event = claim.outcome.event if isinstance(claim.outcome, Judged) else None
    return {
        "tenant": claim.job.tenant,
        "job_id": claim.job.job_id,
        "payload_digest": bytes.fromhex(claim.job.payload_digest),
        "state": "judged" if event else "dead",
        "result_id": event.result_id if event else None,
        "judged_at": event.judged_at if event else None,
        "dead_letter_id": claim.letter.letter_id if claim.letter else None,
        "src": claim.src,
        "replay_of": claim.replay_of,
    }


def _answer(tenant: str, job_id: str, event: bytes, headers: list[tuple[str, str]]) -> Answer:
    own = tuple((name, value.encode()) for name, value in headers)
    return Answer(key=f"{tenant}/{job_id}".encode(), value=event, headers=own)
