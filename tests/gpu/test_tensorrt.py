"""What only a GPU can show: the kernel's bits, plans kept and refused, the shipped encoders beside the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.catalogue import MODELS_DIR, open_runner, read_engine, shipped_keys
from engines.errors import RunnerFailed
from engines.golden import golden_pixels, self_test
from engines.gpu.device import Device
from engines.gpu.opened import Gpu
from engines.gpu.plans import BUILD_EFFORT, BuildOptions, plan_header
from engines.gpu.rewrite import device_graphs
from engines.gpu.tensorrt_runner import TensorRtRunner
from engines.plan_files import PlanFolder
from engines.preprocess import Preprocessing, normalised
from engines.publish import seeded_model
from engines.runner import Runner

pytestmark = pytest.mark.gpu
SIZE = 64


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    device = Device()
    yield device
    device.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    key = Ed25519PrivateKey.generate()
    for family in ("resnet18", "vit_tiny16"):
        seeded_model(directory, family, 1, key, image_size=SIZE)
    return directory


@pytest.mark.parametrize("side", [1, 64, 448])
def test_the_kernel_gives_the_bits_of_the_cpu(device: Device, side: int) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    expected = normalised(pixels, Preprocessing(size=side))

    def run() -> np.ndarray:
        import pycuda.driver as cuda

        rule = Preprocessing()
        mean = np.asarray(rule.mean, np.float32)
        scale = np.float32(1.0) / np.asarray(rule.std, np.float32)
        images = np.empty(expected.shape, np.float32)
        device.kernel("normalise")(
            cuda.In(pixels), cuda.Out(images), cuda.In(mean), cuda.In(scale), np.int32(side), np.int32(5), np.int32(3),
            block=(256, 1, 1), grid=(64, 1),
        )  # fmt: skip
        return images

    assert np.array_equal(device.run(run), expected)


def opened(device: Device, models: Path, plans: Path) -> TensorRtRunner:
    engine = read_engine(models, "resnet18", shipped_keys(models))
    gpu = Gpu(device=device, plans=PlanFolder(plans))
    return TensorRtRunner(gpu.encoder(next(device_graphs(engine.model)), engine.manifest))


@pytest.mark.parametrize("recipe", ["half-int8", "half", "signed"])
@pytest.mark.parametrize("family", ["resnet18", "vit_tiny16"])
def test_every_rewrite_gives_the_golden_outputs(
    device: Device, models: Path, plans_dir: Path, family: str, recipe: str
) -> None:
    """Of small encoders, which are built in seconds; `shipped` below tests the shipped ones' fastest."""
    engine = read_engine(models, family, shipped_keys(models))
    gpu = Gpu(device=device, plans=PlanFolder(plans_dir))
    for graph in (g for g in device_graphs(engine.model) if g.recipe == recipe):
        runner = TensorRtRunner(gpu.encoder(graph, engine.manifest))
        self_test(runner, engine.golden)
        runner.close()


def test_a_kept_plan_is_taken_again_and_a_damaged_one_is_built_anew(
    device: Device, models: Path, tmp_path: Path
) -> None:
    first = opened(device, models, tmp_path / "plans")
    (file,) = (tmp_path / "plans").glob("*.plan")
    built = file.stat().st_ino
    again = opened(device, models, tmp_path / "plans")
    assert file.stat().st_ino == built
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    anew = opened(device, models, tmp_path / "plans")
    assert file.stat().st_ino != built
    pixels = golden_pixels(SIZE)
    outputs = [runner.start(pixels).result().embedding for runner in (first, again, anew)]
    assert np.array_equal(outputs[0], outputs[1])
    assert (outputs[0] * outputs[2]).sum(-1).min() > 0.999
    for runner in (first, again, anew):
        runner.close()


def test_a_plan_is_for_one_graph_profile_and_capability(models: Path) -> None:
    engine = read_engine(models, "resnet18", shipped_keys(models))
    graphs = list(device_graphs(engine.model))
    keys = {
        plan_header(graph, engine.manifest, capability, BuildOptions(effort=effort)).key
        for graph in graphs
        for capability in ((9, 0), (8, 9))
        for effort in (BUILD_EFFORT, 5)
    }
    assert len(keys) == 4 * len(graphs)


def test_pixels_of_another_shape_are_refused_and_the_next_batch_runs(
    device: Device, models: Path, tmp_path: Path
) -> None:
    runner = opened(device, models, tmp_path / "plans")
    with pytest.raises(RunnerFailed, match="expected uint8"):
        runner.start(np.zeros((1, SIZE, SIZE + 1, 3), np.uint8)).result()
    assert np.isfinite(runner.start(golden_pixels(SIZE)).result().embedding).all()
    runner.close()


@pytest.fixture(scope="module", params=["resnet18", "vit_tiny16"])
def shipped(request: pytest.FixtureRequest, device: Device, plans_dir: Path) -> Iterator[Runner]:
    """Opening it self-tests it: its outputs are those that the CPU gave when it was published."""
    gpu = Gpu(device=device, plans=PlanFolder(plans_dir))
    runner = open_runner(read_engine(MODELS_DIR, request.param, shipped_keys()), "tensorrt", gpu=gpu)
    yield runner
    runner.close()


@pytest.mark.parametrize("count", [1, 7, 32, 130])
def test_an_answer_does_not_depend_on_its_batch(shipped: Runner, count: int) -> None:
    """130 is above the largest profile: the batch is cut in two."""
    one = shipped.start(golden_pixels(448)).result()
    many = shipped.start(np.concatenate([golden_pixels(448)] * (count // 2 + 1))[:count]).result()
    for row in range(count):
        assert (many.embedding[row] * one.embedding[row % 2]).sum() >= 0.9999
        assert (many.patches[row] * one.patches[row % 2]).sum(-1).mean() >= 0.999
