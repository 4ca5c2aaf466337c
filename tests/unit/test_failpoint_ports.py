"""Failpoints: what they count, when they act, that nothing is wrapped unless one is armed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from schemas.message import InputRecord
from worker.adapters import failpoints
from worker.adapters.failpoints import (
    NAMES,
    FailingAttempts,
    FailingEncoder,
    FailingImages,
    FailingListener,
    FailingProducer,
    FailingResults,
    FailingSource,
    Failpoints,
)
from worker.app import open_failpoints
from worker.errors import ConfigurationError
from worker.ports import Partition
from worker.settings import load_settings


class Trace:
    """Stands for the operating system, the ports and the producer: what happened, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def hit(self, name: str, **_: object) -> None:
        self.events.append(name)

    def kill(self, pid: int, number: int) -> None:
        assert pid == os.getpid()
        self.events.append(signal.Signals(number).name)

    def __call__(self, *_: object, **__: object) -> Trace:
        return self

    def __getattr__(self, name: str) -> Any:
        def call(*_: object, **__: object) -> Any:
            self.events.append(name)
            return self

        return call


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    trace = Trace()
    monkeypatch.setattr(os, "kill", trace.kill)
    return trace


def test_it_acts_once_at_the_hit_it_is_armed_for_and_writes_that_down_first(trace: Trace, tmp_path: Path) -> None:
    points = Failpoints({"after_poll": "kill@3", "in_revoke": "stop@1"}, log=tmp_path / "hits")
    for _ in range(5):
        points.hit("after_poll", first=lambda: trace.hit("first"))
    points.hit("before_close")
    points.hit("in_revoke")
    assert trace.events == ["first", "SIGKILL", "SIGSTOP"]
    assert (tmp_path / "hits").read_text() == f"{os.getpid()} after_poll 3\n{os.getpid()} in_revoke 1\n"


@pytest.mark.parametrize("armed", [{"after_lunch": "kill@1"}, {"after_poll": "kill"}, {"after_poll": "kill@0"}])
def test_what_cannot_be_armed_is_refused(armed: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"failpoints\.armed .* (take one of|write it as)"):
        Failpoints(armed)


def test_unset_there_are_none_and_production_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_failpoints(load_settings()) is None
    monkeypatch.setenv("ASSAY_FAILPOINTS__ARMED", '{"after_poll": "kill@1"}')
    assert open_failpoints(load_settings()) is not None
    monkeypatch.setenv("ASSAY_MODE", "production")
    monkeypatch.setenv("ASSAY_KAFKA__SECURITY_PROTOCOL", "SSL")
    with pytest.raises(ConfigurationError, match=r"production refuses failpoints: unset failpoints\.armed"):
        load_settings()


def test_the_points_of_a_transaction_stand_around_its_calls() -> None:
    trace = Trace()
    producer = FailingProducer(trace, {}, logger=logging.getLogger(), make=trace)  # type: ignore[arg-type]
    producer.begin_transaction()
    producer.produce("results", value=b"v")
    producer.send_offsets_to_transaction([], object(), 1.0)
    producer.commit_transaction(-1)
    producer.poll(0)
    calls = "before_begin begin_transaction produce after_produce before_send_offsets send_offsets_to_transaction"
    rest = "after_send_offsets before_kafka_commit commit_transaction after_kafka_commit poll"
    assert trace.events == [*calls.split(), *rest.split()]


def test_the_points_of_the_ports_stand_around_their_calls() -> None:
    trace: Any = Trace()
    source = FailingSource(trace, trace)
    source.poll(0.1)
    source.close()
    FailingListener(trace, trace).revoked([("jobs", 0)])
    FailingImages(trace, trace).fetch(trace, trace)
    FailingAttempts(trace, trace).begin([])
    FailingEncoder(trace, trace).start([]).result()
    intake = "poll after_poll before_close close in_revoke revoked fetch after_fetch"
    embed = "before_attempt_row begin after_attempt_row before_decode start result after_infer"
    assert trace.events == [*intake.split(), *embed.split()]


def test_a_poll_without_a_record_is_no_hit() -> None:
    class Empty:
        def poll(self, timeout_s: float) -> InputRecord | None:
            return None

        def pause(self, partitions: Iterable[Partition]) -> None: ...

        def resume(self, partitions: Iterable[Partition]) -> None: ...

        def close(self) -> None: ...

    trace: Any = Trace()
    assert FailingSource(Empty(), trace).poll(0.1) is None
    assert trace.events == []


def test_only_the_commit_of_settle_is_a_point() -> None:
    trace: Any = Trace()
    database = sqlalchemy.create_engine("sqlite://")

    class Results:
        def reused(self, jobs: Sequence[object]) -> list[Any]:
            with database.begin() as connection:
                connection.execute(sqlalchemy.text("SELECT 1"))
            return []

        def settle(self, outcomes: Sequence[object]) -> list[Any]:
            trace.hit("settle")
            return self.reused(outcomes)

        def close(self) -> None: ...

    results = FailingResults(Results(), trace, database)
    results.reused([])
    results.settle([])
    results.reused([])
    database.dispose()
    assert trace.events == ["settle", "before_postgres_commit", "after_postgres_commit"]


def test_every_name_is_hit_somewhere() -> None:
    written = Path(failpoints.__file__).read_text(encoding="utf-8")
    assert [name for name in NAMES if f'hit("{name}"' not in written] == []
