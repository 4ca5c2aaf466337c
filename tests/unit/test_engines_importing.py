"""Foreign float graphs on their way to drafts: what is found, what stays the same, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine_graphs as graphs
import numpy as np
import pytest
from onnx import TensorProto, helper, version_converter

from engines.architectures import Architecture, seeded_weights
from engines.architectures.resnet import Resnet18
from engines.architectures.vit import VitTiny16
from engines.catalogue import open_runner
from engines.drafts import Draft, MakingRefused, new_folder, read_draft, write_draft
from engines.importing import ImportRequest, imported
from engines.importing_preprocess import Wanted, preprocessing, read_config
from engines.importing_taps import NamedTaps
from engines.importing_torch import exported
from engines.preprocess import Preprocessing
from engines.quantize import float_twin, plan_for, quantize

USUAL = Wanted(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
OUTPUTS = ("embedding", "patches", "attention")
SMALL_VIT = VitTiny16(image_size=64, width=48, depth=2)


def int8_of(architecture: Architecture) -> Any:
    graph = architecture.build(seeded_weights(architecture, 1))
    plan = plan_for(graph, architecture.family)
    return quantize(graph, plan, dict.fromkeys(plan.activations, 4.0))


def made(model: Any, wanted: Wanted = USUAL, **taps: Any) -> Draft:
    raw = model if isinstance(model, bytes) else model.SerializeToString()
    return imported(raw, ImportRequest(name="x", wanted=wanted, taps=NamedTaps(**taps)))


def images(count: int = 2) -> Any:
    return np.random.default_rng(0).standard_normal((count, 3, graphs.SIZE, graphs.SIZE)).astype(np.float32)


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def with_outputs(model: Any, *names: str) -> bytes:
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    content: bytes = model.SerializeToString()
    return content


def test_a_residual_network_keeps_its_function_without_its_batch_norms() -> None:
    draft = made(graphs.residual())
    flat, middle, last = graphs.run(
        with_outputs(graphs.residual(), "flat", "stage1.relu2", "stage2.relu2"),
        images(),
        "flat",
        "stage1.relu2",
        "stage2.relu2",
    )
    embedding, patches, attention = graphs.run(draft.model, images(), *OUTPUTS)
    np.testing.assert_allclose(embedding, unit(flat), atol=1e-4)
    np.testing.assert_allclose(patches, unit(middle.reshape(2, 8, -1).transpose(0, 2, 1)), atol=1e-3)
    pull = np.maximum(np.einsum("nchw,nc->nhw", last, embedding), 0) + 1e-4
    np.testing.assert_allclose(attention, pull / pull.sum((1, 2), keepdims=True), atol=1e-4)
    assert "BatchNormalization" not in draft.record["ops"]  # type: ignore[operator]
    assert (draft.manifest.family, draft.manifest.precision, draft.manifest.key_id) == ("residual", "fp32", "")
    assert (draft.manifest.patch_grid, draft.manifest.attention_grid) == ((8, 8), (4, 4))


def test_a_linear_head_gives_the_embedding_and_its_attention() -> None:
    draft = made(graphs.residual(), embedding="logits")
    (logits,) = graphs.run(graphs.residual(), images(), "logits")
    embedding, _, attention = graphs.run(draft.model, images(), *OUTPUTS)
    np.testing.assert_allclose(embedding, unit(logits), atol=1e-4)
    assert attention.std() > 0


def test_wide_maps_are_projected_to_patches_of_64() -> None:
    assert made(graphs.residual(width=144)).manifest.patch_dim == 64


@pytest.mark.parametrize("spelled_out", [True, False])
def test_a_transformer_keeps_its_function_and_has_norms_of_one_op(spelled_out: bool) -> None:
    source = graphs.transformer(spelled_out=spelled_out)
    draft = made(source)
    final, weights, middle = graphs.run(
        with_outputs(source, "norm", "blocks.1.weights", "blocks.0"), images(), "norm", "blocks.1.weights", "blocks.0"
    )
    embedding, patches, attention = graphs.run(draft.model, images(), *OUTPUTS)
    np.testing.assert_allclose(embedding, unit(final[:, 0]), atol=1e-4)
    np.testing.assert_allclose(patches, unit(middle[:, 1:]), atol=1e-4)
    seen = weights.mean(1)[:, 0, 1:].reshape(2, 4, 4)
    np.testing.assert_allclose(attention, seen / seen.sum((1, 2), keepdims=True), atol=1e-4)
    ops = draft.record["ops"]
    assert isinstance(ops, dict)
    assert ops["LayerNormalization"] == 5
    assert "Pow" not in ops and "ReduceMean" not in ops


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("build", [graphs.residual, graphs.transformer])
def test_later_opsets_are_the_same_encoder(build: Callable[[], Any], opset: int) -> None:
    """The axes of reductions are inputs from opset 18 on; a norm that is spelled out so is found too."""
    later = made(version_converter.convert_version(build(), opset))
    assert later.manifest.opset == opset
    assert "ReduceMean" not in later.record["ops"]  # type: ignore[operator]
    both = (graphs.run(draft.model, images(), *OUTPUTS) for draft in (later, made(build())))
    for left, right in zip(*both, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
    runner = open_runner(later.unsigned(), "openvino")
    runner.close()


def test_a_transformer_without_a_class_token_needs_the_residual_rule() -> None:
    source = graphs.transformer(class_token=False)
    with pytest.raises(MakingRefused, match=r"no class token.*--residual-rule"):
        made(source)
    (final,) = graphs.run(with_outputs(graphs.transformer(class_token=False), "norm"), images(), "norm")
    embedding, _, attention = graphs.run(made(source, residual_rule=True).model, images(), *OUTPUTS)
    np.testing.assert_allclose(embedding, unit(final.mean(1)), atol=1e-4)
    np.testing.assert_allclose(attention.sum((1, 2)), 1.0, atol=1e-4)


@pytest.mark.parametrize("architecture", [Resnet18(image_size=32), SMALL_VIT], ids=lambda found: found.family)
def test_our_own_graphs_and_their_float_twins_pass_through(architecture: Architecture) -> None:
    twin = float_twin(int8_of(architecture))
    draft = made(twin, Wanted())
    size = architecture.image_size
    assert (draft.manifest.family, draft.manifest.preprocessing) == (architecture.family, Preprocessing(size=size))
    feeds = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    both = (graphs.run(found, feeds, *OUTPUTS) for found in (draft.model, twin))
    for left, right in zip(*both, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_the_space_is_of_weights_and_preprocessing() -> None:
    spaces = [
        made(graphs.residual()),
        made(graphs.residual()),
        made(graphs.residual(2)),
        made(graphs.residual(), Wanted(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))),
    ]
    first, again, other_weights, other_levels = (draft.manifest.embedding_space for draft in spaces)
    assert first == again
    assert len({first, other_weights, other_levels}) == 3


def test_a_draft_is_read_back_and_runs(tmp_path: Path) -> None:
    draft = made(graphs.residual())
    write_draft(draft, tmp_path / "new" / "draft")
    found = read_draft(tmp_path / "new" / "draft")
    assert (found.manifest, found.model, found.golden) == (draft.manifest, draft.model, draft.golden)
    assert found.record == json.loads(json.dumps(draft.record))
    runner = open_runner(found.unsigned(), "openvino")
    runner.close()


# What is refused


def without_rank() -> bytes:
    model = graphs.residual()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    content: bytes = model.SerializeToString()
    return content


def output_without_rank() -> bytes:
    model = graphs.residual()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    content: bytes = model.SerializeToString()
    return content


def named_outputs(change: Callable[[Any], None]) -> bytes:
    model = SMALL_VIT.build(seeded_weights(SMALL_VIT, 1))
    change(model)
    content: bytes = model.SerializeToString()
    return content


def unnormalised(model: Any) -> None:
    model.graph.node.append(helper.make_node("Add", ["embed", "embed"], ["doubled"], name="doubled"))
    rename_output(model, "embedding", "doubled")


def rename_output(model: Any, name: str, source: str) -> None:
    """`name` is made from `source` now."""
    for node in model.graph.node:
        node.output[:] = [f"{name}.old" if o == name else o for o in node.output]
        node.input[:] = [f"{name}.old" if i == name else i for i in node.input]
    model.graph.node.append(helper.make_node("Identity", [source], [name], name=f"{name}.new"))


def of_dynamic_rank(model: Any) -> None:
    """patches through a Reshape whose dimensions are computed from values."""
    nodes = [
        helper.make_node("NonZero", ["embed"], ["places"], name="places"),
        helper.make_node("Slice", ["places", "zero1", "one1", "one1"], ["row"], name="row"),
        helper.make_node("Reshape", ["row", "minus1"], ["dims"], name="dims"),
        helper.make_node("Reshape", ["patches.view", "dims"], ["odd"], name="odd"),
    ]
    model.graph.node.extend(nodes)
    for name, value in (("zero1", 0), ("one1", 1), ("minus1", -1)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
    rename_output(model, "patches", "odd")


def quantised() -> bytes:
    content: bytes = int8_of(SMALL_VIT).SerializeToString()
    return content


def plain_mlp() -> Any:
    graph = graphs.Foreign("mlp", 0)
    flat = graph.op("Flatten", "flat", "pixels")
    return graph.written({graph.op("MatMul", "out", flat, graph.drawn("w", 3 * 32 * 32, 4)): ["N", 4]})


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "not ONNX": (lambda: b"\xff\xfe no graph", "not an ONNX file"),
    "old opset": (lambda: graphs.residual(opset=13), "opset is 13, taken are 17 to 20.*opset_version=17"),
    "input of no rank": (without_rank, "input 'pixels' has a dynamic rank"),
    "output of no rank": (output_without_rank, "output 'logits' has a dynamic rank"),
    "side not fixed": (lambda: graphs.residual(dims=["N", 3, "h", "w"]), "the side of its images is not fixed.*--size"),
    "not square": (lambda: graphs.residual(dims=["N", 3, 32, 64]), "the side of its images is not fixed"),
    "grey": (lambda: graphs.residual(dims=["N", 1, 32, 32]), "float32 images"),
    "output of a rank that values decide": (
        lambda: named_outputs(of_dynamic_rank),
        "output 'patches' has a dynamic rank",
    ),
    "no unit length": (lambda: named_outputs(unnormalised), "'embedding' has the length"),
    "quantised": (quantised, "quantised already.*assay engine quantize"),
    "no outputs and unknown": (plain_mlp, "no output embedding, patches, attention"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_an_encoder_is_refused(case: str) -> None:
    build, told = REFUSED[case]
    with pytest.raises(MakingRefused, match=told) as caught:
        made(build())
    assert caught.value.fix


def test_tensors_that_are_named_wrongly_are_told() -> None:
    for taps, told in (
        ({"features": "nowhere"}, "makes no tensor 'nowhere'"),
        ({"tokens": "flat"}, r"'flat' has the dimensions \[\?, 16\]"),
        ({"embedding": "stage1.relu2"}, "name a tensor of 2 dimensions"),
    ):
        with pytest.raises(MakingRefused, match=told):
            made(graphs.residual(), **taps)


def test_a_size_fixes_what_the_graph_leaves_open() -> None:
    draft = made(graphs.residual(dims=["N", 3, "h", "w"]), Wanted(size=64, mean=USUAL.mean, std=USUAL.std))
    assert (draft.manifest.preprocessing.size, draft.manifest.patch_grid) == (64, (16, 16))


def test_normalisation_is_never_guessed() -> None:
    with pytest.raises(MakingRefused, match="nothing says how"):
        made(graphs.residual(), Wanted())
    with pytest.raises(MakingRefused, match="the config says 64 px, the graph takes 32"):
        made(graphs.residual(), Wanted(size=64, mean=USUAL.mean, std=USUAL.std))
    with pytest.raises(MakingRefused, match="no fractions"):
        preprocessing(Wanted(mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)), 32, ours=False)


def test_configs_of_timm_and_hugging_face_are_read() -> None:
    timm = {
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "crop_pct": 0.9,
            "interpolation": "bicubic",
        }
    }
    found = read_config(json.dumps(timm).encode(), "config.json")
    assert (found.size, found.mean, len(found.notes)) == (224, (0.5, 0.5, 0.5), 2)
    other = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2], "size": {"height": 384, "width": 384}}
    found = read_config(json.dumps(other).encode(), "preprocessor_config.json")
    assert (found.size, found.mean) == (384, (0.5, 0.4, 0.3))
    assert preprocessing(found, 384, ours=False).std == (51.0, 51.0, 51.0)
    for bad in (b"{", b"[]", b'{"mean": [0.5]}'):
        with pytest.raises(MakingRefused, match="no config"):
            read_config(bad, "config.json")


def test_without_torch_the_library_route_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MakingRefused, match="torch is not installed"):
        exported("timm", "resnet18", Path("weights.safetensors"), None)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as part:
        (part / "half.onnx").write_bytes(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(MakingRefused, match="exists already"), new_folder(tmp_path / "out"):
        pass


def test_a_draft_that_was_altered_is_refused(tmp_path: Path) -> None:
    write_draft(made(graphs.residual()), tmp_path / "draft")
    (tmp_path / "draft" / "x.onnx").write_bytes(b"other")
    with pytest.raises(MakingRefused, match="graph file is not the one described"):
        read_draft(tmp_path / "draft")
    with pytest.raises(MakingRefused, match="holds no manifest"):
        read_draft(tmp_path)
