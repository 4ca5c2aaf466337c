"""`python -m benchmarks.host_path.parts`: CPU time a job of what stands around the device, part by part, no services.

The least of several rounds, so that other people's load counts little. It is of all threads that take part, and as the
device is hollow nearly all of it is Python. What comes before and after is in `python -m benchmarks.python_cost`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from benchmarks.gpu.serving import LOADED
from benchmarks.host import ROOT
from benchmarks.host_path.answers import NAME, Likeness
from benchmarks.host_path.deployment import CATEGORY, PROFILE, drawn_load, references
from benchmarks.host_path.worker import hollow_encoder
from demo.stand import TENANT
from schemas.job import AuthenticationJob
from schemas.message import InputRecord, Source
from worker.adapters.device_matcher import DeviceMatcher
from worker.adapters.encoder import SessionEncoder
from worker.adapters.images import RoutedImages
from worker.assembly import Assembly, ViewToEncode, assembly_of, completed_together
from worker.collecting import collect_seldom
from worker.core.courses import JobEngines
from worker.core.enrolment import build_snapshot
from worker.core.gallery import GallerySnapshot, reference_of
from worker.core.policy import Policy
from worker.work import Embedded, Fetched, Received

T = TypeVar("T")
VIEWS_A_BATCH: Final = int(LOADED["ASSAY_BATCH__MAX_IMAGES"])
ROUNDS: Final = 30


@dataclass(slots=True)
class Clock:
    """The least CPU time a job by part: of the calling thread, and of all others meanwhile."""

    jobs: int
    own_us: dict[str, float] = field(default_factory=dict)
    others_us: dict[str, float] = field(default_factory=dict)

    def time(self, part: str, work: Callable[[], T]) -> T:
        process_s, thread_s = time.process_time(), time.thread_time()
        made = work()
        own_s = time.thread_time() - thread_s
        others_s = time.process_time() - process_s - own_s
        self._note(self.own_us, part, own_s)
        self._note(self.others_us, part, others_s)
        return made

    def _note(self, least: dict[str, float], part: str, spent_s: float) -> None:
        us = spent_s / self.jobs * 1e6
        least[part] = min(us, least.get(part, us))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_path.parts", description=__doc__)
    parser.add_argument("--likeness", choices=("near", "far"), default="near")
    given = parser.parse_args()
    clock = measured(given.likeness)
    print(f"us a job, {given.likeness}: the thread's own, and what others did for it meanwhile")
    for part, own_us in clock.own_us.items():
        print(f"{part:<28} {own_us:8.0f} {clock.others_us[part]:8.0f}")


def measured(likeness: Likeness) -> Clock:
    root = ROOT / ".cache" / "bench" / "host" / "photographs"
    load = drawn_load(root, VIEWS_A_BATCH // 6)
    jobs = [_received(load.job(number, f"job-{number}"), number) for number in range(len(load.items))]
    gallery = snapshot()
    clock = Clock(len(jobs))
    images = RoutedImages(max_bytes=1 << 24, file_root=root)
    encoder = hollow_encoder(likeness)
    assert encoder.device is not None
    matcher = DeviceMatcher(encoder.device)
    collect_seldom()
    try:
        for _ in range(ROUNDS):
            _round(clock, jobs, images, encoder, matcher, gallery)
    finally:
        matcher.close()
        encoder.close()
    return clock


def _round(
    clock: Clock,
    jobs: Sequence[Received],
    images: RoutedImages,
    encoder: SessionEncoder,
    matcher: DeviceMatcher,
    gallery: GallerySnapshot,
) -> None:
    """What fetch and embed do with a batch."""
    fetched = clock.time("fetch", lambda: [_fetched(images, job) for job in jobs])
    begun = clock.time("begin", lambda: [_begun(job) for job in fetched])
    views = [view for _, some in begun for view in some]
    pending = clock.time("start a batch", lambda: encoder.start(views))
    time.sleep(0.05)  # the device's threads are done: what follows is the reader's own
    answers = clock.time("read a batch", pending.result)
    for view, answer in zip(views, answers, strict=True):
        view.assembly.results[view.view.view, view.encoder] = answer
    assemblies = [assembly for assembly, _ in begun]
    ended = clock.time("compare and complete", lambda: _completed(assemblies, gallery, matcher))
    assert all(isinstance(one, Embedded) for one in ended)


def _completed(assemblies: Sequence[Assembly], gallery: GallerySnapshot, matcher: DeviceMatcher) -> list[object]:
    return list(completed_together(assemblies, lambda _: gallery, matcher, keep_images=False))


def _begun(fetched: Fetched) -> tuple[Assembly, list[ViewToEncode]]:
    return assembly_of(fetched, JobEngines(), [NAME] * len(fetched.images))


def _fetched(images: RoutedImages, received: Received) -> Fetched:
    found = [(view, images.fetch(received.job, view)) for view in received.job.views]
    blobs = tuple((view, blob) for view, blob in found if isinstance(blob, bytes))
    return Fetched(received=received, images=blobs, unusable=(), queue_ms=0.0, fetch_ms=0.0)


def _received(job: AuthenticationJob, number: int) -> Received:
    source = Source(topic="jobs", partition=0, offset=number)
    record = InputRecord(source=source, epoch=0, key=b"", value=b"", headers=(), timestamp_ms=0)
    return Received(
        record=record, job=job, attempt=1, first_seen=job.submitted_at, received_s=time.monotonic(), held_bytes=0
    )


def snapshot() -> GallerySnapshot:
    """The gallery of the deployment, without a database."""
    enrolled = [
        reference_of(new.probe, reference_id=f"{number:036x}", sku=new.sku, category=CATEGORY, genuine=new.genuine)
        for number, new in enumerate(references())
    ]
    return build_snapshot(TENANT, 1, enrolled, Policy(profiles={CATEGORY: PROFILE}))


if __name__ == "__main__":
    main()
