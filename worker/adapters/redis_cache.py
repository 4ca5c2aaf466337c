"""Redis, for what may be lost: encoder outputs by photograph, and how far a job is. Verdicts are the same without."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from schemas.job import AuthenticationJob
from schemas.verdict import EngineUse
from worker.adapters.probe_bytes import opened, sealed
from worker.core.evidence import ViewProbe
from worker.errors import ServiceUnavailable
from worker.ports import EncodeView

TIMEOUT_S = 0.1
REST_S = 5.0
EXPECTED_S = 0.0005  # what a call may take an entry: a CPU takes thirty times that for a photograph
SLOW_SHARE = 0.1  # of all time may go beyond that
CREDIT_CALLS = 5  # saved up: as many calls may take until their timeout

Answer = TypeVar("Answer")
Clock = Callable[[], float]
Failed = Callable[[str], None]
_log = structlog.get_logger()


def _untold(_reason: str) -> None:
    """Nobody counts."""


class Breaker:
    """Calls a Redis that may be away or slow: a failure gives the fallback, and the next seconds do not try.

    Calls may take a tenth of all time beyond what is expected of them, so that a slow Redis cannot slow the worker
    much further. `failures` counts failed calls and rests for slowness, not the calls that rested; `failed` is told
    each one's reason: away, slow, or foreign for a value that is not ours. Any thread.
    """

    def __init__(self, *, timeout_s: float, rest_s: float, clock: Clock, failed: Failed = _untold) -> None:
        self.failures = 0
        self._rest_s = rest_s
        self._clock = clock
        self._failed = failed
        self._most_s = self._credit_s = CREDIT_CALLS * timeout_s
        self._paid_at_s = self._rests_until_s = clock()
        self._lock = threading.Lock()

    def call(self, work: Callable[[], Answer], fallback: Answer, *, entries: int = 1) -> Answer:
        """`entries`: how much the call asks or tells, which is how long it may take."""
        began_s = self._clock()
        if began_s < self._rests_until_s:
            return fallback
        try:
            answer = work()
        except Exception as error:  # the client fails in any way on a server that speaks nonsense
            self._rest("away", self._rest_s, error=type(error).__name__)
            return fallback
        debt_s = self._debt_s(began_s, entries * EXPECTED_S)
        if debt_s > 0.0:
            self._rest("slow", max(self._rest_s, debt_s / SLOW_SHARE), error="")
        return answer

    def foreign(self) -> None:
        """A value was there and is not ours: nothing is wrong with Redis itself."""
        self._count("foreign")

    def _debt_s(self, began_s: float, expected_s: float) -> float:
        """What slow calls have taken beyond their share; negative: what they may still take."""
        now_s = self._clock()
        with self._lock:
            earned_s = SLOW_SHARE * (now_s - self._paid_at_s)
            self._paid_at_s = now_s
            spent_s = max(0.0, now_s - began_s - expected_s)
            self._credit_s = min(self._most_s, self._credit_s + earned_s) - spent_s
            return -self._credit_s

    def _rest(self, reason: str, rest_s: float, *, error: str) -> None:
        self._count(reason)
        self._rests_until_s = self._clock() + rest_s
        _log.warning("redis_away", reason=reason, error=error, rest_s=round(rest_s, 3))

    def _count(self, reason: str) -> None:
        with self._lock:
            self.failures += 1
        self._failed(reason)


def connected(url: str, timeout_s: float) -> redis.Redis:
    """A client that gives up fast and never retries; nothing connects before the first use."""
    return redis.Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )


class RedisProbeCache:
    """Implements ports.ProbeCache. Values are exact and carry a MAC bound to all that the key names.

    `engines` maps an encoder's name to the engine that serves it; `decoder` names how photographs are decoded.
    """

    def __init__(
        self,
        url: str,
        *,
        mac_key: bytes,
        engines: Mapping[str, EngineUse],
        decoder: str,
        ttl_s: int = 86_400,
        timeout_s: float = TIMEOUT_S,
        rest_s: float = REST_S,
        clock: Clock = time.monotonic,
        failed: Failed = _untold,
    ) -> None:
        self._client = connected(url, timeout_s)
        self._key = hashlib.blake2b(mac_key, person=b"assay-probe").digest()
        self._engines = engines
        self._decoder = decoder
        self._ttl_s = ttl_s
        self._breaker = Breaker(timeout_s=timeout_s, rest_s=rest_s, clock=clock, failed=failed)

    @property
    def failures(self) -> int:
        return self._breaker.failures

    def get_many(self, requests: Sequence[EncodeView]) -> list[ViewProbe | None]:
        """See ports.ProbeCache."""
        if not requests:
            return []
        nothing: list[bytes | None] = [None] * len(requests)
        names = [self.name(request) for request in requests]
        values = self._breaker.call(lambda: self._asked(names), nothing, entries=len(names))
        return [self._opened(request, value) for request, value in zip(requests, values, strict=True)]

    def put_many(self, entries: Sequence[tuple[EncodeView, ViewProbe]]) -> None:
        """See ports.ProbeCache."""
        if entries:
            values = [(name := self.name(request), self._sealed(name, probe)) for request, probe in entries]
            self._breaker.call(lambda: self._put(values), None, entries=len(values))

    def close(self) -> None:
        self._client.close()

    def name(self, request: EncodeView) -> str:
        """The Redis key: readable up to the photograph, so that a tenant's or a photograph's entries can be erased."""
        engine = self._engines[request.encoder]
        serving = hashlib.blake2b(digest_size=16)
        for part in (engine.digest, engine.backend, self._decoder):
            serving.update(f"{len(part)}:{part}".encode())
        return f"assay:probe:{request.tenant}:{request.view.sha256}:{serving.hexdigest()}"

    def _asked(self, names: Sequence[str]) -> list[bytes | None]:
        values = self._client.mget(names)
        if len(values) != len(names):
            raise redis.InvalidResponse(f"{len(values)} values of {len(names)}")
        return [value if isinstance(value, bytes) else None for value in values]

    def _opened(self, request: EncodeView, value: bytes | None) -> ViewProbe | None:
        if value is None:
            return None
        probe = opened(
            value,
            key=self._key,
            context=self.name(request).encode(),
            view=request.view.view,
            sha256=request.view.sha256,
            engine=self._engines[request.encoder],
        )
        if probe is None:
            self._breaker.foreign()
        return probe

    def _sealed(self, name: str, probe: ViewProbe) -> bytes:
        return sealed(probe, key=self._key, context=name.encode())

    def _put(self, values: Sequence[tuple[str, bytes]]) -> None:
        with self._client.pipeline(transaction=False) as pipeline:
            for name, value in values:
                pipeline.set(name, value, ex=self._ttl_s)
            pipeline.execute()


class RedisJobStatus:
    """Implements ports.JobStatus: a hash a job, `state` running or done, `outcome`, `at_ms`, with a time to live."""

    def __init__(
        self,
        url: str,
        *,
        ttl_s: int = 86_400,
        timeout_s: float = TIMEOUT_S,
        rest_s: float = REST_S,
        clock: Clock = time.monotonic,
        failed: Failed = _untold,
    ) -> None:
        self._client = connected(url, timeout_s)
        self._ttl_s = ttl_s
        self._breaker = Breaker(timeout_s=timeout_s, rest_s=rest_s, clock=clock, failed=failed)

    @property
    def failures(self) -> int:
        return self._breaker.failures

    def running(self, jobs: Sequence[AuthenticationJob]) -> None:
        """See ports.JobStatus."""
        self._write([(job, {"state": "running"}) for job in jobs])

    def done(self, outputs: Sequence[tuple[AuthenticationJob, str]]) -> None:
        """See ports.JobStatus."""
        self._write([(job, {"state": "done", "outcome": outcome}) for job, outcome in outputs])

    def get(self, tenant: str, job_id: str) -> Mapping[str, str]:
        """What is known of a job; empty where nothing is, or Redis is away."""
        return self._breaker.call(lambda: self._asked(status_name(tenant, job_id)), {})

    def close(self) -> None:
        self._client.close()

    def _asked(self, name: str) -> Mapping[str, str]:
        return {_text(field): _text(value) for field, value in self._client.hgetall(name).items()}

    def _write(self, changes: Sequence[tuple[AuthenticationJob, Mapping[str, str]]]) -> None:
        if changes:
            self._breaker.call(lambda: self._written(changes), None, entries=len(changes))

    def _written(self, changes: Sequence[tuple[AuthenticationJob, Mapping[str, str]]]) -> None:
        at_ms = str(time.time_ns() // 1_000_000)
        with self._client.pipeline(transaction=False) as pipeline:
            for job, change in changes:
                name = status_name(job.tenant, job.job_id)
                pipeline.hset(name, items=[part for item in (*change.items(), ("at_ms", at_ms)) for part in item])
                pipeline.expire(name, self._ttl_s)
            pipeline.execute()


class RedisEraser:
    """Implements worker.adapters.erasure.Caches: what Redis holds of photographs and jobs, deleted for good."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        self._client = connected(url, timeout_s)

    def forget(self, tenant: str, *, photographs: Iterable[str], job_ids: Iterable[str]) -> int:
        """Delete the entries; how many there were. Raises ServiceUnavailable: an erasure must not pass them over."""
        wanted = frozenset(photographs)
        names: list[bytes | str] = [status_name(tenant, job_id) for job_id in job_ids]
        try:
            if wanted:
                found = self._client.scan_iter(f"assay:probe:{tenant}:*", count=1000)
                names += [name for name in found if _text(name).split(":")[3] in wanted]
            return sum(self._client.unlink(*names[at : at + 500]) for at in range(0, len(names), 500))
        except (redis.RedisError, OSError) as error:
            raise ServiceUnavailable("redis", f"{type(error).__name__}; its entries must be erased too") from error

    def close(self) -> None:
        self._client.close()


def status_name(tenant: str, job_id: str) -> str:
    return f"assay:job:{tenant}:{job_id}"


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
