"""Section `e2e`: from the jobs topic to the results topic on real services, beside its stages alone and two rivals over
the same photographs: G1, G13, G14, G16, G18, G19 and G22."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.gpu.children import Child
from benchmarks.gpu.loading import Run, saturated
from benchmarks.gpu.machine import library_sizes_mb, memory_used_mb
from benchmarks.gpu.networks import FAMILIES
from benchmarks.gpu.photographs import USUAL, GpuGoods, Weight, rendered_goods
from benchmarks.gpu.record import Section
from benchmarks.gpu.serving import DEMO, Deployed, Load, deployed, load_of, serving_of
from benchmarks.gpu.stage_rates import consume_rates, stage_rates
from devstack import Addresses, Devstack
from worker.observe import configure_logs

PILOT_JOBS: Final = 1000
TIMED_S: Final = 10.0
VIEWS: Final = 6
BUILDER: Final = "builder"


@dataclass(slots=True, kw_only=True)
class EndToEnd:
    """One encoder behind a worker: what is set up once, and what was found."""

    section: Section
    addresses: Addresses
    goods: GpuGoods
    engine: str
    place: Deployed | None = None
    rate: float = 0.0
    best: Run | None = None

    @property
    def files(self) -> Path:
        return self.section.folder / "files"

    def run(self, *, full: bool) -> None:
        """`full`: everything; else the rate and rival (b) alone."""
        step = partial(self.section.step)
        self.place = step(f"{self.engine}: deploy", 30, self.deploy)
        if self.place is None:
            return
        if step(f"{self.engine}: pilot", 15, self.pilot) is None:
            return
        step(f"{self.engine}: by URI", 30, partial(self.main_run, gil=full))
        if full:
            step(f"{self.engine}: stages alone", 30, self.stages)
            step(f"{self.engine}: inline", 35, self.inline)
            step(f"{self.engine}: consume", 15, self.consume)
            step(f"{self.engine}: 3.4 bits a pixel", 35, self.heavy)
        for way in ("nvjpeg", "pillow") if full else ("nvjpeg",):
            step(f"{self.engine}: rival {way}", 45, partial(self.rival, way))

    def deploy(self) -> Deployed:
        serving = serving_of(self.engine, self.section.folder, dry=self.section.dry)
        return deployed(self.addresses, self.section.folder / f"stand-{self.engine}", self.goods, serving, self.files)

    def pilot(self) -> dict[str, object]:
        """A short run, to know how many jobs a timed one takes; it also builds the plan where none is kept."""
        jobs = 12 if self.section.dry else PILOT_JOBS
        run = saturated(self._place, self._load(USUAL), jobs, "pilot")
        self.rate = run.jobs_per_s
        return run.told()

    def main_run(self, *, gil: bool) -> dict[str, object]:
        """By URI, 160 KB a photograph."""
        run = saturated(self._place, self._load(USUAL), self._jobs(), "uri", gil=gil and not self.section.dry)
        self.rate, self.best = run.jobs_per_s, run
        self.section.fact(f"{self.engine} by URI", run.told())
        if self.engine == "resnet50" or self.section.dry:
            self.section.find("G13", 1e3 / run.jobs_per_s, f"{run.jobs_per_s:.0f} jobs/s on one GPU; {dict(run.gpu)}")
            self._memory(run)
            if run.gil_us is not None:
                self.section.find("G14", run.gil_us)
        return run.told()

    def _memory(self, run: Run) -> None:
        most, total = run.gpu.get("memory.most"), run.gpu.get("memory.total")
        if most and total:
            self.section.find("G19-memory", (most - self.section.facts.get("GPU MB before", 0.0)) / 1e3)
            self.section.find("G19-free", 1 - most / total)
        sizes = library_sizes_mb()
        if sizes:
            alone = sum(size for name, size in sizes.items() if BUILDER not in name and "parser" not in name)
            self.section.find("G19-runtime", alone, str(sizes))

    def stages(self) -> dict[str, float]:
        """Each stage alone, jobs a second; the slowest bounds the whole."""
        rates = stage_rates(self._place, self._load(USUAL), dry=self.section.dry)
        self.section.fact(f"{self.engine} stages alone, jobs/s", rates)
        slowest = min(rates, key=lambda name: rates[name])
        if self.engine == "resnet50" or self.section.dry:
            self.section.find("G1", self.rate / rates[slowest], f"slowest alone: {slowest}; {rates}")
        return rates

    def inline(self) -> dict[str, object]:
        load = load_of(self.goods, USUAL, self.files, inline=True)
        run = saturated(self._place, load, min(self._jobs(), 4000), "inline")
        self.section.fact(f"{self.engine} inline", run.told())
        return run.told()

    def consume(self) -> dict[str, float]:
        """The worker's intake beside a bare poll loop, both over the inline jobs that lie in the topic."""
        rates = consume_rates(self._place, warm=5 if self.section.dry else 100)
        self.section.find("G16", rates["worker's source"] / rates["bare poll"], str(rates))
        return rates

    def heavy(self) -> dict[str, object]:
        run = saturated(self._place, self._load(Weight(side=1024, bits=3.4)), self._jobs() // 2, "heavy")
        self.section.fact(f"{self.engine} 3.4 bits a pixel", run.told())
        return run.told()

    def rival(self, way: str) -> float:
        """Over what the runs left in the topic, first the photographs by URI."""
        kafka = self._place.settings.kafka
        out = self.section.folder / f"{self.engine}.{way}.json"
        family = "demo_resnet18" if self.engine == DEMO else self.engine
        arguments = [way, family, "--bootstrap", self.addresses.kafka_bootstrap, "--topic", kafka.topics.jobs]
        arguments += ["--root", str(self.files), "--out", str(out), "--seconds", "2" if self.section.dry else "8"]
        arguments += ["--batch", "12"] if self.section.dry else []
        Child.started("benchmarks.gpu.rival_consumer", arguments, out.with_suffix(".log")).wait(120)
        rate = float(json.loads(out.read_text())["jobs_per_s"])
        self.section.fact(f"{self.engine} rival {way}, jobs/s", rate)
        found = {
            ("resnet50", "pillow"): "G22-a",
            ("resnet50", "nvjpeg"): "G22-b-resnet",
            ("vit_b16", "nvjpeg"): "G22-b-vit",
        }
        if (goal := found.get((self.engine, way))) is not None:
            self.section.find(goal, self.rate / rate, f"{self.rate:.0f} and {rate:.1f} jobs/s")
        return rate

    def _load(self, weight: Weight) -> Load:
        return load_of(self.goods, weight, self.files)

    def _jobs(self) -> int:
        return 24 if self.section.dry else int(min(max(self.rate * TIMED_S, 500), 30_000))

    @property
    def _place(self) -> Deployed:
        assert self.place is not None
        return self.place


@contextmanager
def services(section: Section) -> Iterator[Addresses]:
    """Kafka and PostgreSQL of this section's own, stopped and forgotten at its end."""
    configure_logs(level="warning", form="console")
    stack = Devstack(section.folder / "stack", report=lambda line: print(line, flush=True))
    try:
        with stack.session() as addresses:
            yield addresses
    finally:
        stack.reset()


def prepared(section: Section, names: tuple[str, ...]) -> None:
    """Make the graphs of networks that an engines section did not leave here."""
    waiting = [n for n in names if n in FAMILIES and not (section.folder / n / "prepared.json").exists()]
    logs = [section.folder / f"{name}.networks.log" for name in waiting]
    children = [
        Child.started("benchmarks.gpu.networks", (n, str(section.folder / n)), log, {"CUDA_VISIBLE_DEVICES": ""})
        for n, log in zip(waiting, logs, strict=True)
    ]
    for child in children:
        child.wait(300)


def e2e_section(section: Section, names: tuple[str, ...] = ("resnet50", "vit_b16", DEMO)) -> None:
    engines = ("tiny_resnet",) if section.dry else names
    section.fact("GPU MB before", memory_used_mb())
    goods = section.step("render", 20, lambda: goods_of(section))
    section.step("graphs", 20, lambda: prepared(section, engines))
    if goods is None:
        return
    with services(section) as addresses:
        for place, engine in enumerate(engines):
            EndToEnd(section=section, addresses=addresses, goods=goods, engine=engine).run(full=place == 0)


def goods_of(section: Section) -> GpuGoods:
    return rendered_goods(skus=1, specimens=3) if section.dry else rendered_goods()
