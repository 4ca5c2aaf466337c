"""Reviewed jobs as labelled items: what people found, with the photographs that the evidence store kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, RowMapping, text

from worker.items import Item, Label
from worker.ports import EvidenceStore

# The latest finding of each job, with the photographs of the job's latest verdict.
REVIEWED = text("""
SELECT review.job_id, review.decision, verdict.sku, verdict.category, view.view, view.sha256
FROM (SELECT DISTINCT ON (job_id) * FROM assay.reviews WHERE tenant = :tenant ORDER BY job_id, id DESC) AS review
JOIN LATERAL (SELECT * FROM assay.verdicts WHERE tenant = :tenant AND job_id = review.job_id
              ORDER BY revision DESC LIMIT 1) AS verdict ON TRUE
JOIN assay.view_results AS view ON view.result_id = verdict.result_id
WHERE view.usable
ORDER BY review.job_id, view.view
""")


def reviewed_items(database: Engine, evidence: EvidenceStore, tenant: str, folder: Path) -> list[Item]:
    """One item a reviewed job, its kept photographs written below `folder`; without any it is left out."""
    with database.connect() as connection:
        rows = connection.execute(REVIEWED, {"tenant": tenant}).mappings().all()
    jobs: dict[str, list[RowMapping]] = {}
    for row in rows:
        jobs.setdefault(row["job_id"], []).append(row)
    items = [_item(job_id, views, evidence, tenant, folder) for job_id, views in jobs.items()]
    return [item for item in items if item.views]


def _item(job_id: str, rows: list[RowMapping], evidence: EvidenceStore, tenant: str, folder: Path) -> Item:
    first = rows[0]
    label: Label = first["decision"]
    views = dict(_kept(rows, evidence, tenant, folder))
    return Item(
        sku=first["sku"], category=first["category"], views=views, label=label, name=job_id, meta={"family": "reviewed"}
    )


def _kept(rows: list[RowMapping], evidence: EvidenceStore, tenant: str, folder: Path) -> Iterator[tuple[str, Path]]:
    for row in rows:
        digest = bytes(row["sha256"]).hex()
        photograph = evidence.get(tenant, digest)
        if photograph is not None:
            path = folder / digest
            path.write_bytes(photograph)
            yield row["view"], path
