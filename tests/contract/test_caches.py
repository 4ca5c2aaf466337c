"""One suite for each optional store and its in-memory twin: probe cache, job status, evidence store."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import redis

from schemas.codec import checked_job
from schemas.job import AuthenticationJob, JobView
from schemas.verdict import EngineUse
from worker.adapters.evidence_files import FileEvidence, S3Evidence
from worker.adapters.memory_caches import (
    MemoryEvidence,
    MemoryJobStatus,
    MemoryProbeCache,
    NoEvidence,
    NoProbeCache,
)
from worker.adapters.redis_cache import RedisJobStatus, RedisProbeCache
from worker.core.evidence import ViewProbe
from worker.errors import ConfigurationError, ServiceUnavailable
from worker.ports import EvidenceStore, ProbeCache

CNN = EngineUse(name="resnet18", digest="a" * 64, backend="openvino", precision="int8", embedding_space="cnn")
VIT = EngineUse(name="vit_tiny16", digest="b" * 64, backend="openvino", precision="int8", embedding_space="vit")
ENGINES = {"resnet18": CNN, "vit_tiny16": VIT}
KEY = b"k" * 32


@dataclass(frozen=True, kw_only=True)
class Request:
    tenant: str
    view: JobView
    encoder: str
    data: bytes = b""


def request(tenant: str = "maison", view: str = "logo", sha256: str = "0" * 64, encoder: str = "resnet18") -> Request:
    return Request(tenant=tenant, view=JobView(view=view, sha256=sha256, data=b"x"), encoder=encoder)


def probe_for(asked: Request, seed: int = 0) -> ViewProbe:
    random = np.random.default_rng(seed)
    return ViewProbe(
        view=asked.view.view,
        sha256=asked.view.sha256,
        engine=ENGINES[asked.encoder],
        embedding=random.standard_normal(512).astype(np.float32),
        patches=random.standard_normal((12, 64)).astype(np.float32),
        patch_grid=(3, 4),
        attention=random.random((5, 6)).astype(np.float32),
        quality={"sharpness": 0.1 + seed, "glare": 1 / 3},
        phash=2**64 - 1 - seed,
        source_size=(1024, 768),
    )


def assert_same(one: ViewProbe | None, other: ViewProbe) -> None:
    assert one is not None
    arrays = ("embedding", "patches", "attention")
    for name in arrays:
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    blank = dict.fromkeys(arrays)
    assert replace(one, **blank) == replace(other, **blank)  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "redis"])
def make_cache(request: pytest.FixtureRequest) -> Iterator[Callable[..., ProbeCache]]:
    """Makes caches over one store, with another decoder or other engines where asked."""
    made: list[RedisProbeCache] = []
    shared: dict[tuple[str, ...], ViewProbe] = {}

    def make(*, decoder: str = "reduced", engines: dict[str, EngineUse] = ENGINES) -> ProbeCache:
        if request.param == "memory":
            return MemoryProbeCache(engines, decoder=decoder, probes=shared)
        url = request.getfixturevalue("redis_url")
        made.append(RedisProbeCache(url, mac_key=KEY, engines=engines, decoder=decoder, timeout_s=2))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


class TestProbeCache:
    def test_a_probe_comes_back_exactly(self, make_cache: Callable[..., ProbeCache]) -> None:
        cache, asked = make_cache(), request()
        cache.put_many([(asked, probe_for(asked))])
        assert_same(cache.get_many([asked])[0], probe_for(asked))

    def test_many_come_back_in_order_with_their_misses(self, make_cache: Callable[..., ProbeCache]) -> None:
        cache = make_cache()
        asked = [request(sha256=str(n) * 64) for n in range(4)]
        cache.put_many([(asked[n], probe_for(asked[n], n)) for n in (3, 1)])
        found = cache.get_many(asked)
        assert found[0] is None and found[2] is None
        assert_same(found[1], probe_for(asked[1], 1))
        assert_same(found[3], probe_for(asked[3], 3))

    def test_nothing_asked_nothing_answered(self, make_cache: Callable[..., ProbeCache]) -> None:
        cache = make_cache()
        cache.put_many([])
        assert cache.get_many([]) == []

    def test_the_role_is_the_askers(self, make_cache: Callable[..., ProbeCache]) -> None:
        cache = make_cache()
        cache.put_many([(request(), probe_for(request()))])
        found = cache.get_many([request(view="lining")])[0]
        assert_same(found, replace(probe_for(request()), view="lining"))

    @pytest.mark.parametrize(
        "other", [request(tenant="rival"), request(sha256="1" * 64), request(encoder="vit_tiny16")]
    )
    def test_another_tenant_photograph_or_encoder_misses(
        self, make_cache: Callable[..., ProbeCache], other: Request
    ) -> None:
        cache = make_cache()
        cache.put_many([(request(), probe_for(request()))])
        assert cache.get_many([other]) == [None]

    @pytest.mark.parametrize(
        "change",
        [
            {"decoder": "full"},
            {"engines": ENGINES | {"resnet18": replace(CNN, digest="c" * 64)}},
            {"engines": ENGINES | {"resnet18": replace(CNN, backend="onnxruntime")}},
        ],
    )
    def test_another_engine_or_decoder_misses(
        self, make_cache: Callable[..., ProbeCache], change: dict[str, Any]
    ) -> None:
        make_cache().put_many([(request(), probe_for(request()))])
        assert make_cache(**change).get_many([request()]) == [None]


class TestRedisProbeCache:
    @pytest.fixture
    def cache(self, redis_url: str) -> Iterator[RedisProbeCache]:
        cache = RedisProbeCache(redis_url, mac_key=KEY, engines=ENGINES, decoder="reduced", timeout_s=2)
        yield cache
        cache.close()

    @pytest.fixture
    def client(self, redis_url: str) -> Iterator[redis.Redis]:
        with redis.Redis.from_url(redis_url) as client:
            yield client

    @pytest.mark.parametrize("at", [0, 31, 32, 40, 64, 500, -1])
    def test_one_changed_bit_is_a_miss(self, cache: RedisProbeCache, client: redis.Redis, at: int) -> None:
        cache.put_many([(request(), probe_for(request()))])
        name = cache.name(request())
        value = bytearray(client.get(name))  # type: ignore[arg-type]
        value[at] ^= 1
        client.set(name, bytes(value))
        assert cache.get_many([request()]) == [None]

    @pytest.mark.parametrize("value", [b"", b"x", b"\0" * 32, b"\0" * 5000])
    def test_a_foreign_value_is_a_miss(self, cache: RedisProbeCache, client: redis.Redis, value: bytes) -> None:
        client.set(cache.name(request()), value)
        assert cache.get_many([request()]) == [None]

    def test_a_value_of_another_kind_is_a_miss(self, cache: RedisProbeCache, client: redis.Redis) -> None:
        client.hset(cache.name(request()), "a", "b")
        assert cache.get_many([request()]) == [None]

    def test_a_value_moved_to_another_photograph_is_a_miss(self, cache: RedisProbeCache, client: redis.Redis) -> None:
        other = request(sha256="1" * 64)
        cache.put_many([(request(), probe_for(request()))])
        client.rename(cache.name(request()), cache.name(other))
        assert cache.get_many([other]) == [None]

    def test_another_key_is_a_miss(self, cache: RedisProbeCache, redis_url: str) -> None:
        cache.put_many([(request(), probe_for(request()))])
        other = RedisProbeCache(redis_url, mac_key=b"other", engines=ENGINES, decoder="reduced", timeout_s=2)
        assert other.get_many([request()]) == [None]
        other.close()

    def test_entries_expire(self, cache: RedisProbeCache, client: redis.Redis) -> None:
        cache.put_many([(request(), probe_for(request()))])
        assert 86_000 < client.ttl(cache.name(request())) <= 86_400  # type: ignore[operator]


class Silent:
    """A server that accepts and never answers, and counts who came."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self.thread = threading.Thread(target=self._accept, name="silent")
        self.thread.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    @property
    def visits(self) -> int:
        return len(self._held)

    def _accept(self) -> None:
        while True:
            try:
                self._held.append(self._listener.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.thread.join()
        for connection in self._held:
            connection.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


class TestRedisAway:
    def test_a_cache_without_redis_misses(self) -> None:
        cache = RedisProbeCache("redis://127.0.0.1:9/0", mac_key=KEY, engines=ENGINES, decoder="reduced")
        cache.put_many([(request(), probe_for(request()))])
        assert cache.get_many([request()]) == [None]
        assert cache.failures == 1  # the second call rested
        cache.close()

    def test_a_silent_redis_is_left_alone_until_the_rest_is_over(self, silent: Silent) -> None:
        now_s = [0.0]
        status = RedisJobStatus(silent.url, rest_s=5, clock=lambda: now_s[0])
        for _ in range(3):
            status.running([make_job()])
        assert (status.failures, silent.visits) == (1, 1)
        now_s[0] = 5.0
        assert status.get("maison", "job-1") == {}
        assert (status.failures, silent.visits) == (2, 2)
        status.close()


class Status(Protocol):
    def running(self, jobs: list[AuthenticationJob]) -> None: ...
    def done(self, outputs: list[tuple[AuthenticationJob, str]]) -> None: ...
    def get(self, tenant: str, job_id: str) -> Any: ...


def make_job(**changes: Any) -> AuthenticationJob:
    fields: dict[str, Any] = {
        "job_id": "job-1",
        "tenant": "maison",
        "sku": "BAG-001",
        "category": "bag",
        "submitted_at": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "views": [JobView(view="logo", sha256="0" * 64, data=b"x")],
    }
    return checked_job(**(fields | changes))


@pytest.fixture(params=["memory", "redis"])
def status(request: pytest.FixtureRequest) -> Iterator[Status]:
    if request.param == "memory":
        yield MemoryJobStatus()
        return
    real = RedisJobStatus(request.getfixturevalue("redis_url"), timeout_s=2)
    yield real
    real.close()


class TestJobStatus:
    def test_a_job_is_unknown_then_running_then_done(self, status: Status) -> None:
        job = make_job()
        assert status.get("maison", "job-1") == {}
        status.running([job])
        assert status.get("maison", "job-1")["state"] == "running"
        status.done([(job, "judged")])
        found = status.get("maison", "job-1")
        assert (found["state"], found["outcome"]) == ("done", "judged")

    def test_jobs_of_tenants_do_not_mix(self, status: Status) -> None:
        status.running([make_job(), make_job(tenant="rival", job_id="job-2")])
        assert status.get("maison", "job-2") == {} == status.get("rival", "job-1")

    def test_nothing_to_tell(self, status: Status) -> None:
        status.running([])
        status.done([])

    def test_a_status_expires(self, redis_url: str) -> None:
        real = RedisJobStatus(redis_url, ttl_s=100, timeout_s=2)
        real.done([(make_job(), "judged")])
        with redis.Redis.from_url(redis_url) as client:
            assert 90 < client.ttl("assay:job:maison:job-1") <= 100  # type: ignore[operator]
        real.close()


@pytest.fixture(params=["memory", "files", "s3"])
def evidence(request: pytest.FixtureRequest) -> EvidenceStore:
    if request.param == "memory":
        return MemoryEvidence()
    if request.param == "files":
        return FileEvidence(request.getfixturevalue("tmp_path") / "evidence")
    return request.getfixturevalue("s3_evidence")  # type: ignore[no-any-return]


@pytest.fixture
def s3_evidence(s3_endpoint: str) -> Iterator[S3Evidence]:
    store = S3Evidence("kept", endpoint_url=s3_endpoint, access_key="test", secret_key="test")  # noqa: S106
    yield store
    store.close()


PHOTOGRAPH = b"\xff\xd8photograph"
SHA256 = hashlib.sha256(PHOTOGRAPH).hexdigest()


class TestEvidenceStore:
    def test_bytes_come_back(self, evidence: EvidenceStore) -> None:
        evidence.put("maison", SHA256, PHOTOGRAPH)
        evidence.put("maison", SHA256, PHOTOGRAPH)
        assert evidence.get("maison", SHA256) == PHOTOGRAPH

    def test_what_was_not_kept_is_none(self, evidence: EvidenceStore) -> None:
        assert evidence.get("maison", "0" * 64) is None

    def test_tenants_do_not_share(self, evidence: EvidenceStore) -> None:
        evidence.put("maison", SHA256, PHOTOGRAPH)
        assert evidence.get("rival", SHA256) is None


@pytest.mark.parametrize(
    "tenant, sha256", [("..", SHA256), ("a/b", SHA256), ("", SHA256), ("a", "../x"), ("a", "A" * 64)]
)
def test_unsafe_names_reach_no_store(tmp_path: Path, s3_evidence: S3Evidence, tenant: str, sha256: str) -> None:
    for store in (FileEvidence(tmp_path), s3_evidence):
        with pytest.raises(ValueError):
            store.put(tenant, sha256, b"x")
        with pytest.raises(ValueError):
            store.get(tenant, sha256)
    assert list(tmp_path.iterdir()) == []


def test_a_kept_photograph_that_rotted_is_none(tmp_path: Path) -> None:
    store = FileEvidence(tmp_path)
    store.put("maison", SHA256, PHOTOGRAPH)
    next(tmp_path.rglob(SHA256)).write_bytes(b"rotten")
    assert store.get("maison", SHA256) is None


def test_a_half_written_photograph_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileEvidence(tmp_path)

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ServiceUnavailable, match="No space"):
        store.put("maison", SHA256, PHOTOGRAPH)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_sweep_of_files_takes_what_is_old(tmp_path: Path) -> None:
    store, now = FileEvidence(tmp_path), datetime.now(UTC)
    other = hashlib.sha256(b"other").hexdigest()
    store.put("maison", SHA256, PHOTOGRAPH)
    store.put("maison", other, b"other")
    old_s = (now - timedelta(days=91)).timestamp()
    for place in tmp_path.rglob("*"):
        os.utime(place, (old_s, old_s))
    (tmp_path / "maison" / "xx").mkdir()
    (tmp_path / "maison" / "xx" / "README").write_bytes(b"not ours")
    os.utime(tmp_path / "maison" / "xx" / "README", (old_s, old_s))
    store.put("maison", other, b"other")  # renewed
    assert store.sweep(now, retention_days=90) == 1
    assert store.get("maison", SHA256) is None
    assert store.get("maison", other) == b"other"
    assert (tmp_path / "maison" / "xx" / "README").exists()


def test_a_sweep_of_s3_takes_what_is_old(s3_evidence: S3Evidence) -> None:
    s3_evidence.put("maison", SHA256, PHOTOGRAPH)
    assert s3_evidence.sweep(datetime.now(UTC), retention_days=1) == 0
    assert s3_evidence.sweep(datetime.now(UTC) + timedelta(days=2), retention_days=1) == 1
    assert s3_evidence.get("maison", SHA256) is None


def test_a_store_that_is_away_says_so(tmp_path: Path) -> None:
    store = S3Evidence("kept", endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="b")  # noqa: S106
    with pytest.raises(ServiceUnavailable):
        store.put("maison", SHA256, PHOTOGRAPH)
    store.close()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"evidence\.root"):
        FileEvidence(tmp_path / "file" / "under")


def test_what_keeps_nothing() -> None:
    nothing, cache = NoEvidence(), NoProbeCache()
    nothing.put("maison", SHA256, PHOTOGRAPH)
    cache.put_many([(request(), probe_for(request()))])
    assert nothing.get("maison", SHA256) is None
    assert cache.get_many([request(), request()]) == [None, None]
