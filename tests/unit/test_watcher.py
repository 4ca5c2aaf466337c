"""The watcher's rounds: publishing first and last, waiting for services, ending when told, failing aloud."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest

from schemas.alert import AlertEvent
from schemas.codes import AlertKind, AlertLink
from schemas.message import OutputRecord
from worker.core.alerts import repeated_alert
from worker.core.repeated import Cluster, Suspect
from worker.errors import ServiceUnavailable
from worker.watch.watcher import Send, Watcher

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


class Script:
    """Alarms that do as they are told: `fail` is asked before each step."""

    def __init__(self, fail: Callable[[str], None] = lambda step: None, waiting: int = 0) -> None:
        self.steps: list[str] = []
        self.waiting = waiting
        self._fail = fail

    def decide(self, now: datetime) -> int:
        self._step("releases")
        return 0

    def find_repeated(self, now: datetime) -> int:
        self._step("repeated")
        self.waiting += 1
        return 1

    def find_drift(self, now: datetime) -> int:
        self._step("drift")
        return 0

    def publish(self, send: Send) -> int:
        self._step("publish")
        send([OutputRecord(topic="alerts", key=b"a", value=b"", headers=())] * self.waiting)
        sent, self.waiting = self.waiting, 0
        return sent

    def counts(self) -> tuple[dict[str, float], dict[str, float], float]:
        self._step("counts")
        return {"repeated_counterfeit": 1.0}, {"bag": 1.0}, 2.0

    def _step(self, name: str) -> None:
        self.steps.append(name)
        self._fail(name)


def away(step: str) -> None:
    raise ServiceUnavailable("postgres", f"{step}: the server is away")


def test_a_round_publishes_what_waits_before_it_looks_and_what_it_finds_after() -> None:
    script, sent = Script(waiting=2), list[int]()

    def send(records: Sequence[OutputRecord]) -> None:
        sent.append(len(records))

    assert Watcher(script, script, send, interval_s=1.0).round() == (1, 3)
    assert script.steps == ["publish", "releases", "repeated", "drift", "publish"]
    assert sent == [2, 1]


def test_a_service_that_is_away_is_waited_for() -> None:
    stop, rounds = threading.Event(), list[str]()

    def fail(step: str) -> None:
        rounds.append(step)
        if len(rounds) < 4:
            away(step)
        if step == "drift":
            stop.set()

    script = Script(fail)
    Watcher(script, script, lambda records: None, interval_s=0.001).run(stop)
    assert rounds == ["publish", "publish", "publish", "publish", "releases", "repeated", "drift", "publish"]


def test_anything_else_ends_it() -> None:
    def fail(step: str) -> None:
        raise ValueError(step)

    script = Script(fail)
    with pytest.raises(ValueError, match="publish"):
        Watcher(script, script, lambda records: None, interval_s=0.001).run(threading.Event())


def test_the_metrics_page_says_what_is_and_that_it_cannot_be_asked() -> None:
    watcher = Watcher(Script(), Script(), lambda records: None, interval_s=1.0)
    told = (watcher.open_alarms(), watcher.stale_calibrations(), watcher.unpublished())
    assert told == ({"repeated_counterfeit": 1.0}, {"bag": 1.0}, 2.0)
    dumb = Watcher(Script(away), Script(), lambda records: None, interval_s=1.0)
    assert (dumb.open_alarms(), dumb.stale_calibrations(), dumb.unpublished()) == ({}, {}, -1.0)
    assert dumb.age_s() >= 0


def a_cluster(jobs: int, *, category: str | None = None, serial: str = "SN-SECRET-1") -> Cluster:
    suspects = tuple(
        Suspect(
            job_id=f"job-{n}",
            sku=f"BAG-{n}",
            category=category or f"category-{n}",
            judged_at=NOON,
            item=f"item-{n}",
            serial=serial,
            submitter="a person",
        )
        for n in range(jobs)
    )
    return Cluster(suspects=suspects, links=(AlertLink.SERIAL, AlertLink.SUBMITTER))


@pytest.mark.parametrize("jobs", [1, 3, 100, 101, 300])
def test_an_alert_names_at_most_a_hundred_jobs_and_no_one(jobs: int) -> None:
    event: AlertEvent = repeated_alert("acme", a_cluster(jobs), raised_at=NOON)
    assert len(event.jobs) == min(jobs, 100)
    assert (event.kind, event.tenant) == (AlertKind.REPEATED_COUNTERFEIT, "acme")
    assert f"{jobs} counterfeit verdicts" in event.detail
    assert "SECRET" not in repr(event) and "a person" not in repr(event)
    assert event.category == ("category-0" if jobs == 1 else None)
    assert repeated_alert("acme", a_cluster(jobs, category="bag"), raised_at=NOON).category == "bag"
