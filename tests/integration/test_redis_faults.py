"""F13: Redis down, killed, silent, slow, emptied, or holding what nobody of ours wrote. The verdicts are those of a
worker without Redis, each failure is counted, none is raised, and a slow Redis is left alone before it costs much."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import redis
from delivery_parts import TOPICS, eventually, job, parse
from service_parts import OwnService

from devstack.redis import Redis
from schemas.codec import decode_verdict, encode_job
from schemas.verdict import EngineUse, VerdictEvent
from tests.chaos.proxy import TcpProxy
from worker.adapters.memory import MemoryBroker, MemoryPublisher, MemoryResults, MemorySource
from worker.adapters.memory_attempts import MemoryAttempts
from worker.adapters.memory_caches import NoEvidence, NoProbeCache
from worker.adapters.memory_images import MemoryImages
from worker.adapters.redis_cache import Breaker, RedisJobStatus, RedisProbeCache
from worker.batching import BatchLimits
from worker.core.evidence import UnusableView, ViewProbe
from worker.core.gallery import GallerySnapshot
from worker.core.matching import NumpyMatcher
from worker.fetching import FetchLimits
from worker.fixed_engines import FixedEngines
from worker.intake import IntakeLimits
from worker.judging import JudgeStage
from worker.observe import Meter
from worker.pipeline import Limits, Pipeline, Ports
from worker.ports import EncodeView
from worker.publishing import PublishLimits
from worker.settle import SettleLimits
from worker.tracing import no_traces
from worker.watermark import Watermark

pytestmark = pytest.mark.services
ENGINE = EngineUse(name="fake", digest="d" * 64, backend="test", precision="fp32", embedding_space="s")
KEY = b"k" * 32
PHOTOGRAPHS = 8
HALF = 2 * PHOTOGRAPHS  # jobs; each photograph comes twice in each half
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(
    queue_jobs=4, held_bytes=1_000_000, fetch_threads=2, batches_in_flight=2,
    intake=IntakeLimits(window_records=64, poll_s=0.01, full_grace_s=0.01),
    fetch=FetchLimits(attempts=2, retry_delays_s=(0.1,), slow_after_s=30.0, slow_topic="assay.jobs.slow"),
    batch=BatchLimits(max_images=4, max_bytes=1_000_000, window_s=0.005),
    settle=SettleLimits(idle_s=0.05),
    publish=PublishLimits(floor_s=0.0, idle_s=0.05),
)  # fmt: skip


@dataclass
class Encoder:
    """What it finds follows from the bytes alone."""

    encoded: int = 0

    def start(self, requests: Sequence[EncodeView]) -> Found:
        self.encoded += len(requests)
        return Found(requests)

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class Found:
    requests: Sequence[EncodeView]

    def result(self) -> list[ViewProbe | UnusableView]:
        return [probe(request) for request in self.requests]

    def prompt(self) -> list[ViewProbe | UnusableView]:
        return self.result()


def probe(request: EncodeView) -> ViewProbe:
    random = np.random.default_rng(list(request.data))
    rows = random.normal(size=(5, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return ViewProbe(
        view=request.view.view, sha256=request.view.sha256, engine=ENGINE, embedding=rows[0], patches=rows[1:],
        patch_grid=(2, 2), attention=random.random((2, 2)).astype(np.float32),
        quality={"sharpness": float(random.random())}, phash=int(random.integers(2**63)), source_size=(500, 500),
    )  # fmt: skip


class EmptyGallery:
    def snapshot(self, tenant: str) -> GallerySnapshot:
        return GallerySnapshot(tenant=tenant, revision=3, sets={}, indexes={}, sku_category={})

    def refresh(self) -> None:
        """It never moves."""

    def close(self) -> None:
        """Nothing is held."""


class Worker:
    """The real pipeline around Redis at `url`, or without; everything else is in memory.

    It is patient, so that a busy machine makes no Redis a slow one, but where slowness is the fault.
    """

    def __init__(self, url: str | None, *, timeout_s: float = 5.0) -> None:
        self.meter, self.encoder = Meter(max_batch_images=4), Encoder()
        self.broker = MemoryBroker({topic: 2 for topic in TOPICS.consumed})
        failed = self.meter.redis
        self.cache = RedisProbeCache(
            url, mac_key=KEY, engines={"fake": ENGINE}, decoder="t", timeout_s=timeout_s, rest_s=0.3,
            failed=failed("cache"),
        ) if url else None  # fmt: skip
        self.status = RedisJobStatus(
            url, timeout_s=timeout_s, rest_s=0.3, failed=failed("status")
        ) if url else None  # fmt: skip
        judge = JudgeStage(evidence=NoEvidence(), keep="off", build="test", meter=self.meter, trace=no_traces)
        ports = Ports(
            subscribe=MemorySource(self.broker, "m").subscribe, parse=parse, images=MemoryImages({}),
            encoder=self.encoder, engines=FixedEngines(), attempts=MemoryAttempts(), matcher=NumpyMatcher(),
            gallery=EmptyGallery(),
            cache=self.cache or NoProbeCache(), judge=judge, results=MemoryResults(topics=TOPICS),
            publisher=MemoryPublisher(self.broker, "m"), status=self.status,
        )  # fmt: skip
        self.pipeline = Pipeline(
            ports, LIMITS, watermark=Watermark(), encoder_name=lambda category, view: "fake", keep_images=False,
            meter=self.meter,
        )  # fmt: skip

    def run(self, between: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None) -> Verdicts:
        """All jobs, in two halves, with harm between them; `after` the last answer it is mended."""
        self.pipeline.start()
        try:
            self._half("first")
            between()
            self._half("second")
        finally:
            after()
            self.pipeline.request_stop()
            assert self.pipeline.wait(60)
            self.pipeline.join()
            self._close()
        assert self.pipeline.error is None
        return {output.key: timeless(decode_verdict(output.value, output.headers)) for output in self.broker.published}

    @property
    def reasons(self) -> set[str]:
        """Why Redis failed, as /metrics has it."""
        (family,) = self.meter.redis_failures.collect()
        return {sample.labels["reason"] for sample in family.samples if sample.name.endswith("_total")}

    def _half(self, name: str) -> None:
        answered = len(self.broker.published) + HALF
        for number in range(HALF):
            message = encode_job(
                job(f"{name}-{number}", b"photo %d" % (number % PHOTOGRAPHS)), encoding="avro", source="test"
            )
            self.broker.produce(TOPICS.jobs, message.value, key=message.key, headers=message.headers)
        eventually(lambda: len(self.broker.published) >= answered, f"the answers of the {name} half")

    def _close(self) -> None:
        for client in (self.cache, self.status):
            if client is not None:
                client.close()


Verdicts = dict[bytes | None, VerdictEvent]


def timeless(event: VerdictEvent) -> VerdictEvent:
    """Without what differs from run to run."""
    timings = replace(event.timings, fetch_ms=0, embed_ms=0, judge_ms=0, queue_ms=0, total_ms=0)
    return replace(event, judged_at=EPOCH, timings=timings)


@pytest.fixture(scope="module")
def expected() -> Verdicts:
    """What a worker without Redis answers."""
    found = Worker(None).run()
    assert len(found) == 2 * HALF
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OwnService]:
    service = Redis(tmp_path / "redis")
    if not service.available():
        pytest.skip("NO redis-server on this machine: apt-get install redis-server")
    server = OwnService(service, tmp_path)
    server.start()
    yield server
    server.stop()


def url_of(server: OwnService) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


def test_a_redis_that_works_changes_no_verdict_and_saves_work(server: OwnService, expected: Verdicts) -> None:
    worker = Worker(url_of(server))
    assert worker.run() == expected
    assert worker.encoder.encoded < 2 * HALF


def test_a_redis_that_is_down_from_the_start_changes_no_verdict(expected: Verdicts) -> None:
    worker = Worker("redis://127.0.0.1:9/0")
    assert worker.run() == expected
    assert worker.reasons == {"away"}


@pytest.mark.parametrize("harm", [OwnService.kill, OwnService.suspend], ids=["killed", "silent"])
def test_a_redis_that_goes_changes_no_verdict(
    server: OwnService, expected: Verdicts, harm: Callable[[OwnService], None]
) -> None:
    worker = Worker(url_of(server), timeout_s=0.1)
    assert worker.run(lambda: harm(server)) == expected
    assert "away" in worker.reasons


def test_a_redis_that_comes_back_empty_changes_no_verdict(server: OwnService, expected: Verdicts) -> None:
    worker = Worker(url_of(server))
    assert worker.run(server.restart) == expected


def test_a_slow_redis_changes_no_verdict(server: OwnService, expected: Verdicts) -> None:
    with TcpProxy(f"127.0.0.1:{server.port}") as proxy:
        worker = Worker(f"redis://{proxy.address}/0", timeout_s=0.1)
        assert worker.run(lambda: proxy.latency(60)) == expected


def test_a_server_that_speaks_something_else_changes_no_verdict(expected: Verdicts) -> None:
    with Stranger() as stranger:
        worker = Worker(f"redis://127.0.0.1:{stranger.port}/0")
        assert worker.run() == expected
    assert worker.reasons == {"away"}


class Stranger:
    """Answers everything with a number that is none, and then with a reply for another question."""

    def __enter__(self) -> Stranger:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        replies = [b":ninety\r\n", b"*1\r\n$3\r\nyes\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$-7\r\n"]
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(replies[0] * 4)
            replies.append(replies.pop(0))


Harm = Callable[["redis.Redis", bytes, bytes], object]
WRONG: dict[str, Harm] = {
    "garbage": lambda client, name, value: client.set(name, b"garbage"),
    "nothing": lambda client, name, value: client.set(name, b""),
    "half a MAC": lambda client, name, value: client.set(name, value[:16]),
    "cut short": lambda client, name, value: client.set(name, value[:-7]),
    "another content": lambda client, name, value: client.set(name, value[:-1] + bytes([value[-1] ^ 1])),
    "of another kind": lambda client, name, value: (client.delete(name), client.rpush(name, b"x")),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_data_under_our_keys_change_no_verdict(server: OwnService, expected: Verdicts, wrong: Harm) -> None:
    worker = Worker(url_of(server))
    assert worker.run(lambda: spoil(server, wrong)) == expected
    assert worker.encoder.encoded >= 2 * PHOTOGRAPHS  # what was spoilt was made again


def spoil(server: OwnService, wrong: Harm) -> None:
    with redis.Redis(host="127.0.0.1", port=server.port) as client:
        names = list(client.scan_iter("assay:probe:*"))
        assert len(names) == PHOTOGRAPHS
        for name in names:
            wrong(client, name, client.get(name))


def test_values_that_were_exchanged_or_are_another_tenants_change_no_verdict(
    server: OwnService, expected: Verdicts
) -> None:
    def exchange() -> None:
        with redis.Redis(host="127.0.0.1", port=server.port) as client:
            names = sorted(client.scan_iter("assay:probe:*"))
            values = [client.get(name) for name in names]
            for name, value in zip(names, values[1:] + values[:1], strict=True):
                client.set(name, value)

    theirs = RedisProbeCache(url_of(server), mac_key=b"theirs", engines={"fake": ENGINE}, decoder="t")
    worker = Worker(url_of(server))
    assert worker.run(exchange) == expected
    assert worker.reasons == {"foreign"}
    theirs.close()


def test_the_share_of_time_that_a_slow_redis_gets_is_bounded() -> None:
    now_s, slow_s, calls = [0.0], 0.0, 0
    told: list[str] = []

    def work() -> None:
        nonlocal slow_s, calls
        now_s[0] += 0.09
        slow_s += 0.09
        calls += 1

    breaker = Breaker(timeout_s=0.1, rest_s=5.0, clock=lambda: now_s[0], failed=told.append)
    while now_s[0] < 1_000.0:
        breaker.call(work, None)
        now_s[0] += 0.25  # a batch's own work
    assert slow_s / now_s[0] < 0.11
    assert calls > 500  # and it is tried again and again
    assert set(told) == {"slow"} and breaker.failures == len(told)


def test_a_quick_redis_is_never_left_alone() -> None:
    now_s = [0.0]

    def work() -> str:
        now_s[0] += 0.010
        return "answer"

    breaker = Breaker(timeout_s=0.1, rest_s=5.0, clock=lambda: now_s[0])
    assert [breaker.call(work, "fallback", entries=32) for _ in range(1_000)] == ["answer"] * 1_000
    assert breaker.failures == 0
