"""From a recipe to plans for the machine at hand: every candidate that passes its gate is built, held to FP32 on golden
images by the very plan that was written, and timed; the fastest is the engine to publish."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engines.catalogue import open_runner
from engines.drafts import Draft, MakingRefused, read_draft
from engines.errors import EngineRefused, RefusalCode
from engines.evaluating import images_per_s
from engines.gate import faults_of, proof_of
from engines.golden import golden_pixels
from engines.gpu.device import Device
from engines.gpu.encoder import GpuOptions
from engines.gpu.opened import Gpu
from engines.machine import this_machine
from engines.manifest import sha256_hex
from engines.photographs import photograph_files, read_photographs
from engines.plan_files import PlanFolder, PlanHeader
from engines.recipe import Candidate, Parity, Recipe
from engines.runner import EncoderOutputs, Runner

_TIMED_ON_A_CPU: Final = 32  # images; more only take longer there
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a recipe names, read once: `golden` uint8 [n,S,S,3]; `digests` by the recipe's paths."""

    fp32: Draft
    candidates: tuple[tuple[Candidate, Draft, bytes], ...]
    golden: NDArray[np.uint8]
    digests: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Raced:
    """One line of the race. `why` says what keeps a candidate out, and `yardstick` that it is the original without a
    report, timed to compare with; cosines are those of the plan to FP32, rates images a second by batch; `build_s` is
    0 where a plan was there already."""

    draft: str
    precision: str
    plan: str
    onnx_sha256: str
    why: str = ""
    yardstick: bool = False
    build_s: float = 0.0
    load_s: float = 0.0
    plan_bytes: int = 0
    cosines: tuple[tuple[str, float], ...] = ()
    rates: tuple[tuple[int, float], ...] = ()

    @property
    def best_rate(self) -> float:
        return self.rates[-1][1] if self.rates else 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The race's lines, the winner's draft with the recipe's profiles, its report where it has one, and the plan that
    serves it."""

    raced: tuple[Raced, ...]
    winner: Draft
    report: bytes
    line: Raced
    plans: tuple[tuple[PlanHeader, bytes], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where candidates run: the folder of the plans that are made, and the device where there is one."""

    recipe: Recipe
    folder: Path
    device: Device | None

    def opened(self, draft: Draft, compatible: bool) -> Runner:
        """From its plan where that is there, else built. Raises EngineRefused."""
        plans, options = PlanFolder(self.folder), GpuOptions(version_compatible=compatible)
        gpu = Gpu(device=self.device, plans=plans, options=options) if self.device is not None else None
        return open_runner(draft.unsigned(), self.recipe.backend, self.recipe.threads or None, gpu, plans)


def read_inputs(recipe: Recipe, root: Path) -> Inputs:
    """Paths are taken from `root`. Raises MakingRefused, for a digest that is not the pinned one among others."""
    fp32 = read_draft(root / recipe.fp32)
    if fp32.manifest.precision != "fp32":
        raise MakingRefused(f"{recipe.fp32} is {fp32.manifest.precision}", "name the FP32 draft as fp32")
    found = tuple(_candidate(recipe, one, fp32, root) for one in recipe.candidates)
    golden = _golden(recipe, fp32.manifest.preprocessing.size, root)
    digests = {recipe.fp32: fp32.manifest.onnx_sha256, "golden": sha256_hex(np.ascontiguousarray(golden).tobytes())}
    digests |= {one.draft: draft.manifest.onnx_sha256 for one, draft, _ in found}
    digests |= {one.report: sha256_hex(report) for one, _, report in found if one.report}
    recipe.refuse_other(digests, this_machine().versions)
    return Inputs(fp32=fp32, candidates=found, golden=golden, digests=digests)


def built(recipe: Recipe, inputs: Inputs, folder: Path, say: Say) -> Built:
    """Build, prove and race every candidate; plans are made in `folder`. Raises MakingRefused where none passes, and
    EngineRefused where the backend is not there."""
    with ExitStack() as closing:
        device = Device() if recipe.backend == "tensorrt" else None
        if device is not None:
            closing.callback(device.close)
        bench = Bench(recipe=recipe, folder=folder, device=device)
        exact = reference(inputs.fp32, inputs.golden)
        entered: list[tuple[Raced, Draft, Runner | None]] = []
        for one, draft, report in inputs.candidates:
            say(f"{one.draft}: {draft.manifest.precision}")
            entered += _entered(bench, one, draft, report, exact, inputs.golden)
            closing.callback(_close, [runner for _, d, runner in entered if d is draft and runner is not None])
        raced = _timed(entered, inputs.golden, recipe)
    return _chosen(recipe, inputs, raced, folder)


def reference(fp32: Draft, golden: NDArray[np.uint8]) -> EncoderOutputs:
    """What FP32 sees in the golden images, by the reference backend. Raises EngineRefused."""
    runner = open_runner(fp32.unsigned(), "onnxruntime")
    try:
        return runner.start(golden).result()
    finally:
        runner.close()


def cosines(got: EncoderOutputs, exact: EncoderOutputs) -> tuple[tuple[str, float], ...]:
    """Least cosine of embeddings and attention over the images, mean of patches."""
    found = {name: _cosine(getattr(got, name), getattr(exact, name)) for name in ("embedding", "patches")}
    attention = _cosine(got.attention.reshape(len(got.attention), -1), exact.attention.reshape(len(got.attention), -1))
    return (
        ("embedding", float(found["embedding"].min())),
        ("patches", float(found["patches"].mean())),
        ("attention", float(attention.min())),
    )


def departures(found: tuple[tuple[str, float], ...], parity: Parity) -> str:
    """Which outputs depart from FP32, "" for none; a NaN does, for no comparison with it holds."""
    bad = [(name, value) for name, value in found if not value >= getattr(parity, name)]
    return ", ".join(f"{name} {value:.5f} (at least {getattr(parity, name):g})" for name, value in bad)


def _cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(-1) / np.maximum(lengths, 1e-12))


def _candidate(recipe: Recipe, one: Candidate, fp32: Draft, root: Path) -> tuple[Candidate, Draft, bytes]:
    draft = read_draft(root / one.draft)
    if draft.manifest.name != recipe.name:
        raise MakingRefused(f"{one.draft} is {draft.manifest.name}, the recipe's name is {recipe.name}", "correct one")
    if draft.manifest.embedding_space != fp32.manifest.embedding_space:
        raise MakingRefused(
            f"{one.draft} is of another embedding space than {recipe.fp32}", "race drafts of one import"
        )
    if recipe.batches:
        draft = dataclasses.replace(draft, manifest=dataclasses.replace(draft.manifest, profiles=recipe.batches))
    try:
        return one, draft, (root / one.report).read_bytes() if one.report else b""
    except OSError as error:
        raise MakingRefused(f"{one.report} cannot be read ({error.strerror})", "name its evaluation.json") from error


def _golden(recipe: Recipe, size: int, root: Path) -> NDArray[np.uint8]:
    if not recipe.golden:
        return golden_pixels(size)
    files = photograph_files(root / recipe.golden)
    picked = np.sort(np.random.default_rng(recipe.seed).permutation(len(files))[: recipe.golden_images])
    found = read_photographs([files[at] for at in picked], size)
    if found.faults or not len(found.pixels):
        named = ", ".join(f"{name}: {why}" for name, why in found.faults[:3]) or "none"
        raise MakingRefused(f"golden photographs cannot be used: {named}", "take them out of the folder")
    return found.pixels


def _entered(
    bench: Bench, one: Candidate, draft: Draft, report: bytes, exact: EncoderOutputs, golden: NDArray[np.uint8]
) -> Iterator[tuple[Raced, Draft, Runner | None]]:
    """A candidate's plans, each open, or why it has none in the race."""
    for compatible in (False, True) if bench.recipe.version_compatible else (False,):
        plan = "version-compatible" if compatible else "plain"
        line = Raced(
            draft=one.draft,
            precision=draft.manifest.precision,
            plan=plan,
            onnx_sha256=draft.manifest.onnx_sha256,
            yardstick=bench.recipe.require_reports and not report and draft.manifest.precision == "fp32",
        )
        try:
            why = _unproven(bench.recipe, draft, report)
            line, runner = _opened(bench, draft, compatible, line) if not why else (line, None)
            if runner is not None:
                line = dataclasses.replace(line, cosines=cosines(runner.start(golden).result(), exact))
                why = departures(line.cosines, bench.recipe.parity)
        except EngineRefused as refusal:
            why, runner = str(refusal), None
        yield dataclasses.replace(line, why=why), draft, runner


def _unproven(recipe: Recipe, draft: Draft, report: bytes) -> str:
    """Why the gate keeps a candidate out. Raises EngineRefused for a report that is not its."""
    if not report:
        is_original = draft.manifest.precision == "fp32"
        return "" if is_original or not recipe.require_reports else "no report proves its accuracy"
    return "; ".join(faults_of(draft.manifest, proof_of(report, draft.manifest)))


def _opened(bench: Bench, draft: Draft, compatible: bool, line: Raced) -> tuple[Raced, Runner]:
    """Built, closed and opened again: what is proven and timed is what was read from the file. Raises EngineRefused."""
    before = _files(bench.folder)
    began = time.perf_counter()
    bench.opened(draft, compatible).close()
    build_s = time.perf_counter() - began
    written = _files(bench.folder)
    began = time.perf_counter()
    runner = bench.opened(draft, compatible)
    load_s = time.perf_counter() - began
    if _files(bench.folder).items() - written.items():  # it was made again, so the first one did not load
        runner.close()
        fix = "report the pair of engine and backend"
        raise EngineRefused(RefusalCode.OUTPUTS_UNEXPECTED, f"the plan of {line.draft} does not load back", fix)
    made = [bench.folder / name for name in written.keys() - before.keys()]
    size = sum(path.stat().st_size for path in made)
    return dataclasses.replace(line, build_s=build_s if made else 0.0, load_s=load_s, plan_bytes=size), runner


def _files(folder: Path) -> dict[str, int]:
    """Plans by name, with what tells a file from one that was put in its place."""
    return {path.name: path.stat().st_ino for path in folder.glob("*.plan")}


def _timed(
    entered: Sequence[tuple[Raced, Draft, Runner | None]], golden: NDArray[np.uint8], recipe: Recipe
) -> list[tuple[Raced, Draft]]:
    """Everyone's rate at every batch, those that passed taking turns on the same images."""
    running = {str(at): runner for at, (line, _, runner) in enumerate(entered) if runner is not None and not line.why}
    rates: dict[str, list[tuple[int, float]]] = {at: [] for at in running}
    profiles = sorted({batch for _, draft, _ in entered for batch in draft.manifest.profiles})
    for batch in profiles if running else ():
        if recipe.backend == "openvino" and batch > _TIMED_ON_A_CPU:
            continue
        pixels = np.resize(golden, (batch, *golden.shape[1:]))
        for at, rate in images_per_s(running, pixels, recipe.rounds).items():
            rates[at].append((batch, rate))
    return [
        (dataclasses.replace(line, rates=tuple(rates.get(str(at), ()))), draft)
        for at, (line, draft, _) in enumerate(entered)
    ]


def _chosen(recipe: Recipe, inputs: Inputs, raced: Sequence[tuple[Raced, Draft]], folder: Path) -> Built:
    """The fastest that passed; of version-compatible plans where the recipe asks for them."""
    wanted = "version-compatible" if recipe.version_compatible else "plain"
    able = [(line, draft) for line, draft in raced if not (line.why or line.yardstick) and line.plan == wanted]
    if not able:
        told = "; ".join(f"{line.draft} ({line.plan}): {_passed_over(line, wanted)}" for line, _ in raced)
        raise MakingRefused(f"no candidate passes: {told}", "mend what is named, or race other drafts")
    line, winner = max(able, key=lambda one: one[0].best_rate)
    plans = PlanFolder(folder)
    headers = [header for header in plans.headers() if header.onnx_sha256 == line.onnx_sha256]
    kept = [(header, plans.read(header) or b"") for header in headers if _is(header, wanted)]
    report = next(report for one, _, report in inputs.candidates if one.draft == line.draft)
    lines = tuple(one for one, _ in raced)
    return Built(raced=lines, winner=winner, report=report, line=line, plans=tuple(kept))


def _passed_over(line: Raced, wanted: str) -> str:
    return line.why or ("it has no report" if line.plan == wanted else f"the recipe wants {wanted} plans")


def _is(header: PlanHeader, plan: str) -> bool:
    return (dict(header.options).get("version_compatible") == "yes") == (plan == "version-compatible")


def _close(runners: Sequence[Runner]) -> None:
    for runner in runners:
        runner.close()
