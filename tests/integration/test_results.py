"""PostgresResults where only PostgreSQL can tell: rows, races, months, and errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import psycopg
import pytest
from outcome_builders import ENGINE, NOON, Topics, a_job, a_probe, an_evidence, judged, rejected
from sqlalchemy import Engine, Row, event, text
from sqlalchemy.exc import OperationalError

from schemas import headers as names
from schemas.envelope import header
from worker.adapters.database import connect, is_transient, retrying
from worker.adapters.phash import bands, signed, unsigned
from worker.adapters.references import NewItem, NewReference, ReferenceStore
from worker.adapters.results import PostgresResults
from worker.core.policy import CategoryProfile
from worker.errors import ConfigurationError, ServiceUnavailable


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    database = connect(database_url)
    yield database
    database.dispose()


@pytest.fixture
def results(database: Engine) -> PostgresResults:
    return PostgresResults(database, group="group", topics=Topics())


def rows(database: Engine, statement: str) -> list[Row[Any]]:
    with database.connect() as connection:
        return list(connection.execute(text(statement)).all())


def test_a_verdict_is_kept_with_all_its_parts(results: PostgresResults, database: Engine) -> None:
    (record,) = results.settle([judged(7)])
    (job,) = rows(database, "SELECT * FROM assay.jobs")
    (verdict,) = rows(database, "SELECT * FROM assay.verdicts")
    logo, lining = sorted(rows(database, "SELECT * FROM assay.view_results"), key=lambda row: not row.usable)
    (maps,) = rows(database, "SELECT index AS places, cells FROM assay.attention_maps")
    (image,) = rows(database, "SELECT * FROM assay.probe_images")
    (vector,) = rows(database, "SELECT space, embedding FROM assay.probe_embeddings")
    assert (job.state, job.result_id, job.src) == ("judged", verdict.result_id, "assay.jobs/0/7")
    assert (verdict.event, verdict.digest) == (record.value, sha256(record.value).digest())
    assert verdict.reasons == [{"code": "consistent_with_references", "view": "logo", "detail": "close"}]
    assert (verdict.judged_at, verdict.revision, verdict.supersedes) == (NOON, 1, None)
    assert verdict.provenance["engines"][0]["digest"] == ENGINE.digest
    assert (logo.similarity, logo.matches) == (0.9, [{"reference_id": "r1", "similarity": 0.9}])
    assert (lining.unusable_code, lining.similarity) == ("truncated", None)
    assert [(m["view"], m["kind"], m["start"]) for m in maps.places] == [
        ("logo", "attention", 0),
        ("logo", "deviation", 4),
    ]
    assert maps.cells == bytes([0, 80, 160, 255]) * 2
    assert unsigned(image.phash) == a_probe(photograph="acme job-1 photograph").phash
    assert (vector.space, len(vector.embedding.to_list())) == (ENGINE.embedding_space, 8)


def test_a_redelivery_across_a_months_end_finds_the_first_answer(results: PostgresResults, database: Engine) -> None:
    before = datetime(2026, 11, 30, 23, 59, 59, 999_999, tzinfo=UTC)
    after = datetime(2026, 12, 1, tzinfo=UTC)
    first = results.settle([judged(7, judged_at=before)])
    assert results.settle([judged(7, judged_at=after)]) == first
    (verdict,) = rows(database, "SELECT judged_at FROM assay.verdicts")
    assert verdict.judged_at == before


def test_many_workers_settle_the_same_jobs_once(database: Engine) -> None:
    jobs = [a_job(f"job-{number}") for number in range(40)]
    together = threading.Barrier(4)

    def work(worker: int) -> list[bytes]:
        own = PostgresResults(database, group="group", topics=Topics())
        order = jobs if worker % 2 else jobs[::-1]
        together.wait()
        records = own.settle([judged(worker * 100 + at, job, detail=f"by {worker}") for at, job in enumerate(order)])
        return [record.value for record in (records if worker % 2 else records[::-1])]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(work, range(4)))
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert rows(database, "SELECT count(*) FROM assay.verdicts")[0][0] == 40


def test_a_call_costs_the_same_statements_whatever_its_size(results: PostgresResults, database: Engine) -> None:
    statements: list[str] = []
    event.listen(database, "before_cursor_execute", lambda *args: statements.append(args[2]))
    results.settle([judged(0, a_job("first"))])
    counts = []
    for size in (1, 30):
        del statements[:]
        results.settle([judged(at, a_job(f"{size}-{at}")) for at in range(size)])
        results.settle([rejected(size * 100 + at, a_job(f"dead {size}-{at}")) for at in range(size)])
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_a_failed_transaction_leaves_nothing(results: PostgresResults, database: Engine) -> None:
    twice = an_evidence(a_job(), a_probe(photograph="a"), a_probe(photograph="b"))  # two probes of one view
    with pytest.raises(psycopg.errors.UniqueViolation):
        results.settle([judged(7, evidence=twice)])
    assert rows(database, "SELECT * FROM assay.jobs") == []
    assert results.settle([judged(7)])[0].topic == Topics.results


def test_a_dropped_connection_is_tried_again(results: PostgresResults, database: Engine) -> None:
    results.settle([judged(1, a_job("one"))])
    cut = iter([True])

    def hang_up(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if "INSERT INTO assay.jobs" in statement and next(cut, False):
            cursor.connection.close()

    event.listen(database, "before_cursor_execute", hang_up)
    assert results.settle([judged(2, a_job("two"))])[0].topic == Topics.results
    assert len(rows(database, "SELECT * FROM assay.verdicts")) == 2


def test_a_database_that_stays_away_is_a_service_unavailable() -> None:
    away = connect("postgresql+psycopg://nobody@127.0.0.1:1/none", connect_timeout_s=1)
    results = PostgresResults(away, group="group", topics=Topics(), attempts=2)
    with pytest.raises(ServiceUnavailable, match="postgres is unavailable"):
        results.settle([judged(1)])
    results.close()


@pytest.mark.parametrize(
    ("state", "passes"),
    [
        ("08006", True),
        ("57P01", True),
        ("40001", True),
        ("40P01", True),
        ("55P03", True),
        ("53300", True),
        ("25006", True),
        ("57014", True),
        ("23505", False),
        ("42501", False),
        ("28P01", False),
        ("22P05", False),
    ],
)
def test_errors_are_read_in_one_place(state: str, passes: bool) -> None:
    error = psycopg.errors.lookup(state)()
    assert is_transient(error) is passes
    assert is_transient(OperationalError("", None, error)) is passes


def test_other_errors_pass_through_at_once() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise KeyError("ours")

    with pytest.raises(KeyError):
        retrying(call)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "older",
    [
        "ALTER FUNCTION assay.phash_pairs RENAME TO later",
        "ALTER TABLE assay.known_photographs RENAME TO later",
        "ALTER TABLE assay.known_photographs RENAME COLUMN subject TO later",
    ],
)
def test_a_database_that_is_older_than_the_build_is_told_with_the_fix(
    results: PostgresResults, database: Engine, older: str
) -> None:
    with database.begin() as connection:
        connection.execute(text(older))
    with pytest.raises(
        ConfigurationError, match=r"older than this build \(.* does not exist.*\): run `assay migrate up`$"
    ):
        results.reused([an_evidence(a_job())])


def test_the_stored_answer_was_erased(results: PostgresResults, database: Engine) -> None:
    results.settle([judged(7)])
    with database.begin() as connection:
        connection.execute(text("DELETE FROM assay.verdicts"))
    (record,) = results.settle([judged(8, detail="judged anew")])
    assert (record.topic, header(record.headers, names.DUPLICATE)) == (Topics.results, "1")
    assert rows(database, "SELECT * FROM assay.verdicts") == []


def test_a_photograph_that_is_a_reference_is_reused(results: PostgresResults, database: Engine) -> None:
    store = ReferenceStore(database)
    look = a_probe(photograph="shop window", phash=0x0123_4567_89AB_CDEF)
    store.put_categories([CategoryProfile(category="bag", views=())], by="ada", why="x")
    store.ensure_items("acme", [NewItem(sku="SKU-1", category="bag")])
    (reference,) = store.add("acme", [NewReference(sku="SKU-1", genuine=True, probe=look)], by="ada", why="x")
    near = replace(look, sha256="ab" * 32, phash=look.phash ^ 3)
    exact = an_evidence(a_job("a"), look)
    theirs = an_evidence(a_job("d", tenant="zeta"), look)
    assert results.reused([exact]) == [()]  # a draft is nobody's yet
    store.activate("acme", [reference], by="ada", why="x")
    jobs = [exact, an_evidence(a_job("b", sku="SKU-2"), near), an_evidence(a_job("c"), near), theirs]
    found = [[(hit.kind, hit.other, hit.exact) for hit in results.reused([job])[0]] for job in jobs]
    assert found == [[("reference", reference, True)], [("reference", reference, False)], [], []]
    store.grant("acme", "zeta", by="ada")
    store.retire("acme", [reference], by="ada", why="x")
    assert results.reused([theirs])[0][0].other == reference  # shared, and known though retired


def test_bands_of_a_hash_miss_nothing_within_four_bits() -> None:
    look = 0xFEDC_BA98_7654_3210
    assert unsigned(signed(look)) == look
    assert signed(1 << 63) == -(1 << 63)
    for at in range(64):
        other = look ^ (1 << at) ^ (1 << (at * 7 + 13) % 64) ^ (1 << (at * 11 + 26) % 64) ^ (1 << (at * 5 + 39) % 64)
        assert set(bands(look)) & set(bands(other))
