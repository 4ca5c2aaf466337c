"""Section `engines-FAMILY`: recipes raced as engines, the best built with more effort, beside torch.compile: G2, G3,
G4, G9, G10, G23, and the size of G19. Graphs are made on the CPU while the rival has the GPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.gpu.children import Child
from benchmarks.gpu.entries import Entry, entries_of, kept
from benchmarks.gpu.executing import Build, Engine, OrtEngine, Spec, TrtBuilder
from benchmarks.gpu.networks import FAMILIES, Family
from benchmarks.gpu.record import Section
from benchmarks.gpu.rival import cache_environment

RACE_BATCH: Final = 256
PARITY: Final = {
    "fp16": 0.999,
    "int8": 0.9,
    "fp8": 0.9,
}  # of random weights, whose activations few photographs calibrate
FINAL_EFFORT: Final = 2  # 3 takes minutes for a profile of several batches
SURE: Final = 3  # recipes that are raced whatever comes after
AFTER_S: Final = 190.0  # for what follows the race, of which most goals are made
RIVAL_S: Final = 75.0  # in which it begins with another batch; the best one comes first
RIVAL_SHARE: Final = 0.18  # of the section's time, at most


@dataclass(slots=True, kw_only=True)
class Raced:
    """One recipe's figures: images a second, seconds to build, lowest cosine to FP32."""

    recipe: Entry
    images_per_s: float
    build_s: float
    plan_mb: float
    cosine: float

    @property
    def fit(self) -> bool:
        return self.cosine >= PARITY[self.recipe.precision]


class EngineRace:
    """The steps of the section over one family."""

    def __init__(self, section: Section, family: Family) -> None:
        self.section = section
        self.family = family
        self.folder = section.folder / family.name
        self.batches = (1, 4) if section.dry else (8, 64, 128, 256, 512)
        self.race_batch = 4 if section.dry else RACE_BATCH
        self.build = self._builder()
        self.rival: dict[str, float] = {}
        self.raced: list[Raced] = []

    def _builder(self) -> Build:
        if self.section.dry:
            return OrtEngine
        return TrtBuilder(self.section.folder / "timing.cache")

    @property
    def entries(self) -> tuple[Entry, ...]:
        return entries_of(self.family.recipe)

    def run(self) -> None:
        self.beside_each_other()
        for place, recipe in enumerate(self.entries):
            needed_s = 25.0 + (AFTER_S if place >= SURE and not self.section.dry else 0.0)
            self.section.step(f"race: {recipe.name}", needed_s, partial(self.race, recipe))
        self.compare()
        self.section.step("final: best", 80, partial(self.final, "best"))
        self.compare()
        self.section.step("three outputs", 45, self.three_outputs)
        self.section.step("final: fp16", 60, partial(self.final, "fp16"))
        self.compare()

    def beside_each_other(self) -> None:
        """The rival on the GPU, the graphs on the CPU."""
        making = Child.started(
            "benchmarks.gpu.networks",
            (self.family.name, str(self.folder)),
            self.folder.parent / f"{self.family.name}.networks.log",
            {"CUDA_VISIBLE_DEVICES": ""},
        )
        if not self.section.dry:
            self.section.step("rival", 60, self.torch_compile)
        self.section.step("graphs", 20, lambda: self._made(making))

    def torch_compile(self) -> dict[str, float]:
        out = self.section.folder / f"{self.family.name}.rival.json"
        budget_s = min(RIVAL_S, RIVAL_SHARE * self.section.left_s)
        arguments = (self.family.name, "--out", str(out), "--budget", f"{budget_s:.0f}")
        caches = cache_environment(self.section.folder)
        child = Child.started("benchmarks.gpu.rival", arguments, out.with_suffix(".log"), caches)
        try:
            child.wait(budget_s + 45)
        finally:
            if out.exists():
                told = json.loads(out.read_text())
                self.rival = told["rates"]
                self.section.fact("rival", told)
        return self.rival

    def _made(self, child: Child) -> dict[str, Any]:
        child.wait(max(self.section.left_s, 30.0))
        told: dict[str, Any] = json.loads((self.folder / "prepared.json").read_text())
        share = told["int8_bytes"] / (self.folder / "draft" / f"{self.family.name}.onnx").stat().st_size
        if self.family.recipe == "residual":
            self.section.find("G19-size", share, f"INT8 initialisers, {told['int8_bytes'] / 1e6:.1f} MB")
        return told

    def race(self, recipe: Entry) -> dict[str, float]:
        """Build with little effort for the race's batch, check against FP32, and time."""
        spec = self._spec(recipe, (self.race_batch, self.race_batch, self.race_batch), effort=1)
        engine = self.build(spec)
        try:
            cosine = self._cosine(engine, self.race_batch)
            rates = {n: engine.images_per_s(self.race_batch, contexts=n) for n in (1, 2)}
            found = Raced(
                recipe=recipe,
                images_per_s=max(rates.values()),
                build_s=round(engine.build_s, 1),
                plan_mb=round(engine.plan_bytes / 1e6, 1),
                cosine=cosine,
            )
        finally:
            engine.close()
        self.raced.append(found)
        told = {"build_s": found.build_s, "plan_mb": found.plan_mb, "cosine": round(cosine, 5)}
        return {"img/s": round(rates[1]), "img/s, two contexts": round(rates[2]), **told}

    def final(self, kind: str) -> dict[str, object]:
        """The best recipe, or the best of FP16, with the builder's usual effort, by batch and by slots."""
        recipe = self._chosen(kind)
        engine = self.build(self._spec(recipe, (1, self.race_batch, self.batches[-1]), effort=FINAL_EFFORT))
        try:
            told = self._timed(engine, recipe)
        finally:
            engine.close()
        self.section.fact(f"final {kind}", told)
        return told

    def _timed(self, engine: Engine, recipe: Entry) -> dict[str, object]:
        told: dict[str, object] = {
            "recipe": recipe.name,
            "build_s": round(engine.build_s, 1),
            "plan_mb": round(engine.plan_bytes / 1e6, 1),
            "context_mb": getattr(engine, "context_mb", 0.0),
            "cosine": round(self._cosine(engine, self.race_batch), 5),
        }
        told["img/s"] = {str(b): round(engine.images_per_s(b)) for b in (1, *self.batches)}
        told["img/s, two contexts"] = {str(b): round(engine.images_per_s(b, contexts=2)) for b in self.batches}
        told["img/s, no graph"] = {str(b): round(engine.images_per_s(b, graph=False)) for b in self.batches}
        slots = {str(n): round(engine.images_per_s(self.batches[0], contexts=n)) for n in (1, 2, 3, 4)}
        told[f"img/s at batch {self.batches[0]} by slots"] = slots
        return told

    def three_outputs(self) -> dict[str, float]:
        """The best recipe with all outputs and with the embedding alone, alike in everything else."""
        recipe = self._chosen("best")
        rates: dict[str, float] = {}
        for name, outputs in (("embedding", ("embedding",)), ("three", ())):
            graph = kept(self.folder, recipe, outputs)
            batches = (self.race_batch, self.race_batch, self.race_batch)
            engine = self.build(Spec(graph=graph, batches=batches, typing=recipe.typing, effort=1))
            rates[name] = round(engine.images_per_s(self.race_batch, contexts=2))
            engine.close()
        ratio = rates["three"] / rates["embedding"]
        self.section.find("G23" if self.family.recipe == "residual" else "G23-vit", ratio, str(rates))
        return rates

    def compare(self) -> None:
        """What the figures so far say of the goals."""
        best, half = self._fastest("best"), self._fastest("fp16")
        rival = max(self.rival.values(), default=0.0)
        told = f"best engine {best:.0f}, FP16 engine {half:.0f}, torch.compile {rival:.0f} img/s"
        if rival and best and self.family.recipe == "residual":
            self.section.find("G2", best / rival, told)
        elif rival and best:
            self.section.find("G4", max(best, half) / rival, told)
        if half and best and self.family.recipe == "residual":
            self.section.find("G3", best / half, told)
        final = self.section.facts.get("final best")
        if final:
            one, all_rates = final["img/s"]["1"], final["img/s"].values()
            if self.family.recipe == "residual":
                slots = final[f"img/s at batch {self.batches[0]} by slots"]
                self.section.find("G9", max(all_rates) / one, str(final["img/s"]))
                self.section.find("G10", max(slots.values()) / slots["1"], str(slots))

    def _fastest(self, kind: str) -> float:
        """Images a second: of the final build where there is one, else of the race."""
        wanted = [r for r in self.raced if r.fit and (r.recipe.precision == "fp16") is (kind == "fp16")]
        raced = max((r.images_per_s for r in wanted), default=0.0)
        final = self.section.facts.get(f"final {kind}")
        if not final:
            return raced
        rates = [*final["img/s"].values(), *final["img/s, two contexts"].values(), raced]
        return float(max(rates))

    def _chosen(self, kind: str) -> Entry:
        """Raises ValueError where none of that kind ran and kept its parity."""
        fit = [r for r in self.raced if r.fit and (r.recipe.precision == "fp16") is (kind == "fp16")]
        if not fit:
            raise ValueError(f"no recipe of kind {kind} ran and held its parity")
        return max(fit, key=lambda r: r.images_per_s).recipe

    def _spec(self, recipe: Entry, batches: tuple[int, int, int], *, effort: int) -> Spec:
        graph = kept(self.folder, recipe, ("embedding",))
        return Spec(graph=graph, batches=batches, typing=recipe.typing, effort=effort)

    def _cosine(self, engine: Engine, batch: int) -> float:
        """Lowest over the reference images; they are repeated to fill the batch."""
        with np.load(self.folder / "reference.npz") as kept:
            images, wanted = kept["images"], kept["embedding"]
        places = np.arange(batch) % len(images)
        found = engine.embeddings(images[places])
        cosines = (found * wanted[places]).sum(-1) / np.linalg.norm(found, axis=-1).clip(1e-9)
        return float(cosines.min())


def engines_section(section: Section, name: str) -> None:
    EngineRace(section, FAMILIES[name]).run()
