"""Dead letters as rows: written once a source and content, read back as they were first written."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from sqlalchemy import Connection, RowMapping, select, text

from migrations.tables import dead_letters
from schemas.codes import ErrorCode
from schemas.message import Headers, Source
from worker.adapters.bulk import document
from worker.adapters.outputs import DeadLetter

INSERT = text("""
INSERT INTO assay.dead_letters (id, tenant, job_id, topic, partition, "offset", code, stage, detail, key, value,
    headers, attempt, first_seen)
SELECT * FROM unnest(CAST(:id AS uuid[]), CAST(:tenant AS text[]), CAST(:job_id AS text[]), CAST(:topic AS text[]),
    CAST(:partition AS int[]), CAST(:offset AS bigint[]), CAST(:code AS text[]), CAST(:stage AS text[]),
    CAST(:detail AS text[]), CAST(:key AS bytea[]), CAST(:value AS bytea[]), CAST(:headers AS jsonb[]),
    CAST(:attempt AS int[]), CAST(:first_seen AS timestamptz[]))
ON CONFLICT (id) DO NOTHING
RETURNING id
""")

MARK_REPLAYED = text("""
UPDATE assay.dead_letters SET replayed_at = now() WHERE id = ANY(CAST(:ids AS uuid[])) AND replayed_at IS NULL
""")


def write_letters(connection: Connection, letters: Sequence[DeadLetter]) -> dict[UUID, DeadLetter]:
    """Write the letters that are not there yet; return every one of them as it stands."""
    unique = {letter.letter_id: letter for letter in reversed(letters)}  # the first of a source wins
    if not unique:
        return {}
    rows = [_row(unique[letter_id]) for letter_id in sorted(unique)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    fresh = set(connection.scalars(INSERT, columns))
    return unique | read_letters(connection, unique.keys() - fresh)


def read_letters(connection: Connection, letter_ids: Iterable[UUID]) -> dict[UUID, DeadLetter]:
    ids = sorted(letter_ids)
    if not ids:
        return {}
    rows = connection.execute(select(dead_letters).where(dead_letters.c.id.in_(ids))).mappings()
    return {row["id"]: _letter(row) for row in rows}


def mark_replayed(connection: Connection, letter_ids: Iterable[UUID]) -> None:
    ids = sorted(letter_ids)
    if ids:
        connection.execute(MARK_REPLAYED, {"ids": ids})


def _row(letter: DeadLetter) -> Mapping[str, object]:
    return {
        "id": letter.letter_id,
        "tenant": letter.tenant,
        "job_id": letter.job_id,
        "topic": letter.source.topic,
        "partition": letter.source.partition,
        "offset": letter.source.offset,
        "code": letter.code.value,
        "stage": letter.stage,
        "detail": letter.detail,
        "key": letter.key,
        "value": letter.value,
        "headers": document(_written(letter.headers)),
        "attempt": letter.attempt,
        "first_seen": letter.first_seen,
    }


def _letter(row: RowMapping) -> DeadLetter:
    return DeadLetter(
        letter_id=row["id"],
        tenant=row["tenant"],
        job_id=row["job_id"],
        source=Source(topic=row["topic"], partition=row["partition"], offset=row["offset"]),
        code=ErrorCode(row["code"]),
        stage=row["stage"],
        detail=row["detail"],
        key=row["key"],
        value=row["value"],
        headers=tuple((name, b64decode(value)) for name, value in row["headers"]),
        attempt=row["attempt"],
        first_seen=row["first_seen"],
    )


def _written(headers: Headers) -> list[list[str]]:
    return [[name.replace("\x00", ""), b64encode(value or b"").decode()] for name, value in headers]
