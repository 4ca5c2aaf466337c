"""Reviewed jobs become labelled items: the latest finding, with the photographs that were kept."""

from __future__ import annotations

from pathlib import Path

from outcome_builders import a_job, hex_digest, judged

from worker.adapters.database import connect
from worker.adapters.memory_caches import MemoryEvidence
from worker.adapters.results import PostgresResults
from worker.cli.review import add_review
from worker.cli.reviewed import reviewed_items
from worker.settings import Topics


def test_the_latest_finding_counts_and_only_kept_photographs_are_used(database_url: str, tmp_path: Path) -> None:
    database = connect(database_url, pool_size=2)
    outcomes = [judged(n, a_job(f"job-{n}", sku=f"SKU-{n}")) for n in range(3)]
    outcomes.append(judged(3, a_job("job-9", tenant="other")))
    PostgresResults(database, group="group", topics=Topics()).settle(outcomes)
    for tenant, job_id, decision in (
        ("acme", "job-1", "genuine"),
        ("acme", "job-1", "counterfeit"),
        ("acme", "job-2", "genuine"),
        ("other", "job-9", "genuine"),
    ):
        add_review(database, tenant=tenant, job_id=job_id, decision=decision, by="ada", why="looked at it")
    evidence = MemoryEvidence()
    assert reviewed_items(database, evidence, "acme", tmp_path) == []

    evidence.put("acme", hex_digest("logo"), b"the photograph")
    items = reviewed_items(database, evidence, "acme", tmp_path)
    assert [(item.name, item.sku, item.label) for item in items] == [
        ("job-1", "SKU-1", "counterfeit"),
        ("job-2", "SKU-2", "genuine"),
    ]
    assert [dict(item.views).keys() for item in items] == [{"logo"}, {"logo"}]  # the lining could not be used
    assert all(Path(path).read_bytes() == b"the photograph" for item in items for path in item.views.values())
    database.dispose()
