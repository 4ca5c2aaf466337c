"""The encoders in engines/models: signed, unaltered, small enough, alike on both backends, and indifferent to whether a
JPEG was decoded in full or at a reduced scale."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from demo.goods import CATEGORIES, heldout_skus, jpeg, render
from engines.catalogue import MODELS_DIR, load_session, open_runner, read_engine, shipped_keys
from engines.decode import Decoded, DecodeLimits, decode_photograph
from engines.errors import EngineRefused, RefusalCode
from engines.manifest import golden_path, manifest_path, model_path
from engines.packing import packed, packed_path, read_model
from engines.runner import Backend, Runner
from engines.session import EncodeRequest, ViewFeatures

ENCODERS = ("resnet18", "vit_tiny16")
PHOTOGRAPH_SIDE = 1024  # px: halved to 512, the least that a reduced decode leaves of any photograph
SKUS = 10  # six views each
BACKEND_VIEWS = 12

Pixels = NDArray[np.uint8]
Embeddings = NDArray[np.float32]

# The float weights of the encoder that was placed anew are gone: INT8 is compared with the float twin.
COSINE = {"resnet18": "twin.cosine_mean", "vit_tiny16": "int8.cosine_mean"}
GZIP_OF_NO_NAME_AND_TIME = b"\x1f\x8b\x08" + bytes(5)


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    """Genuine specimens of SKUs that no encoder was trained on."""
    skus = heldout_skus(120)[-SKUS:]
    return [
        jpeg(render(sku, view, specimen=0, size=PHOTOGRAPH_SIDE).image)
        for sku in skus
        for view in CATEGORIES[sku.category]
    ]


@pytest.fixture(scope="module", params=ENCODERS)
def runners(request: pytest.FixtureRequest) -> Iterator[dict[Backend, Runner]]:
    """One encoder on both backends; opening verifies, warms and self-tests it."""
    engine = read_engine(MODELS_DIR, request.param, shipped_keys())
    opened: dict[Backend, Runner] = {
        "openvino": open_runner(engine, "openvino"),
        "onnxruntime": open_runner(engine, "onnxruntime"),
    }
    yield opened
    for runner in opened.values():
        runner.close()


def squares(photographs: list[bytes], reduced: bool) -> Pixels:
    return np.stack([square(blob, reduced) for blob in photographs])


def square(blob: bytes, reduced: bool) -> Pixels:
    decoded = decode_photograph(blob, size=448, limits=DecodeLimits(), reduced=reduced)
    assert isinstance(decoded, Decoded), decoded
    return decoded.pixels


def embedded(runner: Runner, pixels: Pixels) -> Embeddings:
    blocks = [runner.start(pixels[n : n + 8]).result().embedding for n in range(0, len(pixels), 8)]
    return np.concatenate(blocks)


def cosines(left: Embeddings, right: Embeddings) -> Embeddings:
    cosine: Embeddings = (left * right).sum(1)
    return cosine


def test_reduced_decoding_keeps_the_embedding(photographs: list[bytes], runners: dict[Backend, Runner]) -> None:
    reduced, full = squares(photographs, True), squares(photographs, False)
    assert (reduced != full).any(), "nothing was decoded at a reduced scale"
    runner = runners["openvino"]
    alike = cosines(embedded(runner, reduced), embedded(runner, full))
    assert len(alike) == 6 * SKUS
    assert alike.mean() >= 0.999
    assert alike.min() >= 0.98  # a weave as fine as the pixels; two genuine specimens lie at 0.98


def test_backends_agree(photographs: list[bytes], runners: dict[Backend, Runner]) -> None:
    pixels = squares(photographs[:BACKEND_VIEWS], True)
    alike = cosines(*(embedded(runner, pixels) for runner in runners.values()))
    assert alike.min() >= 0.999


def test_embeddings_tell_designs_apart(photographs: list[bytes], runners: dict[Backend, Runner]) -> None:
    """An encoder of random weights gives everything the same embedding."""
    fronts = squares(photographs[::6], True)
    found = embedded(runners["openvino"], fronts)
    others = (found @ found.T)[~np.eye(len(found), dtype=bool)]
    assert np.median(others) < 0.5


def test_a_session_encodes_a_photograph_with_both(photographs: list[bytes]) -> None:
    session = load_session(MODELS_DIR, ENCODERS, "openvino", shipped_keys())
    try:
        answers = session.start([EncodeRequest(blob=photographs[0], encoder=e) for e in ENCODERS]).result()
    finally:
        session.close()
    for answer in answers:
        assert isinstance(answer, ViewFeatures)
        assert np.linalg.norm(answer.embedding) == pytest.approx(1, abs=1e-4)
        assert answer.attention.sum() == pytest.approx(1, abs=1e-3)
        assert answer.source_size == (PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE)


@pytest.mark.parametrize("name", ENCODERS)
def test_manifests_tell_how_the_engine_was_measured(name: str) -> None:
    manifest = read_engine(MODELS_DIR, name, shipped_keys()).manifest
    report = dict(manifest.report)
    assert manifest.precision == "int8"
    assert report["fp32.recall_at_1"] > 0.95
    assert report[COSINE[name]] > 0.99
    assert report["int8.queries"] > 0


@pytest.mark.parametrize("name", ENCODERS)
def test_an_altered_engine_is_refused(name: str, tmp_path: Path) -> None:
    for source in (manifest_path(MODELS_DIR, name), golden_path(MODELS_DIR, name)):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    altered = bytearray(read_model(MODELS_DIR, name))
    altered[len(altered) // 2] ^= 1
    model_path(tmp_path, name).write_bytes(altered)
    with pytest.raises(EngineRefused) as refused:
        read_engine(tmp_path, name, shipped_keys())
    assert refused.value.code is RefusalCode.DIGEST_MISMATCH


def laid(folder: Path, name: str, content: bytes) -> Path:
    """A shipped engine's folder whose packed graph is `content`."""
    for source in (manifest_path(MODELS_DIR, name), golden_path(MODELS_DIR, name)):
        (folder / source.name).write_bytes(source.read_bytes())
    packed_path(folder, name).write_bytes(content)
    return folder


def test_a_packed_graph_is_the_graph(tmp_path: Path) -> None:
    model = read_model(MODELS_DIR, "vit_tiny16")
    shipped = packed_path(MODELS_DIR, "vit_tiny16").read_bytes()
    assert packed(model) == packed(bytearray(model))
    assert packed(model)[:8] == shipped[:8] == GZIP_OF_NO_NAME_AND_TIME
    assert len(shipped) < len(packed(model))
    assert read_engine(laid(tmp_path, "vit_tiny16", packed(model)), "vit_tiny16", shipped_keys()).model == model


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda raw: raw[:-9], "ends early"),
        (lambda raw: raw + b"x", "behind its end"),
        (lambda raw: b"x" + raw, "not what was packed"),
        (lambda raw: packed(bytes(50_000_000)), "unpacks to more than"),
        (lambda raw: packed(b"another graph"), "graph"),
    ],
)
def test_a_spoilt_packing_is_refused(spoil: Callable[[bytes], bytes], told: str, tmp_path: Path) -> None:
    raw = packed_path(MODELS_DIR, "vit_tiny16").read_bytes()
    with pytest.raises(EngineRefused, match=told) as refused:
        read_engine(laid(tmp_path, "vit_tiny16", spoil(raw)), "vit_tiny16", shipped_keys())
    assert refused.value.code is RefusalCode.DIGEST_MISMATCH


def test_the_encoders_stay_small_and_no_private_key_lies_beside_them() -> None:
    files = [path for path in MODELS_DIR.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    assert not any(b"PRIVATE KEY" in path.read_bytes() for path in files)


def test_what_a_halving_would_leave_unfiltered_is_decoded_in_full(photographs: list[bytes]) -> None:
    with Image.open(io.BytesIO(photographs[0])) as opened:
        smaller = jpeg(np.asarray(opened.resize((960, 960))))
    assert (square(smaller, True) == square(smaller, False)).all()
