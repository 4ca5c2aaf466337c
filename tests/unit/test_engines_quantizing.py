"""Photographs that ranges are learnt from, layers that go back to float, and the INT8 draft with its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import engine_goods as goods
import engine_graphs as graphs
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import load_from_string
from PIL import Image

from engines.drafts import Draft, MakingRefused
from engines.importing import ImportRequest, imported
from engines.importing_preprocess import Wanted
from engines.onnxruntime_runner import OnnxRuntimeRunner
from engines.photographs import Photographs, looks_random, photograph_files, read_photographs
from engines.quantize import alone, layers_of, plan_for, without
from engines.quantizing import LEAST, QuantizeRequest, check_photographs, quantized
from engines.quantizing_search import Closeness, ClosenessBudget, search

MODELS = {"residual": graphs.residual, "transformer": graphs.transformer}


def set_of(pixels: NDArray[np.uint8], **changes: object) -> Photographs:
    given = {"pixels": pixels, "digests": tuple(str(n) for n in range(len(pixels))), "faults": (), "duplicates": 0}
    return Photographs(**{**given, **changes})  # type: ignore[arg-type]


def squares(skus: range, specimens: int) -> NDArray[np.uint8]:
    return np.stack([np.asarray(goods.drawn(s, n, side=graphs.SIZE)) for s in skus for n in range(specimens)])


def noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, graphs.SIZE, graphs.SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def photographs() -> Photographs:
    return set_of(squares(range(10), 10))


def draft(family: str) -> Draft:
    wanted = Wanted(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return imported(MODELS[family]().SerializeToString(), ImportRequest(name="x", wanted=wanted))


# Photographs


def test_noise_is_told_from_photographs() -> None:
    assert not any(looks_random(square) for square in squares(range(30), 1))
    assert all(looks_random(square) for square in noise(10))
    large = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    shrunk = Image.fromarray(large).resize((graphs.SIZE, graphs.SIZE), Image.Resampling.BILINEAR)
    assert looks_random(np.asarray(shrunk))
    assert looks_random(np.full((32, 32, 3), 200, np.uint8))


def test_too_few_noise_and_flat_sets_are_refused(photographs: Photographs) -> None:
    check_photographs(photographs)
    with pytest.raises(MakingRefused, match=f"5 different photographs that can be used, {LEAST} are needed"):
        check_photographs(set_of(photographs.pixels[:5]))
    with pytest.raises(MakingRefused, match="100 of 100 photographs are noise"):
        check_photographs(set_of(noise(100)))
    mixed = np.concatenate([photographs.pixels[:85], noise(15)])
    with pytest.raises(MakingRefused, match="15 of 100 photographs are noise"):
        check_photographs(set_of(mixed))
    check_photographs(set_of(np.concatenate([photographs.pixels[:95], noise(5)])))


def test_files_are_decoded_copies_counted_and_faults_named(tmp_path: Path) -> None:
    with pytest.raises(MakingRefused, match="holds no photograph"):
        photograph_files(tmp_path)
    with pytest.raises(MakingRefused, match="is no folder"):
        photograph_files(tmp_path / "nowhere")
    goods.photographs(tmp_path / "sub", [(1, 0), (2, 0)])
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "sub" / "1-0.jpg").read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"no photograph")
    goods.drawn(3, 0, side=20).save(tmp_path / "small.jpg")
    files = photograph_files(tmp_path)
    found = read_photographs(files, graphs.SIZE)
    assert (len(files), len(found.digests), found.duplicates) == (5, 2, 1)
    assert {name: why.split(":")[0] for name, why in found.faults} == {
        "broken.jpg": "undecodable",
        "small.jpg": "too_small",
    }
    assert found.pixels.shape == (2, graphs.SIZE, graphs.SIZE, 3)
    with pytest.raises(MakingRefused, match=r"2 could not be used, broken.jpg: undecodable.*1 are copies"):
        check_photographs(found)


# Search


def test_the_most_harmful_layers_go_back_until_the_budget_holds() -> None:
    cost = {"a": 0.001, "b": 0.02, "c": 0.004, "d": 0.0}
    tried: list[frozenset[str]] = []

    def measure(floats: frozenset[str]) -> Closeness:
        tried.append(floats)
        mean = 1 - sum(value for layer, value in cost.items() if layer not in floats)
        return Closeness(mean=mean, p1=mean, patches=mean)

    mix = search(tuple(cost), cost, ClosenessBudget(mean=0.994, p1=0.99), measure)
    assert (mix.floats, mix.held, tried) == ({"b"}, True, [frozenset(), frozenset("b")])
    assert search(tuple(cost), cost, ClosenessBudget(mean=0.9, p1=0.9), measure).floats == frozenset()
    tight = search(tuple(cost), cost, ClosenessBudget(mean=0.9995, p1=0.99), measure)
    assert (tight.floats, [s.layer for s in tight.steps]) == ({"a", "b", "c"}, ["b", "c", "a"])


def test_a_layer_that_went_in_vain_returns() -> None:
    """Alone `a` looks worst, but together with `b` left float it does no harm."""

    def measure(floats: frozenset[str]) -> Closeness:
        return Closeness(mean=0.999 if "b" in floats else 0.9, p1=0.999, patches=0.9)

    mix = search(("a", "b"), {"a": 0.5, "b": 0.1}, ClosenessBudget(mean=0.99, p1=0.9), measure)
    assert mix.floats == {"b"}
    assert [(step.layer, step.to) for step in mix.steps] == [("a", "fp32"), ("b", "fp32"), ("a", "int8")]


def test_a_budget_that_no_mix_holds_is_said() -> None:
    far = Closeness(mean=0.5, p1=0.5, patches=0.5)
    mix = search(("a", "b"), {"a": 1.0, "b": 0.0}, ClosenessBudget(mean=0.99, p1=0.9), lambda floats: far)
    assert (mix.held, mix.floats) == (False, {"a", "b"})


# Plans


def test_a_shortcut_of_any_name_is_found() -> None:
    model = imported_graph("residual")
    plan = plan_for(model, "residual")
    shortcut = next(n for n in model.graph.node if n.name == "stage2.shortcut.out")
    assert shortcut.output[0] in plan.activations
    other = next(n for n in model.graph.node if n.name == "stage2.conv2.out")
    assert other.output[0] not in plan.activations


def test_a_layer_left_float_reads_the_tensor_itself() -> None:
    model = imported_graph("residual")
    plan = plan_for(model, "residual")
    conv = next(n for n in model.graph.node if n.name == "stage2.conv1.out")
    mixed = without(model, plan, {conv.input[1]})
    assert conv.input[1] not in mixed.weights
    assert mixed.activations[conv.input[0]] == {"stage2.shortcut.out"}
    assert without(model, plan, set()) == plan
    nothing = without(model, plan, set(plan.weights))
    assert nothing.weights == {}
    layer = next(one for one in layers_of(model, plan) if one.weight == conv.input[1])
    assert alone(model, plan, layer).activations == {conv.input[0]: {conv.name}}


def imported_graph(family: str) -> Any:
    return load_from_string(draft(family).model)


# The whole


def run(made: Draft, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    runner = OnnxRuntimeRunner(made.model, made.manifest)
    try:
        return runner.start(pixels).result().embedding
    finally:
        runner.close()


@pytest.mark.parametrize("family", list(MODELS))
def test_an_int8_draft_stays_near_and_tells_how_it_was_made(family: str, photographs: Photographs) -> None:
    source, said = draft(family), list[str]()
    made = quantized(source, photographs, QuantizeRequest(threads=1), say=said.append)
    fresh = squares(range(50, 60), 1)
    assert (run(source, fresh) * run(made, fresh)).sum(-1).min() > 0.98
    assert made.manifest.precision == "int8"
    assert made.manifest.embedding_space == source.manifest.embedding_space
    assert made.manifest.calibration is not None
    assert (made.manifest.calibration.images, made.manifest.calibration.digest) == (100, photographs.digest)
    record = made.record
    methods, harm = record["methods"], record["harm"]
    assert isinstance(methods, dict) and isinstance(harm, dict)
    assert set(methods) == {"min-max", "percentile", "entropy"}
    assert methods[record["method"]]["mean"] == max(found["mean"] for found in methods.values())
    assert len(harm) == {"residual": 6, "transformer": 12}[family]
    assert made.manifest.onnx_sha256 == record["onnx_sha256"] != source.manifest.onnx_sha256
    assert any("not compared with the enrolled references" in line for line in said)


def test_a_tight_budget_leaves_layers_float(photographs: Photographs) -> None:
    source = draft("residual")
    loose = quantized(
        source, photographs, QuantizeRequest(threads=1, budget=ClosenessBudget(mean=0.5, p1=0.5), methods=("min-max",))
    )
    search_ = loose.record["search"]
    assert isinstance(search_, dict) and search_["floats"] == []
    nearer = 1 - (1 - search_["closeness"]["mean"]) / 2
    budget = ClosenessBudget(mean=nearer, p1=0.5)
    tight = quantized(source, photographs, QuantizeRequest(threads=1, budget=budget, methods=("min-max",)))
    found = tight.record["search"]
    assert isinstance(found, dict) and found["floats"]
    assert found["closeness"]["mean"] >= nearer
    assert {name for name, kind in tight.manifest.groups if kind == "fp32"} >= set(found["floats"])
    assert len(tight.model) > len(loose.model)
    with pytest.raises(MakingRefused, match="no mix of INT8 and float holds"):
        quantized(
            source,
            photographs,
            QuantizeRequest(threads=1, budget=ClosenessBudget(mean=1.1, p1=0.5), methods=("min-max",)),
        )


def test_photographs_unlike_the_references_are_warned_of(photographs: Photographs) -> None:
    source = draft("residual")
    request = QuantizeRequest(threads=1, methods=("min-max",), budget=ClosenessBudget(mean=0.5, p1=0.5))
    alike, foreign = list[str](), list[str]()
    made = quantized(source, photographs, request, references=set_of(squares(range(10), 3)), say=alike.append)
    assert not any("farther" in line for line in alike)
    assert isinstance(made.record["likeness"], dict) and made.record["likeness"]["references"] == 30
    one_kind = np.stack([np.asarray(goods.drawn(77, n, side=graphs.SIZE)) for n in range(20)])
    made = quantized(source, photographs, request, references=set_of(one_kind), say=foreign.append)
    assert any("farther from every enrolled reference" in line for line in foreign)
    assert isinstance(made.record["likeness"], dict) and made.record["likeness"]["warned"] is True


def test_what_is_int8_already_is_not_quantised_again(photographs: Photographs) -> None:
    request = QuantizeRequest(threads=1, methods=("min-max",), budget=ClosenessBudget(mean=0.5, p1=0.5))
    made = quantized(draft("residual"), photographs, request)
    with pytest.raises(MakingRefused, match="is int8 already"):
        quantized(made, photographs, request)
