"""The embed stage: one thread cuts batches over many jobs, keeps the encoder busy and completes jobs.

What it does with photographs may end the process. So the start of every job is written down first; a job that was there
when two processes died runs alone, and one that killed two more alone is a dead letter (worker/core/poison.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from schemas.codes import ErrorCode
from worker.assembly import Assembly, EncoderName, ViewToEncode, assembly_of, completed_together
from worker.attempts import Starts
from worker.batching import Batch, Batcher, BatchLimits
from worker.core.evidence import UnusableView, ViewProbe
from worker.core.gallery import GallerySnapshot
from worker.core.poison import Course, Deaths
from worker.errors import ServiceUnavailable
from worker.fetching import Outage, Release, rejected, straggling
from worker.handoff import Handoff
from worker.observe import Meter
from worker.outcomes import Rejected
from worker.ports import EngineChoice, Gallery, Matcher, PendingViews, ProbeCache, ViewEncoder
from worker.stragglers import Straggler, Stragglers
from worker.work import Fetched, Received, Settleable

Pause = Callable[[float], object]  # waits so many seconds, less when the worker stops
IDLE_WAIT_S = 0.5
CALM_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    batch: Batch[ViewToEncode]
    pending: PendingViews
    started_s: float


class EmbedStage:
    """Keeps up to `depth` batches in flight: while one is read back, the next one already decodes and infers.

    What is decoded in helper processes is waited for apart. `slow_after_s` after its batch was done, its job moves to
    `slow_topic`, where only the decoder's own deadline counts.
    """

    def __init__(
        self,
        *,
        encoder: ViewEncoder,
        engines: EngineChoice,
        matcher: Matcher,
        gallery: Gallery,
        cache: ProbeCache,
        encoder_name: EncoderName,
        fetched: Handoff[Fetched],
        settle: Handoff[Settleable],
        limits: BatchLimits,
        depth: int,
        keep_images: bool,
        meter: Meter,
        release: Release,
        outage: Outage,
        starts: Starts,
        pause: Pause,
        slow_after_s: float,
        slow_topic: str,
    ) -> None:
        self._encoder = encoder
        self._engines = engines
        self._matcher = matcher
        self._gallery = gallery
        self._cache = cache
        self._encoder_name = encoder_name
        self._fetched = fetched
        self._settle = settle
        self._batcher: Batcher[ViewToEncode] = Batcher(limits)
        self._max_images = limits.max_images
        self._depth = depth
        self._keep_images = keep_images
        self._meter = meter
        self._release = release
        self._outage = outage
        self._starts = starts
        self._pause = pause
        self._slow_topic = slow_topic
        self._in_flight: deque[InFlight] = deque()
        self._whole: list[Assembly] = []  # all their views are there
        self._late: Stragglers[ViewToEncode] = Stragglers(patience_s=slow_after_s, wake=fetched.wake)

    def run(self) -> None:
        while not (self._fetched.finished and not self._batcher and not self._in_flight):
            wait_s = self._wait_s()
            self._engines.between_batches(idle=wait_s > 0.0 and not len(self._fetched))
            self._admit(self._take(wait_s))
            self._start_batches(closing=self._fetched.closed)
            if self._in_flight and (len(self._in_flight) >= self._depth or not len(self._fetched)):
                self._finish(self._in_flight.popleft())
            self._arrive(self._late.done())
            self._move_overdue()
        self._arrive(self._late.all())
        self._starts.flush()

    def _wait_s(self) -> float:
        """How long new jobs may be waited for: not at all while a batch is due or could be read back."""
        now_s = time.monotonic()
        due_s = self._batcher.wait_s(now_s)
        if self._in_flight or due_s == 0.0:
            return 0.0
        move_s = self._late.wait_s(now_s, self._may_move)
        return min(IDLE_WAIT_S if wait_s is None else wait_s for wait_s in (due_s, move_s))

    def _take(self, wait_s: float) -> list[Fetched]:
        """Jobs for one more batch: what starts beside a poisoned job is suspected with it, so no more than needed."""
        if wait_s > 0.0:
            self._starts.flush()
        group: list[Fetched] = []
        images = len(self._batcher)
        while images < self._max_images and (fetched := self._fetched.take(0.0 if group else wait_s)):
            group.append(fetched)
            images += len(fetched.images)
        return group

    def _admit(self, group: Sequence[Fetched]) -> None:
        timely = [fetched for fetched in group if self._is_timely(fetched.received)]
        started = self._starts.begin([fetched.received for fetched in timely])
        alone: list[tuple[Fetched, Deaths]] = []
        for fetched, deaths in zip(timely, started, strict=True):
            if deaths.course is Course.POISON:
                self._hand_on(fetched.received, _poison(fetched.received, deaths))
            elif deaths.course is Course.ALONE:
                alone.append((fetched, deaths))
            else:
                self._begin(fetched, suspected=deaths.together > 0)
        for fetched, deaths in sorted(alone, key=lambda job: job[1].alone):
            self._run_alone(fetched, deaths)

    def _is_timely(self, received: Received) -> bool:
        """Whether the job is still to be encoded; one whose partition is gone is its next owner's."""
        deadline = received.job.deadline
        if not self._starts.wanted(received):
            self._release(received.held_bytes)
            return False
        if deadline is not None and datetime.now(UTC) > deadline:
            detail = f"the job's deadline {deadline.isoformat()} passed before its images were encoded"
            self._end(received, rejected(received, ErrorCode.DEADLINE_EXCEEDED, "embed", detail))
            return False
        return True

    def _run_alone(self, fetched: Fetched, deaths: Deaths) -> None:
        """Nothing else is between decode and match; what else can fail (the gallery's first load) is done before.

        Two deaths alone bury a job. So before its second solo start a calm lets whatever else ends this process do so:
        a settle that dies of what came before, kills that come soon after each start. And what came meanwhile goes
        first: where the engine is to blame, another job's death tells so before this one is buried.
        """
        self._finish_all()
        self._snapshot(fetched.received.job.tenant)
        if deaths.alone:
            self._pause(CALM_S)
            self._admit(self._take(0.0))
            self._finish_all()
        if self._is_timely(fetched.received):
            self._starts.begin_alone(fetched.received)
            self._begin(fetched, suspected=True)
            self._finish_all()

    def _finish_all(self) -> None:
        while self._batcher or self._in_flight:
            self._start_batches(closing=True)
            self._finish(self._in_flight.popleft())
        self._arrive(self._late.all())

    def _begin(self, fetched: Fetched, *, suspected: bool) -> None:
        job = fetched.received.job
        encoders = [self._encoder_name(job.category, view.view) for view, _ in fetched.images]
        engines = self._engines.choose(job, encoders, suspected=suspected or bool(fetched.stored))
        assembly, views = assembly_of(fetched, engines, encoders)
        if not views:  # all that its verdict needs was kept
            self._engines.ended(engines)
            self._whole.append(assembly)
            self._end_whole()
            return
        misses = []
        for request, cached in zip(views, self._cache.get_many(views), strict=True):
            if cached is None:
                misses.append(request)
            else:
                self._arrived(request, cached)
        self._batcher.add(misses, assembly.started_s)
        self._end_whole()

    def _start_batches(self, *, closing: bool) -> None:
        while len(self._in_flight) < self._depth:
            batch = self._batcher.cut(time.monotonic(), closing=closing, idle=not self._in_flight)
            if batch is None:
                return
            self._meter.batch(images=len(batch.images), flush=batch.flush)
            pending = self._encoder.start(batch.images)
            self._in_flight.append(InFlight(batch=batch, pending=pending, started_s=time.monotonic()))

    def _finish(self, flight: InFlight) -> None:
        """Of what helper processes still decode no neighbour needs to know."""
        results = flight.pending.prompt()
        now_s = time.monotonic()
        self._meter.stage("embed", now_s - flight.started_s)
        arrived: list[tuple[ViewToEncode, ViewProbe | UnusableView]] = []
        for request, result in zip(flight.batch.images, results, strict=True):
            if isinstance(result, ViewProbe | UnusableView):
                arrived.append((request, result))
            elif request.assembly.moved:
                result.drop()
                self._come(request)
            else:
                self._late.add(request, result, now_s)
        self._arrive_all(arrived)

    def _arrive(self, late: Sequence[Straggler[ViewToEncode]]) -> None:
        """Waits for those that are not done."""
        self._arrive_all([(straggler.request, straggler.view.result()) for straggler in late])

    def _arrive_all(self, arrived: Sequence[tuple[ViewToEncode, ViewProbe | UnusableView]]) -> None:
        for request, result in arrived:
            self._arrived(request, result)
        probes = ((request, probe) for request, probe in arrived if isinstance(probe, ViewProbe))
        self._cache.put_many([(request, probe) for request, probe in probes if request.assembly.believes(probe)])
        self._end_whole()

    def _arrived(self, request: ViewToEncode, result: ViewProbe | UnusableView) -> None:
        assembly = request.assembly
        assembly.take(request, result)
        self._come(request)
        if not assembly.waiting and not assembly.moved:
            self._whole.append(assembly)

    def _end_whole(self) -> None:
        whole, self._whole = self._whole, []
        ended = completed_together(whole, self._snapshot, self._matcher, keep_images=self._keep_images)
        for assembly, item in zip(whole, ended, strict=True):
            self._end(assembly.received, item)

    def _come(self, request: ViewToEncode) -> None:
        """A view is here, or not waited for: after the last one the job needs its engines no more."""
        request.assembly.waiting -= 1
        if not request.assembly.waiting:
            self._engines.ended(request.assembly.engines)

    def _may_move(self, request: ViewToEncode) -> bool:
        """In the slow lane the decoder's own deadline is the only one; nor is a job moved that is about to end."""
        return request.assembly.received.record.source.topic != self._slow_topic and not self._fetched.closed

    def _move_overdue(self) -> None:
        for straggler in self._late.overdue(time.monotonic()):
            assembly = straggler.request.assembly
            if not assembly.moved and self._may_move(straggler.request):
                assembly.moved = True
                detail = f"{straggler.request.view.view} takes long to decode"
                self._end(assembly.received, straggling(assembly.received, "embed", detail))
        for request in self._late.drop(lambda request: request.assembly.moved):
            self._come(request)

    def _end(self, received: Received, item: Settleable) -> None:
        self._starts.ended(received)
        self._hand_on(received, item)

    def _hand_on(self, received: Received, item: Settleable) -> None:
        """The images are decoded: their bytes go back to intake's budget."""
        self._release(received.held_bytes)
        self._settle.put(item)

    def _snapshot(self, tenant: str) -> GallerySnapshot:
        """A tenant's first job loads its gallery; while Postgres is away that waits, and intake with it."""
        while True:
            try:
                return self._gallery.snapshot(tenant)
            except ServiceUnavailable as outage:
                self._outage(outage)


def _poison(received: Received, deaths: Deaths) -> Rejected:
    """Its starts stay on record: should this process die before the letter is written, they are not counted afresh."""
    detail = f"worker processes died with it: {deaths.together} beside other jobs, then {deaths.alone} with it alone"
    return rejected(received, ErrorCode.POISON, "embed", detail)
