"""Named points at which a worker kills or stops itself, for tests of what a crash there leaves behind.

Nothing in the pipeline knows of them: worker.app wraps its ports, the commit of the results' database and the producer
when the setting names a point, and leaves them alone otherwise. Production refuses the setting.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Producer
from sqlalchemy import Engine

from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord, OutputRecord, Source
from worker.core.evidence import JobEvidence, ReuseHit, StoredView, UnusableView, ViewProbe
from worker.core.poison import Deaths
from worker.errors import ConfigurationError
from worker.outcomes import Outcome
from worker.ports import (
    Attempts,
    EncodeView,
    ImageSource,
    JobSource,
    LateView,
    Partition,
    PendingViews,
    RebalanceListener,
    ResultStore,
    ViewEncoder,
)
from worker.work import Received

NAMES: Final[tuple[str, ...]] = (
    "after_poll",
    "before_attempt_row",
    "after_attempt_row",
    "after_fetch",
    "before_decode",
    "after_infer",
    "before_postgres_commit",
    "after_postgres_commit",
    "before_begin",
    "after_produce",
    "before_send_offsets",
    "after_send_offsets",
    "before_kafka_commit",
    "after_kafka_commit",
    "in_revoke",
    "before_close",
)
SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
SENT_WITHIN_S = 2.0  # what was produced is to be on the broker when the worker dies, else nothing is tried
ARMED = re.compile(r"(kill|stop)@([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Armed:
    action: str
    at_hit: int  # counts from 1


class Failpoints:
    """Counts what passes each point and acts at the hit that it is armed for. Any thread.

    `armed` maps a name to ACTION@HIT. `log` gets a line `pid name hit` before the action. Raises ConfigurationError.
    """

    def __init__(self, armed: Mapping[str, str], *, log: Path | None = None) -> None:
        self._armed = {name: _read(name, what) for name, what in armed.items()}
        self._log = log
        self._hits = dict.fromkeys(self._armed, 0)
        self._lock = threading.Lock()

    def hit(self, name: str, *, first: Callable[[], object] = lambda: None) -> None:
        """Pass the point; `first` is called only where the action follows."""
        armed = self._armed.get(name)
        if armed is None:
            return
        with self._lock:
            self._hits[name] += 1
            reached = self._hits[name] == armed.at_hit
        if reached:
            first()
            self._write_down(name, armed)
            os.kill(os.getpid(), SIGNALS[armed.action])

    def _write_down(self, name: str, armed: Armed) -> None:
        if self._log is not None:
            with self._log.open("a", encoding="ascii") as out:
                out.write(f"{os.getpid()} {name} {armed.at_hit}\n")


def _read(name: str, what: str) -> Armed:
    if name not in NAMES:
        raise ConfigurationError(
            f"failpoints.armed names {name}, which is no failpoint; take one of {', '.join(NAMES)}"
        )
    found = ARMED.fullmatch(what)
    if found is None:
        raise ConfigurationError(f"failpoints.armed has {what!r} for {name}; write it as kill@HIT or stop@HIT")
    return Armed(action=found[1], at_hit=int(found[2]))


@dataclass(frozen=True, slots=True)
class FailingSource:
    """A JobSource with after_poll and before_close."""

    inner: JobSource
    points: Failpoints

    def poll(self, timeout_s: float) -> InputRecord | None:
        record = self.inner.poll(timeout_s)
        if record is not None:
            self.points.hit("after_poll")
        return record

    def pause(self, partitions: Iterable[Partition]) -> None:
        self.inner.pause(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        self.inner.resume(partitions)

    def close(self) -> None:
        self.points.hit("before_close")
        self.inner.close()


@dataclass(frozen=True, slots=True)
class FailingListener:
    """A RebalanceListener with in_revoke, before anything is drained."""

    inner: RebalanceListener
    points: Failpoints

    def assigned(self, partitions: Sequence[Partition]) -> int:
        return self.inner.assigned(partitions)

    def revoked(self, partitions: Sequence[Partition]) -> None:
        self.points.hit("in_revoke")
        self.inner.revoked(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        self.inner.lost(partitions)


@dataclass(frozen=True, slots=True)
class FailingImages:
    """An ImageSource with after_fetch."""

    inner: ImageSource
    points: Failpoints

    def fetch(self, job: AuthenticationJob, view: JobView) -> bytes | StoredView | UnusableView:
        got = self.inner.fetch(job, view)
        self.points.hit("after_fetch")
        return got


@dataclass(frozen=True, slots=True)
class FailingAttempts:
    """An Attempts with before_attempt_row and after_attempt_row."""

    inner: Attempts
    points: Failpoints

    def begin(self, jobs: Sequence[Received], *, ended: Sequence[Source] = (), alone: bool = False) -> list[Deaths]:
        self.points.hit("before_attempt_row")
        deaths = self.inner.begin(jobs, ended=ended, alone=alone)
        self.points.hit("after_attempt_row")
        return deaths

    def end(self, sources: Sequence[Source]) -> None:
        self.inner.end(sources)

    def release(self, partitions: Sequence[Partition]) -> None:
        self.inner.release(partitions)

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True, slots=True)
class FailingEncoder:
    """A ViewEncoder with before_decode and after_infer."""

    inner: ViewEncoder
    points: Failpoints

    def start(self, requests: Sequence[EncodeView]) -> PendingViews:
        self.points.hit("before_decode")
        return FailingPending(self.inner.start(requests), self.points)

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True, slots=True)
class FailingPending:
    inner: PendingViews
    points: Failpoints

    def result(self) -> list[ViewProbe | UnusableView]:
        found = self.inner.result()
        self.points.hit("after_infer")
        return found

    def prompt(self) -> Sequence[ViewProbe | UnusableView | LateView]:
        found = self.inner.prompt()
        self.points.hit("after_infer")
        return found


@dataclass(frozen=True, slots=True)
class FailingResults:
    """A ResultStore over `database` with before_postgres_commit and after_postgres_commit in `settle` alone."""

    inner: ResultStore
    points: Failpoints
    database: Engine
    _thread: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        # SQLAlchemy's events tell of a commit before it alone; a dialect belongs to one Engine.
        dialect = self.database.dialect
        commit = dialect.do_commit

        def do_commit(connection: Any) -> None:
            settling = getattr(self._thread, "settling", False)
            if settling:
                self.points.hit("before_postgres_commit")
            commit(connection)
            if settling:
                self.points.hit("after_postgres_commit")

        dialect.do_commit = do_commit  # type: ignore[assignment,method-assign]

    def reused(self, jobs: Sequence[JobEvidence]) -> list[tuple[ReuseHit, ...]]:
        return self.inner.reused(jobs)

    def settle(self, outcomes: Sequence[Outcome]) -> list[OutputRecord]:
        self._thread.settling = True
        try:
            return self.inner.settle(outcomes)
        finally:
            self._thread.settling = False

    def close(self) -> None:
        self.inner.close()


class FailingProducer:
    """A confluent Producer, as far as KafkaPublisher uses one, with the points of a transaction."""

    def __init__(
        self,
        points: Failpoints,
        config: Mapping[str, Any],
        *,
        logger: logging.Logger,
        make: Callable[..., Any] = Producer,
    ) -> None:
        self._points = points
        self._producer = make(config, logger=logger)

    def begin_transaction(self) -> None:
        self._points.hit("before_begin")
        self._producer.begin_transaction()

    def produce(self, topic: str, **record: Any) -> None:
        self._producer.produce(topic, **record)
        self._points.hit("after_produce", first=self._send)

    def send_offsets_to_transaction(self, *arguments: Any) -> None:
        self._points.hit("before_send_offsets", first=self._send)
        self._producer.send_offsets_to_transaction(*arguments)
        self._points.hit("after_send_offsets", first=self._send)

    def commit_transaction(self, *arguments: Any) -> None:
        self._points.hit("before_kafka_commit", first=self._send)
        self._producer.commit_transaction(*arguments)
        self._points.hit("after_kafka_commit")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def _send(self) -> None:
        self._producer.flush(SENT_WITHIN_S)
