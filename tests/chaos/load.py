"""The load of a chaos run: seeded jobs at a seeded pace, with everything that senders do wrong among them.

Most jobs are good. Some come again under their id, with the same content or other content; some are late, unreadable or
show nothing; they go to three topics of each group, for two tenants. What was sent is written down as Submissions.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from heapq import heappop, heappush
from itertools import count

from confluent_kafka import KafkaError, Message, Producer

from schemas.canonical import payload_digest
from schemas.codec import Encoded, encode_job
from schemas.codes import ErrorCode
from schemas.job import AuthenticationJob, JobView
from tests.chaos.flaky_host import NEVER, uri_of
from tests.chaos.observation import Submission
from tests.chaos.photographs import CATEGORY, SKUS, photograph
from tests.chaos.world import TENANTS, Group, World

# Shares of the submissions; what is left are good jobs of one view.
TWO_VIEWS, LATE, BLANK, MALFORMED = 0.10, 0.02, 0.02, 0.02
FETCHED = 0.03  # of the good ones: their one photograph lies at a host that refuses it so often
REFUSALS = (0, 1, 1, 2, NEVER)
AGAIN, CONFLICT, TWIN, TRACED = 0.04, 0.02, 0.04, 0.1  # of the good ones
FORGED, ODD = 0.35, 0.15
LATER = 300  # submissions until a job comes again, at most
DELIVERY_TIMEOUT_S = 180
SETTINGS = {
    "enable.idempotence": True,
    "linger.ms": 5,
    "delivery.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
    "queue.buffering.max.messages": 1_000_000,
    "client.id": "chaos-load",
    "log_level": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A record to send, and its submission as far as it is known before the broker has it."""

    message: Encoded
    submission: Submission
    job: AuthenticationJob


class Load:
    """`start` sends at least `jobs` submissions at about `rate_s` a second; `submissions` is complete after `join`."""

    def __init__(self, world: World, *, seed: int, jobs: int, rate_s: float) -> None:
        self.jobs = jobs
        self.rate_s = rate_s
        self.hold = True  # go on beyond `jobs` until the schedule has been played
        self.sent = 0
        self.submissions: list[Submission] = []
        self.failures: list[str] = []
        self._plan = sendings(world.groups, seed=seed, image_port=world.image_port)
        self._pace = random.Random(seed ^ 0x5EED)
        self._producer = Producer({**world.kafka, **SETTINGS})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait until all is sent and acknowledged, or given up."""
        self._thread.join()

    def stop(self) -> None:
        """Send no more; what was sent is still waited for."""
        self._stop.set()

    def _run(self) -> None:
        next_s = time.monotonic()
        for sending in self._plan:
            next_s += self._pace.expovariate(self.rate_s)
            self._stop.wait(max(0.0, next_s - time.monotonic()))
            if self._stop.is_set() or (self.sent >= self.jobs and not self.hold):
                break
            self._send(sending)
            self.sent += 1
        self._producer.flush(DELIVERY_TIMEOUT_S + 10)

    def _send(self, sending: Sending) -> None:
        self._producer.produce(
            sending.submission.topic,
            value=sending.message.value,
            key=sending.message.key,
            headers=list(sending.message.headers),
            on_delivery=self._delivered(sending.submission),
        )
        self._producer.poll(0)

    def _delivered(self, submission: Submission) -> Callable[[KafkaError | None, Message], None]:
        def note(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failures.append(str(error))
                self.submissions.append(submission)
                return
            place = {"partition": message.partition(), "offset": message.offset()}
            self.submissions.append(replace(submission, **place))

        return note


def sendings(groups: Sequence[Group], *, seed: int, image_port: int) -> Iterator[Sending]:
    """Sendings without end, the same for the same seed but for the time of day in them."""
    rng = random.Random(seed)
    later: list[tuple[int, int, Sending]] = []
    for number in count():
        if later and later[0][0] <= number:
            yield heappop(later)[2]
            continue
        group = groups[number % len(groups)]
        sending = _sending(rng, group, f"{seed}-{number}", image_port)
        yield sending
        if sending.submission.well_formed and sending.submission.expects_dead_code is None:
            again = _again(rng, group, sending, f"{seed}-{number}")
            if again is not None:
                heappush(later, (number + rng.randrange(1, LATER), number, again))


def _sending(rng: random.Random, group: Group, name: str, image_port: int) -> Sending:
    kind = rng.random()
    if kind < MALFORMED:
        return _malformed(rng, group, name)
    job = _job(rng, name, views=2 if kind > 1 - TWO_VIEWS else 1)
    if kind < MALFORMED + LATE:
        past = job.submitted_at - timedelta(minutes=2)
        late = replace(job, submitted_at=past, deadline=past + timedelta(minutes=1))
        return _of(rng, group, late, expects=ErrorCode.DEADLINE_EXCEEDED)
    if kind < MALFORMED + LATE + BLANK:
        view = job.views[0]
        blank = _digested(replace(job, views=(replace(view, data=b"no photograph", sha256=rng.randbytes(32).hex()),)))
        return _of(rng, group, blank, expects=ErrorCode.NO_USABLE_VIEW)
    if kind < MALFORMED + LATE + BLANK + FETCHED:
        return _fetched(rng, group, job, image_port)
    return _of(rng, group, job)


def _fetched(rng: random.Random, group: Group, job: AuthenticationJob, port: int) -> Sending:
    """One photograph by URI. Whatever worker asks for it, and however often it dies, the end is the same."""
    refusals, seed = rng.choice(REFUSALS), rng.getrandbits(40)
    data = photograph(job.sku, "logo", seed)
    uri = uri_of(port, job.sku, "logo", seed, forged=False, refusals=refusals)
    view = JobView(view="logo", sha256=sha256(data).hexdigest(), uri=uri)
    expects = ErrorCode.RETRIES_EXHAUSTED if refusals == NEVER else None
    return _of(rng, group, _digested(replace(job, views=(view,))), expects=expects)


def _again(rng: random.Random, group: Group, sending: Sending, name: str) -> Sending | None:
    """The same bytes, other content under the same id, or the same photographs under another; mostly nothing."""
    kind, topic = rng.random(), _topic(rng, group)
    if kind < AGAIN:
        return replace(sending, submission=replace(sending.submission, topic=topic))
    if kind < AGAIN + CONFLICT:
        assert sending.submission.tenant is not None
        other = _job(rng, name, views=1)
        return _of(rng, group, _digested(replace(other, tenant=sending.submission.tenant)))
    if kind < AGAIN + CONFLICT + TWIN:
        return _of(rng, group, _digested(replace(sending.job, job_id=f"twin-{name}")))
    return None


def _job(rng: random.Random, name: str, *, views: int) -> AuthenticationJob:
    sku, forged = rng.choice(SKUS), rng.random() < FORGED
    shown = rng.choice(SKUS) if rng.random() < ODD else sku
    photographs = [
        (view, photograph(shown, view, rng.getrandbits(40), forged=forged)) for view in ("logo", "lining")[:views]
    ]
    job = AuthenticationJob(
        job_id=f"job-{name}",
        tenant=rng.choice(TENANTS),
        sku=sku,
        category=CATEGORY,
        submitted_at=datetime.now(UTC),
        views=tuple(JobView(view=view, sha256=sha256(data).hexdigest(), data=data) for view, data in photographs),
        payload_digest="",
    )
    return _digested(job)


def _digested(job: AuthenticationJob) -> AuthenticationJob:
    digest = payload_digest(
        tenant=job.tenant, job_id=job.job_id, sku=job.sku, category=job.category, views=job.views,
        serial=job.serial, labels=job.labels,
    )  # fmt: skip
    return replace(job, payload_digest=digest)


def _of(rng: random.Random, group: Group, job: AuthenticationJob, *, expects: ErrorCode | None = None) -> Sending:
    trace = f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-01" if rng.random() < TRACED else None
    message = encode_job(job, encoding=rng.choice(("avro", "json")), source="chaos", traceparent=trace)
    submission = Submission(
        tenant=job.tenant,
        job_id=job.job_id,
        topic=_topic(rng, group),
        value_digest=sha256(message.value).hexdigest(),
        payload_digest=job.payload_digest,
        expects_dead_code=expects,
    )
    return Sending(message=message, submission=submission, job=job)


def _malformed(rng: random.Random, group: Group, name: str) -> Sending:
    good = _of(rng, group, _job(rng, name, views=1))
    half = good.message.value[: len(good.message.value) // 2]
    message, code = rng.choice(
        (
            (replace(good.message, headers=()), ErrorCode.MALFORMED_ENVELOPE),
            (replace(good.message, value=half), ErrorCode.MALFORMED_PAYLOAD),
            (replace(good.message, key=b"someone/else"), ErrorCode.KEY_MISMATCH),
        )
    )  # fmt: skip
    submission = replace(
        good.submission,
        tenant=None, job_id=None, payload_digest="", well_formed=False, expects_dead_code=code,
        value_digest=sha256(message.value).hexdigest(),
    )  # fmt: skip
    return Sending(message=message, submission=submission, job=good.job)


def _topic(rng: random.Random, group: Group) -> str:
    topics = group.topics
    return rng.choices((topics.jobs, topics.jobs_high, topics.jobs_bulk), (8, 1, 1))[0]
