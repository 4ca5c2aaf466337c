"""Starts, as the embed stage writes them down: one statement a group of jobs; what ended goes with the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from schemas.message import Source
from worker.core.poison import Course, Deaths
from worker.errors import ServiceUnavailable
from worker.ports import Attempts
from worker.work import Received

T = TypeVar("T")
Expects = Callable[[Source, int], bool]  # whether a record, of an epoch, still waits for its outcome here
Outage = Callable[[ServiceUnavailable], None]
_log = structlog.get_logger()


class Starts:
    """Owned by the embed thread. While Postgres is away nothing starts; `outage` says so and waits."""

    def __init__(self, attempts: Attempts, *, expects: Expects, outage: Outage) -> None:
        self._attempts = attempts
        self._expects = expects
        self._outage = outage
        self._ended: list[Source] = []
        self._alone = False

    def wanted(self, received: Received) -> bool:
        """False once its partition belongs to others, who have the record."""
        return self._expects(received.record.source, received.record.epoch)

    def begin(self, jobs: Sequence[Received]) -> list[Deaths]:
        """Write down the starts of those that may run together; the deaths that each job has seen, in order."""
        deaths = self._begin(jobs, alone=False)
        for job, found in zip(jobs, deaths, strict=True):
            if found.course is not Course.TOGETHER:
                _log.warning(
                    "poison_suspected",
                    src=str(job.record.source),
                    course=found.course.value,
                    deaths_together=found.together,
                    deaths_alone=found.alone,
                )
        return deaths

    def begin_alone(self, job: Received) -> None:
        """Write down a solo start, which `ended` is to forget at once."""
        self._begin([job], alone=True)
        self._alone = True

    def ended(self, job: Received) -> None:
        """Its dangerous step is over. Told with the next start, of a solo start at once: a later death is not its."""
        self._ended.append(job.record.source)
        if self._alone:
            self._alone = False
            self._insist(self._tell, [job])

    def flush(self) -> None:
        """Tell what ended, for there may be no next start for long; while Postgres is away, some other time."""
        try:
            self._tell()
        except ServiceUnavailable as outage:
            _log.warning("starts_kept", starts=len(self._ended), detail=str(outage))

    def _begin(self, jobs: Sequence[Received], *, alone: bool) -> list[Deaths]:
        """All of them may become others' while Postgres is away: then nobody waits for what is done with them here."""
        if not jobs:
            return []
        deaths = self._insist(lambda: self._attempts.begin(jobs, ended=self._ended, alone=alone), jobs)
        if deaths is None:
            return [Deaths()] * len(jobs)
        self._ended = []
        return deaths

    def _tell(self) -> None:
        if self._ended:
            self._attempts.end(self._ended)
            self._ended = []

    def _insist(self, call: Callable[[], T], jobs: Sequence[Received]) -> T | None:
        while any(map(self.wanted, jobs)):
            try:
                return call()
            except ServiceUnavailable as outage:
                self._outage(outage)
        return None
