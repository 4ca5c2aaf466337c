"""Every backend through one suite: the same graph, the same answers, in order, whatever they are batched with."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from PIL import Image

from engines.catalogue import BackendChoice, VerifiedEngine, load_session, open_runner, read_engine, shipped_keys
from engines.decode import Apart, Decoded, Decoder, ImageFault
from engines.errors import EngineRefused, RefusalCode, RunnerFailed
from engines.golden import golden_pixels
from engines.gpu.opened import Gpu
from engines.publish import seeded_model
from engines.runner import EngineInfo, Pending, Runner
from engines.session import EncodeRequest, EncoderSession, LateFeatures, ViewFeatures

SIZE = 64
FAMILIES = ("resnet18", "vit_tiny16")
BACKENDS: tuple[BackendChoice, ...] = tuple(b for b in get_args(BackendChoice) if b != "auto")
SESSIONS = [pytest.param(b, marks=pytest.mark.gpu if b == "tensorrt" else ()) for b in BACKENDS]
RUNNERS = [
    pytest.param((b, f), marks=pytest.mark.gpu if b == "tensorrt" else (), id=f"{b}-{f}")
    for b in BACKENDS
    for f in FAMILIES
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    key = Ed25519PrivateKey.generate()
    for family in FAMILIES:
        seeded_model(directory, family, 1, key, image_size=SIZE)
    return directory


def engine(models: Path, family: str) -> VerifiedEngine:
    return read_engine(models, family, shipped_keys(models))


def pixels(count: int) -> NDArray[np.uint8]:
    large = golden_pixels(8 * SIZE)
    cuts = [large[i % 2, 8 * i : 8 * i + SIZE, 8 * i : 8 * i + SIZE] for i in range(count)]
    return np.stack(cuts)


def jpeg(square: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(square).resize((2 * SIZE, 2 * SIZE)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@contextmanager
def opened_runner(models: Path, family: str, backend: BackendChoice) -> Iterator[Runner]:
    with ExitStack() as closing:
        gpu = None
        if backend == "tensorrt":
            gpu = Gpu.opened(models / "plans")
            closing.callback(gpu.close)
        opened = open_runner(engine(models, family), backend, threads=1, gpu=gpu)
        closing.callback(opened.close)
        yield opened


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest, models: Path) -> Iterator[Runner]:
    backend, family = request.param
    with opened_runner(models, family, backend) as opened:
        yield opened


@pytest.fixture(params=SESSIONS)
def session(request: pytest.FixtureRequest, models: Path) -> Iterator[EncoderSession]:
    opened = load_session(
        models, FAMILIES, request.param, shipped_keys(models), threads=1, decode_threads=2, plans_dir=models / "plans"
    )
    yield opened
    opened.close()


def test_info_describes_the_engine(runner: Runner, models: Path) -> None:
    manifest = engine(models, runner.info.name).manifest
    assert runner.info == EngineInfo.of(manifest, runner.info.backend)
    assert runner.info.digest == manifest.onnx_sha256
    assert runner.info.precision == "int8"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_outputs_have_the_described_shapes(runner: Runner, count: int) -> None:
    got = runner.start(pixels(count) if count else np.empty((0, SIZE, SIZE, 3), np.uint8)).result()
    info = runner.info
    assert got.embedding.shape == (count, info.embedding_dim)
    assert got.patches.shape == (count, info.patch_grid[0] * info.patch_grid[1], info.patch_dim)
    assert got.attention.shape == (count, *info.attention_grid)
    np.testing.assert_allclose(np.linalg.norm(got.embedding, axis=-1), 1.0, atol=1e-3)
    np.testing.assert_allclose(got.attention.sum(axis=(1, 2)), 1.0, atol=1e-3)


def test_company_in_a_batch_changes_nothing(runner: Runner) -> None:
    together = runner.start(pixels(5)).result()
    for index in range(5):
        alone = runner.start(pixels(5)[index : index + 1]).result()
        assert (alone.embedding[0] * together.embedding[index]).sum() > 0.99999


def test_batches_in_flight_do_not_mix(runner: Runner) -> None:
    started = [runner.start(pixels(5)[i : i + 1]) for i in range(5)]
    together = runner.start(pixels(5)).result()
    for index in reversed(range(5)):
        assert (started[index].result().embedding[0] * together.embedding[index]).sum() > 0.99999


@pytest.mark.parametrize("other", [pytest.param("openvino"), pytest.param("tensorrt", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("family", FAMILIES)
def test_backends_agree_with_the_reference(models: Path, family: str, other: BackendChoice) -> None:
    with opened_runner(models, family, other) as one, opened_runner(models, family, "onnxruntime") as reference:
        left, right = (runner.start(pixels(4)).result() for runner in (one, reference))
    assert (left.embedding * right.embedding).sum(-1).min() > 0.998
    assert (left.patches * right.patches).sum(-1).mean() > 0.99
    assert np.abs(left.attention - right.attention).sum(axis=(1, 2)).max() < 0.1


def test_session_answers_in_place_with_faults_as_values(session: EncoderSession) -> None:
    squares = pixels(4)
    blobs = [jpeg(squares[0]), b"no image", jpeg(squares[1]), jpeg(squares[2])[:300], jpeg(squares[3])]
    encoders = ["resnet18", "resnet18", "vit_tiny16", "vit_tiny16", "resnet18"]
    batch = [EncodeRequest(blob=b, encoder=e) for b, e in zip(blobs, encoders, strict=True)]
    got = session.start(batch).result()
    assert [r.code if isinstance(r, ImageFault) else r.engine.name for r in got] == [
        "resnet18", "undecodable", "vit_tiny16", "truncated", "resnet18",
    ]  # fmt: skip
    first = got[0]
    assert isinstance(first, ViewFeatures)
    assert first.source_size == (2 * SIZE, 2 * SIZE)
    assert first.embedding.shape == (first.engine.embedding_dim,)


def test_two_batches_in_flight_keep_their_own(session: EncoderSession) -> None:
    squares = pixels(12)
    batches = [[EncodeRequest(blob=jpeg(s), encoder="resnet18") for s in part] for part in (squares[:6], squares[6:])]
    pending = [session.start(batch) for batch in batches]
    late = [p.result() for p in reversed(pending)][::-1]
    for batch, results in zip(batches, late, strict=True):
        for request, result in zip(batch, results, strict=True):
            alone = session.start([request]).result()[0]
            assert isinstance(alone, ViewFeatures) and isinstance(result, ViewFeatures)
            assert alone.phash == result.phash
            assert (alone.embedding * result.embedding).sum() > 0.99999


def test_an_unknown_encoder_is_refused_at_once(session: EncoderSession) -> None:
    with pytest.raises(EngineRefused) as caught:
        session.start([EncodeRequest(blob=b"", encoder="resnet50")])
    assert caught.value.code is RefusalCode.ENCODER_UNKNOWN


def test_an_empty_batch_is_answered(session: EncoderSession) -> None:
    assert session.start([]).result() == []


class _NeverDecodes:
    """A decoder whose futures stay open until it is closed."""

    def __init__(self) -> None:
        self.futures: list[Future[Decoded | ImageFault]] = []

    def decode(self, blobs: list[bytes]) -> list[Future[Decoded | ImageFault]]:
        self.futures += [Future() for _ in blobs]
        return self.futures

    def close(self) -> None:
        for future in self.futures:
            future.cancel()


class _Fails:
    """A runner that cannot start."""

    def __init__(self, info: EngineInfo) -> None:
        self.info = info

    def start(self, pixels: NDArray[np.uint8]) -> Pending:
        raise RunnerFailed("out of memory")

    def close(self) -> None:
        pass


def test_a_failing_runner_fails_its_batch_and_not_the_session(models: Path, session: EncoderSession) -> None:
    info = session.engines["resnet18"]
    from engines.decoder import PillowDecoder

    failing = EncoderSession({"resnet18": _Fails(info)}, PillowDecoder(SIZE, threads=1))
    for _ in range(2):
        with pytest.raises(RunnerFailed, match="out of memory"):
            failing.start([EncodeRequest(blob=jpeg(pixels(1)[0]), encoder="resnet18")]).result()
    failing.close()


class _Halves:
    """A decoder whose first photograph is with a helper until it is let go."""

    def __init__(self, inner: Decoder) -> None:
        self.inner, self.apart = inner, Apart()

    def decode(self, blobs: Sequence[bytes]) -> list[Future[Decoded | ImageFault]]:
        return [self.apart, *self.inner.decode(blobs[1:])]

    def close(self) -> None:
        self.apart.cancel()
        self.inner.close()


def test_a_batch_does_not_wait_for_what_a_helper_decodes(models: Path) -> None:
    from engines.decoder import PillowDecoder

    whole = load_session(models, ["resnet18"], "onnxruntime", shipped_keys(models), threads=1, decode_threads=1)
    decoder = _Halves(PillowDecoder(SIZE, threads=1))
    session = EncoderSession(whole._runners, decoder)  # noqa: SLF001 (the same runners behind another decoder)
    blobs = [jpeg(row) for row in pixels(2)]
    batch = [EncodeRequest(blob=blob, encoder="resnet18") for blob in blobs]
    late, prompt = session.start(batch).prompt()
    assert isinstance(late, LateFeatures) and isinstance(prompt, ViewFeatures)
    told = threading.Event()
    late.when_done(told.set)
    assert not late.done and not told.is_set()
    decoder.apart.set_result(decoder.inner.decode(blobs[:1])[0].result())
    assert told.wait(60)
    features, (same, again) = late.result(), whole.start(batch).prompt()
    assert isinstance(features, ViewFeatures) and isinstance(same, ViewFeatures) and isinstance(again, ViewFeatures)
    np.testing.assert_allclose(features.embedding, same.embedding, atol=1e-5)
    np.testing.assert_allclose(prompt.embedding, again.embedding, atol=1e-5)
    come, _ = session.start(batch).prompt()
    assert isinstance(come, ViewFeatures), "what is done already is not late"
    session.close()


def test_closing_ends_what_was_not_decoded(session: EncoderSession) -> None:
    closing = EncoderSession({"resnet18": _Fails(session.engines["resnet18"])}, _NeverDecodes())  # type: ignore[arg-type]
    pending = closing.start([EncodeRequest(blob=b"", encoder="resnet18")])
    closing.close()
    with pytest.raises(RunnerFailed, match="closed"):
        pending.result()
