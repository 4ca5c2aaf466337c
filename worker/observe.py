"""What is seen from outside: metrics, logs, health pages and traces. Every metric and its labels stand in Meter."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from structlog.typing import EventDict, Processor

from schemas import headers
from schemas.message import OutputRecord
from schemas.verdict import EngineUse, VerdictEvent
from worker.errors import ConfigurationError

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Meter:
    """All that is counted, in a registry of its own; label values come from closed sets, never ids."""

    def __init__(self, *, max_batch_images: int = 1) -> None:
        self.registry = CollectorRegistry()
        self._max_batch_images = max_batch_images
        r = self.registry
        self.jobs = Counter("assay_jobs", "Jobs answered, by outcome", ["outcome"], registry=r)
        self.verdicts = Counter("assay_verdicts", "Verdicts reached", ["category", "verdict"], registry=r)
        self.rejections = Counter("assay_rejections", "Dead letters, by code", ["code"], registry=r)
        self.views_unusable = Counter("assay_views_unusable", "Views not used, by code", ["code"], registry=r)
        self.stages = Histogram("assay_stage_seconds", "Time in a stage", ["stage"], buckets=SECONDS, registry=r)
        self.latency = Histogram("assay_job_seconds", "From receipt to judgement", buckets=SECONDS, registry=r)
        self.images = Histogram("assay_batch_images", "Images a batch", buckets=IMAGES, registry=r)
        self.fill = Histogram(
            "assay_batch_fill_ratio", "Images of a batch over its limit", buckets=(0.1, 0.25, 0.5, 0.75, 1), registry=r
        )
        self.flushes = Counter("assay_batch_flushes", "Batches cut, by reason", ["reason"], registry=r)
        self.transactions = Counter("assay_transactions", "Kafka transactions, by outcome", ["outcome"], registry=r)
        self.paused = Gauge("assay_intake_paused", "1 while intake is paused, by reason", ["reason"], registry=r)
        self.engine = Gauge(
            "assay_engine_info",
            "Engines that serve",
            ["name", "digest", "backend", "precision", "embedding_space"],
            registry=r,
        )
        self.redis_failures = Counter(
            "assay_redis_failures", "Failures of Redis that were gone around", ["use", "reason"], registry=r
        )
        self.degraded = Gauge("assay_degraded", "1 while a fallback engine serves", registry=r)
        self.swaps = Histogram(
            "assay_engine_swap_seconds", "Time that a swap of engines kept batches waiting", buckets=SECONDS, registry=r
        )
        self.engine_failures = Counter("assay_engine_failures", "Failures of engines, by kind", ["kind"], registry=r)
        self.follow_failures = Counter(
            "assay_engine_follow_failures", "Times that the registry was not followed, unexpectedly", registry=r
        )
        self.trial_share = Gauge("assay_engine_trial_share", "Share of jobs that a candidate engine sees", registry=r)

    def batch(self, *, images: int, flush: str) -> None:
        self.images.observe(images)
        self.fill.observe(images / self._max_batch_images)
        self.flushes.labels(flush).inc()

    def stage(self, name: str, seconds: float) -> None:
        self.stages.labels(name).observe(seconds)

    def judged(self, event: VerdictEvent, seconds: float) -> None:
        self.verdicts.labels(event.category, event.verdict).inc()
        self.latency.observe(seconds)
        self.stage("queue", event.timings.queue_ms / 1e3)
        self.stage("fetch", event.timings.fetch_ms / 1e3)
        for view in event.views:
            if view.unusable_code is not None:
                self.views_unusable.labels(view.unusable_code).inc()

    def published(self, outputs: Iterable[OutputRecord]) -> None:
        for output in outputs:
            self.jobs.labels(outcome_of(output)).inc()
            if code := dict(output.headers).get(headers.ERROR_CODE):
                self.rejections.labels(code.decode()).inc()

    def redis(self, use: str) -> Callable[[str], None]:
        """What counts the failures of one use of Redis: cache, status or bell."""
        return lambda reason: self.redis_failures.labels(use, reason).inc()

    def engines(self, engines: Iterable[EngineUse]) -> None:
        self.engine.clear()
        for e in engines:
            self.engine.labels(e.name, e.digest[:12], e.backend, e.precision, e.embedding_space[:12]).set(1)

    def watch(self, name: str, text: str, read: Callable[[], Mapping[str, float]], label: str = "") -> None:
        """Add a gauge that is read when the page is: one sample a key of the mapping, or one with the key ''."""
        self.registry.register(_Watched(name, text, read, label))


class _Watched(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], Mapping[str, float]], label: str) -> None:
        self._name, self._text, self._read, self._label = name, text, read, label

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(self._name, self._text)]

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=[self._label] if self._label else None)
        for key, value in self._read().items():
            family.add_metric([key] if self._label else [], value)
        return [family]


def outcome_of(output: OutputRecord) -> str:
    """judged, duplicate, dead or retry: read from the record's own headers."""
    names = {name for name, _ in output.headers}
    if headers.ERROR_CODE in names:
        return "dead"
    if headers.DUE_MS in names:
        return "retry"
    return "duplicate" if headers.DUPLICATE in names else "judged"


class HealthServer:
    """Serves /metrics, /livez and /readyz on a thread of its own.

    `live` and `ready` return what is wrong, by name; an empty mapping is healthy. Raises ConfigurationError where the
    address cannot be had.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        registry: CollectorRegistry,
        live: Callable[[], Mapping[str, str]],
        ready: Callable[[], Mapping[str, str]],
    ) -> None:
        pages = {"/livez": live, "/readyz": ready}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = self.path.partition("?")[0]
                if page == "/metrics":
                    self._send(200, CONTENT_TYPE_LATEST, generate_latest(registry))
                elif page in pages:
                    wrong = dict(pages[page]())
                    body = json.dumps({"ok": not wrong, "wrong": wrong}).encode()
                    self._send(503 if wrong else 200, headers.JSON, body)
                else:
                    self._send(404, "text/plain", b"/metrics, /livez, /readyz\n")

            def _send(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Probes come every second: they are not logged."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            address = f"observe.host {host} and observe.port {port}"
            raise ConfigurationError(f"{address}: {error.strerror}; name others, or port 0 for a free one") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():  # of a server that never ran, shutdown would wait for ever
            self._server.shutdown()
            self._thread.join(5)
        self._server.server_close()


def configure_logs(*, level: str, form: str) -> None:
    """Structured logs on standard error: a constant event name and fields, also for what libraries say."""
    seldom, lines = Seldom(), Lines(sys.stderr.fileno())
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        seldom.of_clients,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    console = form == "console"
    renderer: Processor = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*chain, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=lines),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    _log_libraries([*chain, renderer], seldom, lines)


class Lines:
    """Where log lines go; one that cannot be written is lost. A full disk, or a reader that is gone, must not end a
    stage, nor keep the worker from ending for another reason. The next line that is written says how many were lost.
    """

    def __init__(self, descriptor: int) -> None:
        self._out = io.FileIO(descriptor, "w", closefd=False)  # unbuffered: what fails now is not tried again later
        self._lock = threading.Lock()
        self._lost = 0

    def write(self, text: str) -> None:
        with self._lock:
            try:
                self._write(f"\n{_lost(self._lost)}{text}" if self._lost else text)
                self._lost = 0
            except OSError:
                self._lost += 1

    def flush(self) -> None:
        """Every line is written at once."""

    def _write(self, text: str) -> None:
        rest = memoryview(text.encode(errors="backslashreplace"))
        while rest:
            rest = rest[self._out.write(rest) :]


def _lost(count: int) -> str:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"event": "log_lines_lost", "level": "warning", "timestamp": now, "lines": count}) + "\n"


class Seldom:
    """Lets the same words through once in `rest_s`: a client that finds no broker says so many times a second."""

    def __init__(self, *, rest_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._rest_s = rest_s
        self._clock = clock
        self._said_s: dict[str, float] = {}

    def allows(self, words: str) -> bool:
        """Numbers (ports, milliseconds) do not make other words of it."""
        now_s, same = self._clock(), re.sub(r"\d+", "#", words)
        self._said_s = {known: said_s for known, said_s in self._said_s.items() if now_s - said_s < self._rest_s}
        if same in self._said_s:
            return False
        self._said_s[same] = now_s
        return True

    def of_clients(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        if event["event"] == "kafka_client_error" and not self.allows(str(event)):
            raise structlog.DropEvent
        return event


def _log_libraries(processors: list[Processor], seldom: Seldom, lines: Lines) -> None:
    """librdkafka, boto3 and OpenTelemetry speak through `logging`: their warnings get the form of our own lines."""
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(lines)
    handler.addFilter(lambda record: seldom.allows(record.getMessage()))
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[_library_said, meta, *processors]))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _library_said(_logger: object, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    return {**event, "event": "library_said", "library": record.name, "detail": event["event"]}
