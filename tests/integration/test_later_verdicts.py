"""Re-evaluation where only PostgreSQL can tell: one row a revision, erasure, the ledger, stored views, finding."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from core_goods import ENGINE, Goods, evidence_of
from ledger_parts import KEY
from outcome_builders import NOON, Topics, a_job, a_probe, a_record, an_event, an_evidence, judged, rejected
from sqlalchemy import Engine, Row, make_url, text

from migrations.roles import create_analyst, set_role_password
from schemas import headers as names
from schemas.codes import ErrorCode, Verdict, ViewCode
from schemas.envelope import header
from schemas.job import AuthenticationJob, JobView
from schemas.message import OutputRecord, Source
from worker.adapters.audit_chain import PostgresChains
from worker.adapters.audit_keys import trusting
from worker.adapters.audit_verify import verify_ledger
from worker.adapters.database import connect
from worker.adapters.erasure import Erasure, Reason
from worker.adapters.past_verdicts import Wanted, read_flips, read_past
from worker.adapters.results import PostgresResults
from worker.adapters.stored_views import PostgresStoredViews
from worker.core.decision import judge
from worker.core.evidence import StoredView, UnusableView
from worker.core.explanation import build_event
from worker.core.ledger import SignedHead
from worker.core.matching import NumpyMatcher, with_stored
from worker.core.policy import Policy
from worker.errors import RejectJob
from worker.outcomes import Judged

AT_NIGHT = NOON + timedelta(hours=12)
REASON = Reason(by="ada", why="request 17")


@dataclass
class Place:
    url: str
    database: Engine

    def settle(self, *outcomes: Any) -> list[OutputRecord]:
        return PostgresResults(self.database, group="group", topics=Topics()).settle(outcomes)

    def rows(self, statement: str) -> list[Row[Any]]:
        with self.database.connect() as connection:
            return list(connection.execute(text(statement)))


@pytest.fixture
def place(database_url: str) -> Iterator[Place]:
    database = connect(database_url)
    yield Place(url=database_url, database=database)
    database.dispose()


def again(job: AuthenticationJob | None = None, *, supersedes: int = 1) -> AuthenticationJob:
    return replace(job or a_job(), supersedes=supersedes)


def found_counterfeit(offset: int, job: AuthenticationJob) -> Judged:
    outcome = judged(offset, job, judged_at=AT_NIGHT)
    return replace(outcome, event=replace(outcome.event, verdict=Verdict.COUNTERFEIT, p_genuine=0.04))


def test_a_revision_is_a_row_of_its_own_and_the_pointer_stays(place: Place) -> None:
    place.settle(judged(1))
    (before,) = place.rows("SELECT * FROM assay.jobs")
    place.settle(found_counterfeit(2, again()))
    assert place.rows("SELECT * FROM assay.jobs") == [before]
    first, second = place.rows("SELECT * FROM assay.verdicts ORDER BY revision")
    (later,) = place.rows("SELECT * FROM assay.later_verdicts")
    assert (first.result_id, first.revision, first.supersedes) == (before.result_id, 1, None)
    assert (second.revision, second.supersedes, second.verdict) == (2, first.result_id, "counterfeit")
    assert (later.result_id, later.revision, later.judged_at) == (second.result_id, 2, AT_NIGHT)
    assert later.src == "assay.jobs/0/2"
    assert len(place.rows("SELECT * FROM assay.probe_images")) == 1


def test_another_space_leaves_its_own_probes(place: Place) -> None:
    place.settle(judged(1))
    job = again()
    probe = a_probe(photograph="acme job-1 photograph")
    other = replace(probe, engine=replace(probe.engine, embedding_space="t" * 64))
    place.settle(judged(2, job, evidence=an_evidence(job, other)))
    place.settle(judged(3, replace(job, supersedes=2), evidence=an_evidence(job, probe)))
    assert [row.space[0] for row in place.rows("SELECT space FROM assay.probe_embeddings ORDER BY 1")] == ["s", "t"]


def test_many_workers_supersede_once(place: Place) -> None:
    jobs = [a_job(f"job-{number}") for number in range(20)]
    place.settle(*(judged(at, job) for at, job in enumerate(jobs)))
    together = threading.Barrier(4)

    def work(worker: int) -> list[bytes]:
        own = PostgresResults(place.database, group="group", topics=Topics())
        order = jobs if worker % 2 else jobs[::-1]
        together.wait()
        asked = [judged(worker * 100 + at, again(job), detail=f"by {worker}") for at, job in enumerate(order)]
        records = own.settle(asked)
        return [record.value for record in (records if worker % 2 else records[::-1])]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(work, range(4)))
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert place.rows("SELECT revision, count(*) FROM assay.verdicts GROUP BY 1 ORDER BY 1") == [(1, 20), (2, 20)]


def test_erasure_takes_all_revisions_and_refuses_the_next(place: Place) -> None:
    place.settle(judged(1), judged(2, again()))
    Erasure(database=place.database).erase("acme", ["job-1"], REASON)
    assert place.rows("SELECT * FROM assay.verdicts") == place.rows("SELECT * FROM assay.later_verdicts") == []
    answers = place.settle(judged(3, again(supersedes=2)), rejected(4, again(supersedes=2)))
    assert [header(a.headers, names.ERROR_CODE) for a in answers] == [ErrorCode.ERASED] * 2
    assert [a.value for a in answers] == [b"", b""]
    assert place.rows("SELECT * FROM assay.verdicts") == []


def test_an_erasure_under_way_is_waited_for(place: Place) -> None:
    place.settle(judged(1))
    plain = make_url(place.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as eraser, ThreadPoolExecutor(1) as pool:
        eraser.execute("DELETE FROM assay.jobs")
        answer = pool.submit(place.settle, judged(2, again()))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        while not place.rows(waiting)[0][0]:
            assert not answer.done()
        eraser.execute(
            b"INSERT INTO assay.jobs (tenant, job_id, payload_digest, state, src)"
            b" VALUES ('acme', 'job-1', '', 'erased', '')"
        )
        eraser.commit()
        (record,) = answer.result(60)
    assert header(record.headers, names.ERROR_CODE) == ErrorCode.ERASED
    assert place.rows("SELECT * FROM assay.later_verdicts") == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("UPDATE assay.later_verdicts SET src = 'assay.jobs/0/9'", "job"),
        ("UPDATE assay.verdicts SET p_genuine = 0.1 WHERE revision = 2", "p_genuine"),
        ("DELETE FROM assay.verdicts WHERE revision = 2", ""),
    ],
)
def test_the_ledger_seals_later_verdicts_too(place: Place, changed: str, told: str) -> None:
    place.settle(judged(1), judged(2, again()))
    heads: dict[str, SignedHead] = {}
    chains = PostgresChains(database=place.database, signer=KEY)
    assert chains.seal() == 2
    chains.publish(lambda sent: heads.update({signed.head.tenant: signed for signed in sent}))
    assert verify_ledger(place.database, heads, trusting(KEY)) == ()
    srcs = place.rows("SELECT src FROM assay.audit_entries ORDER BY position")
    assert {row.src for row in srcs} == {"assay.jobs/0/1", "assay.jobs/0/2"}
    with place.database.begin() as connection:
        connection.execute(text(changed))
    (finding,) = verify_ledger(place.database, heads, trusting(KEY))
    assert told in finding.what


def test_the_workers_role_may_supersede_and_analysts_see_both(place: Place) -> None:
    set_role_password(place.url, "assay_worker", "work-in-tests")
    worker = make_url(place.url).set(username="assay_worker", password="work-in-tests")  # noqa: S106 # of this test
    own = PostgresResults(
        connect(worker.render_as_string(hide_password=False)), group="group", topics=Topics()
    )  # fmt: skip
    own.settle([judged(1), judged(5, a_job(tenant="zeta"))])
    own.settle([found_counterfeit(2, again()), judged(6, again(a_job(tenant="zeta")))])
    own.close()
    name = "analyst_of_" + (make_url(place.url).database or "")
    create_analyst(place.url, name, tenants=["acme"], password="see-in-tests")  # noqa: S106 # of this test
    login = make_url(place.url).set(drivername="postgresql", username=name, password="see-in-tests")  # noqa: S106
    with psycopg.connect(login.render_as_string(hide_password=False)) as analyst:
        seen = analyst.execute(
            b"SELECT tenant, revision, verdict_before, verdict, flipped, p_genuine_before, p_genuine, reasons"
            b" FROM analyst.reevaluations"
        )
        assert seen.fetchall() == [
            ("acme", 2, "authentic", "counterfeit", True, 0.97, 0.04, ["consistent_with_references"])
        ]
        assert analyst.execute(b"SELECT verdict, revision FROM analyst.jobs").fetchall() == [("counterfeit", 2)]
        assert analyst.execute(b"SELECT verdict, jobs FROM analyst.verdict_daily").fetchall() == [("authentic", 1)]


def wanted(**changes: Any) -> Wanted:
    return replace(Wanted(since=NOON, until=NOON + timedelta(hours=1)), **changes)


def found(place: Place, limit: int = 100, **changes: Any) -> list[str]:
    return [past.job_id for past in read_past(place.database, wanted(**changes), limit=limit)]


def test_the_latest_verdicts_of_a_time_are_found(place: Place) -> None:
    for minute, name in enumerate(("b", "a", "c")):
        place.settle(judged(minute, a_job(name), judged_at=NOON + timedelta(minutes=minute)))
    place.settle(rejected(8, a_job("dead")), judged(9, a_job("late"), judged_at=NOON + timedelta(hours=1)))
    assert found(place) == ["b", "a", "c"]
    assert found(place, limit=2) == ["b", "a"]
    assert found(place, since=NOON + timedelta(minutes=1)) == ["a", "c"]
    assert (found(place, tenant="zeta"), found(place, verdict="inconclusive")) == ([], [])
    place.settle(found_counterfeit(10, again(a_job("a"))))
    assert found(place) == ["b", "c"]  # its latest was decided at night
    assert found(place, until=AT_NIGHT + timedelta(1)) == ["b", "c", "late", "a"]
    assert found(place, verdict="counterfeit", until=AT_NIGHT + timedelta(1)) == ["a"]


@pytest.mark.parametrize(
    ("engine", "count"), [("demo", 1), ("e" * 8, 1), ("e" * 7, 0), ("e" * 65, 0), ("dem", 0), ("%", 0), ("f" * 64, 0)]
)
def test_an_engine_is_named_by_its_name_or_digest(place: Place, engine: str, count: int) -> None:
    place.settle(judged(1))
    assert len(found(place, engine=engine)) == count


def test_a_page_ends_in_the_middle_of_a_moment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.adapters.past_verdicts.PAGE", 2)
    place.settle(*(judged(at, a_job(f"job-{at}")) for at in range(5)))
    assert sorted(found(place)) == [f"job-{at}" for at in range(5)]
    assert len(found(place, limit=3)) == 3


def test_flips_are_listed(place: Place) -> None:
    place.settle(judged(1), judged(2, a_job("same")))
    place.settle(found_counterfeit(3, again()), judged(4, again(a_job("same")), judged_at=AT_NIGHT))
    (flip,) = read_flips(place.database, since=NOON, tenant=None, limit=10)
    assert (flip.job_id, flip.before, flip.after, flip.revision) == ("job-1", "authentic", "counterfeit", 2)
    assert read_flips(place.database, since=AT_NIGHT + timedelta(seconds=1), tenant=None, limit=10) == []
    assert read_flips(place.database, since=NOON, tenant="zeta", limit=10) == []


def test_a_stored_view_decides_as_the_photograph_did(place: Place) -> None:
    """What the rows hold makes the same match, but for 16-bit embeddings and 8-bit maps; patches are not needed."""
    goods = Goods()
    gallery = goods.snapshot()
    evidence = evidence_of([goods.probe("a", "logo", "one", forged=1.0)], gallery)
    (match,) = evidence.matches
    job = evidence.job
    found = judge([evidence], Policy())[0]
    event = build_event(evidence, found, judged_at=NOON, judge_ms=0.0, total_ms=0.0, build="test")
    place.settle(Judged(record=a_record(1), job=job, event=event, evidence=evidence, attempt=1))
    asked = replace(job, supersedes=1)
    stored = PostgresStoredViews(database=place.database).read(asked, job.views[0], ENGINE.embedding_space)
    assert isinstance(stored, StoredView)
    (anew,) = with_stored(NumpyMatcher().match(asked, [stored.probe], gallery), [stored])
    assert anew.similarity == pytest.approx(match.similarity, abs=1e-3)
    assert (anew.deviation, anew.aligned, anew.probe.engine) == (match.deviation, match.aligned, match.probe.engine)
    assert (anew.probe.phash, anew.probe.quality) == (match.probe.phash, {**match.probe.quality, **match.placing})
    assert match.deviation_map is not None and anew.deviation_map is not None
    again = replace(evidence, matches=(anew,))
    told = build_event(again, found, judged_at=NOON, judge_ms=0.0, total_ms=0.0, build="test").views[0]
    assert (told.deviation_map, told.attention) == (event.views[0].deviation_map, event.views[0].attention)
    assert np.isclose(np.linalg.norm(anew.probe.embedding), 1.0)


def test_a_view_that_was_not_usable_stays_so_and_what_is_not_stored_is_said(place: Place) -> None:
    views = (
        JobView(view="logo", sha256=an_event(a_job()).views[0].sha256, uri="file:x"),
        JobView(view="lining", sha256=an_event(a_job()).views[1].sha256, uri="file:x"),
    )
    job = replace(a_job(), views=views, supersedes=1)
    place.settle(judged(1, replace(job, supersedes=None)))
    stored = PostgresStoredViews(database=place.database)
    broken = stored.read(job, views[1], "s" * 64)
    assert isinstance(broken, UnusableView)
    assert broken.code is ViewCode.TRUNCATED
    assert isinstance(stored.read(job, views[0], "s" * 64), StoredView)
    for asked, view, space in (
        (job, views[0], "t" * 64),
        (replace(job, supersedes=2), views[0], "s" * 64),
        (job, replace(views[0], sha256="0" * 64), "s" * 64),
        (replace(job, tenant="zeta"), views[0], "s" * 64),
    ):
        with pytest.raises(RejectJob) as gone:
            stored.read(asked, view, space)
        assert gone.value.code is ErrorCode.EVIDENCE_GONE


def test_the_source_of_a_later_verdict_is_its_own_record(place: Place) -> None:
    place.settle(judged(1))
    later = judged(2, again())
    bulk = replace(later, record=replace(later.record, source=Source(topic="assay.jobs.bulk", partition=1, offset=7)))
    (record,) = place.settle(bulk)
    assert header(record.headers, names.SRC) == "assay.jobs.bulk/1/7"
    assert place.settle(bulk) == [record]
