"""A mixed run through the whole pipeline, every port in memory but the real decoder and a small real encoder: one job
in ten is hostile. Every job is answered once, and the good ones as in a run without the hostile ones. How much later
they are answered is printed, not judged: it says as much of the machine as of the worker."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from engines.catalogue import load_session, shipped_keys
from engines.publish import seeded_model
from engines.session import EncodeRequest
from schemas.codec import decode_verdict, encode_job, header, parse_job
from schemas.job import AuthenticationJob, JobView
from schemas.message import Headers, OutputRecord
from schemas.verdict import Timings, VerdictEvent
from tests.fuzz.corpus import own_images, pillow_images
from tests.fuzz.findings import Findings
from tests.fuzz.messages import CONFUSIONS
from tests.fuzz.mutants import mutants
from worker.adapters.encoder import SessionEncoder
from worker.adapters.memory import MemoryBroker, MemoryPublisher, MemoryResults, MemorySource
from worker.adapters.memory_attempts import MemoryAttempts
from worker.adapters.memory_caches import MemoryEvidence, NoProbeCache
from worker.adapters.memory_images import MemoryImages
from worker.batching import BatchLimits
from worker.core.gallery import GallerySnapshot
from worker.core.matching import NumpyMatcher
from worker.fetching import FetchLimits
from worker.fixed_engines import FixedEngines
from worker.intake import IntakeLimits
from worker.judging import JudgeStage
from worker.observe import Meter
from worker.pipeline import Limits, Pipeline, Ports
from worker.ports import Partition
from worker.publishing import PublishLimits
from worker.settings import Topics
from worker.settle import SettleLimits
from worker.tracing import no_traces
from worker.watermark import Watermark

TOPICS = Topics()
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SIDE = 64
HOSTILE_SHARE = 10  # one job in so many
JOBS_A_SECOND = 40.0
PATIENCE_S = 180.0
NO_TIME = Timings(fetch_ms=0, embed_ms=0, judge_ms=0, queue_ms=0, total_ms=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A record to produce. `good` jobs are those whose answers are compared."""

    key: bytes
    value: bytes
    headers: Headers
    good: bool


class TimedPublisher(MemoryPublisher):
    """Notes when each key's answer was committed."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.committed_s: dict[bytes, float] = {}

    def commit(self, outputs: Sequence[OutputRecord], offsets: Mapping[Partition, int]) -> None:
        super().commit(outputs, offsets)
        now_s = time.monotonic()
        answers = (output.key for output in outputs if output.topic not in TOPICS.consumed)
        self.committed_s.update({key: now_s for key in answers if key is not None})


class EmptyGallery:
    def snapshot(self, tenant: str) -> GallerySnapshot:
        return GallerySnapshot(tenant=tenant, revision=1, sets={}, indexes={}, sku_category={})

    def refresh(self) -> None:
        """It never moves."""

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of one run. `delays_s` are the good jobs', from produced to committed."""

    outputs: Sequence[OutputRecord]
    delays_s: Sequence[float]
    error: BaseException | None
    moved: int  # to the slow lane, which is no answer yet


def run(good_count: int, seed: int) -> list[Findings]:
    good = list(itertools.islice(good_jobs(seed), good_count))
    hostile = list(itertools.islice(hostile_jobs(seed), good_count // (HOSTILE_SHARE - 1)))
    found = Findings(part=f"a mixed run: {len(good)} good jobs among {len(hostile)} hostile ones")
    with tempfile.TemporaryDirectory() as folder:
        seeded_model(Path(folder), "resnet18", 1, name="small", image_size=SIDE)
        _through(Path(folder), good[:20])  # the first run pays for what is loaded once
        alone, mixed = _through(Path(folder), good), _through(Path(folder), _mixed(good, hostile, seed))
    _compare(found, good, hostile, alone, mixed)
    for name, ended in (("good jobs alone", alone), ("among hostile ones", mixed)):
        ordered = sorted(ended.delays_s)
        found.facts[name] = f"p50 {statistics.median(ordered) * 1e3:.0f} ms, p99 {_p99(ordered) * 1e3:.0f} ms"
    rise = _p99(sorted(mixed.delays_s)) / _p99(sorted(alone.delays_s)) - 1
    found.facts["jobs that were moved to the slow lane"] = mixed.moved
    found.facts["rise of the good jobs' p99"] = f"{rise:+.0%}"
    return [found]


def _compare(found: Findings, good: Sequence[Sent], hostile: Sequence[Sent], alone: Run, mixed: Run) -> None:
    for name, ended, count in (("alone", alone, len(good)), ("mixed", mixed, len(good) + len(hostile))):
        found.expect(ended.error is None, f"{name}: the pipeline ended with {ended.error!r}")
        found.expect(len(ended.outputs) == count, f"{name}: {len(ended.outputs)} answers to {count} records")
    expected, got = _verdicts(alone), _verdicts(mixed)
    for sent in good:
        same = sent.key in expected and expected[sent.key] == got.get(sent.key)
        found.expect(same, f"{sent.key!r} has another verdict among hostile jobs")
        found.ended("a good job with its verdict" if same else "a good job with another")
    wanted = {sent.key for sent in good}
    for output in mixed.outputs:
        if output.key not in wanted:
            code = header(output.headers, "assay.errors.code")
            found.ended(f"hostile: {code or 'a verdict on what is usable'}")


def _verdicts(ended: Run) -> dict[bytes | None, VerdictEvent]:
    """By key, without what tells only the time."""
    return {
        output.key: dataclasses.replace(event, timings=NO_TIME, judged_at=NOON)
        for output in ended.outputs
        if output.topic == TOPICS.results
        for event in [decode_verdict(output.value, output.headers)]
    }


def _p99(ordered: Sequence[float]) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] if ordered else float("nan")


def _mixed(good: Sequence[Sent], hostile: Sequence[Sent], seed: int) -> list[Sent]:
    places = random.Random(seed).sample(range(len(good) + len(hostile)), len(hostile))
    left, bad = iter(good), dict(zip(places, hostile, strict=True))
    return [bad.get(place) or next(left) for place in range(len(good) + len(hostile))]


def good_jobs(seed: int) -> Iterator[Sent]:
    """Photographs of noise on a gradient, no two alike."""
    chance = np.random.default_rng(seed)
    ramp = np.linspace(30, 200, 160, dtype=np.float32)
    for number in itertools.count():
        coarse = Image.fromarray(chance.integers(0, 256, (8, 8, 3), np.uint8)).resize((160, 160))
        noisy = np.asarray(coarse, np.float32) / 2 + ramp[:, None, None] / 2 + chance.normal(0, 8, (160, 160, 3))
        out = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
        yield _sent(f"good-{number}", [out.getvalue()], good=True)


def hostile_jobs(seed: int) -> Iterator[Sent]:
    """Images that break decoders, messages that break the contract, and jobs of both good and bad views."""
    corpus, own, chance = pillow_images(), own_images(), random.Random(seed)
    names = sorted(name for name, blob in corpus.items() if len(blob) < 200_000)
    mutated = mutants({**{name: corpus[name] for name in names}, **own}, 10**9, seed)
    for number in itertools.count():
        if number % 4 == 0:
            yield _sent(f"corpus-{number}", [corpus[chance.choice(names)]], good=False)
        elif number % 4 == 1:
            yield _sent(f"mutant-{number}", [next(mutated)[1]], good=False)
        elif number % 4 == 2:
            yield _sent(f"both-{number}", [own["baseline.jpg"] + b"%d" % number, next(mutated)[1]], good=False)
        else:
            value, headers, _ = chance.choice(CONFUSIONS)(chance)
            yield Sent(key=b"maison/malformed-%d" % number, value=value, headers=headers, good=False)


def _sent(name: str, photos: Sequence[bytes], *, good: bool) -> Sent:
    views = tuple(
        JobView(view=f"view-{place}", sha256=hashlib.sha256(photo).hexdigest(), data=photo)
        for place, photo in enumerate(photos)
    )
    job = AuthenticationJob(
        job_id=name, tenant="maison", sku="s", category="bag", submitted_at=NOON, views=views, payload_digest="unused"
    )
    message = encode_job(job, encoding="avro", source="fuzz")
    return Sent(key=message.key, value=message.value, headers=message.headers, good=good)


def _through(models: Path, records: Sequence[Sent]) -> Run:
    broker = MemoryBroker({topic: 2 for topic in TOPICS.consumed})
    publisher = TimedPublisher(broker)
    session = load_session(models, ["small"], "auto", shipped_keys(models), threads=1, decode_threads=2)
    warm = [EncodeRequest(blob=own_images()[name], encoder="small") for name in ("plain.png", "baseline.jpg")]
    session.start(warm * 2).result()  # helper processes are started once in a worker's life
    encoder = SessionEncoder(session)
    pipeline = _pipeline(broker, publisher, encoder)
    pipeline.start()
    produced_s = _produce(broker, records)
    deadline_s = time.monotonic() + PATIENCE_S
    while len(_answers(broker)) < len(records) and time.monotonic() < deadline_s and pipeline.error is None:
        threading.Event().wait(0.01)
    pipeline.request_stop()
    pipeline.wait(PATIENCE_S)
    pipeline.join()
    encoder.close()
    waited = [publisher.committed_s[key] - at_s for key, at_s in produced_s.items() if key in publisher.committed_s]
    outputs = _answers(broker)
    return Run(outputs=outputs, delays_s=waited, error=pipeline.error, moved=len(broker.published) - len(outputs))


def _answers(broker: MemoryBroker) -> list[OutputRecord]:
    return [output for output in broker.published if output.topic not in TOPICS.consumed]


def _produce(broker: MemoryBroker, records: Sequence[Sent]) -> dict[bytes, float]:
    """Good jobs at one pace, whatever comes between them; when each was produced."""
    produced_s: dict[bytes, float] = {}
    began_s = time.monotonic()
    for record in records:
        due_s = began_s + len(produced_s) / JOBS_A_SECOND
        threading.Event().wait(max(0.0, due_s - time.monotonic()))
        if record.good:
            produced_s[record.key] = time.monotonic()
        broker.produce(TOPICS.jobs, record.value, key=record.key, headers=record.headers)
    return produced_s


def _pipeline(broker: MemoryBroker, publisher: MemoryPublisher, encoder: SessionEncoder) -> Pipeline:
    meter = Meter(max_batch_images=32)
    ports = Ports(
        subscribe=MemorySource(broker).subscribe,
        parse=lambda record: parse_job(record, max_bytes=10 << 20),
        images=MemoryImages({}),
        encoder=encoder,
        engines=FixedEngines(),
        attempts=MemoryAttempts(),
        matcher=NumpyMatcher(),
        gallery=EmptyGallery(),
        cache=NoProbeCache(),
        judge=JudgeStage(evidence=MemoryEvidence(), keep="off", build="fuzz", meter=meter, trace=no_traces),
        results=MemoryResults(topics=TOPICS),
        publisher=publisher,
        status=None,
    )
    return Pipeline(
        ports,
        _limits(),
        watermark=Watermark(),
        encoder_name=lambda category, view: "small",
        keep_images=False,
        meter=meter,
    )


def _limits() -> Limits:
    return Limits(
        queue_jobs=64,
        held_bytes=64 << 20,
        fetch_threads=4,
        batches_in_flight=2,
        intake=IntakeLimits(window_records=500, poll_s=0.01, stop_grace_s=30.0, drain_on_revoke_s=4.0),
        fetch=FetchLimits(attempts=2, retry_delays_s=(0.1,), slow_after_s=30.0, slow_topic=TOPICS.jobs_slow),
        batch=BatchLimits(max_images=32, max_bytes=32 << 20, window_s=0.005),
        settle=SettleLimits(idle_s=0.05),
        publish=PublishLimits(floor_s=0.0, idle_s=0.05),
    )
