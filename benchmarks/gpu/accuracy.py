"""Section `accuracy`: ResNet-50 and ViT-B/16 trained briefly on rendered goods, quantised by the recipes that were
raced, built, held against FP32 and timed, all of the same engine files: G5."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.gpu.entries import Entry, entries_of
from benchmarks.gpu.executing import Engine, OrtEngine, Spec, TrtBuilder
from benchmarks.gpu.networks import FAMILIES, MEAN, STD, Family
from benchmarks.gpu.record import Section, record_path
from demo.train.layout import RESERVED_SKUS, VIEWS_A_SKU, Dataset, Kind, arrays, group_key, load, save_index
from demo.train.renders import render_set
from engines import evaluating as ev
from engines import recipes
from engines.drafts import Draft
from engines.importing import ImportRequest, imported
from engines.importing_preprocess import Wanted
from engines.importing_torch import exported
from engines.photographs import Photographs
from engines.preprocess import normalised
from engines.quantize import plan_for, quantize
from engines.quantizing import QuantizeRequest, Trial

RENDER_SHARE: Final = 0.26  # of the section's time
TRAIN_SHARE: Final = {"resnet50": 0.2, "vit_b16": 0.27, "tiny_resnet": 0.1}
GENUINE: Final = 4  # slots of a group that show genuine specimens; the first is the reference
CALIBRATED_ON: Final = 160
BATCH: Final = 128
DRY: Final = Family(name="tiny_resnet", library="torchvision", model="resnet18", recipe="residual", size=64)


def accuracy_section(section: Section) -> None:
    families = [DRY] if section.dry else [FAMILIES["resnet50"], FAMILIES["vit_b16"]]
    budget_s, data = section.left_s, _data_folder(section)
    if section.step("render", 30, partial(_render, data, RENDER_SHARE * budget_s, section.dry)) is None:
        return
    try:
        for family in families:
            section.step(family.name, 20 if section.dry else 100, partial(_family, section, family, data, budget_s))
    finally:
        shutil.rmtree(data / "work", ignore_errors=True)


def _data_folder(section: Section) -> Path:
    """Memory where there is room for 15 GB of pixels."""
    shared = Path("/dev/shm")  # noqa: S108 (a folder of ours below it)
    roomy = shared.exists() and shutil.disk_usage(shared).free > 3e10 and not section.dry
    return (shared if roomy else section.folder) / "assay-accuracy"


def _render(data: Path, seconds: float, dry: bool) -> dict[str, int]:
    if dry:
        return {"test SKUs": _noise(data, "eval", 3), "SKUs": _noise(data, "train", RESERVED_SKUS + 2)}
    workers = len(os.sched_getaffinity(0))
    test = render_set(data, "eval", range(120), seconds / 2, workers)
    return {"test SKUs": test, "SKUs": render_set(data, "train", range(400), seconds, workers)}


def _noise(data: Path, kind: Kind, skus: int) -> int:
    """A set in the renderer's layout without its pictures, for dry runs."""
    data.mkdir(parents=True, exist_ok=True)
    pixels, masks = arrays(data, kind, skus, "w+")
    rng = np.random.default_rng(1)
    for place in range(len(pixels)):
        pixels[place] = rng.integers(0, 256, (1, 14, 14, 3), np.uint8).repeat(32, 1).repeat(32, 2)
    masks[:] = 0
    save_index(data, kind, skus, list(range(skus)), [["", ""]] * (skus * VIEWS_A_SKU), complete=True)
    return skus


def _family(section: Section, family: Family, data: Path, budget_s: float) -> dict[str, object]:
    """Train, quantise, build, compare, time."""
    import torch

    from benchmarks.gpu.training import embedded, squares, trained
    from demo.train.store import Store

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, test = load(data, "train"), load(data, "eval")
    until_s = monotonic() + TRAIN_SHARE[family.name] * budget_s
    store = Store(data, device)
    store.follow().join()
    network, run = trained(family, store, groups=2 if section.dry else 28, until_s=until_s, device=device)
    del store
    pixels = squares(
        torch.from_numpy(np.ascontiguousarray(test.pixels[test.groups][:, :GENUINE])).flatten(0, 1), family.size
    )
    exact = np.concatenate(
        [embedded(network, pixels[n : n + 256].to(device)).cpu().numpy() for n in range(0, len(pixels), 256)]
    )
    draft = _draft(family, network, data / "work")
    reserved = _reserved(train, family.size)
    model, told = _quantised(section, family, draft, reserved)
    engine, recipe = _built(section, family, model)
    try:
        images = normalised(pixels.numpy(), draft.manifest.preprocessing)
        coarse = np.concatenate(
            [engine.embeddings(_filled(images[n : n + BATCH])) for n in range(0, len(images), BATCH)]
        )
        rates = {str(b): round(engine.images_per_s(b)) for b in ((4,) if section.dry else (64, 128))}
    finally:
        engine.close()
    found = _compared(test, exact, coarse[: len(exact)])
    _find(section, family, found)
    return {"run": run, "recipe": recipe.name, "img/s": rates, **found, **told}


def _filled(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The last batch, filled up with its first image: the plan is for one size."""
    missing = BATCH - len(images)
    return np.concatenate([images, images[:1].repeat(missing, 0)]) if missing else images


def _draft(family: Family, network: Any, folder: Path) -> Draft:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"{family.name}.pt"
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, weights)
    library: Any = family.library
    raw, wanted = exported(library, family.model, weights, family.size)
    said = Wanted(size=family.size, mean=MEAN, std=STD)
    return imported(raw, ImportRequest(name=family.name, wanted=said.over(wanted)))


def _reserved(train: Dataset, size: int) -> Photographs:
    """Photographs of SKUs that were not trained on: they set the ranges, every fifth is held out."""
    import torch

    from benchmarks.gpu.training import squares

    groups = [g for g in train.groups if g // VIEWS_A_SKU < RESERVED_SKUS]
    chosen = np.ascontiguousarray(train.pixels[groups]).reshape(-1, *train.pixels.shape[2:])
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(CALIBRATED_ON, len(chosen))).astype(int)]
    pixels = squares(torch.from_numpy(chosen), size).numpy()
    digests = tuple(hashlib.sha256(p.tobytes()).hexdigest() for p in pixels)
    return Photographs(pixels=pixels, digests=digests, faults=(), duplicates=0)


def _quantised(
    section: Section, family: Family, draft: Draft, photographs: Photographs
) -> tuple[Any, dict[str, object]]:
    """The graph of the recipe that is to be served, ranges by the method that keeps embeddings nearest; FP8 takes its
    ranges from the same photographs."""
    recipe = _recipe(section, family)
    trial = Trial(draft, photographs, QuantizeRequest())
    trial.observe()
    method, compared = trial.best_method()
    told: dict[str, object] = {
        "method": method,
        "methods on the CPU": {name: asdict(close) for name, close in compared.items()},
        "photographs": photographs.digest,
        "FP32 graph": draft.manifest.onnx_sha256,
    }
    graph = recipes.fixed_shapes(onnx.load_from_string(draft.model))
    plan = plan_for(graph, "resnet" if family.recipe == "residual" else "vit")
    if recipe.precision == "fp8":
        return recipes.fp8_linears(graph, plan, trial.ranges["min-max"]), told
    if recipe.precision == "fp16":
        return graph, told
    ranges = trial.ranges[method]
    ranges = recipes.equal_shortcuts(graph, ranges) if recipe.source == "int8-equal" else ranges
    made = quantize(graph, plan, ranges)
    return made, {**told, "INT8 graph": hashlib.sha256(made.SerializeToString(deterministic=True)).hexdigest()}


def _recipe(section: Section, family: Family) -> Entry:
    """What won the race, as its record has it; else the one that is expected to."""
    known = entries_of(family.recipe)
    for name in (f"engines-{family.name}", "engines-vit"):
        path = record_path(section.folder, name)
        final = json.loads(path.read_text())["facts"].get("final best") if path.exists() and not section.dry else None
        if final and any(recipe.name == final["recipe"] for recipe in known):
            return next(recipe for recipe in known if recipe.name == final["recipe"])
    return known[1]


def _built(section: Section, family: Family, model: Any) -> tuple[Engine, Entry]:
    recipe = _recipe(section, family)
    graph = recipe.graph(model, ("embedding",))
    spec = Spec(graph=graph, batches=(1, BATCH, BATCH), typing=recipe.typing, effort=1)
    return (OrtEngine(spec) if section.dry else TrtBuilder(section.folder / "timing.cache")(spec)), recipe


def _compared(test: Dataset, exact: NDArray[np.float32], coarse: NDArray[np.float32]) -> dict[str, object]:
    """Recall of both, and how near the embeddings are; one reference a SKU and view, the other genuine are probes."""
    keys = [(f"{category}/{view}", f"{category}-{sku}") for sku, category, view in map(group_key, test.groups.tolist())]
    labels = ev.Labels(
        references=tuple(keys),
        probes=tuple(key for key in keys for _ in range(GENUINE - 1)),
        genuine=np.ones(len(keys) * (GENUINE - 1), bool),
    )
    rates = [ev.recall_at_1(_parted(found), labels) for found in (exact, coarse)]
    recalls = [rate.value if rate else 0.0 for rate in rates]
    cosines = (exact * coarse).sum(-1) / np.linalg.norm(coarse, axis=-1).clip(1e-9)
    return {
        "queries": len(labels.probes),
        "recall@1 FP32": round(recalls[0], 5),
        "recall@1": round(recalls[1], 5),
        "cosine mean": round(float(cosines.mean()), 6),
        "cosine P1": round(float(np.percentile(cosines, 1)), 6),
    }


def _parted(found: NDArray[np.float32]) -> ev.Embedded:
    grouped = found.reshape(-1, GENUINE, found.shape[-1])
    return ev.Embedded(references=grouped[:, 0], probes=grouped[:, 1:].reshape(-1, found.shape[-1]))


def _find(section: Section, family: Family, found: dict[str, Any]) -> None:
    lost = 100 * (found["recall@1 FP32"] - found["recall@1"])
    kind = "resnet" if family.recipe == "residual" else "vit"
    told = f"recall@1 {found['recall@1 FP32']:.4f} to {found['recall@1']:.4f} over {found['queries']} queries"
    section.find(f"G5-{kind}-recall", lost, told)
    section.find(f"G5-{kind}-mean", found["cosine mean"], told)
    if kind == "resnet":
        section.find("G5-resnet-p1", found["cosine P1"], told)
