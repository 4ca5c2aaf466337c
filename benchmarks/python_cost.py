"""What a job costs in Python alone (G14): the stages' own code on synthetic values, without services or engines.

    python -m benchmarks.python_cost [--jobs 40] [--out FILE]

One thread, its CPU time, the least of several rounds: what holds the interpreter is this, less what NumPy, hashlib
and fastavro let go of. Polling, COPY's own formatting and the producer are not in it. The policy has no score
calibration.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.host import host_facts
from schemas.codec import encode_job, encode_verdict, parse_job
from schemas.job import AuthenticationJob, JobView
from schemas.message import InputRecord, OutputRecord, Source
from schemas.verdict import EngineUse, ReferenceMatch
from worker.adapters import verdict_rows
from worker.adapters.memory_caches import NoEvidence
from worker.adapters.outputs import Answer, answer_record
from worker.core.evidence import JobEvidence, ViewMatch, ViewProbe
from worker.core.gallery import GallerySnapshot
from worker.core.policy import CategoryProfile, Policy, ViewRequirement
from worker.judging import JudgeStage
from worker.observe import Meter
from worker.outcomes import Judged
from worker.tracing import no_traces
from worker.work import Embedded, Received

VIEWS = ("logo", "stitching", "hardware", "serial", "lining", "overview")
GRID = (28, 28)
ROUNDS = 60
ENGINE = EngineUse(name="resnet18", digest="d" * 64, backend="tensorrt", precision="int8", embedding_space="s" * 64)
POLICY = Policy(
    profiles={
        "bag": CategoryProfile(
            category="bag",
            views=tuple(ViewRequirement(view=view, required=True) for view in VIEWS),
            alpha_accept=0.05,
            alpha_reject=0.05,
        )
    }
)
GALLERY = GallerySnapshot(tenant="demo", revision=1, sets={}, indexes={}, sku_category={}, policy=POLICY)
T = TypeVar("T")


@dataclass(slots=True)
class Clock:
    """The least CPU time a job of each part."""

    jobs: int
    least_us: dict[str, float]

    def time(self, name: str, work: Callable[[], T]) -> T:
        started_s = time.thread_time()
        done = work()
        spent_us = (time.thread_time() - started_s) * 1e6 / self.jobs
        self.least_us[name] = min(spent_us, self.least_us.get(name, spent_us))
        return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    spent = measured(given.jobs)
    width = max(map(len, spent))
    for name, least_us in spent.items():
        print(f"{name:<{width}} {least_us:8.1f} us a job")
    print(f"{'all':<{width}} {sum(spent.values()):8.1f} us a job")
    if given.out is not None:
        given.out.write_text(json.dumps({"us a job": spent, "host": host_facts()}, indent=2) + "\n")


def measured(jobs: int) -> dict[str, float]:
    """Microseconds a job by part."""
    records = [_record(number) for number in range(jobs)]
    judge = JudgeStage(evidence=NoEvidence(), keep="off", build="bench", meter=Meter(), trace=no_traces)
    clock = Clock(jobs, {})
    matches = [_matches(number) for number in range(jobs)]
    for _ in range(ROUNDS):
        parsed = clock.time("parse", lambda: [parse_job(record, max_bytes=1 << 20) for record in records])
        embedded = [_embedded(*one) for one in zip(records, parsed, matches, strict=True)]
        judged = clock.time("judge and build the event", partial(_judged, judge, embedded))
        answers = clock.time("encode the verdict", partial(_answers, judged))
        pairs = list(zip(judged, answers, strict=True))
        clock.time("rows of the verdict", partial(_rows, pairs))
        clock.time("output record", partial(_records, pairs))
    return clock.least_us


def _judged(stage: JudgeStage, embedded: Sequence[Embedded]) -> list[Judged]:
    """In groups of twenty, as they are settled under load."""
    groups = (embedded[first : first + 20] for first in range(0, len(embedded), 20))
    return [outcome for group in groups for outcome in stage(group) if isinstance(outcome, Judged)]


def _answer(outcome: Judged) -> Answer:
    encoded = encode_verdict(outcome.event, encoding="avro", source="bench")
    return Answer(key=encoded.key, value=encoded.value, headers=encoded.headers)


def _answers(judged: Sequence[Judged]) -> list[Answer]:
    return [_answer(one) for one in judged]


def _records(pairs: Sequence[tuple[Judged, Answer]]) -> list[OutputRecord]:
    return [answer_record(answer, one.record, topic="r") for one, answer in pairs]


def _rows(judged: Sequence[tuple[Judged, Answer]]) -> int:
    return sum(len(rows) for _, rows in verdict_rows.rows_of(judged))


def _record(number: int) -> InputRecord:
    views = tuple(
        JobView(view=view, sha256=f"{number:032x}{at:032x}", uri=f"file:/{number}/{view}.jpg")
        for at, view in enumerate(VIEWS)
    )
    job = AuthenticationJob(
        job_id=f"job-{number}", tenant="demo", sku="bag-1", category="bag", submitted_at=datetime.now(UTC), views=views,
        payload_digest="",
    )  # fmt: skip
    encoded = encode_job(job, encoding="avro", source="bench")
    source = Source(topic="jobs", partition=0, offset=number)
    return InputRecord(
        source=source, epoch=0, key=encoded.key, value=encoded.value, headers=encoded.headers, timestamp_ms=0
    )


def _matches(number: int) -> tuple[ViewMatch, ...]:
    rng = np.random.default_rng(number)
    return tuple(_match(rng, view, f"{number:032x}{at:032x}") for at, view in enumerate(VIEWS))


def _match(rng: np.random.Generator, view: str, sha256: str) -> ViewMatch:
    embedding = rng.standard_normal(512).astype(np.float32)
    probe = ViewProbe(
        view=view,
        sha256=sha256,
        engine=ENGINE,
        embedding=embedding / np.linalg.norm(embedding),
        patches=np.zeros((1, 1), np.float32),
        patch_grid=GRID,
        attention=np.full(GRID, 1 / (GRID[0] * GRID[1]), np.float32),
        quality={"sharpness": 120.0, "brightness": 0.5, "glare": 0.01, "clipped_low": 0.0, "clipped_high": 0.0},
        phash=int(rng.integers(2**63)),
        source_size=(1024, 1024),
    )
    return ViewMatch(
        probe=probe,
        references=tuple(ReferenceMatch(reference_id=f"{at:036x}", similarity=0.9 - at / 100) for at in range(5)),
        similarity=0.9,
        other_sku="bag-2",
        other_sku_similarity=0.5,
        deviation=1.3,
        deviation_map=rng.random(GRID).astype(np.float32),
        aligned=True,
        role_similarity=dict.fromkeys(VIEWS, 0.4) | {view: 0.9},
        nearness=1.0,
        reference_count=5,
    )


def _embedded(record: InputRecord, job: AuthenticationJob, matches: tuple[ViewMatch, ...]) -> Embedded:
    evidence = JobEvidence(job=job, matches=matches, unusable=(), nearest_skus=("bag-2",), gallery_revision=1)
    received = Received(
        record=record, job=job, attempt=1, first_seen=datetime.now(UTC), received_s=time.monotonic(), held_bytes=0
    )
    return Embedded(received=received, evidence=evidence, policy=POLICY)


if __name__ == "__main__":
    main()
