"""Section `engine-life`: docs/engine-life.sh with TensorRT plans under load, fallback to the CPU and to the engine
before, and many swaps with the gap that they leave. Encoders and goods are the tests': with larger photographs the
engine whose ranges are wrong is hardly worse, and no canary could tell."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np

from benchmarks.gpu.machine import memory_used_mb
from benchmarks.gpu.record import Section
from benchmarks.gpu.script_commands import Commands
from benchmarks.gpu.standing import services
from demo.stand import WorkerProcess
from devstack import Addresses
from schemas.codec import decode_verdict
from schemas.verdict import VerdictEvent
from tests.engine_life.encoders import FAMILY
from tests.engine_life.running import Life, Load, new_life

ROUNDS: Final = 3
WITHIN_S: Final = 120.0
DID: Final = ("--by", "bench", "--why", "benchmarks.gpu.engine_life")
RELEASES: Final = """
SELECT state, extract(epoch FROM decided_at - started_at), decision->>'why'
FROM assay.engine_releases ORDER BY started_at
"""
BUCKET: Final = re.compile(r'^assay_engine_swap_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)
SWAPS: Final = "assay_engine_swap_seconds"

# `assay worker` that can open no engine on the backend REFUSED, as where a driver is gone.
REFUSES: Final = """
import os, sys
from engines import catalogue
from engines.errors import EngineRefused, RefusalCode
open_real = catalogue.open_runner

def refusing(engine, backend, *given, **more):
    if catalogue.chosen_backend(backend) == os.environ["REFUSED"]:
        raise EngineRefused(RefusalCode.BACKEND_UNAVAILABLE, "planted", "take the plant away")
    return open_real(engine, backend, *given, **more)

catalogue.open_runner = refusing
sys.argv = ["assay", "worker"]
from worker.cli.main import main
main()
"""


def engine_life_section(section: Section) -> None:
    backend = "openvino" if section.dry else "tensorrt"
    with services(section) as addresses, ExitStack() as closing:
        measured = Measured(section=section, addresses=addresses, backend=backend, closing=closing)
        measured.run()


@dataclass(slots=True, kw_only=True)
class Measured:
    section: Section
    addresses: Addresses
    backend: str
    closing: ExitStack
    life: Life = field(init=False)

    def run(self) -> None:
        step = self.section.step
        if step("prepare", 10, self.prepare) is None or step("life", 430, self.whole_life) is None:
            return
        step("fallback to the CPU", 20, self.to_cpu)
        step("fallback to the one before", 36, self.to_previous)
        step("swaps", 54, self.swaps)

    def prepare(self) -> str:
        folder = self.section.folder / "life"
        folder.mkdir()
        self.life = new_life(self.addresses, folder, settings={"ASSAY_ENGINES__BACKEND": self.backend})
        return f"on {self.backend}"

    def whole_life(self) -> dict[str, Any]:
        """The script, with a worker and jobs beside it."""
        life, commands = self.life, Commands(self.life.told)
        with life.script(BACKEND=self.backend, BATCHES="1, 8, 32") as script, commands.followed():
            life.wait_served(script)
            with life.workers(1) as (worker,):
                with life.jobs():
                    code = script.wait(max(self.section.left_s, 1.0))
                    gaps, used_mb = swap_gaps(worker.get("/metrics")), memory_used_mb()
                if code != 0:
                    raise RuntimeError(f"the script ended with {code}:\n{life.tail()}")
                answered = self.answered()
        builds = {path.parent.parent.name: _build(path) for path in sorted(life.folder.glob("work/*/built/build.json"))}
        self.section.fact("builds", builds)
        self.section.fact("commands of the life, s", commands.seconds())
        self._found(gaps)
        return {"swaps": gaps, "GPU MB": used_mb, "releases": self.releases(), "jobs": answered}

    def answered(self) -> dict[str, Any]:
        """How jobs were answered, so far: a worker must be there for those that are not."""
        events = self.events()
        counted = Counter(event.job_id for event in events)
        lost = {one.job_id for one in self.life.sent} | set(self.life.golden())
        lost -= counted.keys()
        engines = Counter(f"{e.digest[:12]} on {e.backend}" for event in events for e in event.provenance.engines)
        twice = sum(n > 1 for n in counted.values())
        self.section.fact("verdicts by engine", dict(engines))
        return {"sent": len(self.life.sent), "answered": len(counted), "lost": len(lost), "twice": twice}

    def events(self) -> list[VerdictEvent]:
        expected = len(self.life.sent) + len(self.life.golden())
        records = self.life.answers(expected)
        return [decode_verdict(record.value or b"", record.headers) for record in records]

    def releases(self) -> list[dict[str, Any]]:
        rows = self.life.rows(RELEASES)
        return [{"ended": state, "s": float(str(seconds)), "why": why} for state, seconds, why in rows]

    def swaps(self) -> dict[str, Any]:
        """A candidate comes and goes again and again under a steady load; how far verdicts lie apart then, and else."""
        self._publish()
        life = replace(
            self.life, load=Load(jobs=1, every_s=0.2 if self.section.dry else 0.02, side=self.life.load.side)
        )
        first = len(life.sent)
        with life.workers(1) as (worker,):
            with life.jobs():
                threading.Event().wait(5)
                calm = len(life.sent)
                for _ in range(2 if self.section.dry else ROUNDS):
                    self._turn(worker, "shadow", FAMILY, "--share", "50%")
                    self._turn(worker, "take-back", FAMILY)
                told = swap_gaps(worker.get("/metrics"))
            answered = self.answered()
        self._found(told)
        at = {event.job_id: event.judged_at.timestamp() for event in self.events()}
        parts = {"without": life.sent[first:calm], "with swaps": life.sent[calm:]}
        apart = {name: _apart([at[one.job_id] for one in jobs]) for name, jobs in parts.items()}
        return {"swaps": told, "ms between verdicts": apart, "jobs": answered}

    def _found(self, told: Mapping[str, float]) -> None:
        self.section.find("G20-swap", told["p99 ms"], f"the bound of its bucket; {told['swaps']:.0f} swaps, {told}")

    def _publish(self) -> None:
        """The first engine once more, as the newest version: what was current before it never comes back."""
        built = self.life.folder / "work" / "first" / "built"
        signed = ("--key", str(self.life.folder / "work" / "curator.pem"), "--report", str(built / "evaluation.json"))
        self._assay("publish", str(built / "engine"), FAMILY, *signed)
        self._assay("verify", FAMILY, "--backend", self.backend)

    def _assay(self, *command: str) -> None:
        self.life.stand.assay("engine", *command, *DID, env=self.life.stand.curator)

    def _turn(self, worker: WorkerProcess, *command: str) -> None:
        before = line_ups(worker)
        self._assay(*command)
        until = monotonic() + WITHIN_S
        while line_ups(worker) == before:
            if monotonic() > until:
                raise RuntimeError(f"no line-up after {command}:\n{worker.log_tail()}")
            threading.Event().wait(0.05)

    def to_previous(self) -> dict[str, Any]:
        """An engine becomes current whose file is then cut short: a worker that starts serves the one before, which is
        current again at the end."""
        self._publish()
        self._assay("promote", FAMILY)
        (row,) = self.life.rows("SELECT id FROM assay.engines WHERE state = 'current'")
        model = self.life.folder / "registry" / str(row[0]) / "model.onnx"
        whole = model.read_bytes()
        model.write_bytes(whole[: len(whole) // 2])
        try:
            return self._degraded(self.life.stand.worker("previous"))
        finally:
            model.write_bytes(whole)
            self._assay("rollback", FAMILY)

    def to_cpu(self) -> dict[str, Any]:
        """No engine opens on the usual backend: a worker that starts serves on the CPU's other one."""
        given = {**self.life.stand.environment, "REFUSED": self.backend, "ASSAY_KAFKA__INSTANCE": "cpu"}
        log = self.life.stand.folder / "cpu.log"
        return self._degraded(WorkerProcess.start(given, log, ("-c", REFUSES)))

    def _degraded(self, worker: WorkerProcess) -> dict[str, Any]:
        """What answers jobs meanwhile, and how long it took to be ready. Ends the worker."""
        began, first = monotonic(), len(self.life.sent)
        try:
            worker.wait_ready()
            ready_s = monotonic() - began
            with self.life.jobs():
                threading.Event().wait(3)
            late = {one.job_id for one in self.life.sent[first:]}
            events = [event for event in self.events() if event.job_id in late]
        finally:
            worker.stop()
        serving = Counter(f"{e.digest[:12]} on {e.backend}" for event in events for e in event.provenance.engines)
        degraded = sum(event.provenance.degraded for event in events)
        return {"ready s": round(ready_s, 2), "jobs": len(late), "degraded": degraded, "engines": dict(serving)}


def swap_gaps(page: str) -> dict[str, float]:
    """For how long swaps kept batches waiting, from a worker's metrics: `p99 ms` is the bound of its bucket."""
    total, seconds = (float(_value(page, f"{SWAPS}_{part}")) for part in ("count", "sum"))
    bounds = [(float(bound), float(count)) for bound, count in BUCKET.findall(page)]
    p99 = next((bound for bound, count in bounds if count >= 0.99 * total), float("inf"))
    return {"swaps": total, "mean ms": round(1e3 * seconds / total, 3) if total else 0.0, "p99 ms": 1e3 * p99}


def line_ups(worker: WorkerProcess) -> int:
    """How often a worker told what it serves with."""
    return worker.log.read_bytes()[worker.skip :].count(b'"engines_serve"')


def _value(page: str, name: str) -> str:
    found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the worker tells no {name}")
    return found[1]


def _apart(times: Sequence[float]) -> dict[str, float]:
    """Distances between neighbours, ms."""
    gaps = 1e3 * np.diff(np.sort(np.array(times)))
    if not len(gaps):
        return {}
    return {"median": float(np.median(gaps)), "p99": float(np.percentile(gaps, 99)), "most": float(gaps.max())}


def _build(path: Path) -> Mapping[str, Any]:
    """The race: what was taken, and each plan's parity and rate."""
    told = json.loads(path.read_text())
    kept = ("draft", "plan", "rates", "cosines", "build_s", "load_s", "plan_bytes", "why")
    return {"winner": told["winner"], "raced": [{key: line.get(key) for key in kept} for line in told["raced"]]}
