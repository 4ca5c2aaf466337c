"""In-memory twins of the evidence store, the probe cache and the job status, for tests and trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from schemas.job import AuthenticationJob
from schemas.verdict import EngineUse
from worker.core.evidence import ViewProbe
from worker.ports import EncodeView


class MemoryEvidence:
    """Implements ports.EvidenceStore."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], bytes] = {}

    def put(self, tenant: str, sha256: str, data: bytes) -> None:
        self.kept[tenant, sha256] = data

    def get(self, tenant: str, sha256: str) -> bytes | None:
        return self.kept.get((tenant, sha256))


class MemoryProbeCache:
    """Implements ports.ProbeCache. `engines` maps an encoder's name to the engine that serves it; caches that are given
    the same `probes` share them.
    """

    def __init__(
        self,
        engines: Mapping[str, EngineUse],
        *,
        decoder: str,
        probes: dict[tuple[str, ...], ViewProbe] | None = None,
    ) -> None:
        self._engines = engines
        self._decoder = decoder
        self._probes = {} if probes is None else probes

    def get_many(self, requests: Sequence[EncodeView]) -> list[ViewProbe | None]:
        return [self._found(request) for request in requests]

    def put_many(self, entries: Sequence[tuple[EncodeView, ViewProbe]]) -> None:
        for request, probe in entries:
            self._probes[self._key(request)] = probe

    def _found(self, request: EncodeView) -> ViewProbe | None:
        probe = self._probes.get(self._key(request))
        return None if probe is None else replace(probe, view=request.view.view, encode_ms=0.0)

    def _key(self, request: EncodeView) -> tuple[str, ...]:
        engine = self._engines[request.encoder]
        return request.tenant, request.view.sha256, engine.digest, engine.backend, self._decoder


class MemoryJobStatus:
    """Implements ports.JobStatus."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], dict[str, str]] = {}

    def running(self, jobs: Sequence[AuthenticationJob]) -> None:
        for job in jobs:
            self._states.setdefault((job.tenant, job.job_id), {})["state"] = "running"

    def done(self, outputs: Sequence[tuple[AuthenticationJob, str]]) -> None:
        for job, outcome in outputs:
            self._states[job.tenant, job.job_id] = {"state": "done", "outcome": outcome}

    def get(self, tenant: str, job_id: str) -> Mapping[str, str]:
        return self._states.get((tenant, job_id), {})


class NoEvidence:
    """Implements ports.EvidenceStore where nothing is to be kept."""

    def put(self, tenant: str, sha256: str, data: bytes) -> None:
        """Keeps nothing."""

    def get(self, tenant: str, sha256: str) -> bytes | None:
        return None


class NoProbeCache:
    """Implements ports.ProbeCache where the cache is off: every look is a miss."""

    def get_many(self, requests: Sequence[EncodeView]) -> list[ViewProbe | None]:
        return [None] * len(requests)

    def put_many(self, entries: Sequence[tuple[EncodeView, ViewProbe]]) -> None:
        """Keeps nothing."""
