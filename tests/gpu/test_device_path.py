"""Photographs on a GPU beside the CPU: what they become, in any company, and what happens to bad ones."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engines.catalogue import MODELS_DIR, SessionOptions, open_session, read_engine, shipped_keys
from engines.decode import TURNS, ImageFault
from engines.golden import golden_pixels
from engines.gpu.graphs import buckets
from engines.gpu.looks import looks_of
from engines.gpu.opened import Gpu
from engines.gpu.photographs import Photograph
from engines.gpu.session import DeviceSession
from engines.preprocess import resized
from engines.quality import measured, perceptual_hash
from engines.session import EncodeRequest, EncoderSession, ViewFeatures

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
ENCODERS = ("resnet18", "vit_tiny16")
SIDE = 448


@pytest.fixture(scope="module")
def session(plans_dir: Path) -> Iterator[EncoderSession]:
    engines = [read_engine(MODELS_DIR, name, shipped_keys()) for name in ENCODERS]
    session = open_session(engines, "tensorrt", SessionOptions(plans_dir=plans_dir, deadline_s=60.0))
    assert isinstance(session, DeviceSession), "the device decodes"
    yield session
    session.close()


@pytest.fixture(scope="module", params=[True, False], ids=["draft", "full"])
def cpu(request: pytest.FixtureRequest) -> Iterator[EncoderSession]:
    engines = [read_engine(MODELS_DIR, name, shipped_keys()) for name in ENCODERS]
    session = open_session(engines, "onnxruntime", SessionOptions(reduced_decode=request.param))
    yield session
    session.close()


@cache
def scene(width: int, height: int) -> Image.Image:
    """Smooth forms and grain, so that a JPEG of it is like a photograph's."""
    large = Image.fromarray(golden_pixels(640)[1]).resize((width, height), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(width).normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


@cache
def photograph_of(width: int, height: int) -> bytes:
    return encoded(scene(width, height), quality=90)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


SIZES = [(448, 448), (449, 451), (640, 480), (1023, 777), (1500, 2001), (3000, 2250), (457, 1999)]
MODES = {
    "grey": encoded(scene(700, 600).convert("L")),
    "cmyk": encoded(scene(700, 600).convert("CMYK")),
    "rgba": encoded(scene(700, 600).convert("RGBA"), "PNG"),
    "16 bits": encoded(Image.fromarray(np.asarray(scene(700, 600).convert("L")).astype(np.uint16) * 257), "PNG"),
    "progressive": encoded(scene(700, 600), progressive=True),
    "4:4:4": encoded(scene(700, 600), subsampling=0),
    "4:2:2": encoded(scene(700, 600), subsampling=1),
    "restarts": encoded(scene(700, 600), restart_marker_rows=1),
    "webp": encoded(scene(700, 600), "WEBP"),
}


def both(
    session: EncoderSession, cpu: EncoderSession, blobs: list[bytes], encoder: str
) -> list[tuple[ViewFeatures | ImageFault, ViewFeatures | ImageFault]]:
    batch = [EncodeRequest(blob=blob, encoder=encoder) for blob in blobs]
    return list(zip(session.start(batch).result(), cpu.start(batch).result(), strict=True))


def assert_alike(one: object, other: object, *, least: float = 0.999, of: object = None) -> None:
    if not (isinstance(one, ViewFeatures) and isinstance(other, ViewFeatures)):
        faults = [fault for fault in (one, other) if isinstance(fault, ImageFault)]
        pytest.fail(f"{of}: GPU {type(one).__name__}, CPU {type(other).__name__}: {faults}")
    assert (one.embedding * other.embedding).sum() >= least, of
    assert one.source_size == other.source_size, of
    assert (one.phash ^ other.phash).bit_count() <= 6, of
    assert one.quality.brightness == pytest.approx(other.quality.brightness, abs=0.01), of
    assert one.quality.contrast == pytest.approx(other.quality.contrast, abs=0.01), of


@pytest.mark.parametrize("encoder", ENCODERS)
def test_photographs_of_every_size_are_what_the_cpu_makes_of_them(
    session: EncoderSession, cpu: EncoderSession, encoder: str
) -> None:
    blobs = [photograph_of(*size) for size in SIZES]
    for size, (one, other) in zip(SIZES, both(session, cpu, blobs, encoder), strict=True):
        assert_alike(one, other, of=size)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_photographs_of_every_mode_are_what_the_cpu_makes_of_them(
    session: EncoderSession, cpu: EncoderSession, encoder: str
) -> None:
    for mode, (one, other) in zip(MODES, both(session, cpu, list(MODES.values()), encoder), strict=True):
        assert_alike(one, other, of=mode)


def test_every_orientation_is_turned_upright(session: EncoderSession, cpu: EncoderSession) -> None:
    blobs = [encoded(scene(640, 480), exif=turned(orientation)) for orientation in range(1, 9)]
    for orientation, (one, other) in enumerate(both(session, cpu, blobs, "resnet18"), 1):
        assert_alike(one, other, of=orientation)


def test_bad_photographs_end_in_place_with_the_cpu_s_codes(session: EncoderSession, cpu: EncoderSession) -> None:
    whole = encoded(scene(640, 480), quality=90)
    blobs = [
        whole, whole[: len(whole) // 2], b"", b"no image", whole[: len(whole) // 2] + b"\xff\xd9",
        encoded(scene(300, 300)), whole[:200], encoded(scene(640, 480), "GIF"), whole + b"behind it", whole,
    ]  # fmt: skip
    for at, (one, other) in enumerate(both(session, cpu, blobs, "resnet18")):
        if isinstance(other, ImageFault):
            assert isinstance(one, ImageFault) and one.code == other.code, (at, type(one), other)
        elif at != 4:  # half a photograph with an end put on: each decoder fills in what is missing as it likes
            assert_alike(one, other, of=at)
            assert isinstance(one, ViewFeatures) and one.trailing_bytes == other.trailing_bytes
    first, *_, last = session.start([EncodeRequest(blob=blob, encoder="resnet18") for blob in blobs]).result()
    assert_alike(first, last, least=0.99999)


@pytest.fixture(scope="module")
def gpu(plans_dir: Path) -> Iterator[Gpu]:
    opened = Gpu.opened(plans_dir)
    assert opened.decodes()
    yield opened
    opened.close()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_photograph_is_the_same_in_a_batch_of_every_bucket(gpu: Gpu, encoder: str) -> None:
    found = read_engine(MODELS_DIR, encoder, shipped_keys())
    runner = gpu.runner(found.model, found.manifest, found.golden)
    blobs = [encoded(scene(500 + 3 * number, 460), quality=90) for number in range(16)]

    def batch(count: int) -> list[Photograph]:
        return [
            Photograph(
                picture=blobs[at % 16],
                stream=runner.photographs.opened(blobs[at % 16]),
                width=500 + 3 * (at % 16),
                height=460,
                orientation=1,
                refused=lambda: None,
            )
            for at in range(count)
        ]

    alone = [runner.photographs.start(batch(16)[at : at + 1]).result(60) for at in range(16)]
    for count in (*buckets(runner.photographs.largest), runner.photographs.largest + 3):
        for _ in range(2):  # first without a recorded graph, then with it
            many = runner.photographs.start(batch(count)).result(60)
            for row in range(count):
                assert (many.embedding[row] * alone[row % 16].embedding[0]).sum() >= 0.9999, (count, row)
    runner.close()


def _squares(gpu: Gpu, images: list[NDArray[np.uint8]], orientations: list[int]) -> tuple[NDArray[np.uint8], list]:
    """The kernels alone, on pixels that were copied to the device."""
    import pycuda.driver as cuda

    from engines.gpu.looks import Measured
    from engines.gpu.resample import Source, described

    kernel, n, cells = gpu.device.kernel, len(images), SIDE // 8
    held = [cuda.to_device(np.ascontiguousarray(i)) for i in images]
    sources = [
        Source(address=int(h), pitch=i.shape[1] * 3, width=i.shape[1], height=i.shape[0], orientation=o, row=row)
        for row, (h, i, o) in enumerate(zip(held, images, orientations, strict=True))
    ]
    table, integers = described(sources, SIDE)
    tables, squares = cuda.mem_alloc(integers * 4), np.zeros((n, SIDE, SIDE, 3), np.uint8)
    out, side = cuda.to_device(squares), np.int32(SIDE)
    given = cuda.to_device(table)
    kernel("weigh")(given, tables, side, grid=(n, 2), block=(128, 1, 1))
    kernel("resample")(given, tables, out, side, grid=(-(-SIDE // 32), -(-SIDE // 8), n), block=(32, 8, 1))
    numbers = {
        "levels": np.zeros((n, 256), np.uint32),
        "edges": np.zeros((n, 2), np.int64),
        "burnt": np.zeros((n, cells, cells), np.uint8),
        "small": np.zeros((n, 32, 32), np.uint8),
    }
    places = {name: cuda.to_device(array) for name, array in numbers.items()}
    three = [places[name] for name in ("levels", "edges", "burnt")]
    kernel("measure")(out, *three, side, grid=(cells, n), block=(256, 1, 1), shared=10 * SIDE)
    kernel("shrink")(out, places["small"], side, grid=(n, 1), block=(512, 1, 1))
    cuda.memcpy_dtoh(squares, out)
    for name, array in numbers.items():
        cuda.memcpy_dtoh(array, places[name])
    return squares, looks_of(Measured(**numbers), SIDE)


def test_the_kernels_give_pillow_s_bytes_and_the_cpu_s_measures(gpu: Gpu) -> None:
    images = [np.asarray(scene(*size)) for size in SIZES] + [np.asarray(scene(600, 500))] * 7
    images.append(np.full((500, 500, 3), 255, np.uint8))
    orientations = [1] * len(SIZES) + list(range(2, 9)) + [1]
    squares, looks = gpu.device.run(lambda: _squares(gpu, images, orientations))
    for pixels, orientation, square, look in zip(images, orientations, squares, looks, strict=True):
        expected = resized(Image.fromarray(pixels), SIDE)
        if orientation in TURNS:
            expected = expected.transpose(TURNS[orientation])
        assert np.abs(square.astype(np.int16) - np.asarray(expected)).max() <= 1
        own = Image.fromarray(square)
        assert look.phash == perceptual_hash(own)
        assert look.quality.sharpness == pytest.approx(measured(own).sharpness, rel=1e-4)
        assert look.quality.glare == measured(own).glare
        assert look.quality.brightness == pytest.approx(measured(own).brightness, abs=1e-9)


def test_what_ran_for_a_while_takes_no_more_memory(session: EncoderSession, gpu: Gpu) -> None:
    blobs = [photograph_of(*size) for size in SIZES]

    def run(times: int) -> int:
        for _ in range(times):
            batch = [EncodeRequest(blob=blob, encoder=ENCODERS[at % 2]) for at, blob in enumerate(blobs * 5)]
            session.start(batch).result()
        return _free_bytes(gpu)

    settled = run(10)
    assert settled - run(20) <= 8 << 20


def _free_bytes(gpu: Gpu) -> int:
    return gpu.device.run(gpu.device.memory_bytes)[0]


def test_closing_ends_what_was_started_and_frees_the_device(plans_dir: Path, gpu: Gpu) -> None:
    before = _free_bytes(gpu)
    for _ in range(3):
        engine = read_engine(MODELS_DIR, "resnet18", shipped_keys())
        session = open_session([engine], "tensorrt", SessionOptions(plans_dir=plans_dir, deadline_s=60.0))
        pending = session.start([EncodeRequest(blob=encoded(scene(640, 480)), encoder="resnet18")] * 40)
        session.close()
        assert all(isinstance(answer, ViewFeatures) for answer in pending.result())
    assert before - _free_bytes(gpu) <= 64 << 20


ENDINGS = {"return": 0, "raise SystemExit(3)": 3, "os.kill(os.getpid(), signal.SIGTERM)": -15}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_that_does_not_close_its_device_ends_as_it_meant_to(ending: str) -> None:
    program = f"""
import os, signal
from engines.gpu.device import Device
def main():
    device = Device()
    device.run(device.memory_bytes)
    {ending}
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == ENDINGS[ending], ended.stderr
