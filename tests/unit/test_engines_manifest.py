"""Signed engines: what verifies, and what each alteration is called."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engines.catalogue import load_session, open_runner, read_engine, shipped_keys
from engines.errors import EngineRefused, RefusalCode
from engines.manifest import EngineManifest, golden_path, manifest_path, model_path
from engines.publish import publish, seeded_engine, seeded_model
from engines.signing import load_trusted_keys

NAME = "resnet18"
SIZE = 64


@pytest.fixture
def models(tmp_path: Path) -> Path:
    seeded_model(tmp_path, "resnet18", 1, image_size=SIZE)
    return tmp_path


def refusal(act: Callable[[], object]) -> RefusalCode:
    with pytest.raises(EngineRefused) as caught:
        act()
    assert caught.value.fix
    return caught.value.code


def read(models: Path) -> Callable[[], object]:
    return lambda: read_engine(models, NAME, shipped_keys(models))


def alter(path: Path, **fields: object) -> None:
    content = {**json.loads(path.read_bytes()), **fields}
    path.write_bytes(json.dumps({k: v for k, v in content.items() if v is not ...}).encode())


def test_manifest_round_trip(models: Path) -> None:
    engine = read_engine(models, NAME, shipped_keys(models))
    assert EngineManifest.from_json(engine.manifest.to_json(), "again") == engine.manifest
    assert engine.manifest.calibration is not None
    assert engine.manifest.calibration.method == "min-max"


def test_seeded_engines_are_equal_for_equal_seeds() -> None:
    first, second = (seeded_engine("resnet18", 3, image_size=SIZE) for _ in range(2))
    assert first.model == second.model
    assert first.manifest.embedding_space == second.manifest.embedding_space
    assert first.manifest.embedding_space != seeded_engine("resnet18", 4, image_size=SIZE).manifest.embedding_space


def test_missing_files_are_named(models: Path) -> None:
    assert refusal(lambda: read_engine(models, "other", shipped_keys(models))) is RefusalCode.MANIFEST_MISSING
    model_path(models, NAME).unlink()
    assert refusal(read(models)) is RefusalCode.MODEL_MISSING


@pytest.mark.parametrize("path", [model_path, golden_path])
def test_an_altered_file_is_refused(models: Path, path: Callable[[Path, str], Path]) -> None:
    target = path(models, NAME)
    raw = bytearray(target.read_bytes())
    raw[len(raw) // 2] ^= 1
    target.write_bytes(raw)
    assert refusal(read(models)) is RefusalCode.DIGEST_MISMATCH


def test_an_altered_manifest_is_refused(models: Path) -> None:
    alter(manifest_path(models, NAME), embedding_space="0" * 64)
    assert refusal(read(models)) is RefusalCode.SIGNATURE_INVALID


@pytest.mark.parametrize(
    "fields",
    [{"schema": 2}, {"extra": 1}, {"family": ...}, {"patch_grid": [0, 4]}, {"precision": "fp8"}, {"opset": "17"}],
)
def test_a_malformed_manifest_is_refused(models: Path, fields: dict[str, object]) -> None:
    alter(manifest_path(models, NAME), **fields)
    assert refusal(read(models)) is RefusalCode.MANIFEST_INVALID


def test_a_manifest_nested_without_end_is_refused(models: Path) -> None:
    manifest_path(models, NAME).write_bytes(b"[" * 100_000)
    assert refusal(read(models)) is RefusalCode.MANIFEST_INVALID


def test_a_foreign_key_is_refused(models: Path) -> None:
    publish(seeded_engine("resnet18", 1, image_size=SIZE), models, Ed25519PrivateKey.generate())
    assert refusal(read(models)) is RefusalCode.KEY_UNKNOWN


def test_another_keys_id_does_not_help(models: Path) -> None:
    key_id = json.loads(manifest_path(models, NAME).read_bytes())["key_id"]
    publish(seeded_engine("resnet18", 2, image_size=SIZE), models, Ed25519PrivateKey.generate())
    alter(manifest_path(models, NAME), key_id=key_id)
    assert refusal(read(models)) is RefusalCode.SIGNATURE_INVALID


def test_an_engine_under_another_name_is_refused(models: Path) -> None:
    for path in (manifest_path, model_path, golden_path):
        path(models, NAME).rename(path(models, "vit_tiny16"))
    act = lambda: read_engine(models, "vit_tiny16", shipped_keys(models))  # noqa: E731
    assert refusal(act) is RefusalCode.MANIFEST_INVALID


def test_a_file_that_holds_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.pub").write_text("not a key")
    assert refusal(lambda: load_trusted_keys([tmp_path / "bad.pub"])) is RefusalCode.KEY_UNKNOWN


def test_the_self_test_refuses_other_outputs(models: Path) -> None:
    engine = read_engine(models, NAME, shipped_keys(models))
    other = seeded_engine("resnet18", 9, image_size=SIZE)
    crossed = dataclasses.replace(engine, golden=other.golden)
    for backend in ("openvino", "onnxruntime"):
        assert refusal(lambda b=backend: open_runner(crossed, b)) is RefusalCode.GOLDEN_MISMATCH  # type: ignore[misc]


def test_the_self_test_notices_wrong_preprocessing(models: Path) -> None:
    engine = read_engine(models, NAME, shipped_keys(models))
    rule = dataclasses.replace(engine.manifest.preprocessing, mean=(0.0, 0.0, 0.0))
    shifted = dataclasses.replace(engine, manifest=dataclasses.replace(engine.manifest, preprocessing=rule))
    assert refusal(lambda: open_runner(shifted, "openvino")) is RefusalCode.GOLDEN_MISMATCH


def test_a_file_that_is_no_graph_is_refused(models: Path) -> None:
    engine = read_engine(models, NAME, shipped_keys(models))
    broken = dataclasses.replace(engine, model=b"no graph")
    for backend in ("openvino", "onnxruntime"):
        assert refusal(lambda b=backend: open_runner(broken, b)) is RefusalCode.OUTPUTS_UNEXPECTED  # type: ignore[misc]


def test_encoders_of_two_sizes_do_not_share_a_session(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    seeded_model(tmp_path, "resnet18", 1, key, name="small", image_size=64)
    seeded_model(tmp_path, "resnet18", 1, key, name="large", image_size=96)
    act = lambda: load_session(tmp_path, ["small", "large"], "auto", shipped_keys(tmp_path))  # noqa: E731
    assert refusal(act) is RefusalCode.ENCODER_UNKNOWN
