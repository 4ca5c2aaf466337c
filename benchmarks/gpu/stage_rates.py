"""Each stage of the worker alone, in this process, jobs a second: what the whole reaches at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import stages
from benchmarks.deployment import environment
from benchmarks.gpu.serving import Deployed, Load
from benchmarks.gpu.worker_decode import open_decode, rate_of
from demo.stand import TENANT
from schemas.codec import parse_job
from schemas.job import AuthenticationJob
from worker.adapters.device_matcher import open_matcher
from worker.adapters.encoder import SessionEncoder
from worker.adapters.kafka import KafkaSource
from worker.adapters.kafka_sender import KafkaSender
from worker.app import open_encoder, open_gallery, open_images
from worker.core.evidence import ViewProbe

JOBS: Final = 256
DECODED_AT_ONCE: Final = 128  # photographs
MOST_BYTES: Final = stages.MAX_MESSAGE_BYTES


def stage_rates(deployed: Deployed, load: Load, *, dry: bool) -> dict[str, float]:
    """Jobs a second: decode and encode on the device, and every stage that a thread of Python runs."""
    jobs_wanted = 8 if dry else JOBS
    with environment(deployed.stand.environment):
        records = [stages.polled(output, n) for n, output in enumerate(deployed.records(load, jobs_wanted, "stage"))]
        rates: dict[str, float] = {}
        parsed = _timed(rates, "parse", jobs_wanted, lambda: [parse_job(r, max_bytes=MOST_BYTES) for r in records])
        blobs = _timed(rates, "fetch", jobs_wanted, lambda: _fetched(deployed, parsed))
        _decode(rates, blobs, dry)
        received = [stages.received_of(record, job) for record, job in zip(records, parsed, strict=True)]
        with ExitStack() as closing:
            encoder = open_encoder(deployed.settings)
            closing.callback(encoder.close)
            rates["encode"], probes = _encoded(deployed, encoder, parsed, blobs)
            gallery = open_gallery(deployed.settings)
            closing.callback(gallery.close)
            matcher = open_matcher(encoder.device, closing, workers=1)
            snapshot = gallery.snapshot(TENANT)
            judging = stages.judging_rates(deployed.settings, received, probes, snapshot, matcher)
    rates |= {rate.stage: rate.jobs_per_second for rate in judging}
    return {name: round(rate, 1) for name, rate in rates.items()}


def consume_rates(
    deployed: Deployed, load: Load, jobs: int, *, seconds: float = 3.0, warm: int = 100
) -> dict[str, float]:
    """Records a second out of a topic of its own that holds `jobs`: a bare poll loop, and the worker's own source."""
    kafka = deployed.settings.kafka
    topic = f"{kafka.topics.jobs}.consume"
    config = {"max.message.bytes": str(MOST_BYTES)}
    admin = AdminClient({"bootstrap.servers": kafka.client_config()["bootstrap.servers"]})
    admin.create_topics([NewTopic(topic, kafka.partitions, 1, config=config)])[topic].result(10)
    records = deployed.records(load, jobs, "consume")
    KafkaSender(kafka.client_config()).send(replace(record, topic=topic) for record in records)
    bare = {**kafka.client_config(), "group.id": f"bare-{time.time_ns()}", "auto.offset.reset": "earliest"}
    more = {"queued.max.messages.kbytes": 1_000_000, "fetch.queue.backoff.ms": 5, "enable.auto.commit": False}
    consumer = Consumer({**bare, **more, "isolation.level": "read_committed"})
    consumer.subscribe([topic])
    try:
        found = {"bare poll": _polled(lambda: consumer.poll(0.5), seconds, warm)}
    finally:
        consumer.close()
    source = KafkaSource(
        client_config=kafka.client_config(),
        group=f"source-{time.time_ns()}",
        topics=[topic],
        assignor=kafka.assignor,
        instance_id=None,
    )
    source.subscribe(_Deaf())
    try:
        found["worker's source"] = _polled(lambda: source.poll(0.5), seconds, warm)
    finally:
        source.close()
    return found


class _Deaf:
    """A listener for a source whose records nobody works on."""

    def assigned(self, *_given: Any) -> int:
        return 1

    def revoked(self, *_given: Any) -> None: ...
    def lost(self, *_given: Any) -> None: ...


def _polled(poll: Callable[[], Any], seconds: float, warm: int) -> float:
    """Records a second after the first `warm`, when the queue is full."""
    count, began_s, until_s = 0, 0.0, time.monotonic() + 30
    while time.monotonic() < until_s:
        if poll() is None:
            if began_s:
                break
            continue
        count += 1
        if count == warm:
            began_s, until_s = time.monotonic(), time.monotonic() + seconds
    return (count - warm) / max(time.monotonic() - began_s, 1e-9) if began_s else 0.0


def _timed(rates: dict[str, float], stage: str, jobs: int, work: Callable[[], Any]) -> Any:
    rate, made = stages.timed(stage, jobs, work)
    rates[stage] = rate.jobs_per_second
    return made


def _fetched(deployed: Deployed, jobs: Sequence[AuthenticationJob]) -> list[list[bytes]]:
    """With as many threads as the worker fetches with."""
    images = open_images(deployed.settings)
    with ThreadPoolExecutor(deployed.settings.images.fetch_threads) as pool:
        found = list(pool.map(lambda job: [images.fetch(job, view) for view in job.views], jobs))
    return [[blob for blob in views if isinstance(blob, bytes)] for views in found]


def _decode(rates: dict[str, float], blobs: Sequence[list[bytes]], dry: bool) -> None:
    """As the worker decodes, without preprocessing on a device."""
    taken = [blob for views in blobs for blob in views]
    with open_decode(224, on_device=not dry) as begin:
        rate = rate_of(begin, taken[:DECODED_AT_ONCE], 0.2 if dry else 2.0)
    rates["decode"] = rate * len(blobs) / len(taken)


def _encoded(
    deployed: Deployed, encoder: SessionEncoder, jobs: Sequence[AuthenticationJob], blobs: Sequence[list[bytes]]
) -> tuple[float, list[list[ViewProbe]]]:
    """Decode and inference as the worker overlaps them, batches of its size in flight."""
    settings = deployed.settings
    requests = [
        stages.ViewToRead(tenant=TENANT, view=view, data=data, encoder=settings.engines.default_encoder)
        for job, views in zip(jobs, blobs, strict=True)
        for view, data in zip(job.views, views, strict=True)
    ]
    size = settings.batch.max_images

    def work() -> list[Any]:
        pending, made = [], []
        for first in range(0, len(requests), size):
            pending.append(encoder.start(requests[first : first + size]))
            if len(pending) > settings.batch.depth:
                made += pending.pop(0).result()
        return made + [probe for one in pending for probe in one.result()]

    work()
    rate, found = stages.timed("encode", len(jobs), work)
    views = iter(found)
    return rate.jobs_per_second, [
        [p for p in islice(views, len(job.views)) if isinstance(p, ViewProbe)] for job in jobs
    ]
