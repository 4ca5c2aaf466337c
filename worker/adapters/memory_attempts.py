"""In-memory twin of the attempts: processes that share `starts` see each other's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.message import Source
from worker.core.poison import Course, Deaths
from worker.errors import ServiceUnavailable
from worker.ports import Partition
from worker.work import Received


@dataclass(slots=True, kw_only=True)
class MemoryAttempts:
    """Implements ports.Attempts. `starts`: by source and process, whether it ran alone. `outages` calls fail first."""

    process: str = "process-1"
    starts: dict[tuple[Source, str], bool] = field(default_factory=dict)
    outages: int = 0

    def begin(self, jobs: Sequence[Received], *, ended: Sequence[Source] = (), alone: bool = False) -> list[Deaths]:
        self._fail_if_planted()
        sources = [job.record.source for job in jobs]
        found = [self._deaths(source) for source in sources]
        self._forget([source for source in ended if source not in sources])
        begun = [s for s, deaths in zip(sources, found, strict=True) if alone or deaths.course is Course.TOGETHER]
        self.starts |= {(source, self.process): alone for source in begun}
        return found

    def end(self, sources: Sequence[Source]) -> None:
        self._fail_if_planted()
        self._forget(sources)

    def release(self, partitions: Sequence[Partition]) -> None:
        self._fail_if_planted()
        own = [source for source, process in self.starts if process == self.process]
        for source in own:
            if (source.topic, source.partition) in partitions:
                del self.starts[source, self.process]

    def close(self) -> None:
        for key in [key for key in self.starts if key[1] == self.process]:
            del self.starts[key]

    def _deaths(self, source: Source) -> Deaths:
        solos = [solo for (other, process), solo in self.starts.items() if other == source and process != self.process]
        return Deaths(together=solos.count(False), alone=solos.count(True))

    def _forget(self, sources: Sequence[Source]) -> None:
        for key in [key for key in self.starts if key[0] in sources]:
            del self.starts[key]

    def _fail_if_planted(self) -> None:
        if self.outages > 0:
            self.outages -= 1
            raise ServiceUnavailable("postgres", "planted")
