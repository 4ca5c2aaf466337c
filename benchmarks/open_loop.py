"""Jobs sent at moments that were fixed beforehand, whatever the worker does, and when each good one was answered."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from time import monotonic

import numpy as np

from benchmarks.deployment import Deployment
from benchmarks.goods import Goods
from benchmarks.worker_run import RunFailed
from demo.stand import TENANT
from schemas.codec import header
from schemas.headers import ERROR_CODE
from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord, OutputRecord
from worker.adapters.kafka_follower import KafkaFollower
from worker.adapters.kafka_sender import KafkaSender
from worker.cli.submission import build_job, job_record
from worker.settings import KafkaSettings
from worker.topics import Topics

PATIENCE_S = 300.0  # for the last answers of a leg
LEAD_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    deployment: Deployment
    goods: Goods
    photographs: Sequence[tuple[str, bytes]]  # hostile ones
    good_per_s: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """`moved` jobs went to the slow lane first; `hostile_ended` counts verdicts and error codes."""

    name: str
    delays_ms: Sequence[float]
    hostile: int
    hostile_ended: Mapping[str, int]
    moved: int
    sent_late_ms: float  # the most that a job was sent after it was due; it counts in its delay


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    at_s: float  # after the leg's beginning
    good: bool
    number: int


@dataclass(slots=True)
class Heard:
    """What came back, by key: when, and as what."""

    answers: dict[bytes, tuple[float, str]] = field(default_factory=dict)
    moved: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)


def run_leg(traffic: Traffic, name: str, seconds: float, *, hostile_per_s: float, number: int) -> Leg:
    """Send for `seconds`, then wait for every answer. Raises RunFailed where some do not come."""
    plan = schedule(traffic.good_per_s, hostile_per_s, seconds, seed=traffic.seed * 1000 + number)

    def job_of(due: Due) -> AuthenticationJob:
        return _good(traffic, due, number) if due.good else _hostile(traffic, due, number)

    return run_plan(traffic.deployment.settings.kafka, plan, job_of, name, number)


def run_plan(
    kafka: KafkaSettings, plan: Sequence[Due], job_of: Callable[[Due], AuthenticationJob], name: str, number: int
) -> Leg:
    """Send each job (its id is `job_id_of` its due) at its moment, then wait for every answer. Raises RunFailed."""
    heard, over = Heard(), threading.Event()
    topics = [kafka.topics.results, kafka.topics.dlq, kafka.topics.jobs_slow]
    with KafkaFollower(kafka.client_config(), topics) as follower:
        reader = threading.Thread(target=_listen, args=(follower, kafka.topics.jobs_slow, heard, over), daemon=True)
        reader.start()
        try:
            began_s = monotonic() + LEAD_S
            late: list[float] = []
            KafkaSender(kafka.client_config()).send(_records(kafka.topics, plan, began_s, job_of, late))
            with heard.changed:
                complete = heard.changed.wait_for(lambda: len(heard.answers) >= len(plan), PATIENCE_S)
        finally:
            over.set()
            reader.join()
    if not complete:
        raise RunFailed(f"{name}: {len(heard.answers)} of {len(plan)} jobs were answered within {PATIENCE_S:.0f} s")
    return _leg(name, plan, heard, began_s, number, max(late, default=0.0))


def schedule(good_per_s: float, hostile_per_s: float, seconds: float, *, seed: int) -> list[Due]:
    """Two Poisson processes, in order of time; that of the good jobs does not depend on the other."""
    dues: list[Due] = []
    for good, rate in ((True, good_per_s), (False, hostile_per_s)):
        moments = enumerate(_moments(rate, seconds, np.random.default_rng([seed, good])))
        dues += [Due(at_s=at_s, good=good, number=number) for number, at_s in moments]
    return sorted(dues, key=lambda due: due.at_s)


def _moments(rate: float, seconds: float, chance: np.random.Generator) -> list[float]:
    """Of a Poisson process, from 0 to `seconds`."""
    at_s, moments = 0.0, list[float]()
    while rate and (at_s := at_s + float(chance.exponential(1 / rate))) < seconds:
        moments.append(at_s)
    return moments


def key_of(due: Due, leg: int) -> bytes:
    return f"{TENANT}/{job_id_of(due, leg)}".encode()


def job_id_of(due: Due, leg: int) -> str:
    """The id of the job that a leg sends at this moment."""
    return f"{'good' if due.good else 'hostile'}-{leg}-{due.number:06d}"


def _records(
    topics: Topics, plan: Sequence[Due], began_s: float, job_of: Callable[[Due], AuthenticationJob], late: list[float]
) -> Iterator[OutputRecord]:
    rest = threading.Event()
    for due in plan:
        record = job_record(job_of(due), topics)
        rest.wait(max(0.0, began_s + due.at_s - monotonic()))
        late.append((monotonic() - began_s - due.at_s) * 1e3)
        yield record


def _good(traffic: Traffic, due: Due, leg: int) -> AuthenticationJob:
    item = traffic.goods.items[(due.number + 7 * leg) % len(traffic.goods.items)]
    return build_job(item, tenant=TENANT, job_id=job_id_of(due, leg), transport="inline")


def _hostile(traffic: Traffic, due: Due, leg: int) -> AuthenticationJob:
    item = traffic.goods.items[0]
    _, photo = traffic.photographs[(due.number + 101 * leg) % len(traffic.photographs)]
    view = JobView(view=next(iter(item.views)), sha256=sha256(photo).hexdigest(), data=photo)
    return AuthenticationJob(
        job_id=job_id_of(due, leg),
        tenant=TENANT,
        sku=item.sku,
        category=item.category,
        submitted_at=datetime.now(UTC),
        views=(view,),
        payload_digest="",
    )


def _listen(follower: KafkaFollower, slow_topic: str, heard: Heard, over: threading.Event) -> None:
    while not over.is_set():
        record = follower.poll(0.2)
        if record is None or record.key is None:
            continue
        now_s = monotonic()
        with heard.changed:
            if record.source.topic == slow_topic:
                heard.moved += 1
            else:
                heard.answers.setdefault(record.key, (now_s, _ended(record)))
            heard.changed.notify_all()


def _ended(record: InputRecord) -> str:
    return header(record.headers, ERROR_CODE) or "verdict"


def _leg(name: str, plan: Sequence[Due], heard: Heard, began_s: float, number: int, late_ms: float) -> Leg:
    """Raises RunFailed where a good job has no verdict."""
    delays: list[float] = []
    ended: Counter[str] = Counter()
    for due in plan:
        at_s, how = heard.answers[key_of(due, number)]
        if not due.good:
            ended[how] += 1
        elif how == "verdict":
            delays.append((at_s - began_s - due.at_s) * 1e3)
        else:
            raise RunFailed(f"{name}: the good job {job_id_of(due, number)} ended as {how}")
    return Leg(
        name=name,
        delays_ms=delays,
        hostile=ended.total(),
        hostile_ended=dict(ended),
        moved=heard.moved,
        sent_late_ms=late_ms,
    )
