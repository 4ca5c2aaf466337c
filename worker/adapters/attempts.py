"""PostgresAttempts: starts of the dangerous step as rows of assay.attempts, one statement a group of jobs.

A row is the trace of a process that has not ended the step; where it belongs to another process, that one is dead. So
nothing is ever marked as ended: the row is deleted, whoever wrote it. The key holds the process: a statement that is
tried again counts nothing twice. The table is unlogged: a crash of PostgreSQL empties it, and poison takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from sqlalchemy import Engine, RowMapping, TextClause, text

from schemas.message import Source
from worker.adapters.database import retrying
from worker.core.poison import DEATHS_TOGETHER, Deaths
from worker.ports import Partition
from worker.work import Received

BEGIN = text("""
WITH starting AS (
    SELECT * FROM unnest(CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]),
        CAST(:tenants AS text[]), CAST(:job_ids AS text[])) AS s (topic, partition, "offset", tenant, job_id)
), prior AS (
    SELECT topic, partition, "offset",
        count(*) FILTER (WHERE NOT solo) AS together, count(*) FILTER (WHERE solo) AS alone
    FROM assay.attempts JOIN starting USING (topic, partition, "offset")
    WHERE process <> :process
    GROUP BY topic, partition, "offset"
), ended AS (
    DELETE FROM assay.attempts a
    USING unnest(CAST(:ended_topics AS text[]), CAST(:ended_partitions AS int[]), CAST(:ended_offsets AS bigint[]))
        AS e (topic, partition, "offset")
    WHERE (a.topic, a.partition, a."offset") = (e.topic, e.partition, e."offset")
), begun AS (
    INSERT INTO assay.attempts (topic, partition, "offset", tenant, job_id, instance, process, solo, engines)
    SELECT topic, partition, "offset", s.tenant, s.job_id, :instance, :process, :solo, CAST(:engines AS text[])
    FROM starting s LEFT JOIN prior USING (topic, partition, "offset")
    WHERE :solo OR coalesce(together + alone, 0) < :deaths_together
    ON CONFLICT (topic, partition, "offset", process) DO UPDATE
        SET solo = excluded.solo, started_at = now(), engines = excluded.engines
)
SELECT topic, partition, "offset", together, alone FROM prior
""")

END = text("""
DELETE FROM assay.attempts a
USING unnest(CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]))
    AS e (topic, partition, "offset")
WHERE (a.topic, a.partition, a."offset") = (e.topic, e.partition, e."offset")
""")

RELEASE = text("""
DELETE FROM assay.attempts a
USING unnest(CAST(:topics AS text[]), CAST(:partitions AS int[])) AS r (topic, partition)
WHERE a.process = :process AND (a.topic, a.partition) = (r.topic, r.partition)
""")

# Rows of jobs that were answered without another start (their poison letter, their deadline, a death between the answer
# and the next start, which would have told the end) are nobody's to end.
CLOSE = text("DELETE FROM assay.attempts WHERE process = :process OR started_at < now() - interval '7 days'")


class PostgresAttempts:
    """Implements worker.ports.Attempts. `process` is new at each start of the worker. The pool is the caller's.
    `engines`: keys of the steps that what begins now begins with, a candidate's last; none where they are fixed.
    """

    def __init__(
        self,
        database: Engine,
        *,
        instance: str,
        process: UUID,
        engines: Callable[[], Sequence[str]] = tuple,
        tries: int = 4,
    ) -> None:
        self._database = database.execution_options(isolation_level="AUTOCOMMIT")  # one statement, one round trip
        self._instance = instance
        self._process = process
        self._engines = engines
        self._tries = tries

    def begin(self, jobs: Sequence[Received], *, ended: Sequence[Source] = (), alone: bool = False) -> list[Deaths]:
        """See worker.ports. Raises ServiceUnavailable."""
        starting = {job.record.source: job for job in jobs}
        given = {
            **_columns(starting),
            "tenants": [job.job.tenant for job in starting.values()],
            "job_ids": [job.job.job_id for job in starting.values()],
            **_columns(set(ended) - starting.keys(), "ended_"),
            "instance": self._instance,
            "solo": alone,
            "deaths_together": DEATHS_TOGETHER,
            "engines": list(self._engines()) or None,
        }
        rows = self._run(BEGIN, given, self._tries)
        prior = {_source(row): Deaths(together=row["together"], alone=row["alone"]) for row in rows}
        return [prior.get(job.record.source, Deaths()) for job in jobs]

    def end(self, sources: Sequence[Source]) -> None:
        self._run(END, _columns(sources), self._tries)

    def release(self, partitions: Sequence[Partition]) -> None:
        """One try: a rebalance waits for it."""
        topics, numbers = [topic for topic, _ in partitions], [number for _, number in partitions]
        self._run(RELEASE, {"topics": topics, "partitions": numbers}, 1)

    def close(self) -> None:
        self._run(CLOSE, {}, 1)

    def _run(self, statement: TextClause, given: Mapping[str, object], tries: int) -> Sequence[RowMapping]:
        return retrying(lambda: self._execute(statement, {**given, "process": self._process}), attempts=tries)

    def _execute(self, statement: TextClause, given: Mapping[str, object]) -> Sequence[RowMapping]:
        with self._database.connect() as connection:
            found = connection.execute(statement, given)
            return found.mappings().all() if found.returns_rows else ()


def _columns(sources: Iterable[Source], prefix: str = "") -> dict[str, list[object]]:
    listed = list(sources)
    return {
        f"{prefix}topics": [source.topic for source in listed],
        f"{prefix}partitions": [source.partition for source in listed],
        f"{prefix}offsets": [source.offset for source in listed],
    }


def _source(row: RowMapping) -> Source:
    return Source(topic=row["topic"], partition=row["partition"], offset=row["offset"])
