"""Each stage of the worker alone, in this process, over the same photographs: jobs a second and processor time a job.

On a CPU the stages share the cores, so their processor times add up: cores over the sum bounds what the whole can do.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.deployment import Deployment
from benchmarks.goods import Goods
from benchmarks.watching import machine_busy_s
from demo.stand import TENANT
from engines.catalogue import open_runner
from engines.decode import Decoded
from engines.decoder import PillowDecoder
from engines.runner import Runner
from schemas.codec import Encoded, encode_job, parse_job
from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord, OutputRecord, Source
from worker.adapters.memory_caches import NoEvidence
from worker.adapters.results import PostgresResults
from worker.app import open_database, open_encoder, open_gallery, open_images
from worker.cli.submission import build_job
from worker.core.evidence import JobEvidence, ViewProbe
from worker.core.gallery import GallerySnapshot
from worker.core.matching import MatchRequest, NumpyMatcher
from worker.judging import JudgeStage
from worker.observe import Meter
from worker.outcomes import Judged, Outcome
from worker.ports import Matcher
from worker.settings import Settings
from worker.tracing import no_traces
from worker.work import Embedded, Received

T = TypeVar("T")
GROUP_JOBS = 16  # judged and settled at once, as a group commit under load has them
MAX_MESSAGE_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRate:
    """`cpu_ms` is this process's processor time a job, `machine_ms` that of the whole machine (services included)."""

    stage: str
    jobs_per_second: float
    cpu_ms: float
    machine_ms: float
    within: str = ""  # the stage that this one is a part of; its time is not counted twice


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewToRead:
    """Satisfies ports.EncodeView."""

    tenant: str
    view: JobView
    data: bytes
    encoder: str


def timed(stage: str, jobs: int, work: Callable[[], T], *, within: str = "") -> tuple[StageRate, T]:
    busy_s, cpu_s, started_s = machine_busy_s(), time.process_time(), time.monotonic()
    made = work()
    took_s = time.monotonic() - started_s
    cpu_s, busy_s = time.process_time() - cpu_s, machine_busy_s() - busy_s
    cpu_ms, machine_ms = cpu_s / jobs * 1e3, busy_s / jobs * 1e3
    rate = StageRate(stage=stage, jobs_per_second=jobs / took_s, cpu_ms=cpu_ms, machine_ms=machine_ms, within=within)
    return rate, made


def stage_rates(deployment: Deployment, goods: Goods) -> list[StageRate]:
    """All stages in the order of the pipeline, each over every job of `goods` once."""
    settings, count = deployment.settings, len(goods.items)
    jobs = [build_job(item, tenant=TENANT, transport="inline") for item in goods.items]
    records = [polled(encode_job(job, encoding="avro", source="bench"), n) for n, job in enumerate(jobs)]
    parse, parsed = timed("parse", count, lambda: [parse_job(r, max_bytes=MAX_MESSAGE_BYTES) for r in records])
    received = [received_of(record, job) for record, job in zip(records, parsed, strict=True)]
    images = open_images(settings)
    fetch, _ = timed("fetch (digests)", count, lambda: [images.fetch(job, v) for job in parsed for v in job.views])
    encoding, probes = _encoding(settings, parsed)
    with ExitStack() as closing:
        gallery = open_gallery(settings)
        closing.callback(gallery.close)
        judging = judging_rates(settings, received, probes, gallery.snapshot(TENANT), NumpyMatcher())
    return [parse, fetch, *_inside(deployment, parsed), encoding, *judging]


def table(rates: Sequence[StageRate]) -> Table:
    made = Table(title="Stages alone")
    for name in ("stage", "jobs/s", "CPU ms a job", "machine ms a job"):
        made.add_column(name, justify="left" if name == "stage" else "right")
    for rate in rates:
        name = f"  {rate.stage}" if rate.within else rate.stage
        made.add_row(name, f"{rate.jobs_per_second:.1f}", f"{rate.cpu_ms:.1f}", f"{rate.machine_ms:.1f}")
    return made


def bound_jobs_per_second(rates: Sequence[StageRate]) -> float:
    """What the cores allow if nothing ever waits: the sum of the stages' processor time, each counted once."""
    total_ms = sum(rate.machine_ms for rate in rates if not rate.within)
    return len(os.sched_getaffinity(0)) / total_ms * 1e3


def _inside(deployment: Deployment, jobs: Sequence[AuthenticationJob]) -> list[StageRate]:
    """Decoding and inference apart, which the encoder session does at the same time."""
    settings, count = deployment.settings.engines, len(jobs)
    names = [settings.encoder_for(job.category, view.view) for job in jobs for view in job.views]
    decode, squares = _decoding(deployment, jobs)
    rates = [decode]
    for name in settings.names:
        pixels = [s.pixels for s, n in zip(squares, names, strict=True) if n == name]
        runner = open_runner(deployment.models.engine(name), deployment.models.backend)
        work = partial(_infer, runner, np.stack(pixels))
        rates.append(timed(f"{name} INT8, {len(pixels) / count:g} views", count, work, within="encode")[0])
        runner.close()
    return rates


def _decoding(deployment: Deployment, jobs: Sequence[AuthenticationJob]) -> tuple[StageRate, list[Decoded]]:
    size = deployment.models.engine(deployment.settings.engines.default_encoder).manifest.preprocessing.size
    threads = deployment.settings.engines.decode_threads or len(os.sched_getaffinity(0))
    decoder = PillowDecoder(size, threads, reduced=not deployment.settings.engines.full_decode)
    blobs = [view.data or b"" for job in jobs for view in job.views]
    rate, squares = timed("decode", len(jobs), lambda: [s.result() for s in decoder.decode(blobs)], within="encode")
    decoder.close()
    return rate, [square for square in squares if isinstance(square, Decoded)]


def _infer(runner: Runner, pixels: NDArray[np.uint8]) -> None:
    runner.start(pixels).result()


def _encoding(settings: Settings, jobs: Sequence[AuthenticationJob]) -> tuple[StageRate, list[list[ViewProbe]]]:
    encoder, named = open_encoder(settings), settings.engines.encoder_for
    requests = [
        ViewToRead(tenant=TENANT, view=view, data=view.data or b"", encoder=named(job.category, view.view))
        for job in jobs
        for view in job.views
    ]

    def work() -> list[ViewProbe]:
        pending = deque(encoder.start(batch) for batch in _chunks(requests, settings.batch.max_images))
        return [probe for one in pending for probe in one.result() if isinstance(probe, ViewProbe)]

    rate, probes = timed("encode", len(jobs), work)
    encoder.close()
    views = iter(probes)
    return rate, [[next(views) for _ in job.views] for job in jobs]


def judging_rates(
    settings: Settings,
    received: Sequence[Received],
    probes: Sequence[list[ViewProbe]],
    snapshot: GallerySnapshot,
    matcher: Matcher,
) -> list[StageRate]:
    """Matching, judging and settling in PostgreSQL, over jobs whose probes are given."""
    count = len(received)
    groups = _chunks(list(zip(received, probes, strict=True)), GROUP_JOBS)
    match, embedded = timed("match", count, lambda: [e for g in groups for e in _embedded(g, snapshot, matcher)])
    stage = JudgeStage(evidence=NoEvidence(), keep="off", build="bench", meter=Meter(), trace=no_traces)
    judge, outcomes = timed("judge", count, lambda: [o for g in _chunks(embedded, GROUP_JOBS) for o in stage(g)])
    results = PostgresResults(open_database(settings), group="bench", topics=settings.kafka.topics)
    try:
        settle, _ = timed("settle (Postgres)", count, lambda: _settle(results, outcomes))
    finally:
        results.close()
    return [match, judge, settle]


def _settle(results: PostgresResults, outcomes: Sequence[Outcome]) -> None:
    for group in _chunks(outcomes, GROUP_JOBS):
        results.reused([outcome.evidence for outcome in group if isinstance(outcome, Judged)])
        results.settle(group)


def _embedded(
    group: Sequence[tuple[Received, list[ViewProbe]]], snapshot: GallerySnapshot, matcher: Matcher
) -> list[Embedded]:
    requests = [MatchRequest(job=received.job, probes=probes, gallery=snapshot) for received, probes in group]
    made = []
    for (received, _), matches in zip(group, matcher.match_many(requests), strict=True):
        evidence = JobEvidence(
            job=received.job,
            matches=tuple(matches),
            unusable=(),
            nearest_skus=matcher.nearest_skus(matches, snapshot, category=received.job.category),
            gallery_revision=snapshot.revision,
        )
        made.append(Embedded(received=received, evidence=evidence, policy=snapshot.policy))
    return made


def polled(sent: Encoded | OutputRecord, offset: int) -> InputRecord:
    """What intake would poll of a job that was sent."""
    source = Source(topic="bench", partition=0, offset=offset)
    return InputRecord(source=source, epoch=0, key=sent.key, value=sent.value, headers=sent.headers, timestamp_ms=0)


def received_of(record: InputRecord, job: AuthenticationJob) -> Received:
    """The job as intake hands it on."""
    now = datetime.now(UTC)
    return Received(record=record, job=job, attempt=1, first_seen=now, received_s=time.monotonic(), held_bytes=0)


def _chunks(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (entries[first : first + size] for first in range(0, len(entries), size))
