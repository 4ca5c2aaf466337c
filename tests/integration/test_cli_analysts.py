"""docs/analysts.md: every query runs as an analyst, who sees only its tenants and writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from outcome_builders import a_job, judged, rejected
from sqlalchemy import make_url

from migrations.roles import create_analyst
from worker.adapters.database import connect
from worker.adapters.results import PostgresResults
from worker.settings import Topics

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "analysts.md"
QUERIES = re.findall(r"```sql\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def analyst(database_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    results = PostgresResults(connect(database_url), group="group", topics=Topics())
    results.settle([judged(1), judged(2, a_job(tenant="zeta")), rejected(3, a_job("dead-1"))])
    results.close()
    name = "analyst_of_" + (make_url(database_url).database or "")
    password = "only-for-this-test"  # noqa: S105
    create_analyst(database_url, name, tenants=["acme"], password=password)
    plain = make_url(database_url).set(drivername="postgresql", username=name, password=password)
    with psycopg.connect(plain.render_as_string(hide_password=False), autocommit=True) as connection:
        yield connection
    with psycopg.connect(make_url(database_url).set(drivername="postgresql").render_as_string(False)) as owner:
        owner.execute(f'DROP OWNED BY "{name}"'.encode())
        owner.execute(f'DROP ROLE "{name}"'.encode())


def test_every_documented_query_runs(analyst: psycopg.Connection[tuple[object, ...]]) -> None:
    assert len(QUERIES) >= 12
    answered = [analyst.execute(query.encode()).fetchall() for query in QUERIES]
    assert sum(bool(rows) for rows in answered) >= 6


def test_an_analyst_sees_its_tenants_and_writes_nothing(analyst: psycopg.Connection[tuple[object, ...]]) -> None:
    assert analyst.execute("SELECT DISTINCT tenant FROM analyst.jobs").fetchall() == [("acme",)]
    for statement in (
        "SELECT * FROM assay.jobs",
        "DELETE FROM analyst.jobs",
        "UPDATE analyst.views SET deviation = 0",
        "CREATE TABLE analyst.mine (x int)",
    ):
        with pytest.raises(psycopg.errors.Error):
            analyst.execute(statement.encode())
