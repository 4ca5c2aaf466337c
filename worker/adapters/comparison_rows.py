"""What a candidate engine and the current one led to in one job, as a row beside the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from migrations.tables import engine_comparisons
from worker.adapters.bulk import Row
from worker.core.courses import Comparison
from worker.outcomes import Judged


def write_comparisons(connection: Connection, judged: Sequence[Judged]) -> None:
    """One statement, in the transaction of the verdicts that won their jobs."""
    rows = [_row(outcome, outcome.comparison) for outcome in judged if outcome.comparison is not None]
    if rows:
        connection.execute(insert(engine_comparisons).on_conflict_do_nothing(), rows)


def _row(outcome: Judged, found: Comparison) -> Row:
    """Whether the job is golden the database knows."""
    return {
        "release_id": found.release,
        "tenant": outcome.job.tenant,
        "job_id": outcome.job.job_id,
        "published": found.published,
        "current_verdict": found.current_verdict.value,
        "candidate_verdict": found.candidate_verdict.value if found.candidate_verdict else None,
        "current_p_genuine": found.current_p_genuine,
        "candidate_p_genuine": found.candidate_p_genuine,
        "current_ms": found.current_ms,
        "candidate_ms": found.candidate_ms,
        "candidate_error": found.candidate_error,
    }
