"""Erasure on real services: of a job only digests are left, the chain still verifies, and a duplicate is told so."""

# ruff: noqa: S608 (the tests' own statements)
from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from ledger_parts import KEY, new_tenant, one_database
from outcome_builders import Topics, a_job, a_probe, an_evidence, hex_digest, judged, rejected
from sqlalchemy import Engine, make_url, text

from devstack import Addresses
from migrations.apply import make_partitions
from migrations.partitions import drop_month
from migrations.roles import set_role_password
from schemas import headers as names
from schemas.codec import encode_job
from schemas.envelope import header
from schemas.job import AuthenticationJob
from schemas.message import OutputRecord
from worker.adapters.audit_chain import PostgresChains
from worker.adapters.audit_keys import trusting
from worker.adapters.audit_verify import Check, Counts, Finding, verify
from worker.adapters.database import connect
from worker.adapters.erasure import Erased, Erasure, Reason
from worker.adapters.evidence_files import FileEvidence
from worker.adapters.redis_cache import RedisEraser, status_name
from worker.adapters.results import PostgresResults
from worker.core.ledger import SignedHead
from worker.outcomes import Judged, Outcome

REASON = Reason(by="ada", why="request 17")
LEFT = (
    "later_verdicts",
    "verdicts",
    "alarm_jobs",
    "view_results",
    "attention_maps",
    "probe_images",
    "known_photographs",
    "probe_embeddings",
    "dead_letters",
    "reviews",
    "engine_comparisons",
    "engine_golden",
)


@dataclass(slots=True)
class Deployment:
    """A tenant of its own, the store of its photographs, and what the eraser's login can do."""

    database: Engine
    as_eraser: Engine
    evidence_root: Path
    tenant: str = field(default_factory=new_tenant)
    heads: dict[str, SignedHead] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)

    @property
    def evidence(self) -> FileEvidence:
        return FileEvidence(self.evidence_root)

    @property
    def erasure(self) -> Erasure:
        return Erasure(database=self.as_eraser, photographs=self.evidence)

    def job(self, job_id: str, **about: str) -> AuthenticationJob:
        return a_job(job_id, tenant=self.tenant, **about)

    def settle(self, *outcomes: Outcome) -> list[OutputRecord]:
        results = PostgresResults(self.database, group="group", topics=Topics())
        for outcome in outcomes:
            for probe in [m.probe for m in outcome.evidence.matches] if isinstance(outcome, Judged) else []:
                self.evidence.put(self.tenant, probe.sha256, b"photograph")
        return results.settle(outcomes)

    def erase(self, *job_ids: str) -> Erased:
        return self.erasure.erase(self.tenant, job_ids, REASON)

    def seal(self) -> None:
        chains = PostgresChains(database=self.database, signer=KEY)
        chains.seal()
        chains.publish(lambda heads: self.heads.update({signed.head.tenant: signed for signed in heads}))

    def verify(self) -> list[str]:
        found: list[Finding] = []
        check = Check(heads=self.heads, keys=trusting(KEY), grace_s=0.0)
        self.counts = verify(self.database, check, found.append, tenant=self.tenant)
        return [finding.what for finding in found]

    def left(self, job_id: str) -> dict[str, int]:
        """Rows that tell of the job, by table."""
        mine = "tenant = :tenant AND job_id = :job"
        wanted = ", ".join(f"(SELECT count(*) FROM assay.{table} WHERE {mine}) AS {table}" for table in LEFT)
        values = {"tenant": self.tenant, "job": job_id}
        with self.database.connect() as connection:
            row = connection.execute(text(f"SELECT {wanted}"), values).mappings().one()
        return {table: count for table, count in row.items() if count}

    def value(self, statement: str) -> object:
        with self.database.connect() as connection:
            return connection.execute(text(statement), {"tenant": self.tenant}).scalar_one()

    def photographs(self) -> int:
        return len(list(self.evidence_root.glob(f"{self.tenant}/*/*")))


@pytest.fixture(scope="module")
def url(stack: Addresses, template_database: str) -> Iterator[str]:
    with one_database(stack, template_database) as url:
        set_role_password(url, "assay_eraser", "erase-in-tests")
        yield url


@pytest.fixture(scope="module")
def databases(url: str) -> Iterator[tuple[Engine, Engine]]:
    """As the superuser, and as the eraser."""
    eraser = make_url(url).set(username="assay_eraser", password="erase-in-tests")  # noqa: S106
    both = connect(url), connect(eraser.render_as_string(hide_password=False))
    yield both
    for one in both:
        one.dispose()


@pytest.fixture
def deployment(databases: tuple[Engine, Engine], tmp_path: Path) -> Deployment:
    return Deployment(*databases, tmp_path / "evidence")


def code_of(output: OutputRecord) -> str | None:
    return header(output.headers, names.ERROR_CODE)


def test_a_job_is_erased_and_the_chain_verifies(deployment: Deployment) -> None:
    deployment.settle(judged(1, deployment.job("a")), judged(2, deployment.job("b")))
    deployment.seal()
    done = deployment.erase("b")
    assert (done.jobs, done.photographs, done.rows["verdicts"], done.rows["view_results"]) == (1, 1, 1, 2)
    assert (deployment.left("b"), deployment.photographs()) == ({}, 1)
    assert len(deployment.left("a")) >= 4
    deployment.seal()
    assert deployment.verify() == []
    assert (deployment.counts.verdicts, deployment.counts.erased) == (1, 1)
    told = deployment.value("SELECT by || ' ' || why FROM assay.audit_records WHERE tenant = :tenant")
    assert told == "ada request 17"


def test_a_verdict_erased_before_it_was_sealed_is_accounted_for(deployment: Deployment) -> None:
    deployment.settle(judged(1, deployment.job("a")))
    deployment.erase("a")
    deployment.seal()
    assert (deployment.verify(), deployment.counts.erased) == ([], 1)


def test_an_erasure_that_waits_to_be_sealed_is_believed_for_a_while(deployment: Deployment) -> None:
    deployment.settle(judged(1, deployment.job("a")))
    deployment.seal()
    deployment.erase("a")
    told = " ".join(deployment.verify())
    assert "of an erasure was never sealed" in told
    found: list[Finding] = []
    verify(
        deployment.database,
        Check(heads=deployment.heads, keys=trusting(KEY), grace_s=60.0),
        found.append,
        tenant=deployment.tenant,
    )
    assert found == []


def test_a_duplicate_of_an_erased_job_is_answered_erased_and_brings_nothing_back(deployment: Deployment) -> None:
    job = deployment.job("a")
    deployment.settle(judged(1, job))
    deployment.erase("a")
    (output,) = deployment.settle(judged(2, job))
    assert (code_of(output), output.value, output.key) == ("erased", b"", b"acme/job")
    assert deployment.settle(judged(2, job)) == [output], "the same on a redelivery"
    others = judged(1, job), judged(3, deployment.job("a", content="other")), rejected(4, job)
    assert [code_of(output) for output in deployment.settle(*others)] == ["erased"] * 3
    assert deployment.left("a") == {"dead_letters": 4}
    content = "SELECT sum(length(value) + jsonb_array_length(headers)) FROM assay.dead_letters WHERE tenant = :tenant"
    assert deployment.value(content) == 0
    deployment.seal()
    assert deployment.verify() == []


def test_erasing_twice_does_no_harm(deployment: Deployment) -> None:
    deployment.settle(judged(1, deployment.job("a")))
    deployment.seal()
    deployment.erase("a")
    deployment.erase("a")
    deployment.seal()
    assert deployment.verify() == []


def test_a_job_that_comes_later_is_erased_already(deployment: Deployment) -> None:
    assert deployment.erasure.plan(deployment.tenant, ["later"]).waiting == 1
    deployment.erase("later")
    assert [code_of(output) for output in deployment.settle(judged(1, deployment.job("later")))] == ["erased"]


def test_what_engines_were_compared_by_is_erased_with_the_job(deployment: Deployment) -> None:
    deployment.settle(judged(1, deployment.job("a")), judged(2, deployment.job("b")))
    with deployment.database.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO assay.embedding_spaces (space, dims) VALUES ('s', 1) ON CONFLICT DO NOTHING;
            INSERT INTO assay.engines (id, name, version, backend, capability, requires, precision, space, digest,
                key_id, manifest) SELECT v, 'e', v::int, 'any', '', '', 'int8', 's', 'd', 'k', '{}'
                FROM unnest(ARRAY['1', '2']) AS v;
            INSERT INTO assay.engine_releases (id, name, candidate, current, mode, share, by, why)
                VALUES ('00000000-0000-0000-0000-000000000001', 'e', '2', '1', 'shadow', 1, 'ada', 'x')
        """)
        )
        for job in ("a", "b"):
            values = {"tenant": deployment.tenant, "job": job}
            connection.execute(
                text("INSERT INTO assay.engine_golden VALUES (:tenant, :job, 'genuine', 'a', 'x')"), values
            )
            connection.execute(
                text(
                    "INSERT INTO assay.engine_comparisons (release_id, tenant, job_id, published, current_verdict,"
                    " current_ms, candidate_error) VALUES ('00000000-0000-0000-0000-000000000001', :tenant, :job,"
                    " 'current', 'authentic', 1, 'x')"
                ),
                values,
            )
    done = deployment.erase("b")
    assert (done.rows["engine_comparisons"], done.rows["engine_golden"]) == (1, 1)
    assert deployment.left("b") == {}
    assert deployment.left("a")["engine_comparisons"] == 1


def test_a_worker_that_ends_the_job_meanwhile_is_waited_for(deployment: Deployment) -> None:
    """The eraser finds no row, and cannot write its own before the worker's transaction is over."""
    with deployment.database.connect() as worker, ThreadPoolExecutor(1) as pool:
        worker.execute(
            text(
                "INSERT INTO assay.jobs (tenant, job_id, payload_digest, state, dead_letter_id, src)"
                " VALUES (:tenant, 'a', '', 'dead', gen_random_uuid(), 'jobs/0/1')"
            ),
            {"tenant": deployment.tenant},
        )
        erasing = pool.submit(deployment.erase, "a")
        while not deployment.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'"):
            assert not erasing.done()
        worker.commit()
        assert erasing.result().jobs == 1
    assert deployment.value("SELECT state FROM assay.jobs WHERE tenant = :tenant") == "erased"


def test_a_subjects_jobs_are_found_in_verdicts_and_in_dead_letters(deployment: Deployment) -> None:
    dead = deployment.job("dead", serial="S-1")
    encoded = encode_job(dead, encoding="avro", source="test")
    letter = rejected(3, dead)
    record = replace(letter.record, key=encoded.key, value=encoded.value, headers=encoded.headers)
    found = judged(1, deployment.job("judged", serial="S-1")), judged(2, deployment.job("another", serial="S-2"))
    deployment.settle(*found, replace(letter, record=record))
    erasure = deployment.erasure
    assert erasure.jobs_of(deployment.tenant, ["S-1"]) == ["dead", "judged"]
    assert erasure.jobs_of("another", ["S-1"]) == []
    deployment.erase("dead", "judged")
    assert erasure.jobs_of(deployment.tenant, ["S-1"]) == []
    assert (deployment.left("dead"), deployment.left("judged")) == ({}, {})
    deployment.seal()
    assert deployment.verify() == []


def test_a_photograph_that_another_job_needs_stays(deployment: Deployment) -> None:
    deployment.settle(judged(1, deployment.job("a")), judged(2, deployment.job("b")))
    with deployment.database.begin() as connection:
        mine = {"tenant": deployment.tenant}
        one = "(SELECT min(sha256) FROM assay.probe_images WHERE tenant = :tenant)"
        connection.execute(text(f"UPDATE assay.probe_images SET sha256 = {one} WHERE tenant = :tenant"), mine)
        same = f"UPDATE assay.view_results SET sha256 = {one} WHERE tenant = :tenant"
        connection.execute(text(same), mine)
    assert deployment.erase("a").photographs == 0
    assert deployment.erase("b").photographs == 1


def test_a_photograph_is_known_by_the_next_job_that_showed_it(deployment: Deployment) -> None:
    """And by none once all of those are erased."""
    show = {name: deployment.job(name, sku="SKU-1") for name in ("a", "b", "c")}
    probe = a_probe(photograph="one")
    for number, (name, job) in enumerate(show.items()):
        moment = datetime(2026, 11, number + 1, tzinfo=UTC)
        deployment.settle(judged(number, job, evidence=an_evidence(job, probe), judged_at=moment))
        assert bool(deployment.left(name).get("known_photographs")) == (name == "a")
    results = PostgresResults(deployment.database, group="group", topics=Topics())
    again = an_evidence(deployment.job("new", sku="SKU-2"), probe)

    def known_by() -> list[str]:
        return [hit.other for hit in results.reused([again])[0] if hit.exact]

    assert known_by() == ["a"]
    deployment.erase("a")
    assert known_by() == ["b"]
    deployment.erase("b", "c")
    assert known_by() == []


def test_a_deletion_without_a_record_is_found(deployment: Deployment) -> None:
    deployment.settle(judged(1, deployment.job("a")))
    deployment.seal()
    with deployment.as_eraser.begin() as connection:
        connection.execute(text("DELETE FROM assay.verdicts WHERE tenant = :tenant"), {"tenant": deployment.tenant})
    assert ["is gone, and no erasure" in what for what in deployment.verify()] == [True]


def test_a_changed_record_of_an_erasure_is_found(deployment: Deployment) -> None:
    deployment.settle(judged(1, deployment.job("a")))
    deployment.seal()
    deployment.erase("a")
    deployment.seal()
    with deployment.database.begin() as connection:
        statement = "UPDATE assay.audit_records SET why = 'another' WHERE tenant = :tenant"
        connection.execute(text(statement), {"tenant": deployment.tenant})
    told = " ".join(deployment.verify())
    assert "of an erasure is not as it was sealed" in told
    assert "is gone, and no erasure" in told


def test_the_record_names_no_job(deployment: Deployment) -> None:
    deployment.settle(judged(1, deployment.job("a-name-that-tells")))
    deployment.erase("a-name-that-tells")
    facts = deployment.value("SELECT facts FROM assay.audit_records WHERE tenant = :tenant")
    assert "a-name-that-tells" not in json.dumps(facts)


def test_what_redis_holds_is_erased(redis_url: str) -> None:
    shas = [hex_digest(name) for name in ("one", "other")]
    with redis.Redis.from_url(redis_url) as client:
        for tenant in ("acme", "zeta"):
            for sha256 in shas:
                client.set(f"assay:probe:{tenant}:{sha256}:engine", b"x")
            client.hset(status_name(tenant, "a"), "state", "done")
        assert RedisEraser(redis_url).forget("acme", photographs=shas[:1], job_ids=["a"]) == 2
        left = sorted(name.decode() for name in client.keys("assay:*"))
    expected = [f"assay:probe:acme:{shas[1]}:engine", *(f"assay:probe:zeta:{sha}:engine" for sha in shas)]
    assert left == sorted([*expected, "assay:job:zeta:a"])


def test_a_dropped_month_is_accounted_for_and_one_dropped_in_secret_is_found(deployment: Deployment, url: str) -> None:
    january, february = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    for month in (january, february):
        make_partitions(url, 0, now=month)
    months = {"a": january, "b": january, "c": february}
    deployment.settle(*(judged(n, deployment.job(name), judged_at=months[name]) for n, name in enumerate(months)))
    with pytest.raises(ValueError, match="not sealed yet"):
        drop_month(url, january, by="ada", why="retention")
    deployment.seal()
    deployment.erase("a")
    assert drop_month(url, january, by="ada", why="retention") == {deployment.tenant: 1}
    deployment.seal()
    assert deployment.verify() == []
    assert (deployment.counts.verdicts, deployment.counts.dropped) == (1, 2)
    with deployment.database.begin() as connection:
        connection.execute(text("DROP TABLE assay.verdicts_p202602"))
    assert ["is gone, and no erasure or dropped month" in what for what in deployment.verify()] == [True]
    with pytest.raises(ValueError, match="has no partition"):
        drop_month(url, january, by="ada", why="retention")


def test_a_month_that_is_not_over_stays(url: str) -> None:
    now = datetime.now(UTC)
    with pytest.raises(ValueError, match="is not over"):
        drop_month(url, datetime(now.year, now.month, 1, tzinfo=UTC), by="ada", why="retention")
