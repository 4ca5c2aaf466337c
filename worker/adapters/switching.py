"""One encoder over several open sets of engines: what serves, and a candidate beside it. Sets change between batches.

Whoever makes sets ready, in another thread, offers a line-up; the embed thread adopts it before its next batch. A job
keeps the sets that it began with, so a set is given back for closing only when no job needs it any more.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import UUID

from engines.errors import EngineRefused
from engines.gpu.device import Device
from schemas.codes import ViewCode
from schemas.job import AuthenticationJob, JobView
from schemas.verdict import EngineUse
from worker.adapters.encoder import EXIT_ENGINE
from worker.core.courses import Answering, Beside, JobEngines, concerns
from worker.core.evidence import UnusableView, ViewProbe
from worker.core.fallback import FailureKind, Step
from worker.core.split import in_share
from worker.errors import Fatal
from worker.ports import EncodeView, LateView, PendingViews

READERS: Final = 4  # sets that one batch may go to: two, and twice as many about a swap
OVERDUE: Final = 4  # so many times the usual number of batches, and the golden images run though there is work
_numbers = itertools.count(1)


class Session(Protocol):
    """worker.adapters.encoder.SessionEncoder, as far as it is needed here."""

    @property
    def engines(self) -> Mapping[str, EngineUse]: ...

    @property
    def device(self) -> Device | None: ...

    def start(self, requests: Sequence[EncodeView]) -> PendingViews: ...

    def self_test(self, goldens: Mapping[str, bytes]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenSet:
    """Engines that are loaded, warm and tested. `goldens`: what their golden images must give, by encoder."""

    step: Step
    session: Session
    goldens: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    number: int = field(default_factory=lambda: next(_numbers))

    def key(self, encoder: str) -> str:
        return f"{encoder}#{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A release that takes traffic: its candidate `engine` (an id) of `encoder`, for `share` of the jobs."""

    release: UUID
    encoder: str
    engine: str
    share: float
    publishes: bool
    opened: OpenSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineup:
    serving: OpenSet
    degraded: bool = False
    trial: Trial | None = None

    @property
    def sets(self) -> tuple[OpenSet, ...]:
        return (self.serving, self.trial.opened) if self.trial else (self.serving,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """Who is told: of a swap (seconds in which nothing was started), of a set that no job needs any more, of
    one that failed, and of every batch (photographs, those that the engine failed at, seconds)."""

    swapped: Callable[[Lineup, float], None]
    released: Callable[[OpenSet], None]
    failed: Callable[[OpenSet, FailureKind, str], None]
    ran: Callable[[OpenSet, int, int, float], None]
    golden_every: int = 0  # batches; 0: the golden images are not run again


@dataclass(slots=True, eq=False)
class _Generation:
    """A line-up since it was adopted, and how many jobs began with it and are still here."""

    lineup: Lineup
    alone: JobEngines
    both: JobEngines
    jobs: int = 0

    @classmethod
    def of(cls, lineup: Lineup) -> _Generation:
        keys = {encoder: lineup.serving.key(encoder) for encoder in lineup.serving.session.engines}
        serving = Answering(keys=keys, degraded=lineup.degraded)
        alone = JobEngines(serving=serving)
        trial = lineup.trial
        if trial is None:
            return cls(lineup, alone, alone)
        candidate = Answering(keys={**keys, trial.encoder: trial.opened.key(trial.encoder)})
        beside = Beside(release=trial.release, encoder=trial.encoder, answering=candidate, publishes=trial.publishes)
        return cls(lineup, alone, JobEngines(serving=serving, beside=beside))

    def choose(self, job: AuthenticationJob, encoders: Collection[str]) -> JobEngines:
        trial, beside = self.lineup.trial, self.both.beside
        if trial is None or beside is None or not concerns(beside, encoders):
            return self.alone
        return self.both if in_share(job.tenant, job.job_id, trial.engine, trial.share) else self.alone

    def has(self, engines: JobEngines) -> bool:
        return engines is self.alone or engines is self.both


class SwitchingEncoder:
    """Implements ports.ViewEncoder and ports.EngineChoice. Owned by the embed thread; `offer` is for any.

    `engines` holds every open engine by the key that a view's `encoder` says, for the cache of probes.
    """

    def __init__(self, lineup: Lineup, watching: Watching) -> None:
        self.engines: dict[str, EngineUse] = {}
        self._watching = watching
        self._offered: Lineup | None = None
        self._routes: dict[str, tuple[OpenSet, str]] = {}
        self._batches = 0  # since the golden images ran
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="engine-reader")
        self._generations: list[_Generation] = []
        self._enter(lineup)

    @property
    def lineup(self) -> Lineup:
        """What new jobs begin with."""
        return self._generations[-1].lineup

    @property
    def device(self) -> Device | None:
        """What new jobs' engines run on, where that is a GPU."""
        return self.lineup.serving.session.device

    def steps(self) -> tuple[str, ...]:
        """Keys of the steps that new jobs begin with; a candidate's is last."""
        return tuple(opened.step.key for opened in self.lineup.sets)

    @property
    def settled(self) -> bool:
        """Whether what was offered is adopted."""
        return self._offered is None

    def offer(self, lineup: Lineup) -> None:
        """To be adopted before the next batch. One thread offers, and only when the offer before is settled."""
        self._offered = lineup

    def between_batches(self, *, idle: bool) -> None:
        """See ports.EngineChoice."""
        if self._offered is not None:
            self._adopt()
        every = self._watching.golden_every
        if every and self._batches >= (every if idle else OVERDUE * every):
            self._batches = 0
            for opened in self.lineup.sets:
                self._check(opened)

    def choose(self, job: AuthenticationJob, encoders: Collection[str], *, suspected: bool) -> JobEngines:
        """See ports.EngineChoice."""
        now = self._generations[-1]
        now.jobs += 1
        return now.alone if suspected else now.choose(job, encoders)

    def ended(self, engines: JobEngines) -> None:
        """See ports.EngineChoice."""
        own = next(one for one in self._generations if one.has(engines))
        own.jobs -= 1
        if own is not self._generations[-1] and not own.jobs:
            self._generations.remove(own)
            self._give_back(own.lineup.sets)

    def start(self, requests: Sequence[EncodeView]) -> PendingViews:
        """See ports.ViewEncoder."""
        self._batches += 1
        places: dict[OpenSet, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(self._routes[request.encoder][0], []).append(place)
        parts = [self._part(opened, own, requests) for opened, own in places.items()]
        return SwitchingPending(parts, len(requests), self._readers)

    def close(self) -> None:
        """Every set that is still open; no batch may be on its way."""
        self._readers.shutdown()
        lineups = [one.lineup for one in self._generations] + ([self._offered] if self._offered else [])
        for opened in dict.fromkeys(opened for lineup in lineups for opened in lineup.sets):
            opened.session.close()

    def _adopt(self) -> None:
        started_s = time.perf_counter()
        lineup = self._offered
        assert lineup is not None  # noqa: S101 # the caller saw to it
        before = self._generations[-1]
        self._enter(lineup)
        self._offered = None
        if not before.jobs:
            self._generations.remove(before)
            self._give_back(before.lineup.sets)
        self._watching.swapped(lineup, time.perf_counter() - started_s)

    def _enter(self, lineup: Lineup) -> None:
        self._generations.append(_Generation.of(lineup))
        for opened in lineup.sets:
            for encoder, use in opened.session.engines.items():
                self.engines[opened.key(encoder)] = use
                self._routes[opened.key(encoder)] = (opened, encoder)

    def _give_back(self, sets: Sequence[OpenSet]) -> None:
        needed = {opened for one in self._generations for opened in one.lineup.sets}
        for opened in set(sets) - needed:
            for encoder in opened.session.engines:
                self.engines.pop(opened.key(encoder))
                self._routes.pop(opened.key(encoder))
            self._watching.released(opened)

    def _part(self, opened: OpenSet, places: Sequence[int], requests: Sequence[EncodeView]) -> Part:
        routed = [_Routed(requests[place], self._routes[requests[place].encoder][1]) for place in places]
        return Part(opened=opened, places=tuple(places), pending=opened.session.start(routed), watching=self._watching)

    def _check(self, opened: OpenSet) -> None:
        """An engine whose numbers departed from those that it was published with must not lead to one verdict more."""
        try:
            opened.session.self_test(opened.goldens)
        except EngineRefused as refusal:
            self._watching.failed(opened, FailureKind.GOLDEN, str(refusal))
            raise Fatal(str(refusal), exit_code=EXIT_ENGINE) from refusal
        except Fatal as failure:
            self._watching.failed(opened, FailureKind.DIED, str(failure))
            raise


@dataclass(frozen=True, slots=True)
class _Routed:
    """A view as its set knows it: by the encoder's own name."""

    request: EncodeView
    encoder: str

    @property
    def tenant(self) -> str:
        return self.request.tenant

    @property
    def view(self) -> JobView:
        return self.request.view

    @property
    def data(self) -> bytes:
        return self.request.data


Answer = ViewProbe | UnusableView | LateView


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one set does of a batch; `places` are those of its views in the batch."""

    opened: OpenSet
    places: tuple[int, ...]
    pending: PendingViews
    watching: Watching
    started_s: float = field(default_factory=time.monotonic)

    def prompt(self) -> Sequence[Answer]:
        return self._read(self.pending.prompt)

    def result(self) -> Sequence[Answer]:
        return self._read(self.pending.result)

    def died(self, failure: Fatal) -> None:
        self.watching.failed(self.opened, FailureKind.DIED, str(failure))

    def _read(self, read: Callable[[], Sequence[Answer]]) -> Sequence[Answer]:
        try:
            answers = read()
        except Fatal as failure:
            self.died(failure)
            raise
        answers = [_Late(one, self) if not isinstance(one, ViewProbe | UnusableView) else one for one in answers]
        failed = sum(isinstance(one, UnusableView) and one.code is ViewCode.ENCODER_FAILED for one in answers)
        self.watching.ran(self.opened, len(answers), failed, time.monotonic() - self.started_s)
        return answers


@dataclass(frozen=True, slots=True)
class _Late:
    """A late view whose engine may fail yet."""

    view: LateView
    part: Part

    @property
    def done(self) -> bool:
        return self.view.done

    def when_done(self, call: Callable[[], None]) -> None:
        self.view.when_done(call)

    def result(self) -> ViewProbe | UnusableView:
        try:
            return self.view.result()
        except Fatal as failure:
            self.part.died(failure)
            raise

    def drop(self) -> None:
        self.view.drop()


class SwitchingPending:
    """Implements ports.PendingViews. Where a batch went to several sets they are read at once, so that none is thought
    slow for having been read last."""

    def __init__(self, parts: Sequence[Part], count: int, readers: ThreadPoolExecutor) -> None:
        self._parts = parts
        self._count = count
        self._readers = readers

    def result(self) -> list[ViewProbe | UnusableView]:
        answers = self._in_place([part.result for part in self._parts])
        return [answer for answer in answers if isinstance(answer, ViewProbe | UnusableView)]

    def prompt(self) -> Sequence[Answer]:
        return self._in_place([part.prompt for part in self._parts])

    def _in_place(self, reads: Sequence[Callable[[], Sequence[Answer]]]) -> list[Answer]:
        if len(reads) == 1:
            return list(reads[0]())
        found: dict[int, Answer] = {}
        running = [self._readers.submit(read) for read in reads]
        for part, answers in zip(self._parts, running, strict=True):
            found.update(zip(part.places, answers.result(), strict=True))
        return [found[place] for place in range(self._count)]
