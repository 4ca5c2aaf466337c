"""Photographs good and bad: orientation, colour, transparency, reduced decoding, every fault as a value."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from engines.decode import Decoded, DecodeLimits, ImageFault, decode_photograph
from engines.decoder import PillowDecoder
from engines.golden import golden_pixels
from engines.preprocess import Preprocessing, normalised
from engines.quality import measured, perceptual_hash

SIZE = 64
LIMITS = DecodeLimits()


def encoded(pixels: NDArray[np.uint8], kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}), **options)
    return buffer.getvalue()


def decoded(blob: bytes, reduced: bool = True, limits: DecodeLimits = LIMITS) -> Decoded:
    result = decode_photograph(blob, size=SIZE, limits=limits, reduced=reduced)
    assert isinstance(result, Decoded), result
    return result


def fault(blob: bytes, limits: DecodeLimits = LIMITS) -> str:
    result = decode_photograph(blob, size=SIZE, limits=limits, reduced=True)
    assert isinstance(result, ImageFault)
    assert result.message
    return result.code


def corners(height: int = 128, width: int = 128) -> NDArray[np.uint8]:
    """Red top left, green top right, blue bottom left, white bottom right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return pixels


def test_square_is_the_resized_centre() -> None:
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = 200
    got = decoded(encoded(pixels, "PNG"))
    assert got.pixels.shape == (SIZE, SIZE, 3)
    assert got.pixels.dtype == np.uint8
    assert got.source_size == (300, 100)
    assert (got.pixels[:, 1:-1] == 200).all()  # the outermost column blends with its neighbour outside the cut


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = Image.fromarray(corners(128, 192))
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(inverse[orientation]) if orientation in inverse else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decoded(encoded(np.asarray(stored), exif=exif.tobytes()))
    assert got.source_size == (192, 128)
    assert got.pixels[8, 8].argmax() == 0 and got.pixels[8, 8].min() < 40
    assert got.pixels[8, -8].argmax() == 1
    assert got.pixels[-8, 8].argmax() == 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_sink_a_photograph() -> None:
    got = decoded(encoded(corners(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff\xff"))
    assert got.pixels[8, 8, 0] > 200


def test_colour_profile_is_applied_and_a_broken_one_passed_over() -> None:
    grey = np.full((128, 128, 3), (200, 60, 60), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = decoded(encoded(grey, "PNG", icc_profile=profile))
    broken = decoded(encoded(grey, "PNG", icc_profile=b"no profile at all"))
    np.testing.assert_allclose(same.pixels.astype(int), grey[:SIZE, :SIZE], atol=2)
    np.testing.assert_array_equal(broken.pixels, grey[:SIZE, :SIZE])


def test_transparency_becomes_white() -> None:
    pixels = np.zeros((96, 96, 4), np.uint8)
    assert (decoded(encoded(pixels, "PNG")).pixels == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_allowed_types_by_content(kind: str) -> None:
    assert decoded(encoded(corners(), kind)).pixels[8, 8, 0] > 200


def test_grey_and_cmyk_and_palette_become_rgb() -> None:
    for mode, kind in (("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG")):
        buffer = io.BytesIO()
        Image.fromarray(corners()).convert(mode).save(buffer, kind)
        assert decoded(buffer.getvalue()).pixels.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("clear", [None, 0])
def test_grey_of_sixteen_bits_is_what_it_is_in_eight(clear: int | None) -> None:
    grey = np.asarray(Image.fromarray(golden_pixels(96)[0]).convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    buffer = io.BytesIO()
    deep.save(buffer, "PNG", **({} if clear is None else {"transparency": clear}))
    same = decoded(encoded(grey, "PNG")).pixels
    assert same.std() > 10
    np.testing.assert_array_equal(decoded(buffer.getvalue()).pixels, same)


def test_faults() -> None:
    good = encoded(golden_pixels(128)[0])
    assert fault(b"") == "undecodable"
    assert fault(b"hello") == "undecodable"
    assert fault(good[: len(good) // 2]) == "truncated"
    assert fault(good[:12]) in ("undecodable", "truncated")
    assert fault(encoded(corners(), "GIF")) == "type_not_allowed"
    assert fault(encoded(corners(), "BMP")) == "type_not_allowed"
    assert fault(encoded(corners(SIZE - 1, 300))) == "too_small"
    assert fault(good, DecodeLimits(max_pixels=128 * 128 - 1)) == "too_many_pixels"
    assert fault(good, DecodeLimits(max_bytes=100)) == "too_many_pixels"


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    assert fault(buffer.getvalue()) == "too_many_pixels"


def test_reduced_decoding_is_near_full_decoding() -> None:
    blob = encoded(golden_pixels(512)[0])
    full, reduced = decoded(blob, reduced=False), decoded(blob, reduced=True)
    difference = np.abs(full.pixels.astype(int) - reduced.pixels.astype(int))
    assert difference.mean() < 1.5
    assert (full.phash ^ reduced.phash).bit_count() <= 2


def test_perceptual_hash_survives_recompression_and_tells_photographs_apart() -> None:
    first, second = golden_pixels(256)
    original = decoded(encoded(first)).phash
    shrunk = np.asarray(Image.fromarray(first).resize((200, 200)))
    assert (original ^ decoded(encoded(shrunk)).phash).bit_count() <= 6
    assert (original ^ decoded(encoded(second)).phash).bit_count() >= 16
    assert 0 <= original < 2**64


def test_quality_tells_blur_exposure_and_glare() -> None:
    sharp = Image.fromarray(golden_pixels(SIZE)[0])
    blurred = sharp.resize((8, 8)).resize((SIZE, SIZE))
    assert measured(sharp).sharpness > 5 * measured(blurred).sharpness
    black = measured(Image.new("RGB", (SIZE, SIZE)))
    assert (black.clipped_low, black.brightness, black.contrast) == (1.0, 0.0, 0.0)
    pixels = np.full((SIZE, SIZE, 3), 90, np.uint8)
    pixels[24:40, 24:40] = 255
    assert measured(Image.fromarray(pixels)).glare == pytest.approx(4 / 64)


def test_a_white_background_is_no_glare() -> None:
    pixels = np.full((SIZE, SIZE, 3), 255, np.uint8)
    pixels[24:40, 24:40] = 90
    assert measured(Image.fromarray(pixels)).glare == 0.0


def test_perceptual_hash_of_a_flat_square_exists() -> None:
    assert 0 <= perceptual_hash(Image.new("RGB", (SIZE, SIZE), (9, 9, 9))) < 2**64


def test_normalised_follows_the_manifest() -> None:
    rule = Preprocessing(size=2, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    pixels = np.full((1, 2, 2, 3), (12, 28, 25), np.uint8)
    np.testing.assert_allclose(normalised(pixels, rule)[0, :, 0, 0], (1.0, 2.0, -1.0), rtol=1e-6)


def test_pool_keeps_the_order() -> None:
    decoder = PillowDecoder(SIZE, threads=2)
    try:
        results = [f.result() for f in decoder.decode([encoded(corners()), b"bad", encoded(corners(), "PNG")])]
    finally:
        decoder.close()
    assert [type(r).__name__ for r in results] == ["Decoded", "ImageFault", "Decoded"]
