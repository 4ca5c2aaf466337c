"""The device session's own decisions, on a fake device whose kernels are the real ones' source."""

from __future__ import annotations

import gc
import io
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_gpu import Fakes
from kernels_on_cpu import built, compiler
from numpy.typing import NDArray
from PIL import Image

from engines.catalogue import SessionOptions, VerifiedEngine, open_session, read_engine, shipped_keys
from engines.decode import ImageFault
from engines.errors import EngineRefused, RunnerFailed
from engines.golden import golden_pixels
from engines.gpu.encoder import GpuOptions
from engines.gpu.session import DeviceSession
from engines.guard import GuardedBatch
from engines.publish import seeded_model
from engines.session import EncodeRequest, EncoderSession, ViewFeatures

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler on this machine")
SIZE = 64
FAMILIES = ("resnet18", "vit_tiny16")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> list[VerifiedEngine]:
    directory = tmp_path_factory.mktemp("models")
    key = Ed25519PrivateKey.generate()
    for family in FAMILIES:
        seeded_model(directory, family, 1, key, image_size=SIZE)
    return [read_engine(directory, family, shipped_keys(directory)) for family in FAMILIES]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fakes]:
    made = Fakes(built(tmp_path_factory.mktemp("kernels")))
    with pytest.MonkeyPatch.context() as patch:
        made.install(patch)
        yield made


@pytest.fixture
def fakes(planted: Fakes) -> Iterator[Fakes]:
    planted.reset()
    yield planted
    planted.reset()


def opened(engines: list[VerifiedEngine], plans: Path, **gpu: int) -> EncoderSession:
    """One encoder is enough where nothing is asked about two."""
    options = SessionOptions(
        plans_dir=plans, decode_threads=1, threads=1, deadline_s=20.0, reduced_decode=False, gpu=GpuOptions(**gpu)
    )
    return open_session(engines, "tensorrt", options)


@pytest.fixture(scope="module")
def session(
    planted: Fakes, engines: list[VerifiedEngine], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EncoderSession]:
    session = opened(engines, tmp_path_factory.mktemp("plans"))
    yield session
    session.close()


@pytest.fixture(scope="module")
def reference(engines: list[VerifiedEngine]) -> Iterator[EncoderSession]:
    options = SessionOptions(decode_threads=1, threads=1, reduced_decode=False)
    session = open_session(engines, "onnxruntime", options)
    yield session
    session.close()


def picture(number: int = 0, **saved: object) -> bytes:
    """Not so tall that Pillow would take its two passes in another order than the device does."""
    large = golden_pixels(8 * SIZE)[number % 2, 8 * number : 8 * number + 120, : 100 + number]
    return encoded(large, **saved)


def encoded(pixels: NDArray[np.uint8], **saved: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **{"quality": 92, **saved})  # type: ignore[arg-type]
    return out.getvalue()


def requests(blobs: list[bytes]) -> list[EncodeRequest]:
    return [EncodeRequest(blob=blob, encoder=FAMILIES[at % 2]) for at, blob in enumerate(blobs)]


def assert_like(found: object, expected: object) -> None:
    assert isinstance(found, ViewFeatures) and isinstance(expected, ViewFeatures), (found, expected)
    assert (found.embedding * expected.embedding).sum() > 0.998
    assert (found.phash ^ expected.phash).bit_count() <= 1
    assert found.source_size == expected.source_size
    assert found.trailing_bytes == expected.trailing_bytes
    assert found.quality.sharpness == pytest.approx(expected.quality.sharpness, rel=1e-3)
    assert found.quality.glare == expected.quality.glare


def test_photographs_get_what_the_cpu_gives_them(
    fakes: Fakes, session: EncoderSession, reference: EncoderSession
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = [picture(2, progressive=True), picture(3, exif=exif), picture(4)[:-400], b"no image", picture(5) + b"behind"]
    png = io.BytesIO()
    Image.open(io.BytesIO(picture(6))).save(png, "PNG")
    batch = requests([picture(0), picture(1), *odd, png.getvalue(), picture(7), picture(8)])
    assert isinstance(session, DeviceSession)
    found, expected = session.start(batch).result(), reference.start(batch).result()
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, ImageFault):
            assert isinstance(one, ImageFault) and one.code == other.code
        else:
            assert_like(one, other)
    assert sum(fakes.decoded) == 6, "whole baseline JPEGs are the device's, nothing else"


def test_what_the_device_refuses_is_decoded_by_the_cpu_and_its_batch_goes_on(
    fakes: Fakes, session: EncoderSession, reference: EncoderSession
) -> None:
    blobs = [picture(number, exif=b"") for number in range(5)]
    fakes.refuses = {blobs[1], blobs[2]}
    batch = requests(blobs)
    for one, other in zip(session.start(batch).prompt(), reference.start(batch).result(), strict=True):
        assert_like(one, other)


def test_batches_are_cut_where_pixels_do_not_fit_and_answers_stay_in_order(
    fakes: Fakes, engines: list[VerifiedEngine], reference: EncoderSession, tmp_path: Path
) -> None:
    session = opened(engines[:1], tmp_path, decoded_bytes=4 * 115 * 120 * 3, slots=1)
    batch = [EncodeRequest(blob=picture(number), encoder="resnet18") for number in range(11)]
    pending = [session.start(batch[:6]), session.start(batch[6:])]
    found = [*pending[0].result(), *pending[1].result()]
    assert len(fakes.decoded) > 2 and max(fakes.decoded) <= 4
    for one, other in zip(found, reference.start(batch).result(), strict=True):
        assert_like(one, other)
    session.close()


def running() -> list[object]:
    """The batches that anything holds."""
    return [one for one in gc.get_objects() if type(one) is GuardedBatch]


def test_photographs_go_with_their_answers(fakes: Fakes, session: EncoderSession) -> None:
    gc.collect()
    gc.disable()  # nothing may wait for the collector: a worker runs it seldom
    try:
        before = running()
        pending = session.start(requests([picture(0), picture(1)]))
        pending.result()
        taken = [weakref.ref(one) for one in running() if one not in before]
        del pending
        assert len(taken) == 2 and not any(ref() for ref in taken)
    finally:
        gc.enable()


def test_want_of_memory_halves_a_batch(fakes: Fakes, session: EncoderSession, reference: EncoderSession) -> None:
    fakes.most = 2
    batch = [EncodeRequest(blob=picture(number), encoder="resnet18") for number in range(5)]
    for one, other in zip(session.start(batch).result(), reference.start(batch).result(), strict=True):
        assert_like(one, other)


def test_broken_numbers_cost_their_own_photograph_alone(fakes: Fakes, session: EncoderSession) -> None:
    white = encoded(np.full((80, 80, 3), 254, np.uint8))
    fakes.nan_above = 1.2
    batch = [EncodeRequest(blob=blob, encoder="vit_tiny16") for blob in (picture(0), white, picture(1))]
    first, broken, last = session.start(batch).result()
    assert isinstance(broken, ImageFault) and broken.code == "encoder_failed"
    assert isinstance(first, ViewFeatures) and isinstance(last, ViewFeatures)


def test_a_lost_device_fails_every_batch_and_gives_no_answer(fakes: Fakes, session: EncoderSession) -> None:
    fakes.lost = True
    with pytest.raises(RunnerFailed, match="illegal memory access"):
        session.start(requests([picture(0)])).result()


def test_a_hang_ends_at_the_deadline(fakes: Fakes, engines: list[VerifiedEngine], tmp_path: Path) -> None:
    session = opened(engines[:1], tmp_path)
    session.deadline_s = 0.2
    fakes.hang = threading.Event()
    try:
        with pytest.raises(RunnerFailed, match="deadline"):
            session.start(requests([picture(0)])).result()
    finally:
        fakes.hang.set()
        session.close()


def test_a_gpu_without_memory_says_how_much_is_missing_and_what_to_lower(
    fakes: Fakes, engines: list[VerifiedEngine], tmp_path: Path
) -> None:
    fakes.free_bytes = 21 << 30
    with pytest.raises(EngineRefused, match=r"\d+ are missing.*gpu_slots") as caught:
        opened(engines[:1], tmp_path, decoded_bytes=2 << 30)
    assert caught.value.code == "backend_unavailable"


def test_a_batch_is_decoded_while_the_one_before_runs(
    fakes: Fakes, engines: list[VerifiedEngine], tmp_path: Path
) -> None:
    session = opened(engines[:1], tmp_path)
    fakes.steps.clear()  # of the self-test
    fakes.hang = threading.Event()
    try:
        batches = [session.start([EncodeRequest(blob=picture(number), encoder="resnet18")]) for number in range(3)]
        for _ in range(200):
            if len(fakes.steps) >= 4:
                break
            threading.Event().wait(0.05)
        assert fakes.steps == ["decode", "infer"] * 2, (
            "each is queued before the next is decoded; the third has no slot"
        )
    finally:
        fakes.hang.set()
    assert all(isinstance(batch.result()[0], ViewFeatures) for batch in batches)
    session.close()


def test_results_that_are_kept_for_long_are_right_and_hold_up_nobody(
    fakes: Fakes, engines: list[VerifiedEngine], tmp_path: Path
) -> None:
    """More batches than have pinned memory; the fake refuses a copy to any other."""
    session = opened(engines[:1], tmp_path, slots=1)
    blobs = [picture(number) for number in range(3)]
    batch = [EncodeRequest(blob=blob, encoder="resnet18") for blob in blobs]
    first, *others = [session.start(batch).result() for _ in range(8)]
    for other in others:
        for one, again in zip(first, other, strict=True):
            assert isinstance(one, ViewFeatures) and isinstance(again, ViewFeatures)
            assert np.array_equal(one.embedding, again.embedding) and np.array_equal(one.patches, again.patches)
    session.close()


def test_only_the_device_s_thread_copies(fakes: Fakes, session: EncoderSession) -> None:
    session.start(requests([picture(0), picture(1), picture(2, progressive=True)])).result()
    assert {name.rsplit("_", 1)[0] for name in fakes.threads} == {"gpu-0"}


def test_closing_waits_for_what_was_started(fakes: Fakes, engines: list[VerifiedEngine], tmp_path: Path) -> None:
    session = opened(engines[:1], tmp_path)
    pending = session.start([EncodeRequest(blob=picture(number), encoder="resnet18") for number in range(4)])
    session.close()
    assert all(isinstance(one, ViewFeatures) for one in pending.result())
