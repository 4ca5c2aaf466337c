"""Sections `e2e`, `e2e-vit` and `e2e-demo`: from the jobs topic to the results topic on real services, with ResNet-50,
ViT-B/16 and the demo's encoder, beside its stages alone and two rivals over the same photographs: G1, G13, G14, G16,
G18, G19 and G22."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from benchmarks.gpu.children import Child
from benchmarks.gpu.loading import Run, changed, saturated
from benchmarks.gpu.machine import library_sizes_mb, memory_used_mb
from benchmarks.gpu.photographs import USUAL, Weight
from benchmarks.gpu.record import Section
from benchmarks.gpu.rival import cache_environment
from benchmarks.gpu.serving import DEMO, Deployed
from benchmarks.gpu.stage_rates import consume_rates, stage_rates
from benchmarks.gpu.standing import Standing, standing

PILOT_JOBS: Final = 600
SEVERAL: Final = (2, 4, 6, 8, 12)  # workers on one GPU, until more are not worth it
TIMED_S: Final = 10.0
APART_S: Final = 0.4  # a worker is ready later than the one before, which has the jobs to itself
INLINE_JOBS: Final = 3000  # of a megabyte
BUILDER: Final = "builder"
STAGES_S: Final = 10.0  # what steps take
NVJPEG_S: Final = 56.0
PILLOW_S: Final = 40.0
MAPLESS_S: Final = 36.0
CONSUME_S: Final = 8.0
RIVAL_S: Final = 150.0  # its compilation takes half a minute where the engines' section did not leave it
DRY: Final = {"resnet50": "tiny_resnet", "vit_b16": "tiny_resnet", DEMO: "tiny_resnet"}  # the rival knows no other
GOALS_BESIDE: Final = {
    ("resnet50", "pillow"): "G22-a",
    ("resnet50", "nvjpeg"): "G22-b-resnet",
    ("vit_b16", "nvjpeg"): "G22-b-vit",
}


@dataclass(slots=True, kw_only=True)
class EndToEnd:
    """One encoder behind a worker: what is set up once, and what was found."""

    section: Section
    stand: Standing
    engine: str
    served: str  # the engine itself, or in a dry run what stands for it
    place: Deployed
    rate: float = 0.0
    workers: int = 1

    def run(self, *, full: bool) -> None:
        """`full`: everything; else the rate and rival (b) alone. What has a goal goes first."""
        step = self.section.step
        if step(f"{self.engine}: pilot", 16, self.pilot) is None:
            return
        step(f"{self.engine}: by URI", 42 if full else 28, partial(self.main_run, full=full))
        self._most(self._later_s(full=full))
        if full and self.rate:
            self.section.find("G13", 1e3 / self.rate, f"{self.rate:.0f} jobs/s of {self.workers} workers on one GPU")
        if full:
            step(f"{self.engine}: stages alone", STAGES_S, self.stages)
        if (self.engine, "nvjpeg") in GOALS_BESIDE:
            step(f"{self.engine}: rival nvjpeg", NVJPEG_S, partial(self.rival, "nvjpeg"))
        if full:
            step(f"{self.engine}: rival pillow", PILLOW_S, partial(self.rival, "pillow"))
            step(f"{self.engine}: no maps", MAPLESS_S, self.without_maps)
            step(f"{self.engine}: consume", CONSUME_S, self.consume)
            step(f"{self.engine}: inline", 35, self.inline)
            step(f"{self.engine}: 3.4 bits a pixel", 35, self.heavy)

    def _most(self, later_s: float) -> None:
        """More and more workers, while they are worth it and leave `later_s` for what has goals."""
        for count in SEVERAL[: 1 if self.section.dry else None]:
            call = partial(self.several, count)
            if self.section.step(f"{self.engine}: {count} workers", 21 + 3 * count, call, kept_s=later_s) != count:
                break

    def _later_s(self, *, full: bool) -> float:
        """What the steps take that have goals and come after the search for the most."""
        rival = NVJPEG_S if (self.engine, "nvjpeg") in GOALS_BESIDE else 0.0
        return rival + (STAGES_S + PILLOW_S + MAPLESS_S + CONSUME_S if full else 0.0)

    def pilot(self) -> dict[str, object]:
        """A short run, to know how many jobs a timed one takes; it also builds the plan where none is kept."""
        jobs = 12 if self.section.dry else PILOT_JOBS
        run = self._saturated("pilot", jobs)
        self.rate = run.jobs_per_s
        return run.told()

    def main_run(self, *, full: bool) -> dict[str, object]:
        """By URI, 160 KB a photograph, one worker; the rate is of the part in which nothing is sampled."""
        run = self._saturated("uri", self._jobs(), gil=full)
        self.rate = run.jobs_per_s
        self.section.fact(f"{self.engine} by URI", run.told())
        if full:
            self._memory(run)
            if run.gil_us is not None:
                told = (
                    f"py-spy --gil at {run.sampled_jobs_per_s:.0f} jobs/s; with nothing sampled "
                    f"{run.worker_cpu_ms:.2f} ms of CPU a job at {run.jobs_per_s:.0f} jobs/s"
                )
                self.section.find("G14", run.gil_us, told)
        return run.told()

    def several(self, count: int) -> int:
        """How many are worth it: `count` where that many on the GPU answer more than fewer did, who are kept else."""
        jobs = 24 if self.section.dry else int(self.rate * 2 * TIMED_S)
        run = self._saturated(f"{count}-workers", jobs, workers=count)
        self.section.fact(f"{self.engine} by URI, {count} workers", run.told())
        if run.jobs_per_s > self.rate:
            self.rate, self.workers = run.jobs_per_s, count
        return self.workers

    def _saturated(self, name: str, jobs: int, weight: Weight = USUAL, **given: Any) -> Run:
        """By as many workers as were worth it, unless another number is given."""
        load = self.stand.load(weight, inline=given.pop("inline", False))
        return saturated(self.place, load, jobs, name, **{"workers": self.workers, **given})

    def without_maps(self) -> dict[str, object]:
        """The same load, and verdicts whose maps have one cell."""
        run = self._saturated("mapless", self._jobs(), python=changed("no-maps"))
        self.section.fact(f"{self.engine} no maps", run.told())
        told = f"{self.rate:.0f} and {run.jobs_per_s:.0f} jobs/s"
        self.section.find("G18", self.rate / run.jobs_per_s, told)
        return run.told()

    def _memory(self, run: Run) -> None:
        most, total = run.gpu.get("memory.most"), run.gpu.get("memory.total")
        if most and total:
            before = self.section.facts.get("GPU MB before", 0.0)
            told = f"most in use {most:.0f} of {total:.0f} MB, {before:.0f} MB before"
            self.section.find("G19-memory", (most - before) / 1e3, told)
            self.section.find("G19-free", 1 - most / total, told)
        sizes = library_sizes_mb()
        if sizes:
            alone = sum(size for name, size in sizes.items() if BUILDER not in name and "parser" not in name)
            self.section.find("G19-runtime", alone, str(sizes))

    def stages(self) -> dict[str, float]:
        """Each stage alone, jobs a second; the slowest bounds the whole."""
        rates = stage_rates(self.place, self.stand.load(USUAL), dry=self.section.dry)
        self.section.fact(f"{self.engine} stages alone, jobs/s", rates)
        slowest = min(rates, key=lambda name: rates[name])
        self.section.find("G1", self.rate / rates[slowest], f"slowest alone: {slowest}; {rates}")
        return rates

    def inline(self) -> dict[str, object]:
        run = self._saturated("inline", min(self._jobs(), 6000), inline=True)
        self.section.fact(f"{self.engine} inline", run.told())
        return run.told()

    def consume(self) -> dict[str, float]:
        """The worker's intake beside a bare poll loop, both over inline jobs."""
        load, jobs = self.stand.load(USUAL, inline=True), 24 if self.section.dry else INLINE_JOBS
        rates = consume_rates(self.place, load, jobs, warm=jobs // 10)
        self.section.find("G16", rates["worker's source"] / rates["bare poll"], str(rates))
        return rates

    def heavy(self) -> dict[str, object]:
        run = self._saturated("heavy", self._jobs() // 2, Weight(side=1024, bits=3.4))
        self.section.fact(f"{self.engine} 3.4 bits a pixel", run.told())
        return run.told()

    def rival(self, way: str) -> float:
        """Over what the runs left in the topic, first the photographs by URI."""
        kafka, addresses = self.place.settings.kafka, self.stand.addresses
        out = self.section.folder / f"{self.engine}.{way}.json"
        arguments = [way, self.served, "--bootstrap", addresses.kafka_bootstrap, "--topic", kafka.topics.jobs]
        arguments += ["--root", str(self.stand.files), "--out", str(out), "--seconds", "2" if self.section.dry else "8"]
        arguments += ["--batch", "12"] if self.section.dry else []
        child = Child.started(
            "benchmarks.gpu.rival_consumer", arguments, out.with_suffix(".log"), cache_environment(self.section.folder)
        )
        child.wait(min(RIVAL_S, max(self.section.left_s, 30.0)))
        rate = float(json.loads(out.read_text())["jobs_per_s"])
        self.section.fact(f"{self.engine} rival {way}, jobs/s", rate)
        self.section.find(GOALS_BESIDE[self.engine, way], self.rate / rate, f"{self.rate:.0f} and {rate:.1f} jobs/s")
        return rate

    def _jobs(self) -> int:
        """For some ten seconds of the workers that were worth it, once all of them are ready."""
        seconds = TIMED_S + APART_S * (self.workers - 1)
        return 24 if self.section.dry else int(min(max(self.rate * seconds, 500), 30_000))


def e2e_section(section: Section) -> None:
    _section(section, "resnet50", full=True)


def e2e_vit_section(section: Section) -> None:
    _section(section, "vit_b16", full=False)


def e2e_demo_section(section: Section) -> None:
    _section(section, DEMO, full=False)


def _section(section: Section, engine: str, *, full: bool) -> None:
    section.fact("GPU MB before", memory_used_mb())
    served = DRY[engine] if section.dry else engine
    with standing(section, (served,)) as stand:
        if stand is not None and (place := stand.deployed(served)) is not None:
            EndToEnd(section=section, stand=stand, engine=engine, served=served, place=place).run(full=full)
