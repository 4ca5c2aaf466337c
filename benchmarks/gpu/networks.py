"""Networks with random, fixed weights as the graphs that builders are given: FP32, INT8 and FP8, and what FP32 answers.

Run as a process of its own, `python -m benchmarks.gpu.networks FAMILY FOLDER`, while the rival is measured on the GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.gpu.entries import keep_all
from engines import recipes
from engines.architectures import architecture_of, seeded_weights
from engines.calibration import observe, thresholds
from engines.drafts import Draft, write_draft
from engines.golden import golden_pixels
from engines.importing import ImportRequest, imported
from engines.importing_preprocess import Wanted
from engines.preprocess import normalised
from engines.quantize import plan_for, quantize

SEED: Final = 1
IMAGES: Final = 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`library` and `model` name the network; `recipe` is how its kind is quantised."""

    name: str
    library: str
    model: str
    recipe: str
    size: int = 224


FAMILIES: Final = {
    "resnet50": Family(name="resnet50", library="torchvision", model="resnet50", recipe="residual"),
    "vit_b16": Family(name="vit_b16", library="timm", model="vit_base_patch16_224", recipe="transformer"),
    "demo_resnet18": Family(name="demo_resnet18", library="torchvision", model="resnet18", recipe="residual", size=448),
    # what a dry run takes: no PyTorch, a second of work
    "tiny_resnet": Family(name="tiny_resnet", library="", model="resnet18", recipe="residual", size=64),
    "tiny_vit": Family(name="tiny_vit", library="", model="vit_tiny16", recipe="transformer", size=64),
}


def network_of(family: Family, size: int) -> Any:
    """The torch module in evaluation mode, random weights, features as its output; normalisations are settled on random
    images, so that activations are in the range that FP16 and INT8 are made for."""
    import torch

    torch.manual_seed(SEED)
    if family.library == "timm":
        import timm

        timm.layers.set_fused_attn(True)
        return timm.create_model(family.model, num_classes=0, img_size=size).eval()
    import torchvision

    network = torchvision.models.get_model(family.model, weights=None)
    return settled(network, size)


def settled(network: Any, size: int) -> Any:
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(8, 3, min(size, 224), min(size, 224)))
    return network.eval()


def draft_of(family: Family, size: int, folder: Path) -> Draft:
    """The FP32 draft with the three outputs, by the way that a user's weights take."""
    if not family.library:
        architecture = architecture_of(family.model, size)
        raw = architecture.build(seeded_weights(architecture, SEED)).SerializeToString()
        return imported(raw, ImportRequest(name=family.name, wanted=Wanted(size=size)))
    import torch

    from engines.importing_torch import exported

    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"{family.name}.{size}.pt"
    torch.save(network_of(family, size).state_dict(), weights)
    library: Any = family.library
    raw, wanted = exported(library, family.model, weights, size)
    weights.unlink()
    said = Wanted(size=size, mean=MEAN, std=STD)
    return imported(raw, ImportRequest(name=family.name, wanted=said.over(wanted)))


def images_of(size: int, count: int = IMAGES) -> NDArray[np.uint8]:
    """Smooth random pictures, uint8 [n,S,S,3]: the golden ones first."""
    rng = np.random.default_rng(SEED)
    coarse = rng.integers(0, 256, (count, 14, 14, 3)).repeat(-(-size // 14), 1).repeat(-(-size // 14), 2)
    noise = rng.integers(-20, 21, (count, size, size, 3))
    made = (coarse[:, :size, :size] + noise).clip(0, 255).astype(np.uint8)
    golden = golden_pixels(size)
    made[: len(golden)] = golden
    return made


def prepared(family: Family, size: int, folder: Path) -> dict[str, object]:
    """As `prepare` tells; what another section left complete in this size is not made again."""
    kept = folder / "prepared.json"
    if kept.exists():
        told: dict[str, object] = json.loads(kept.read_text())
        if told["size"] == size:
            return told
    shutil.rmtree(folder / "draft", ignore_errors=True)  # of a making that was cut short
    told = prepare(family, size, folder)
    kept.write_text(json.dumps(told))
    return told


def prepare(family: Family, size: int, folder: Path) -> dict[str, object]:
    """Write `fp32.onnx`, `int8.onnx`, for transformers `fp8.onnx`, for residual networks `int8-equal.onnx`, and
    `reference.npz` with images and FP32's answers. Tells sizes and seconds."""
    began = time.monotonic()
    told: dict[str, object] = {"size": size}
    draft = draft_of(family, size, folder)
    told["imported_s"] = round(time.monotonic() - began, 1)
    write_draft(draft, folder / "draft")
    exact = recipes.fixed_shapes(onnx.load_from_string(draft.model))
    images = normalised(images_of(size), draft.manifest.preprocessing)
    graphs = {"fp32": exact, **quantised_graphs(family, exact, list(images))}
    for name, graph in graphs.items():
        content = graph.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(content)
        told[f"{name}_bytes"] = len(content)
    np.savez(folder / "reference.npz", images=images, embedding=reference(exact, images))
    keep_all(folder, family.recipe)
    return {**told, "seconds": round(time.monotonic() - began, 1)}


def quantised_graphs(family: Family, exact: Any, images: list[NDArray[np.float32]]) -> dict[str, Any]:
    """By minimum and maximum over a few images: enough for timing, not for accuracy."""
    plan = plan_for(exact, "resnet" if family.recipe == "residual" else "vit")
    ranges = thresholds(observe(exact, plan, images), "min-max")
    made = {"int8": quantize(exact, plan, ranges)}
    if family.recipe == "residual":
        made["int8-equal"] = quantize(exact, plan, recipes.equal_shortcuts(exact, ranges))
    else:
        made["fp8"] = recipes.fp8_linears(exact, plan, ranges)
    return made


def reference(model: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """FP32 embeddings by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["embedding"], {"images": image[None]})[0] for image in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=0)
    given = parser.parse_args()
    family = FAMILIES[given.family]
    print(json.dumps(prepared(family, given.size or family.size, given.folder)))


if __name__ == "__main__":
    main()
