"""What the ledger seals, as PostgreSQL holds it: verdicts with their jobs and views, and audit records.

The sealer and the verification read with the same statements, so that what one hashed the other can hash again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from worker.core.ledger import JOB_COLUMNS, ROW_COLUMNS, VIEW_COLUMNS, record_digest, row_digest, views_digest

Place = tuple[UUID, datetime]  # result_id, judged_at: the key of a verdict

_WANTED = """unnest(CAST(:ids AS uuid[]), CAST(:times AS timestamptz[])) AS wanted (result_id, judged_at)"""
# The bounds name the partitions already when the statement is planned.
_WITHIN = "BETWEEN CAST(:first AS timestamptz) AND CAST(:last AS timestamptz)"

_VERDICTS = f"""
SELECT {", ".join(f"v.{name}" for name in ROW_COLUMNS)}, {", ".join(f"j.{n} AS job_{n}" for n in JOB_COLUMNS)},
    v.digest, l.src AS later_src
    {{event}}
FROM {_WANTED} JOIN assay.verdicts v USING (result_id, judged_at)
LEFT JOIN assay.jobs j ON j.tenant = v.tenant AND j.job_id = v.job_id
LEFT JOIN assay.later_verdicts l ON v.revision > 1 AND l.result_id = v.result_id
WHERE v.judged_at {_WITHIN}
"""  # noqa: S608 # constants of ours
VERDICTS_ALONE = text(_VERDICTS.format(event=""))
VERDICTS_WITH_EVENT = text(_VERDICTS.format(event=", v.event"))
VIEWS = text(f"""
SELECT v.result_id, v.judged_at, {", ".join(f"v.{name}" for name in VIEW_COLUMNS)}
FROM {_WANTED} JOIN assay.view_results v USING (result_id, judged_at)
WHERE v.judged_at {_WITHIN}
""")  # noqa: S608 # constants of ours
RECORDS = text("SELECT * FROM assay.audit_records WHERE id = ANY(CAST(:ids AS uuid[]))")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRow:
    """A verdict as it stands. `event` is empty where the bytes were not asked for."""

    row: RowMapping
    event: bytes
    src: str | None
    row_digest: bytes
    views_digest: bytes


def read_verdicts(
    connection: Connection, places: Iterable[Place], *, with_event: bool = False
) -> dict[Place, SealedRow]:
    """Those of the verdicts that are there, hashed."""
    wanted = sorted(places)
    if not wanted:
        return {}
    times = [judged_at for _, judged_at in wanted]
    values = {"ids": [key for key, _ in wanted], "times": times, "first": min(times), "last": max(times)}
    views: dict[Place, list[RowMapping]] = defaultdict(list)
    for view in connection.execute(VIEWS, values).mappings():
        views[view["result_id"], view["judged_at"]].append(view)
    statement = VERDICTS_WITH_EVENT if with_event else VERDICTS_ALONE
    rows = connection.execute(statement, values).mappings()
    return {place: _sealed(row, views[place]) for row in rows if (place := (row["result_id"], row["judged_at"]))}


def read_records(connection: Connection, ids: Sequence[UUID]) -> Mapping[UUID, tuple[bytes, Mapping[str, Any]]]:
    """The digest and the content of those of the audit records that are there."""
    if not ids:
        return {}
    rows = connection.execute(RECORDS, {"ids": list(ids)}).mappings()
    return {row["id"]: (record_digest(row), dict(row)) for row in rows}


def _sealed(row: RowMapping, views: Sequence[RowMapping]) -> SealedRow:
    src = row["later_src"] or row["job_src"]
    job = {name: row[f"job_{name}"] for name in JOB_COLUMNS} | {"src": src} if row["job_state"] is not None else None
    return SealedRow(
        row=row,
        event=row.get("event", b""),
        src=src,
        row_digest=row_digest(row, job),
        views_digest=views_digest(views),
    )
