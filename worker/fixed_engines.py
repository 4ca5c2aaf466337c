"""The engines of a worker that no registry tells of others: one set, from its start to its end."""

from __future__ import annotations

from collections.abc import Collection

from schemas.job import AuthenticationJob
from worker.core.courses import JobEngines

_ALWAYS = JobEngines()


class FixedEngines:
    """Implements worker.ports.EngineChoice."""

    def choose(self, job: AuthenticationJob, encoders: Collection[str], *, suspected: bool) -> JobEngines:
        """Always the same."""
        return _ALWAYS

    def ended(self, engines: JobEngines) -> None:
        """Nothing waits for it."""

    def between_batches(self, *, idle: bool) -> None:
        """Nothing changes."""
