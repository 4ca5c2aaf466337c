"""The training's parts that need no torch: what is measured, how data is laid out, what is published."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from onnx import numpy_helper

from demo.goods import CATEGORIES, FAMILIES, Family, training_skus
from demo.goods.design import design_of
from demo.train import measure, weights
from demo.train.layout import PLANS, VIEWS_A_SKU, Dataset, arrays, load, save_index
from demo.train.near import NEAR_MISSES
from demo.train.publish import publish_all
from demo.train.renders import render_set
from demo.train.replan import replanned
from engines.architectures import architecture_of, seeded_weights
from engines.calibration import observe, thresholds
from engines.catalogue import VerifiedEngine, open_runner, read_engine, shipped_keys
from engines.golden import golden_pixels
from engines.manifest import golden_path, manifest_path, model_path, sha256_hex
from engines.preprocess import Preprocessing, normalised
from engines.publish import seeded_engine
from engines.quantize import float_twin, plan_for, quantize


def test_auc() -> None:
    assert measure.auc([3.0, 4.0], [1.0, 2.0]) == 1.0
    assert measure.auc([1.0], [1.0]) == 0.5
    assert measure.auc([1.0, 3.0], [2.0]) == 0.5
    assert np.isnan(measure.auc([], [1.0]))


def small_eval(skus: int = 3) -> tuple[Dataset, NDArray[np.float32]]:
    """A set without pixels, and embeddings in which every design is its own axis and forgeries lean away from it."""
    plan = PLANS["eval"]
    count = skus * VIEWS_A_SKU
    data = Dataset(
        plan=plan,
        pixels_file=Path("none"),
        pixels=np.zeros((count, len(plan.slots), 1, 1, 3), np.uint8),
        masks=np.full((count, len(plan.slots), 112, 112), 255, np.uint8),
        finished=tuple(range(skus)),
        families=tuple(("hue", "grain_scale" if i % 2 else "type_weight") for i in range(count)),
    )
    embeddings = np.zeros((count, len(plan.slots), 2 * count), np.float32)
    for group in range(count):
        embeddings[group, :4, group] = 1.0
        embeddings[group, 4:, group] = 0.6
        embeddings[group, 4:, count + group] = 0.8
    return data, embeddings


def test_perfect_embeddings_measure_as_perfect() -> None:
    data, embeddings = small_eval()
    known = np.ones(embeddings.shape[:2], bool)
    recall, asked = measure.recall_at_1(embeddings, data.groups, known)
    assert (recall, asked) == (1.0, 3 * VIEWS_A_SKU * 3)
    assert measure.forgery_auc(embeddings, data, known) == {
        **dict.fromkeys(("all", "seen", "hue", "type_weight", "grain_scale"), 1.0),
        "unseen": 1.0,
    }


def test_swapped_skus_are_not_found_again() -> None:
    data, embeddings = small_eval()
    moved = embeddings.copy()
    moved[:, 1] = np.roll(embeddings[:, 1], VIEWS_A_SKU, axis=0)  # place 1 shows the same view of another SKU
    recall, _ = measure.recall_at_1(moved, data.groups, np.ones(moved.shape[:2], bool))
    assert recall == pytest.approx(2 / 3)


def test_what_was_not_computed_is_not_asked() -> None:
    data, embeddings = small_eval()
    known = np.zeros(embeddings.shape[:2], bool)
    known[:, 0] = True
    known[:4, 1] = True
    assert measure.recall_at_1(embeddings, data.groups, known)[1] == 4


def test_deviation_points_at_the_changed_cells() -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((784, 16)).astype(np.float32)
    reference /= np.linalg.norm(reference, axis=-1, keepdims=True)
    forged = reference.copy()
    forged[:56] = -forged[:56]
    mask = np.zeros((112, 112), np.uint8)
    mask[:8] = 255
    patches = np.stack([reference, reference, forged])[None]
    assert measure.deviation_auc(patches, mask[None]) > 0.95


def test_twins_share_their_specimen() -> None:
    for plan in PLANS.values():
        for genuine, forged in plan.twins:
            assert plan.slots[genuine].specimen == plan.slots[forged].specimen
            assert plan.slots[genuine].forgery is None and plan.slots[forged].forgery is not None


def test_rendered_sets_hold_what_the_index_says(tmp_path: Path) -> None:
    assert render_set(tmp_path, "eval", range(1), seconds=60, workers=1) == 1
    data = load(tmp_path, "eval")
    views = CATEGORIES["bag"]
    for place, names in enumerate(data.families):
        assert all(views[place] in FAMILIES[name].views for name in names)
    for genuine, forged in data.plan.twins:
        assert data.masks[:, forged].reshape(VIEWS_A_SKU, -1).max(1).min() > 0
        assert data.masks[:, genuine].max() == 0
        assert (data.pixels[:, genuine] != data.pixels[:, forged]).any()
    assert render_set(tmp_path, "eval", range(1), seconds=60, workers=1) == 1


def test_a_set_that_is_half_rendered_names_what_is_there(tmp_path: Path) -> None:
    arrays(tmp_path, "train", 2, "w+")
    save_index(tmp_path, "train", 2, [1], [["hue", "near_row"]] * 12, complete=False)
    data = load(tmp_path, "train")
    assert not data.complete
    assert data.groups.tolist() == list(range(VIEWS_A_SKU, 2 * VIEWS_A_SKU))


@pytest.mark.parametrize("miss", NEAR_MISSES, ids=lambda miss: miss.name)
def test_near_misses_change_a_detail_and_never_an_unseen_familys(miss: Family) -> None:
    assert all(set(miss.views) <= set(views) for views in CATEGORIES.values())
    for sku in training_skus(12):
        design = design_of(sku.category, sku.seed)
        assert miss.forge(design, 0.0) == design
        changed = miss.forge(design, 1.0)
        assert changed != design
        kept = (changed.grain, changed.weave, changed.engraving, changed.serial)
        assert kept == (design.grain, design.weave, design.engraving, design.serial)


def test_weights_round_trip(tmp_path: Path) -> None:
    stored = {"a.weight": np.array([[1.5, -2.25]], np.float32), "bn.running_var": np.array([1e-9], np.float32)}
    weights.save(tmp_path / "w.npz", stored)
    back = weights.load(tmp_path / "w.npz")
    for name, value in stored.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == np.float32


def test_published_engines_verify(tmp_path: Path) -> None:
    source, to = tmp_path / "source", tmp_path / "models"
    source.mkdir()
    engine = seeded_engine("resnet18", 1, image_size=64)
    engine = dataclasses.replace(engine, manifest=dataclasses.replace(engine.manifest, report=(("recall", 0.5),)))
    model_path(source, "resnet18").write_bytes(engine.model)
    golden_path(source, "resnet18").write_bytes(engine.golden)
    manifest_path(source, "resnet18").write_bytes(engine.manifest.to_json())
    publish_all(source, to, Ed25519PrivateKey.generate())
    verified = read_engine(to, "resnet18", shipped_keys(to))
    assert verified.manifest.report == (("recall", 0.5),)
    open_runner(verified, "auto", threads=1).close()
    with pytest.raises(FileNotFoundError):
        publish_all(to / "empty", to, Ed25519PrivateKey.generate())


def test_a_published_engine_gets_todays_placement_and_keeps_its_weights_and_ranges() -> None:
    architecture = architecture_of("resnet18", 64)
    graph = architecture.build(seeded_weights(architecture, 1))
    today = plan_for(graph, "resnet18")
    everywhere = dataclasses.replace(
        today,
        activations={**dict.fromkeys(today.activations, frozenset[str]()), "layer3.0.downsample.0": frozenset()},
        weights={**today.weights, "patch_proj.weight": 0},
    )
    images = list(normalised(golden_pixels(64), Preprocessing(size=64)))
    ranges = thresholds(observe(graph, everywhere, images), "min-max")
    before = quantize(graph, everywhere, ranges)
    engine = seeded_engine("resnet18", 1, image_size=64)
    manifest = dataclasses.replace(engine.manifest, report=(("fp32.recall_at_1", 1.0), ("int8.recall_at_1", 0.5)))
    made = replanned(VerifiedEngine(manifest=manifest, model=before.SerializeToString(), golden=b""))
    after = onnx.load_from_string(made.model)
    old, new = ({i.name: numpy_helper.to_array(i) for i in one.graph.initializer} for one in (before, after))
    assert new.keys() >= {f"{weight}/int8" for weight in today.weights}
    assert "patch_proj.weight/int8" in old.keys() - new.keys()
    for name in old.keys() & new.keys():
        np.testing.assert_allclose(new[name], old[name], rtol=1e-6)
    assert made.model == quantize(float_twin(before), today, ranges).SerializeToString(deterministic=True)
    assert made.manifest.report == (("fp32.recall_at_1", 1.0),)
    assert made.manifest.onnx_sha256 == sha256_hex(made.model)
