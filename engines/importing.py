"""From any float ONNX graph to a draft of an engine: made plain, wrapped to the three outputs, run, described. What is
not safe to find is asked for, and what is not sure is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from engines.drafts import Draft, MakingRefused
from engines.export import PROFILES, TILING, golden_of
from engines.golden import golden_pixels
from engines.importing_graph import opset_of, parsed, plain, pruned, shapes
from engines.importing_heads import Wrapped, declared, renamed_input, residual_wrapped, transformer_wrapped
from engines.importing_preprocess import Wanted, preprocessing
from engines.importing_taps import (
    ForeignGraph,
    NamedTaps,
    is_transformer,
    residual_taps,
    told,
    transformer_taps,
)
from engines.manifest import EngineManifest, sha256_hex
from engines.preprocess import Preprocessing, normalised
from engines.runner import OUTPUT_NAMES

RESIDUAL: Final = "residual"
TRANSFORMER: Final = "transformer"
_OUR_PRODUCER: Final = "assay"
_LENGTH_TOLERANCE: Final = 1e-2
_BATCH_TOLERANCE: Final = 1e-3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What the user says of a graph: the engine's name, how photographs are prepared, which tensors are tapped."""

    name: str
    wanted: Wanted = dataclasses.field(default_factory=Wanted)
    taps: NamedTaps = dataclasses.field(default_factory=NamedTaps)


def imported(raw: bytes, request: ImportRequest, origin: dict[str, object] | None = None) -> Draft:
    """The FP32 draft of a graph's bytes. `origin` goes into the record. Raises MakingRefused."""
    _check_name(request.name)
    model = plain(parsed(raw))
    size = _input_size(model, request.wanted.size)
    # only our own builder and its float twin name their graphs so
    ours = model.producer_name == _OUR_PRODUCER and model.graph.name in TILING
    prepared = preprocessing(request.wanted, size, ours)
    wrapped = _wrapped(model, request.taps, size)
    family = model.graph.name if ours else _family(wrapped.model)
    content = wrapped.model.SerializeToString(deterministic=True)
    _check_run(wrapped.model, content, prepared)
    draft = _described(wrapped.model, content, request.name, family, prepared)
    golden = golden_of(content, draft)
    manifest = dataclasses.replace(draft, golden_sha256=sha256_hex(golden))
    record = _record(raw, manifest, wrapped, request, origin or {})
    return Draft(manifest=manifest, model=content, golden=golden, record=record)


def _check_name(name: str) -> None:
    if not name or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name) or name.startswith("."):
        raise MakingRefused(f"{name!r} is no name for files", "use letters, digits, '-', '_' and '.'")


def _input_size(model: ModelProto, size: int | None) -> int:
    """The side of the square that the graph looks at; its input is called `images` from here on."""
    if len(model.graph.input) != 1:
        names = ", ".join(i.name for i in model.graph.input) or "none"
        raise MakingRefused(f"the graph takes {names}, not one tensor of images", "export the image encoder alone")
    given = model.graph.input[0]
    tensor = given.type.tensor_type
    dims = tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in tensor.shape.dim)
    filled = dims if size is None else tuple(size if d is None and i > 1 else d for i, d in enumerate(dims))
    if len(dims) != 4 or filled[1] not in (3, None) or tensor.elem_type != 1:
        raise MakingRefused(f"input {given.name!r} is {told(dims)}", "export it for float32 images [N,3,S,S]")
    if filled[2] is None or filled[2] != filled[3]:
        fix = "export it for square images of a fixed side, or give --size where the graph takes any"
        raise MakingRefused(f"input {given.name!r} is {told(dims)}: the side of its images is not fixed", fix)
    renamed_input(model, given.name)
    _fix_input(model, filled[2])
    return filled[2]


def _fix_input(model: ModelProto, size: int) -> None:
    given = model.graph.input[0]
    given.name = "images"
    for dim, value in zip(given.type.tensor_type.shape.dim, ("N", 3, size, size), strict=True):
        dim.Clear()
        if isinstance(value, str):
            dim.dim_param = value
        else:
            dim.dim_value = value
    del model.graph.value_info[:]  # shapes of another batch or size
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def _wrapped(model: ModelProto, named: NamedTaps, size: int) -> Wrapped:
    outputs = {o.name for o in model.graph.output}
    if outputs >= set(OUTPUT_NAMES) and named == NamedTaps():
        return _passed_through(model, size)
    graph = ForeignGraph(model, size)
    if is_transformer(graph):
        return transformer_wrapped(model, transformer_taps(graph, named), size)
    if graph.of("Conv"):
        return residual_wrapped(model, residual_taps(graph, named), size)
    missing = ", ".join(n for n in OUTPUT_NAMES if n not in outputs)
    fix = "give it these outputs (docs/engines.md), or import a residual network or a vision transformer"
    raise MakingRefused(f"the graph has no output {missing}, and is no network that is known", fix)


def _passed_through(model: ModelProto, size: int) -> Wrapped:
    found = shapes(model)
    outputs: dict[str, tuple[int, ...]] = {}
    for name, rank in zip(OUTPUT_NAMES, (2, 3, 3), strict=True):
        dims = found.get(name)
        if dims is None:
            raise MakingRefused(
                f"output {name!r} has a dynamic rank", "export it with fixed shapes, the batch alone dynamic"
            )
        fixed = tuple(d for d in dims[1:] if d is not None)
        if len(dims) != rank or len(fixed) != rank - 1:
            fix = "embedding is [N,D], patches [N,P,d], attention [N,h,w], all but N fixed"
            raise MakingRefused(f"output {name!r} has the dimensions {told(dims)}", fix)
        outputs[name] = fixed
    if math.isqrt(outputs["patches"][0]) ** 2 != outputs["patches"][0]:
        raise MakingRefused(f"{outputs['patches'][0]} patches are no square grid", "export one square grid of patches")
    return Wrapped(model=declared(pruned(model, OUTPUT_NAMES), size, outputs), told={"outputs": "the graph's own"})


def _family(model: ModelProto) -> str:
    kinds = {node.op_type for node in model.graph.node}
    return TRANSFORMER if "Softmax" in kinds and "LayerNormalization" in kinds else RESIDUAL


def _check_run(model: ModelProto, content: bytes, prepared: Preprocessing) -> None:
    """Three images together and alone: the outputs are what they should be, and do not depend on the batch."""
    pixels = golden_pixels(prepared.size)
    images = normalised(np.concatenate([pixels, pixels[:1, ::-1]]), prepared)
    session = _session(content)
    try:
        together = session.run(list(OUTPUT_NAMES), {"images": images})
        alone = [
            np.concatenate(o)
            for o in zip(*(session.run(list(OUTPUT_NAMES), {"images": i[None]}) for i in images), strict=True)
        ]
    except Exception as error:  # ONNX Runtime has its own tree of errors
        fix = "export it with a dynamic batch (dynamic_axes or dynamic_shapes)"
        raise MakingRefused(f"the graph does not run on batches of 1 and 3 ({_short(error)})", fix) from error
    for output, left, right in zip(model.graph.output, together, alone, strict=True):
        wanted = tuple(int(d.dim_value) for d in output.type.tensor_type.shape.dim)[1:]
        if left.shape != (3, *wanted) or not np.isfinite(left).all():
            fix = "export it again; its values must be finite and its shapes fixed"
            raise MakingRefused(f"output {output.name!r} came out as {left.shape}, or not finite", fix)
        if np.abs(left - right).max() > _BATCH_TOLERANCE * max(1.0, float(np.abs(right).max())):
            fix = "export it in evaluation mode (model.eval())"
            raise MakingRefused(f"output {output.name!r} depends on what an image is batched with", fix)
    _check_norms(*together)


def _check_norms(embedding: NDArray[Any], patches: NDArray[Any], attention: NDArray[Any]) -> None:
    found = {
        "embedding": np.linalg.norm(embedding, axis=-1),
        "patches": np.linalg.norm(patches, axis=-1),
        "attention": attention.sum(axis=(1, 2)),
    }
    for name, lengths in found.items():
        if np.abs(lengths - 1).max() > _LENGTH_TOLERANCE:
            what = "sum" if name == "attention" else "length"
            fix = "normalise it in the graph: embedding and patches to length 1, attention to sum 1"
            raise MakingRefused(f"output {name!r} has the {what} {float(lengths.ravel()[0]):.3g}, not 1", fix)
    if attention.min() < 0:
        raise MakingRefused(f"attention goes down to {float(attention.min()):.3g}", "export it as shares, 0 or more")


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a few short runs, among other work
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _short(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _described(model: ModelProto, content: bytes, name: str, family: str, prepared: Preprocessing) -> EngineManifest:
    dims = {o.name: tuple(int(d.dim_value) for d in o.type.tensor_type.shape.dim)[1:] for o in model.graph.output}
    side = math.isqrt(dims["patches"][0])
    height, width = dims["attention"]
    return EngineManifest(
        name=name,
        family=family,
        onnx_sha256=sha256_hex(content),
        golden_sha256="",
        precision="fp32",
        groups=(("all layers", "fp32"),),
        embedding_space=graph_space(model, prepared),
        preprocessing=prepared,
        tiling=TILING.get(family, "whole view"),
        embedding_dim=dims["embedding"][0],
        patch_dim=dims["patches"][1],
        patch_grid=(side, side),
        attention_grid=(height, width),
        opset=opset_of(model),
        calibration=None,
        profiles=PROFILES,
    )


def graph_space(model: ModelProto, prepared: Preprocessing) -> str:
    """Digest of nodes, weights and preprocessing: vectors compare only within one such space."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(prepared), sort_keys=True).encode())
    for node in model.graph.node:
        digest.update(node.SerializeToString(deterministic=True))
    for stored in sorted(model.graph.initializer, key=lambda i: str(i.name)):
        array = numpy_helper.to_array(stored)
        digest.update(f"{stored.name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _record(
    raw: bytes, manifest: EngineManifest, wrapped: Wrapped, request: ImportRequest, origin: dict[str, object]
) -> dict[str, object]:
    kinds = [node.op_type for node in wrapped.model.graph.node]
    return {
        "made_by": "assay engine import",
        "origin": {**origin, "sha256": sha256_hex(raw), "bytes": len(raw)},
        "outputs": wrapped.told,
        "preprocessing_notes": list(request.wanted.notes),
        "onnx_sha256": manifest.onnx_sha256,
        "golden_sha256": manifest.golden_sha256,
        "embedding_space": manifest.embedding_space,
        "ops": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
    }
