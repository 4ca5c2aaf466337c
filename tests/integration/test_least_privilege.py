"""Least privilege: all that each role may change, over every table and partition; tenants that share a job's name."""

from __future__ import annotations

import pytest
from outcome_builders import a_job, judged, rejected
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from worker.adapters.database import connect
from worker.adapters.results import PostgresResults
from worker.topics import Topics

# A partition counts by its own name: rights on it would go around those on the table.
CHANGEABLE = text("""
SELECT p.privilege, c.relname FROM pg_class c
CROSS JOIN unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER', 'REFERENCES']) AS p (privilege)
WHERE c.relnamespace IN ('assay'::regnamespace, 'analyst'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm')
AND CASE WHEN p.privilege IN ('UPDATE', 'REFERENCES') THEN has_any_column_privilege(:role, c.oid, p.privilege)
    ELSE has_table_privilege(:role, c.oid, p.privilege) END
""")
READABLE = text("""
SELECT c.relnamespace::regnamespace::text || '.' || c.relname FROM pg_class c
WHERE c.relnamespace IN ('assay'::regnamespace, 'analyst'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'm')
AND has_any_column_privilege(:role, c.oid, 'SELECT')
""")
ATTRIBUTES = text("""
SELECT rolname FROM pg_roles WHERE rolname LIKE 'assay\\_%' AND rolname NOT LIKE '%test%'
AND (rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls)
""")


def asked(url: str, statement: object, **values: str) -> list[tuple[object, ...]]:
    database = create_engine(url, poolclass=NullPool)
    with database.connect() as connection:
        return [tuple(row) for row in connection.execute(statement, values)]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("role", "updates", "deletes"),
    [
        ("assay_worker", {"alarms", "attempts", "dead_letters", "jobs"}, {"attempts"}),
        ("assay_gateway", set(), set()),
        (
            "assay_curator",
            {
                "calibrations",
                "categories",
                "engine_releases",
                "items",
                "reference_grants",
                "reference_images",
                "view_requirements",
            },
            {"reference_grants", "view_requirements"},
        ),
        ("assay_sealer", {"audit_blocks"}, {"audit_pending"}),
        ("assay_watcher", {"alarms", "engine_releases"}, set()),
        ("assay_auditor", set(), set()),
        ("assay_analyst", set(), set()),
    ],
)
def test_a_role_may_change_this_and_nothing_else(
    database_url: str, role: str, updates: set[str], deletes: set[str]
) -> None:
    found = asked(database_url, CHANGEABLE, role=role)
    assert {name for kind, name in found if kind == "UPDATE"} == updates
    assert {name for kind, name in found if kind == "DELETE"} == deletes
    assert [pair for pair in found if pair[0] not in ("UPDATE", "DELETE")] == []


def test_analysts_read_views_alone(database_url: str) -> None:
    readable = {str(row[0]) for row in asked(database_url, READABLE, role="assay_analyst")}
    assert readable
    assert {name for name in readable if not name.startswith("analyst.")} == set()


def test_no_role_of_ours_is_more_than_a_role(database_url: str) -> None:
    assert asked(database_url, ATTRIBUTES) == []


def test_tenants_that_share_a_jobs_name_have_rows_and_letters_of_their_own(database_url: str) -> None:
    """One tenant's name of a job is neither a duplicate of another's nor a conflict with it."""
    database = connect(database_url)
    results = PostgresResults(database, group="group", topics=Topics())
    acme, zeta, other = (a_job("job-1", tenant=tenant) for tenant in ("acme", "zeta", "other"))
    first, second = results.settle([judged(1, acme)]), results.settle([judged(2, zeta)])
    (letter,) = results.settle([rejected(3, other)])
    again = results.settle([judged(4, zeta)])
    results.close()
    assert first[0].value != second[0].value
    assert again[0].value == second[0].value
    assert letter.topic == Topics().dlq
    owners = text("SELECT tenant, state FROM assay.jobs WHERE job_id = 'job-1' ORDER BY tenant")
    assert asked(database_url, owners) == [("acme", "judged"), ("other", "dead"), ("zeta", "judged")]
