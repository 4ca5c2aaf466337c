"""Section `latency`: one job at a time, Poisson load at shares of the most, device against CPU decoding, and cold
starts on one deployment: G7, G8, G11 and G20."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from benchmarks.gpu.loading import changed, saturated, started
from benchmarks.gpu.photographs import USUAL
from benchmarks.gpu.record import Section, record_path
from benchmarks.gpu.serving import Deployed, Load
from benchmarks.gpu.standing import standing
from benchmarks.open_loop import Due, Leg, job_id_of, run_plan, schedule
from demo.stand import ASSAY_WORKER, WorkerProcess
from schemas.job import AuthenticationJob
from worker.adapters.kafka_follower import KafkaFollower

SHARES: Final = (0.3, 0.5, 0.7, 0.85)
LEG_S: Final = 8.0
ALONE: Final = 60
COLD_STARTS: Final = 3
PERCENTILES: Final = (50, 95, 99)


@dataclass(slots=True, kw_only=True)
class Latency:
    """Legs over one deployment; each has a number, and so job ids, of its own."""

    section: Section
    place: Deployed
    load: Load
    legs: int = 0
    told: dict[str, dict[str, float]] = field(default_factory=dict)

    def most(self) -> float:
        """Jobs a second, as the end-to-end section had it, else from a short run."""
        if self.section.dry:
            return 4.0  # what any machine does
        path = record_path(self.section.folder, "e2e")
        kept = json.loads(path.read_text())["facts"].get("resnet50 by URI") if path.exists() else None
        return float(kept["jobs_per_s"]) if kept else saturated(self.place, self.load, 1500, "most").jobs_per_s

    def under_load(self, most: float, share: float) -> dict[str, float]:
        seconds = 2.0 if self.section.dry else LEG_S
        return self._leg(f"{share:.0%} of {most:.0f} jobs/s", schedule(most * share, 0.0, seconds, seed=self.legs))

    def alone(self, name: str) -> dict[str, float]:
        """Each sent after the one before was surely answered: a leg whose moments lie far apart."""
        apart_s, count = (1.0, 3) if self.section.dry else (0.12, ALONE)
        return self._leg(name, [Due(at_s=n * apart_s, good=True, number=n) for n in range(count)])

    def _leg(self, name: str, plan: Sequence[Due]) -> dict[str, float]:
        self.legs += 1
        number = self.legs

        def job_of(due: Due) -> AuthenticationJob:
            return self.load.job(due.number, job_id_of(due, number))

        leg = run_plan(self.place.settings.kafka, plan, job_of, name, number)
        self.told[name] = percentiles(leg)
        self.section.fact("latency, ms", self.told)
        return self.told[name]


def percentiles(leg: Leg) -> dict[str, float]:
    found = np.percentile(leg.delays_ms, PERCENTILES)
    told = {f"P{p}": round(float(v), 2) for p, v in zip(PERCENTILES, found, strict=True)}
    return {**told, "jobs": len(leg.delays_ms), "sent late at most": round(leg.sent_late_ms, 2)}


def latency_section(section: Section) -> None:
    engine = "tiny_resnet" if section.dry else "resnet50"
    with standing(section, (engine,)) as stand:
        if stand is not None and (place := stand.deployed(engine)) is not None:
            _measured(Latency(section=section, place=place, load=stand.load(USUAL)))


def _measured(latency: Latency) -> None:
    section = latency.section
    most = section.step("the most", 15, latency.most) or 0.0
    with _worker(latency.place):
        alone = section.step("one at a time", 20, partial(latency.alone, "one at a time"))
        for share in SHARES:
            found = section.step(f"load {share:.0%}", 15, partial(latency.under_load, most, share))
            if found and share == 0.7:
                for percentile in PERCENTILES:
                    section.find(f"G7-p{percentile}", found[f"P{percentile}"], str(found))
    if alone:
        section.find("G8", alone["P95"], str(alone))
    slow = section.step("one at a time, CPU decoding", 25, partial(_by_cpu, latency))
    if alone and slow:
        section.find("G11", alone["P50"] / slow["P50"], f"P50 {alone['P50']} and {slow['P50']} ms")
    starts = [section.step(f"cold start {n}", 12, partial(_cold, latency)) for n in range(COLD_STARTS)]
    known = sorted(s for s in starts if s is not None)
    if known:
        section.find("G20", known[len(known) // 2], str([round(s, 2) for s in known]))


def _by_cpu(latency: Latency) -> dict[str, float]:
    with _worker(latency.place, changed("cpu-decode")):
        return latency.alone("one at a time, CPU decoding")


@contextmanager
def _worker(place: Deployed, python: Sequence[str] = ASSAY_WORKER) -> Iterator[WorkerProcess]:
    worker = started(place, python)
    try:
        worker.wait_ready()
        yield worker
    finally:
        worker.stop()


def _cold(latency: Latency) -> float:
    """Seconds from the process's start to the verdict of a job that waits in the topic."""
    latency.legs += 1
    place, kafka = latency.place, latency.place.settings.kafka
    with KafkaFollower(kafka.client_config(), [kafka.topics.results, kafka.topics.dlq]) as follower:
        place.fill(latency.load, 1, f"cold-{latency.legs}")
        began = time.monotonic()
        worker = started(place)
        try:
            while follower.poll(0.5) is None:
                if worker.process.poll() is not None or time.monotonic() - began > 60:
                    raise RuntimeError(f"no verdict: {worker.log_tail()}")
            return time.monotonic() - began
        finally:
            worker.stop()
