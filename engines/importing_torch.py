"""A timm or torchvision encoder with the user's weights, as the ONNX bytes that engines.importing takes. PyTorch is no
dependency: it is asked for where this is called. Weights are read as plain tensors, never unpickled."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any, Literal

from engines.drafts import MakingRefused
from engines.importing_graph import OLDEST_OPSET
from engines.importing_preprocess import Wanted, triple

Library = Literal["timm", "torchvision"]

_CLASSIFIERS = ("fc.", "head.", "heads.", "classifier.")
_USUAL_SIZE = 224


def exported(library: Library, model: str, weights: Path, size: int | None) -> tuple[bytes, Wanted]:
    """The float graph, and how photographs are prepared where the model's own config says so. Raises MakingRefused."""
    torch, owner = _imported("torch"), _imported(library)
    state = _state(torch, weights)
    try:
        network, wanted = _timm(owner, model, size) if library == "timm" else _torchvision(owner, model, size)
    except Exception as error:  # each library raises its own
        fix = f"name a model of {library} with --model, and a --size that it takes"
        raise MakingRefused(f"{library} makes no {model!r} ({error})", fix) from error
    own = network.state_dict()
    # a classifier of other classes is no part of the encoder
    other = {name for name, value in own.items() if name in state and state[name].shape != value.shape}
    taken = {name: value for name, value in state.items() if name not in other}
    missing, unexpected = network.load_state_dict(taken, strict=False)
    strange = sorted(n for n in (*missing, *unexpected) if not n.startswith(_CLASSIFIERS))
    if strange:
        fix = "name the model that these weights were trained as"
        told = f"{len(strange)} tensors differ, {strange[0]!r} first"
        raise MakingRefused(f"{weights} is not of {library}'s {model}: {told}", fix)
    return _onnx(torch, network.eval(), wanted.size or _USUAL_SIZE), wanted


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        fix = (
            "install torch, timm, torchvision, safetensors and onnxscript, or export to ONNX elsewhere and import that"
        )
        raise MakingRefused(f"{name} is not installed here", fix) from error


def _state(torch: Any, weights: Path) -> dict[str, Any]:
    """Tensors by name, from safetensors or from a checkpoint loaded weights-only."""
    try:
        if weights.suffix == ".safetensors":
            return dict(_imported("safetensors.torch").load_file(weights))
        found = torch.load(weights, map_location="cpu", weights_only=True)
    except MakingRefused:
        raise
    except Exception as error:  # torch raises pickle's and its own errors
        fix = "save it as safetensors, or with torch.save(model.state_dict(), FILE)"
        raise MakingRefused(f"{weights} cannot be read as weights alone ({type(error).__name__})", fix) from error
    state = found.get("state_dict", found.get("model", found))
    return {name.removeprefix("module."): value for name, value in state.items()}


def _timm(timm: Any, model: str, size: int | None) -> tuple[Any, Wanted]:
    timm.layers.set_fused_attn(False)  # fused attention hides query and key from the graph
    network = timm.create_model(model, pretrained=False, **({"img_size": size} if size and "vit" in model else {}))
    config = network.pretrained_cfg
    wanted = Wanted(size=size or int(config["input_size"][-1]), mean=triple(config["mean"]), std=triple(config["std"]))
    return network, wanted


def _torchvision(torchvision: Any, model: str, size: int | None) -> tuple[Any, Wanted]:
    return torchvision.models.get_model(model, weights=None), Wanted(size=size or _USUAL_SIZE)


def _onnx(torch: Any, network: Any, size: int) -> bytes:
    buffer = io.BytesIO()
    try:
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, size, size),),
            buffer,
            opset_version=OLDEST_OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
            dynamo=False,
        )
    except Exception as error:  # the exporter has many ways to fail
        fix = "export it to ONNX where it was trained, and import that file"
        raise MakingRefused(f"PyTorch does not export this model ({type(error).__name__}: {error})", fix) from error
    return buffer.getvalue()
