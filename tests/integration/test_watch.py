"""The watcher on a real database and topic, as its own role: what it raises, once, and what it leaves alone."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from ledger_parts import new_tenant, one_database
from outcome_builders import ENGINE, Topics
from sqlalchemy import Engine, make_url, text
from typer.testing import CliRunner
from watch_parts import Month, a_counterfeit

from demo.stand import WorkerProcess
from devstack import Addresses
from migrations.roles import create_analyst, set_role_password
from schemas.alert import AlertEvent
from schemas.codec import decode_alert
from schemas.codes import AlertKind, AlertLink, Verdict
from schemas.message import InputRecord, OutputRecord
from worker.adapters.alarm_outbox import Outbox
from worker.adapters.alarms import PostgresAlarms, WatchRules
from worker.adapters.database import connect
from worker.adapters.erasure import Erasure, Reason
from worker.adapters.kafka import apply_topics, plan_topics
from worker.adapters.kafka_follower import KafkaFollower
from worker.adapters.kafka_sender import KafkaSender
from worker.adapters.policy_rows import write_calibration, write_profiles
from worker.adapters.results import PostgresResults
from worker.cli.main import app
from worker.core.drift import DriftRule
from worker.core.policy import CategoryBaseline, CategoryProfile, Posterior, ScoreCalibration, ViewRequirement
from worker.outcomes import Judged
from worker.topics import Topics as TopicNames

NOW = datetime.now(UTC)
TOPIC = "unused.alerts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A database: as its owner, and as the watcher, who has no more rights than its role."""

    owner: Engine
    watcher: Engine
    watcher_url: str

    def settle(self, *outcomes: Judged) -> None:
        results = PostgresResults(self.owner, group="group", topics=Topics())
        for start in range(0, len(outcomes), 500):
            results.settle(outcomes[start : start + 500])

    def alarms(self, **rules: object) -> PostgresAlarms:
        return PostgresAlarms(
            database=self.watcher,
            outbox=Outbox(topic=TOPIC, source="group"),
            rules=replace(WatchRules(), **rules),  # type: ignore[arg-type]
        )

    def rows(self, statement: str, **values: object) -> list[tuple[object, ...]]:
        with self.owner.begin() as connection:
            return [tuple(row) for row in connection.execute(text(statement), values)]

    def run(self, *statements: str) -> None:
        with self.owner.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def raised(self, tenant: str) -> list[tuple[object, ...]]:
        """Alarms of the tenant: how many jobs each has, and its links."""
        return self.rows(
            "SELECT (SELECT count(*) FROM assay.alarm_jobs j WHERE j.alarm_id = a.id), labels -> 'links'"
            " FROM assay.alarms a WHERE tenant = :tenant ORDER BY id",
            tenant=tenant,
        )


@pytest.fixture(scope="module")
def place(stack: Addresses, template_database: str) -> Iterator[Place]:
    """One for the tests of this module: each has a tenant, or a category, of its own."""
    with one_database(stack, template_database) as url:
        password = secrets.token_hex()
        set_role_password(url, "assay_watcher", password)
        own = make_url(url).set(username="assay_watcher", password=password).render_as_string(hide_password=False)
        owner, watcher = connect(url), connect(own, pool_size=8)
        yield Place(owner=owner, watcher=watcher, watcher_url=own)
        owner.dispose()
        watcher.dispose()


@pytest.fixture
def tenant() -> str:
    return new_tenant()


@pytest.fixture
def topics(stack: Addresses, topic_prefix: str) -> TopicNames:
    names = TopicNames(prefix=topic_prefix)
    config = {"bootstrap.servers": stack.kafka_bootstrap}
    apply_topics(config, plan_topics(config, names, partitions=1, replication=1))
    return names


def published(stack: Addresses, topics: TopicNames, tenant: str) -> list[InputRecord]:
    """The tenant's alerts: other tests' alarms of the same database may be published as well."""
    config = {"bootstrap.servers": stack.kafka_bootstrap}
    with KafkaFollower(config, [topics.alerts], from_beginning=True) as follower:
        return [record for record in follower.rest() if record.key == tenant.encode()]


def event_of(record: InputRecord) -> AlertEvent:
    return decode_alert(record.value, record.headers)


def random_counterfeits(tenant: str, count: int) -> list[Judged]:
    """Each by a forger of its own, of four SKUs, with a serial of its own, from five senders."""
    return [
        a_counterfeit(
            f"random-{n}",
            tenant=tenant,
            judged_at=NOW - timedelta(minutes=n),
            sku=f"BAG-{n % 4}",
            serial=f"SN-{n:06d}",
            labels={"submitter": f"shop-{n % 5}"},
        )
        for n in range(count)
    ]


def planted(tenant: str, *numbers: int) -> list[Judged]:
    at = NOW - timedelta(hours=1)
    return [a_counterfeit(f"planted-{n}", tenant=tenant, judged_at=at, forger="one forger") for n in numbers]


def test_a_forgers_jobs_are_one_row_and_one_event_and_random_ones_none(
    place: Place, tenant: str, stack: Addresses, topics: TopicNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watch() -> str:
        done = CliRunner().invoke(app, ["watch", "--once"])
        assert done.exit_code == 0, done.output
        return done.output

    monkeypatch.setenv("ASSAY_DATABASE__URL", place.watcher_url)
    monkeypatch.setenv("ASSAY_KAFKA__BOOTSTRAP", stack.kafka_bootstrap)
    monkeypatch.setenv("ASSAY_KAFKA__TOPICS__PREFIX", topics.prefix)
    place.settle(*random_counterfeits(tenant, 60))
    assert "Raised 0 alarms" in watch()
    assert place.raised(tenant) == []
    place.settle(*planted(tenant, 1, 2, 3, 4))
    assert "Raised 1 alarms, published 1 alerts" in watch()
    assert "Raised 0 alarms, published 0 alerts" in watch()
    (record,) = published(stack, topics, tenant)
    event = event_of(record)
    assert (record.key, event.tenant, event.kind) == (tenant.encode(), tenant, AlertKind.REPEATED_COUNTERFEIT)
    assert sorted(event.jobs) == [f"planted-{n}" for n in (1, 2, 3, 4)]
    assert (event.links, event.skus) == ((AlertLink.EMBEDDING,), ("BAG-1",))

    place.settle(*planted(tenant, 5, 6))  # later ones join what was raised
    assert "Raised 0 alarms, published 0 alerts" in watch()
    assert place.raised(tenant) == [(6, ["embedding"])]
    assert len(published(stack, topics, tenant)) == 1


def test_analysts_see_their_own_alarms_and_an_erased_job_leaves(place: Place, tenant: str) -> None:
    serial = [
        a_counterfeit(f"serial-{n}", tenant=tenant, judged_at=NOW, sku=f"BAG-{n}", serial="SN 4711-0815")
        for n in range(3)
    ]
    place.settle(*serial)
    assert place.alarms().find_repeated(NOW) == 1
    role, password = f"analyst_of_{tenant.replace('-', '_')}", secrets.token_hex()
    create_analyst(place.owner.url.render_as_string(hide_password=False), role, tenants=[tenant], password=password)
    as_analyst = connect(place.owner.url.set(username=role, password=password).render_as_string(hide_password=False))
    with as_analyst.connect() as connection:
        alarm = connection.execute(text("SELECT * FROM analyst.alarms")).one()
        jobs = connection.execute(text("SELECT * FROM analyst.alarm_jobs ORDER BY job_id")).all()
        assert connection.execute(text("SELECT count(*) FROM analyst.drift")).scalar() == 0
    as_analyst.dispose()
    place.run(f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')
    assert (alarm.kind, alarm.tenant, alarm.jobs, alarm.links) == ("repeated_counterfeit", tenant, 3, ["serial"])
    assert [(job.job_id, job.serial) for job in jobs] == [(f"serial-{n}", "SN 4711-0815") for n in range(3)]
    Erasure(database=place.owner).erase(tenant, ["serial-1"], Reason(by="ada", why="request 17"))
    assert place.raised(tenant) == [(2, ["serial"])]
    told = "SELECT detail || labels::text || encode(event, 'escape') FROM assay.alarms WHERE tenant = :tenant"
    assert "4711" not in str(place.rows(told, tenant=tenant))


def test_a_sender_of_counterfeits_beside_honest_ones(place: Place, tenant: str) -> None:
    honest = [
        a_counterfeit(
            f"honest-{n}",
            tenant=tenant,
            judged_at=NOW,
            verdict=Verdict.AUTHENTIC,
            labels={"submitter": f"shop-{n % 4}"},
        )
        for n in range(80)
    ]
    crooked = [
        a_counterfeit(f"fake-{n}", tenant=tenant, judged_at=NOW, sku=f"BAG-{n}", labels={"submitter": "crook"})
        for n in range(6)
    ]
    place.settle(*honest, *crooked)
    assert place.alarms().find_repeated(NOW) == 1
    assert place.raised(tenant) == [(6, ["submitter"])]


def test_what_lies_outside_the_window_belongs_to_nothing_and_alarms_end_with_it(place: Place, tenant: str) -> None:
    place.settle(*planted(tenant, 1, 2, 3))
    assert place.alarms().find_repeated(NOW + timedelta(days=8)) == 0
    alarms = place.alarms()
    assert alarms.find_repeated(NOW) == 1
    open_ = "SELECT count(*) FROM assay.alarms WHERE tenant = :tenant AND cleared_at IS NULL"
    assert place.rows(open_, tenant=tenant) == [(1,)]
    assert alarms.find_repeated(NOW + timedelta(days=8)) == 0
    assert place.rows(open_, tenant=tenant) == [(0,)]


def test_one_item_that_is_sent_again_and_again_is_no_cluster(place: Place, tenant: str) -> None:
    again = [
        a_counterfeit(f"again-{n}", tenant=tenant, judged_at=NOW, forger="f", labels={"subject": "one bag"})
        for n in range(5)
    ]
    place.settle(*again)
    assert place.alarms().find_repeated(NOW) == 0


def test_many_watchers_raise_one_alarm(place: Place, tenant: str) -> None:
    place.settle(*planted(tenant, *range(4)))
    gate = threading.Barrier(4)

    def look(alarms: PostgresAlarms) -> int:
        gate.wait(60)
        return alarms.find_repeated(NOW)

    with ThreadPoolExecutor(4) as pool:
        raised = list(pool.map(look, [place.alarms() for _ in range(4)]))
    assert sum(raised) == 1
    assert place.raised(tenant) == [(4, ["embedding"])]


def test_a_watcher_that_dies_after_kafka_confirmed_says_the_same_again(
    place: Place, tenant: str, stack: Addresses, topics: TopicNames
) -> None:
    sender = KafkaSender({"bootstrap.servers": stack.kafka_bootstrap})
    alarms = replace(place.alarms(), outbox=Outbox(topic=topics.alerts, source="group", encoding="json"))
    place.settle(*planted(tenant, 1, 2, 3))
    alarms.find_repeated(NOW)

    def die(records: Sequence[OutputRecord]) -> None:
        sender.send(records)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alarms.publish(die)
    assert alarms.counts()[2] >= 1
    alarms.publish(sender.send)
    assert alarms.publish(sender.send) == 0
    first, second = published(stack, topics, tenant)
    assert (first.value, first.headers) == (second.value, second.headers)
    assert event_of(first).jobs == ("planted-1", "planted-2", "planted-3")


def calibrated(place: Place, month: Month, *, with_baseline: bool = True) -> None:
    """Make a score calibration of the month's own distribution the active one."""
    genuine, fakes = month.drawn(True, 120), month.drawn(False, 120)
    measures = {
        (ENGINE.digest, "logo", name): (genuine[name], fakes[name]) for name in ("similarity", "deviation", "sharpness")
    }
    baseline = CategoryBaseline(abstained=((6, 120), (12, 120)), measures=measures)
    calibration = ScoreCalibration(
        calibration_id=month.calibration_id,
        backend=ENGINE.backend,
        engine_digests=frozenset({ENGINE.digest, month.category}),
        views={},
        genuine_scores={month.category: np.sort(genuine["score"])},
        counterfeit_scores={month.category: np.sort(fakes["score"])},
        posteriors={month.category: Posterior(slope=1.0, limit=5.0)},
        baselines={month.category: baseline} if with_baseline else {},
    )
    profile = CategoryProfile(category=month.category, views=(ViewRequirement(view="logo", required=True),))
    with place.owner.begin() as connection:
        write_profiles(connection, [profile])
        write_calibration(connection, calibration, n=240)


def test_a_shifted_camera_is_told_once_and_an_unshifted_month_never(database_url: str) -> None:
    password = secrets.token_hex()
    set_role_password(database_url, "assay_watcher", password)
    own = make_url(database_url).set(username="assay_watcher", password=password)
    with engine(database_url) as owner, engine(own.render_as_string(hide_password=False)) as watcher:
        place = Place(owner=owner, watcher=watcher, watcher_url="")
        month, old = Month("bag", "cal-1", seed=1), Month("watch", "cal-old", seed=2)
        calibrated(place, month)
        calibrated(place, old, with_baseline=False)
        start = datetime(2026, 4, 1, 12, tzinfo=UTC)
        days = [start + timedelta(days=n) for n in range(32)]
        for day in days[:30]:
            place.settle(*month.jobs(day, 80))
        for day in days[30:]:
            place.settle(*month.jobs(day, 80, shift=1.5))
        place.settle(*old.jobs(days[0], 80))
        alarms = place.alarms(drift=DriftRule())
        just_over = [day.replace(hour=0, minute=20) + timedelta(days=1) for day in days]
        assert [alarms.find_drift(now) for now in just_over[:30]] == [0] * 30
        assert [place.alarms().find_drift(now) for now in just_over[30:]] == [1, 0]  # others, who start afresh

        told = "SELECT labels ->> 'category', labels ->> 'calibration_id', cleared_at FROM assay.alarms"
        assert place.rows(told) == [("bag", "cal-1", None)]
        sent: list[OutputRecord] = []
        assert alarms.publish(sent.extend) == 1
        event = decode_alert(sent[0].value, sent[0].headers)
        assert (sent[0].key, event.kind, event.day) == (b"*", AlertKind.CALIBRATION_STALE, days[30].date())
        assert {measure.measure for measure in event.measures} >= {"sharpness"}
        assert {measure.engine for measure in event.measures if measure.view} == {ENGINE.name}
        compared = "SELECT count(*), bool_or(departed) FROM assay.drift_days WHERE category = :c AND day < :d"
        assert place.rows(compared, c="bag", d=days[30].date()) == [(30 * 5, False)]
        assert place.rows(compared, c="watch", d=days[30].date()) == [(1, False)]  # its scores alone are known
        assert alarms.counts() == ({"calibration_stale": 1.0}, {"bag": 1.0}, 0.0)

        month.calibration_id = "cal-2"
        calibrated(place, month)  # in its place: the alarm is over
        assert alarms.find_drift(just_over[31]) == 0
        assert alarms.counts() == ({}, {}, 0.0)


def test_days_of_few_jobs_are_taken_together(place: Place) -> None:
    month = Month("sneaker", "cal-few", seed=3)
    calibrated(place, month)
    last = NOW.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
    for back in range(4):
        place.settle(*month.jobs(last - timedelta(days=back), 20, shift=3.0))
    now = last.replace(hour=0, minute=20) + timedelta(days=1)
    assert place.alarms().find_drift(now) == 1
    found = "SELECT DISTINCT day, since, max(jobs) FROM assay.drift_days WHERE category = 'sneaker' GROUP BY 1, 2"
    day = last.date()
    assert place.rows(found) == [(day, day - timedelta(days=2), 60)]


@pytest.mark.timeout(300)
def test_the_service_shows_its_metrics_and_ends_when_told(
    place: Place, stack: Addresses, topics: TopicNames, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "ASSAY_DATABASE__URL": place.watcher_url,
        "ASSAY_KAFKA__BOOTSTRAP": stack.kafka_bootstrap,
        "ASSAY_KAFKA__TOPICS__PREFIX": topics.prefix,
    }
    log = tmp_path / "watcher.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "worker.cli.main", "watch"]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    watcher = WorkerProcess(process=process, log=log, skip=0)
    try:
        watcher.wait_ready()
        page = watcher.get("/metrics")
        for metric in ("assay_watch_age_seconds ", "assay_watch_unpublished_alerts "):
            assert metric in page
        assert watcher.stop() == 0, watcher.log_tail()
    finally:
        watcher.kill()


@contextmanager
def engine(url: str) -> Iterator[Engine]:
    database = connect(url)
    yield database
    database.dispose()
