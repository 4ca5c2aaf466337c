"""The migrations on a real database: up, down, equal to the tables, commented, partitioned, each role in its bounds."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import pytest
from alembic.util.exc import CommandError
from outcome_builders import NOON, Topics, a_job, a_probe, an_evidence, judged, rejected
from sqlalchemy import Connection, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import NullPool
from typer.testing import CliRunner, Result

from migrations.apply import check, current, downgrade, make_partitions, newest, upgrade
from migrations.partitions import default_rows, month_start
from migrations.roles import create_analyst, set_role_password
from migrations.session import transaction
from schemas.message import OutputRecord
from worker.adapters.database import connect
from worker.adapters.results import PostgresResults
from worker.cli.migrate import app
from worker.errors import AssayError, ConfigurationError
from worker.outcomes import Outcome

TENANTS = "SELECT coalesce(tenant, '?') FROM analyst.{}"
TABLES = "SELECT count(*) FROM pg_class WHERE relnamespace = 'assay'::regnamespace AND relkind IN ('r', 'p')"


@contextmanager
def as_role(url: str, role: str) -> Iterator[Connection]:
    """A session of `role`, as if it had logged in."""
    database = create_engine(url, poolclass=NullPool)
    with database.connect() as connection:
        connection.exec_driver_sql(f"SET SESSION AUTHORIZATION {role}")
        connection.commit()
        yield connection


def denied(connection: Connection, statement: str) -> bool:
    try:
        connection.execute(text(statement))
    except ProgrammingError as error:
        return isinstance(error.orig, psycopg.errors.InsufficientPrivilege)
    finally:
        connection.rollback()
    return False


def settle(url: str, *outcomes: Outcome) -> list[OutputRecord]:
    results = PostgresResults(connect(url), group="group", topics=Topics())
    try:
        return results.settle(outcomes)
    finally:
        results.close()


def test_up_down_and_up_again(empty_database_url: str) -> None:
    url = empty_database_url
    assert current(url) is None
    upgrade(url)
    assert current(url) == newest()
    check(url)
    downgrade(url, "base")
    with transaction(url) as connection:
        assert connection.scalar(text(TABLES)) == 1  # alembic's own
        assert connection.scalar(text("SELECT count(*) FROM pg_views WHERE schemaname = 'analyst'")) == 0
    upgrade(url)
    upgrade(url)
    check(url)


def test_every_single_step_down_and_up_again(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    for revision in ("0011", "0010", "0009", "0008", "0007", "0006", "0005", "0004", "0003", "0002", "0001"):
        downgrade(empty_database_url, revision)
        assert current(empty_database_url) == revision
    upgrade(empty_database_url)
    check(empty_database_url)


def test_what_was_judged_before_is_known_afterwards(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    for number, (job_id, sku) in enumerate((("a", "SKU-1"), ("b", "SKU-1"), ("c", "SKU-2"))):
        evidence = an_evidence(a_job(job_id, sku=sku), a_probe(photograph="one"))
        settle(empty_database_url, judged(number, evidence.job, evidence=evidence))
    known = text("SELECT * FROM assay.known_photographs ORDER BY sku")
    with transaction(empty_database_url) as connection:
        before = connection.execute(known).all()
    assert [row.job_id for row in before] == ["a", "c"]
    downgrade(empty_database_url, "0011")
    upgrade(empty_database_url)
    with transaction(empty_database_url) as connection:
        assert connection.execute(known).all() == before


def test_many_may_migrate_at_once(empty_database_url: str) -> None:
    command = [sys.executable, "-c", "import sys; from migrations.apply import upgrade; upgrade(sys.argv[1])"]
    running = [subprocess.Popen([*command, empty_database_url]) for _ in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    check(empty_database_url)


def test_check_sees_a_column_that_no_revision_made(database_url: str) -> None:
    with transaction(database_url) as connection:
        connection.execute(text("ALTER TABLE assay.jobs ADD COLUMN stray int"))
    with pytest.raises(CommandError, match="stray"):
        check(database_url)


def test_a_database_without_migrations_is_refused_with_the_fix(empty_database_url: str) -> None:
    database = connect(empty_database_url)
    with pytest.raises(ConfigurationError, match="assay migrate up"), database.connect():
        pass
    database.dispose()


def test_every_table_view_and_column_is_commented(database_url: str) -> None:
    missing = text("""
        SELECT c.oid::regclass || coalesce('.' || a.attname, '') AS name
        FROM pg_class c
        LEFT JOIN LATERAL (
            SELECT 0 AS attnum, NULL AS attname UNION ALL
            SELECT attnum, attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        ) a ON true
        WHERE c.relnamespace IN ('assay'::regnamespace, 'analyst'::regnamespace) AND c.relkind IN ('r', 'p', 'v')
            AND NOT c.relispartition AND c.relname <> 'alembic_version' AND col_description(c.oid, a.attnum) IS NULL
            AND (a.attnum > 0 OR obj_description(c.oid, 'pg_class') IS NULL)
    """)
    with transaction(database_url) as connection:
        assert connection.scalars(missing).all() == []


def test_everything_belongs_to_the_owner(database_url: str) -> None:
    others = text("""
        SELECT relname FROM pg_class WHERE relnamespace IN ('assay'::regnamespace, 'analyst'::regnamespace)
            AND pg_get_userbyid(relowner) <> 'assay_owner'
    """)
    with transaction(database_url) as connection:
        assert connection.scalars(others).all() == []


def test_months_are_counted_in_utc_and_over_the_year() -> None:
    late = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    assert month_start(late, 0) == datetime(2026, 11, 1, tzinfo=UTC)
    assert month_start(late, 2) == datetime(2027, 1, 1, tzinfo=UTC)


def test_partitions_are_made_ahead_once(empty_database_url: str) -> None:
    upgrade(empty_database_url, "0003", months=0)
    now = datetime(2026, 11, 15, tzinfo=UTC)
    made = make_partitions(empty_database_url, now=now)
    verdicts = [name for name in made if name.startswith("verdicts")]
    assert verdicts[-4:] == ["verdicts_p202611", "verdicts_p202612", "verdicts_p202701", "verdicts_p202702"]
    assert make_partitions(empty_database_url, now=now) == []


def test_the_default_partition_gives_up_its_rows_to_their_month(database_url: str) -> None:
    far = datetime(2031, 5, 4, tzinfo=UTC)
    (record,) = settle(database_url, judged(1, judged_at=far))
    with transaction(database_url) as connection:
        assert default_rows(connection) == {"verdicts": 1, "view_results": 2, "attention_maps": 1}
    make_partitions(database_url, months=0, now=far)
    with transaction(database_url) as connection:
        assert set(default_rows(connection).values()) == {0}
        assert connection.scalar(text("SELECT count(*) FROM assay.verdicts_p203105")) == 1
    assert settle(database_url, judged(1, judged_at=NOON)) == [record]


def test_the_worker_can_settle_but_not_change_what_it_said(database_url: str) -> None:
    password = secrets.token_hex()
    set_role_password(database_url, "assay_worker", password)
    url = make_url(database_url).set(username="assay_worker", password=password).render_as_string(False)
    with create_engine(url, poolclass=NullPool).connect() as connection:
        assert connection.scalar(text("SELECT session_user")) == "assay_worker"
    first, letter = settle(url, judged(1), rejected(2, a_job("dead")))
    assert first.topic == Topics.results
    assert letter.topic == Topics.dlq
    with as_role(database_url, "assay_worker") as connection:
        for table in ("verdicts", "view_results", "attention_maps", "probe_images", "known_photographs"):
            assert denied(connection, f"DELETE FROM assay.{table}")  # noqa: S608 # names of this test
            assert denied(connection, f"UPDATE assay.{table} SET tenant = 'x'")  # noqa: S608 # names of this test
        assert denied(connection, "DELETE FROM assay.jobs")
        assert denied(connection, "UPDATE assay.dead_letters SET value = ''")
        assert denied(connection, "INSERT INTO assay.reference_grants (owner, grantee, by) VALUES ('a', 'b', 'c')")
        assert denied(connection, "DROP TABLE assay.verdicts")


@pytest.mark.parametrize(
    "role",
    ["assay_gateway", "assay_curator", "assay_eraser", "assay_sealer", "assay_auditor", "assay_watcher"],
)
def test_no_role_can_forge_a_verdict(database_url: str, role: str) -> None:
    with as_role(database_url, role) as connection:
        assert connection.scalar(text("SELECT count(result_id) FROM assay.verdicts")) == 0
        connection.rollback()
        assert denied(connection, "INSERT INTO assay.verdicts (tenant) VALUES ('x')")
        assert denied(connection, "UPDATE assay.verdicts SET verdict = 'authentic'")
        assert denied(connection, "UPDATE assay.jobs SET state = 'dead'")


def test_an_analyst_reads_its_tenants_and_nothing_else(database_url: str) -> None:
    acme, zeta = a_job("job-1", tenant="acme"), a_job("job-1", tenant="zeta")
    settle(database_url, judged(1, acme), judged(2, zeta), rejected(3, a_job("dead", tenant="zeta")), rejected(4))
    create_analyst(database_url, "assay_analyst_test_one", tenants=["acme"])
    create_analyst(database_url, "assay_analyst_test_all", tenants=["*"])
    seen = {}
    for role in ("assay_analyst_test_one", "assay_analyst_test_all"):
        with as_role(database_url, role) as connection:
            seen[role] = {
                view: sorted(connection.scalars(text(TENANTS.format(view))))
                for view in ("jobs", "views", "verdict_daily", "dead_letters")
            }
            assert denied(connection, "SELECT * FROM assay.verdicts")
            assert denied(connection, "SELECT * FROM assay.analyst_grants")
            assert denied(connection, "DELETE FROM analyst.views")
            assert denied(connection, "CREATE TABLE analyst.mine (x int)")
    assert seen["assay_analyst_test_one"] == {
        "jobs": ["acme"],
        "views": ["acme", "acme"],
        "verdict_daily": ["acme"],
        "dead_letters": [],
    }
    assert seen["assay_analyst_test_all"] == {
        "jobs": ["acme", "zeta", "zeta"],
        "views": ["acme", "acme", "zeta", "zeta"],
        "verdict_daily": ["acme", "zeta"],
        "dead_letters": ["?", "zeta"],
    }
    create_analyst(database_url, "assay_analyst_test_one", tenants=[])
    with as_role(database_url, "assay_analyst_test_one") as connection:
        assert connection.scalar(text("SELECT count(*) FROM analyst.jobs")) == 0


def test_the_views_say_what_was_decided(database_url: str) -> None:
    settle(database_url, judged(1), rejected(2, a_job("dead")))
    create_analyst(database_url, "assay_analyst_test_all", tenants=["*"])
    with transaction(database_url) as connection:
        review = (
            "INSERT INTO assay.reviews (tenant, job_id, decision, by, why) VALUES ('acme', 'job-1', :d, 'ada', 'x')"
        )
        connection.execute(text(review), [{"d": "genuine"}, {"d": "counterfeit"}])
    with as_role(database_url, "assay_analyst_test_all") as connection:
        job = connection.execute(text("SELECT * FROM analyst.jobs WHERE state = 'judged'")).one()
        dead = connection.execute(text("SELECT * FROM analyst.jobs WHERE state = 'dead'")).one()
        day = connection.execute(text("SELECT * FROM analyst.verdict_daily")).one()
        rates = connection.execute(text("SELECT * FROM analyst.error_rates")).one()
    assert (job.verdict, job.reasons, job.gallery_revision) == ("authentic", ["consistent_with_references"], 3)
    assert (job.judged_at, job.total_ms, job.degraded) == (NOON, 6.5, False)
    assert (dead.error_code, dead.verdict) == ("no_usable_view", None)
    assert (day.day.isoformat(), day.jobs, day.median_total_ms) == ("2026-03-14", 1, 6.5)
    assert (rates.reviewed, rates.false_accepts, rates.false_accept_rate) == (1, 1, 1.0)  # the last review counts


def test_a_password_lets_a_role_log_in(database_url: str) -> None:
    create_analyst(database_url, "assay_analyst_test_login", tenants=["acme"], password=secrets.token_hex())
    password = "it's \\ " + secrets.token_hex()
    set_role_password(database_url, "assay_analyst_test_login", password)
    url = make_url(database_url).set(username="assay_analyst_test_login", password=password)
    with create_engine(url, poolclass=NullPool).connect() as connection:
        assert connection.scalar(text("SELECT session_user")) == "assay_analyst_test_login"
        assert connection.scalar(text("SHOW timezone")) == "UTC"
        assert connection.scalar(text("SHOW statement_timeout")) == "1min"


def test_the_migrator_needs_no_superuser_once_the_roles_stand(database_url: str) -> None:
    password = secrets.token_hex()
    set_role_password(database_url, "assay_migrator", password)
    url = make_url(database_url).set(username="assay_migrator", password=password).render_as_string(False)
    downgrade(url, "base")
    upgrade(url)
    check(url)


def test_the_command_migrates_and_says_where_it_stands(empty_database_url: str) -> None:
    def assay(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--url", empty_database_url])

    assert assay("status").exit_code == 1
    assert assay("up").exit_code == 0
    assert json.loads(assay("status", "--json").stdout) == {"database": newest(), "build": newest()}
    assert assay("check").exit_code == 0
    assert json.loads(assay("partitions", "--json").stdout) == []
    assert assay("down", "base", "--yes").exit_code == 0
    refused = assay("partitions")
    assert isinstance(refused.exception, AssayError)
    assert "refused" in str(refused.exception)
