"""The counterfeit verdicts of one tenant as core.repeated takes them, and which of them have an alarm already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, text

from migrations.tables import alarm_jobs
from worker.adapters.phash import unsigned
from worker.core.repeated import Cluster, Record, Suspect, SuspectView

MOST_SUSPECTS = 5_000  # the newest of a tenant's window
_WINDOW = "v.tenant = :tenant AND v.judged_at > :since AND v.revision = 1"

TENANTS = text("""
SELECT tenant, count(*) AS counterfeits, max(judged_at) AS newest FROM assay.verdicts
WHERE verdict = 'counterfeit' AND judged_at > :since AND revision = 1 GROUP BY tenant ORDER BY tenant
""")
SUSPECTS = text(f"""
SELECT v.job_id, v.sku, v.category, v.judged_at, v.serial, v.labels ->> CAST(:label AS text) AS submitter,
    v.labels ->> 'subject' AS subject,
    ARRAY(SELECT p.sha256 FROM assay.probe_images p WHERE p.tenant = v.tenant AND p.job_id = v.job_id ORDER BY p.sha256)
        AS photographs
FROM assay.verdicts v WHERE {_WINDOW} AND v.verdict = 'counterfeit'
ORDER BY v.judged_at DESC, v.job_id LIMIT :limit
""")  # noqa: S608 # constants of ours
VIEWS = text(f"""
SELECT v.job_id, p.view, e.space, e.embedding, p.phash, r.similarity
FROM assay.verdicts v
JOIN assay.view_results r ON r.result_id = v.result_id AND r.judged_at = v.judged_at
JOIN assay.probe_images p ON p.tenant = v.tenant AND p.job_id = v.job_id AND p.view = r.view
JOIN assay.probe_embeddings e ON e.tenant = v.tenant AND e.job_id = v.job_id AND e.view = r.view
WHERE {_WINDOW} AND v.verdict = 'counterfeit' AND r.judged_at > :since AND r.p_genuine < 0.5
    AND r.similarity IS NOT NULL AND v.job_id = ANY(CAST(:job_ids AS text[]))
""")  # noqa: S608 # constants of ours
RECORDS = text(f"""
SELECT v.labels ->> CAST(:label AS text) AS submitter, count(*) AS decided,
    count(*) FILTER (WHERE v.verdict = 'counterfeit') AS counterfeit
FROM assay.verdicts v WHERE {_WINDOW} AND v.verdict IN ('authentic', 'counterfeit') GROUP BY 1
""")  # noqa: S608 # constants of ours
ALARMED = text("""
SELECT job_id, alarm_id FROM assay.alarm_jobs WHERE tenant = :tenant AND job_id = ANY(CAST(:job_ids AS text[]))
""")
CLEAR_QUIET = text("""
UPDATE assay.alarms a SET cleared_at = now()
WHERE a.kind = 'repeated_counterfeit' AND a.cleared_at IS NULL
    AND NOT EXISTS (SELECT FROM assay.alarm_jobs j WHERE j.alarm_id = a.id AND j.judged_at > :since)
""")


def read_suspects(connection: Connection, tenant: str, since: datetime, label: str) -> list[Suspect]:
    """The newest counterfeits since then. `label` names the sender."""
    window = {"tenant": tenant, "since": since}
    rows = connection.execute(SUSPECTS, {**window, "label": label, "limit": MOST_SUSPECTS}).all()
    views: dict[str, list[SuspectView]] = defaultdict(list)
    for row in connection.execute(VIEWS, {**window, "job_ids": [row.job_id for row in rows]}):
        views[row.job_id].append(_view(row))
    return [_suspect(row, views[row.job_id]) for row in rows]


def read_records(connection: Connection, tenant: str, since: datetime, label: str) -> dict[str | None, Record]:
    """How the decided jobs of each sender went."""
    rows = connection.execute(RECORDS, {"tenant": tenant, "since": since, "label": label})
    return {row.submitter: Record(counterfeit=row.counterfeit, decided=row.decided) for row in rows}


def read_alarmed(connection: Connection, tenant: str, suspects: Iterable[Suspect]) -> dict[str, int]:
    """The alarm of each job that has one."""
    rows = connection.execute(ALARMED, {"tenant": tenant, "job_ids": [suspect.job_id for suspect in suspects]})
    return {row.job_id: row.alarm_id for row in rows}


def join_alarm(
    connection: Connection, tenant: str, alarm_id: int, cluster: Cluster, alarmed: Mapping[str, int]
) -> None:
    """Enter the cluster's jobs that have no alarm yet."""
    rows = [
        {
            "tenant": tenant,
            "job_id": suspect.job_id,
            "alarm_id": alarm_id,
            "sku": suspect.sku,
            "serial": suspect.serial,
            "submitter": suspect.submitter,
            "judged_at": suspect.judged_at,
        }
        for suspect in cluster.suspects
        if suspect.job_id not in alarmed
    ]
    if rows:
        connection.execute(alarm_jobs.insert(), rows)


def _suspect(row: Row[Any], views: Sequence[SuspectView]) -> Suspect:
    return Suspect(
        job_id=row.job_id,
        sku=row.sku,
        category=row.category,
        judged_at=row.judged_at,
        item=f"subject {row.subject}" if row.subject else _photographs(row),
        serial=row.serial,
        submitter=row.submitter,
        views=tuple(views),
    )


def _photographs(row: Row[Any]) -> str:
    """The same photographs are the same item; a job without any is one of its own."""
    return sha256(b"".join(bytes(one) for one in row.photographs)).hexdigest() if row.photographs else row.job_id


def _view(row: Row[Any]) -> SuspectView:
    embedding = np.asarray(row.embedding.to_numpy(), np.float32)
    length = float(np.linalg.norm(embedding))
    return SuspectView(
        view=row.view,
        space=row.space,
        embedding=embedding / (length or 1.0),  # 16-bit floats lose a little of it
        phash=unsigned(row.phash),
        similarity=row.similarity,
    )
