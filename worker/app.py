"""The composition root: the only module that knows which adapter stands behind which port."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn
from uuid import UUID, uuid4

import sqlalchemy
import structlog

from engines.gpu.device import Device
from schemas.codec import parse_job
from schemas.job import AuthenticationJob
from schemas.message import InputRecord
from schemas.verdict import EngineUse
from worker import health
from worker.adapters import engine_opening
from worker.adapters.attempts import PostgresAttempts
from worker.adapters.database import connect
from worker.adapters.device_matcher import open_matcher
from worker.adapters.encoder import SessionEncoder
from worker.adapters.engine_follower import EngineFollower
from worker.adapters.engine_serving import open_following
from worker.adapters.evidence_files import FileEvidence, S3Evidence
from worker.adapters.failpoints import (
    FailingAttempts,
    FailingEncoder,
    FailingImages,
    FailingListener,
    FailingProducer,
    FailingResults,
    FailingSource,
    Failpoints,
)
from worker.adapters.gallery import PostgresGallery
from worker.adapters.gallery_bell import GalleryBell
from worker.adapters.image_again import ImagesAgain
from worker.adapters.image_https import HttpsOptions
from worker.adapters.image_s3 import S3Options
from worker.adapters.images import RoutedImages
from worker.adapters.kafka import KafkaPublisher, KafkaSource
from worker.adapters.memory_caches import NoEvidence, NoProbeCache
from worker.adapters.redis_cache import RedisJobStatus, RedisProbeCache
from worker.adapters.references import ReferenceStore
from worker.adapters.registry import registry_lookup
from worker.adapters.results import PostgresResults
from worker.adapters.stored_views import PostgresStoredViews
from worker.batching import BatchLimits
from worker.collecting import collect_seldom
from worker.errors import EXIT_CONFIGURATION, EXIT_STAGE_FAILED, ConfigurationError, Fatal
from worker.fetching import FetchLimits
from worker.fixed_engines import FixedEngines
from worker.intake import IntakeLimits
from worker.judging import JudgeStage
from worker.observe import HealthServer, Meter, configure_logs
from worker.pipeline import Limits, Pipeline, Ports
from worker.ports import EngineChoice, EvidenceStore, ImageSource, JobStatus, ProbeCache, ViewEncoder
from worker.publishing import PublishLimits
from worker.settings import Settings
from worker.settle import SettleLimits
from worker.tracing import TraceJobs, no_traces, open_tracing
from worker.watermark import Watermark
from worker.while_starting import ending_in_order

OpenEncoder = Callable[[Settings], SessionEncoder]
OpenImages = Callable[[Settings], ImageSource]
_log = structlog.get_logger()


def open_database(
    settings: Settings, *, application_name: str | None = None, idle_in_transaction_ms: int = 60_000
) -> sqlalchemy.Engine:
    """A pool of connections; nothing connects before the first use. PostgreSQL lists it under `application_name`."""
    chosen = settings.database
    return connect(
        chosen.url.get_secret_value(),
        pool_size=chosen.pool_size,
        statement_timeout_ms=chosen.statement_timeout_ms,
        lock_timeout_ms=chosen.lock_timeout_ms,
        idle_in_transaction_ms=idle_in_transaction_ms,
        application_name=application_name or f"assay-{settings.kafka.instance}",
    )


def open_encoder(settings: Settings, candidate: str = "") -> SessionEncoder:
    """The engines that the settings name, warm and self-tested; of the encoder `candidate` the newest that is to be
    tried in place of the current one. Raises ConfigurationError, ServiceUnavailable."""
    return engine_opening.open_encoder(settings, open_database, candidate)


def open_references(settings: Settings, database: sqlalchemy.Engine) -> ReferenceStore:
    """Every change of the gallery is announced through Redis where there is one."""
    bell = open_bell(settings)
    return ReferenceStore(database, announce=bell.ring) if bell else ReferenceStore(database)


def open_evidence(settings: Settings) -> EvidenceStore:
    chosen = settings.evidence
    if chosen.keep == "off":
        return NoEvidence()
    if chosen.root is not None:
        return FileEvidence(chosen.root)
    assert chosen.s3_bucket is not None  # noqa: S101 (the settings' own validator saw to it)
    return S3Evidence(chosen.s3_bucket, endpoint_url=settings.images.s3_endpoint)


def open_images(settings: Settings) -> RoutedImages:
    chosen = settings.images
    s3 = _s3(settings) if chosen.s3_buckets else None
    https = HttpsOptions(hosts=chosen.https_hosts, total_timeout_s=chosen.timeout_s) if chosen.https_hosts else None
    return RoutedImages(
        max_bytes=chosen.max_bytes,
        file_root=chosen.file_root,
        s3=s3,
        https=https,
        production=settings.mode == "production",
    )


def _s3(settings: Settings) -> S3Options:
    chosen = settings.images
    return S3Options(buckets=chosen.s3_buckets, endpoint_url=chosen.s3_endpoint, total_timeout_s=chosen.timeout_s)


def open_cache(settings: Settings, engines: Mapping[str, EngineUse], meter: Meter) -> ProbeCache:
    redis = settings.redis
    if not redis.cache or redis.url is None or redis.mac_key is None:
        return NoProbeCache()
    return RedisProbeCache(
        redis.url.get_secret_value(),
        mac_key=redis.mac_key.get_secret_value().encode(),
        engines=engines,
        decoder="full" if settings.engines.full_decode else "reduced",
        ttl_s=redis.cache_ttl_s,
        failed=meter.redis("cache"),
    )


def open_status(settings: Settings, meter: Meter) -> JobStatus | None:
    redis = settings.redis
    if redis.url is None:
        return None
    return RedisJobStatus(redis.url.get_secret_value(), ttl_s=redis.status_ttl_s, failed=meter.redis("status"))


def open_gallery(settings: Settings, meter: Meter | None = None) -> PostgresGallery:
    """The mirror; a moved revision is heard of through Redis where there is one, and polled for in any case."""
    chosen = settings.gallery
    bell = open_bell(settings, meter)
    wait = bell.wait if bell else None
    return PostgresGallery(open_database(settings), max_medoids=chosen.max_medoids, poll_s=chosen.poll_s, wait=wait)


def open_bell(settings: Settings, meter: Meter | None = None) -> GalleryBell | None:
    if settings.redis.url is None:
        return None
    url = settings.redis.url.get_secret_value()
    return GalleryBell(url, failed=meter.redis("bell")) if meter else GalleryBell(url)


def open_source(settings: Settings) -> KafkaSource:
    kafka = settings.kafka
    return KafkaSource(
        client_config=kafka.client_config(),
        group=kafka.group,
        topics=kafka.topics.consumed,
        assignor="consumer" if kafka.protocol == "consumer" else kafka.assignor,
        instance_id=kafka.instance if kafka.static_membership else None,
    )


def limits_of(settings: Settings) -> Limits:
    return Limits(
        queue_jobs=settings.intake.queue_jobs,
        held_bytes=settings.intake.held_bytes,
        fetch_threads=settings.images.fetch_threads,
        batches_in_flight=settings.batch.depth,
        intake=IntakeLimits(
            window_records=settings.intake.window_records,
            slow_topic=settings.kafka.topics.jobs_slow,
            slow_jobs=settings.images.slow_jobs,
            drain_on_revoke_s=settings.kafka.drain_on_revoke_s,
            stop_grace_s=settings.drain_deadline_s,
        ),
        fetch=FetchLimits(
            attempts=settings.images.attempts,
            retry_delays_s=settings.kafka.topics.retry_delays_s,
            slow_after_s=settings.images.slow_after_s,
            slow_topic=settings.kafka.topics.jobs_slow,
        ),
        batch=BatchLimits(
            max_images=settings.batch.max_images,
            max_bytes=settings.batch.max_bytes,
            window_s=settings.batch.window_ms / 1e3,
            eager=settings.batch.eager,
        ),
        settle=SettleLimits(max_jobs=settings.settle.max_jobs),
        publish=PublishLimits(
            max_records=settings.settle.max_transaction_records,
            max_bytes=settings.settle.max_transaction_bytes,
            floor_s=settings.settle.floor_ms / 1e3,
        ),
        decode_slow_after_s=settings.engines.decode_slow_after_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A composed worker: the pipeline, its pages, and what closes the world behind it."""

    pipeline: Pipeline
    health: HealthServer
    closing: ExitStack


def build_worker(
    settings: Settings, *, encoders: OpenEncoder = open_encoder, images: OpenImages = open_images
) -> Worker:
    """Compose everything. Engines are loaded and warm when this returns. Raises ConfigurationError.

    `encoders` and `images` open what the settings name; delivery tests give a fast stand-in and a host on loopback.
    Where the settings name a registry it is followed, and no other encoder is opened.
    """
    closing = ExitStack()
    meter = Meter(max_batch_images=settings.batch.max_images)
    serving = _serving(settings, encoders, meter, closing)
    watermark = Watermark()
    source = open_source(settings)
    gallery = open_gallery(settings, meter).start()
    closing.callback(gallery.close)
    pipeline = Pipeline(
        _ports(settings, serving, images(settings), source, gallery, watermark, meter, closing),
        limits_of(settings),
        watermark=watermark,
        encoder_name=settings.engines.encoder_for,
        keep_images=settings.evidence.keep != "off",
        meter=meter,
    )
    meter.watch("assay_lag_records", "Records behind, by partition", lambda: _lag(source), "partition")
    pages = HealthServer(
        host=settings.observe.host,
        port=settings.observe.port,
        registry=meter.registry,
        live=lambda: health.dead(pipeline, serving.follower),
        ready=lambda: health.not_ready(pipeline, gallery, serving.follower),
    )
    closing.callback(pages.close)
    return Worker(pipeline=pipeline, health=pages, closing=closing)


@dataclass(frozen=True, slots=True)
class _Serving:
    encoder: ViewEncoder
    choice: EngineChoice
    engines: Mapping[str, EngineUse]  # by what a view's encoder says; changes where a registry is followed
    device: Device | None  # that the engines of the start run on
    process: UUID
    follower: EngineFollower | None = None

    def attempts(self, database: sqlalchemy.Engine, instance: str) -> PostgresAttempts:
        """Starts that name the engines, where those change."""
        steps = self.follower.encoder.steps if self.follower else tuple
        return PostgresAttempts(database, instance=instance, process=self.process, engines=steps)


def _serving(settings: Settings, encoders: OpenEncoder, meter: Meter, closing: ExitStack) -> _Serving:
    process = uuid4()
    if settings.engines.registry is not None:
        follower = open_following(settings, open_database, meter, closing, process)
        switching = follower.encoder
        return _Serving(switching, switching, switching.engines, switching.device, process, follower)
    encoder = encoders(settings)
    closing.callback(encoder.close)
    meter.engines(encoder.engines.values())
    return _Serving(encoder, FixedEngines(), encoder.engines, encoder.device, process)


def _ports(
    settings: Settings,
    serving: _Serving,
    images: ImageSource,
    source: KafkaSource,
    gallery: PostgresGallery,
    watermark: Watermark,
    meter: Meter,
    closing: ExitStack,
) -> Ports:
    kafka = settings.kafka
    points = open_failpoints(settings)
    # Another waits for the rows of a worker that sleeps in its transaction.
    database = open_database(settings, idle_in_transaction_ms=settings.database.idle_in_transaction_ms)
    results = PostgresResults(database, group=kafka.group, topics=kafka.topics, encoding=kafka.encoding)
    closing.callback(results.close)
    publisher = KafkaPublisher(
        client_config=kafka.client_config(),
        group=kafka.group,
        instance=kafka.instance,
        group_metadata=source.group_metadata,
        still_owned=watermark.still_owned,
        make_producer=partial(FailingProducer, points) if points else None,
    )
    closing.callback(publisher.close)
    ports = Ports(
        subscribe=source.subscribe,
        parse=_parser(settings),
        images=ImagesAgain(inner=images, kept=open_evidence(settings), stored=PostgresStoredViews(database=database)),
        encoder=serving.encoder,
        engines=serving.choice,
        attempts=serving.attempts(database, kafka.instance),
        matcher=open_matcher(serving.device, closing, workers=settings.engines.gpu_workers),
        gallery=gallery,
        cache=open_cache(settings, serving.engines, meter),
        judge=_judge(settings, meter, closing),
        results=results,
        publisher=publisher,
        status=open_status(settings, meter),
    )
    return _with_failpoints(ports, points, database) if points else ports


def open_failpoints(settings: Settings) -> Failpoints | None:
    """None unless the settings arm one: then no port is wrapped. Raises ConfigurationError."""
    chosen = settings.failpoints
    return Failpoints(chosen.armed, log=chosen.log) if chosen.armed else None


def _with_failpoints(ports: Ports, points: Failpoints, database: sqlalchemy.Engine) -> Ports:
    """The only place that puts failpoints into a worker, but for the producer's, which are made with each producer."""
    return replace(
        ports,
        subscribe=lambda listener: FailingSource(ports.subscribe(FailingListener(listener, points)), points),
        attempts=FailingAttempts(ports.attempts, points),
        images=FailingImages(ports.images, points),
        encoder=FailingEncoder(ports.encoder, points),
        results=FailingResults(ports.results, points, database),
    )


def _parser(settings: Settings) -> Callable[[InputRecord], AuthenticationJob]:
    url = settings.kafka.schema_registry_url
    lookup = registry_lookup(url) if url else None
    return partial(parse_job, max_bytes=settings.intake.max_message_bytes, lookup=lookup)


def _judge(settings: Settings, meter: Meter, closing: ExitStack) -> JudgeStage:
    endpoint = settings.observe.otlp_endpoint
    trace: TraceJobs = no_traces
    if endpoint:
        trace, flush = open_tracing(endpoint, build=settings.build)
        closing.callback(flush)
    return JudgeStage(
        evidence=open_evidence(settings), keep=settings.evidence.keep, build=settings.build, meter=meter, trace=trace
    )


def run_worker(settings: Settings, *, encoders: OpenEncoder = open_encoder, images: OpenImages = open_images) -> None:
    """Run until SIGTERM or SIGINT, then drain. A failed stage ends the process at once with its exit code."""
    configure_logs(level=settings.observe.log_level, form=settings.observe.log_format)
    with ending_in_order():
        worker = build_worker(settings, encoders=encoders, images=images)
    faulthandler.register(signal.SIGUSR2, all_threads=True)  # what every thread does, for a worker that seems to hang
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.pipeline.request_stop())
    worker.health.start()
    _log.info("health_listening", address=worker.health.address)
    collect_seldom()
    worker.pipeline.start()
    _log.info("worker_started", instance=settings.kafka.instance, build=settings.build)
    while not worker.pipeline.wait(1.0):  # a wait without a limit would hold signals back
        pass
    if worker.pipeline.error is not None:
        end_at_once(worker.pipeline.error)
    worker.pipeline.join()
    if worker.pipeline.error is not None:
        end_at_once(worker.pipeline.error)
    worker.closing.close()
    _log.info("worker_stopped")


def end_at_once(error: BaseException) -> NoReturn:
    """Crash-only: no clean-up can be trusted, and what was in flight is delivered again. The supervisor restarts."""
    code = error.exit_code if isinstance(error, Fatal) else EXIT_STAGE_FAILED
    code = EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else code
    _log.error("worker_failed", error=str(error), exit_code=code)
    sys.stderr.flush()
    os._exit(code)


def _lag(source: KafkaSource) -> Mapping[str, float]:
    return {f"{topic}/{number}": float(behind) for (topic, number), behind in source.lag().items()}
