"""Section `latency`: one job at a time, Poisson load at shares of the most, device against CPU decoding, and cold
starts on one deployment: G7, G8, G11 and G20."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.gpu.cold_start import TIMED_WORKER, ColdStart, cold_start
from benchmarks.gpu.loading import changed, saturated, started
from benchmarks.gpu.machine import source_digest
from benchmarks.gpu.photographs import USUAL
from benchmarks.gpu.record import Section, record_path
from benchmarks.gpu.serving import Deployed, Load
from benchmarks.gpu.standing import standing
from benchmarks.open_loop import Due, Leg, job_id_of, run_plan, schedule
from demo.stand import ASSAY_WORKER, WorkerProcess
from schemas.job import AuthenticationJob

SHARES: Final = (0.3, 0.5, 0.7, 0.85)
LEG_S: Final = 8.0
FIRST: Final = 20
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
        """Jobs a second of one worker, as the end-to-end section had it of this source, else from a short run."""
        if self.section.dry:
            return 4.0  # what any machine does
        kept = rate_by_uri(record_path(self.section.folder, "e2e"))
        return kept or saturated(self.place, self.load, 1500, "most").jobs_per_s

    def under_load(self, most: float, share: float) -> dict[str, float]:
        seconds = 2.0 if self.section.dry else LEG_S
        return self._leg(f"{share:.0%} of {most:.0f} jobs/s", schedule(most * share, 0.0, seconds, seed=self.legs))

    def alone(self, name: str) -> dict[str, float]:
        """Each sent after the one before was surely answered: a leg whose moments lie far apart. What a worker's first
        jobs take, which load and learn, is told apart."""
        apart_s, first, count = (1.0, 2, 3) if self.section.dry else (0.12, FIRST, ALONE)
        told = {}
        for title, jobs in ((f"{name}, the first", first), (name, count)):
            told = self._leg(title, [Due(at_s=n * apart_s, good=True, number=n) for n in range(jobs)])
        return told

    def _leg(self, name: str, plan: Sequence[Due]) -> dict[str, float]:
        self.legs += 1
        number = self.legs

        def job_of(due: Due) -> AuthenticationJob:
            return self.load.job(due.number, job_id_of(due, number))

        leg = run_plan(self.place.settings.kafka, plan, job_of, name, number)
        self.told[name] = percentiles(leg)
        self.section.fact("latency, ms", self.told)
        return self.told[name]


def rate_by_uri(path: Path) -> float | None:
    """Jobs a second of one worker while nothing samples it, from a record of this source; None without one."""
    facts = json.loads(path.read_text())["facts"] if path.exists() else {}
    if facts.get("environment", {}).get("digest") != source_digest() or "resnet50 by URI" not in facts:
        return None
    return float(facts["resnet50 by URI"]["jobs_per_s"])


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
    most = section.step("the most", 25, latency.most) or 0.0
    with _worker(latency.place):
        alone = section.step("one at a time", 14, partial(latency.alone, "one at a time"))
        for share in SHARES:
            found = section.step(f"load {share:.0%}", 10, partial(latency.under_load, most, share))
            if found and share == 0.7:
                for percentile in PERCENTILES:
                    section.find(f"G7-p{percentile}", found[f"P{percentile}"], str(found))
    if alone:
        section.find("G8", alone["P95"], str(alone))
    slow = section.step("one at a time, CPU decoding", 20, partial(_by_cpu, latency))
    if alone and slow:
        section.find("G11", alone["P50"] / slow["P50"], f"P50 {alone['P50']} and {slow['P50']} ms")
    starts = [section.step(f"cold start {n}", 10, partial(_cold_s, latency)) for n in range(COLD_STARTS)]
    known = sorted(s for s in starts if s is not None)
    if known:
        section.find("G20", known[len(known) // 2], str([round(s, 2) for s in known]))
    section.step("cold start in parts", 10, partial(_cold_parts, latency))


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


def _cold(latency: Latency, python: Sequence[str] = ASSAY_WORKER) -> ColdStart:
    latency.legs += 1
    return cold_start(latency.place, latency.load, f"cold-{latency.legs}", python)


def _cold_s(latency: Latency) -> float:
    return _cold(latency).seconds


def _cold_parts(latency: Latency) -> float:
    """One more, by a worker that tells of its parts; where they are told costs next to nothing."""
    start = _cold(latency, TIMED_WORKER)
    latency.section.fact("a cold start in parts, s", start.events)
    return start.seconds
