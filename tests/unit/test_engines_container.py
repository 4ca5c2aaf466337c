"""What a container says before anything is decoded: where the photograph ends, what it is made of, what is kept out."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.container import Container, examined
from engines.decode import Decoded, DecodeLimits, ImageFault, decode_photograph
from engines.golden import golden_pixels

SIZE = 64


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(golden_pixels(96)[0]).save(buffer, kind, **options)
    return buffer.getvalue()


def decode(blob: bytes, **limits: int) -> Decoded | ImageFault:
    return decode_photograph(blob, size=SIZE, limits=DecodeLimits(**limits), reduced=True)


def container(blob: bytes) -> Container:
    found = examined(blob)
    assert found is not None
    return found


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tail", [b"PK\x03\x04", b"<script>", b"\xff\xd8\xff\xe0 another \xff\xd9", b"\0" * 9 + b"x"])
def test_what_hangs_behind_a_photograph_is_counted_and_never_decoded(kind: str, tail: bytes) -> None:
    blob = encoded(kind)
    alone, hung = decode(blob), decode(blob + tail)
    assert isinstance(alone, Decoded) and isinstance(hung, Decoded)
    assert (alone.trailing_bytes, hung.trailing_bytes) == (0, len(tail))
    np.testing.assert_array_equal(alone.pixels, hung.pixels)
    assert container(blob + tail).picture(blob + tail) == container(blob).picture(blob)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_padding_is_no_tail(kind: str) -> None:
    assert container(encoded(kind) + b"\0" * 512 + b"\r\n").trailing_bytes == 0


def test_only_a_jpeg_of_one_baseline_scan_is_plain() -> None:
    assert container(encoded("JPEG")).baseline
    assert container(encoded("JPEG", restart_marker_blocks=2)).baseline
    for blob in (encoded("JPEG", progressive=True), cmyk(), encoded("PNG"), encoded("WEBP")):
        assert not container(blob).baseline
    assert container(encoded("JPEG", progressive=True)).scans > 5


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(golden_pixels(96)[0]).convert("CMYK").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("sof", [0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF])
def test_other_processes_of_jpeg_are_not_plain(sof: int) -> None:
    blob = encoded("JPEG")
    at = blob.index(b"\xff\xc0")
    assert not container(blob[: at + 1] + bytes([sof]) + blob[at + 2 :]).baseline


def test_too_many_scans_are_refused_before_decoding() -> None:
    blob = encoded("JPEG", progressive=True)
    last = blob.rindex(b"\xff\xda")
    bomb = blob[:-2] + blob[last:-2] * 100 + b"\xff\xd9"
    assert container(bomb).scans > 100
    refused = decode(bomb)
    assert isinstance(refused, ImageFault) and refused.code == "too_many_pixels" and "passes" in refused.message


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_no_photograph(kind: str) -> None:
    second = Image.fromarray(golden_pixels(96)[1])
    refused = decode(encoded(kind, save_all=True, append_images=[second]))
    assert isinstance(refused, ImageFault) and refused.code == "type_not_allowed" and "2 frames" in refused.message


def test_metadata_never_reaches_the_decoder() -> None:
    """Entries that each claim the whole of the metadata: read by the book they take gigabytes."""
    entries = b"".join(struct.pack("<HHII", tag, 7, 60_000, 8) for tag in range(1, 5000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 4999) + entries
    blob = encoded("JPEG")
    hung = blob[:2] + segment(0xE1, exif) + segment(0xE2, b"MPF\0" + exif[6:]) + segment(0xFE, b"<?php") + blob[2:]
    assert container(hung).baseline
    assert container(hung).picture(hung) == container(blob).picture(blob)
    assert isinstance(decode(hung), Decoded)


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_where_it_lies(order: str) -> None:
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    exif = b"Exif\0\0" + mark + struct.pack(f"{order}IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0)
    blob = encoded("JPEG")
    assert container(blob[:2] + segment(0xE1, exif) + blob[2:]).orientation == 6
    for cut in range(len(exif)):
        assert container(blob[:2] + segment(0xE1, exif[:cut]) + blob[2:]).orientation in (None, 6)


def test_orientation_of_xmp_counts_where_exif_has_none() -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="8"/>'
    blob = encoded("JPEG")
    assert container(blob[:2] + segment(0xE1, xmp) + blob[2:]).orientation == 8


def test_what_would_take_too_much_memory_is_refused_before_decoding() -> None:
    header = struct.pack(">IIBBBBB", 8000, 7000, 8, 6, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    )
    refused = decode(png, memory_bytes=256 << 20, max_pixels=10**9)
    assert isinstance(refused, ImageFault) and refused.code == "too_many_pixels"


def test_a_walk_through_anything_ends() -> None:
    seeded = random.Random(7)
    for kind in ("JPEG", "PNG", "WEBP"):
        good = encoded(kind)
        for _ in range(300):
            blob = bytearray(good)
            for _ in range(seeded.randrange(1, 8)):
                blob[seeded.randrange(len(blob))] = seeded.randrange(256)
            cut = bytes(blob[: seeded.randrange(12, len(blob))])
            found = examined(cut)
            assert found is None or found.picture(cut)
    assert not container(b"\xff\xd8" + b"\xff" * 1_000_000).regular


@pytest.mark.parametrize("parts", [b"\xff\xd8" + b"\xff\xe0\0\x02" * 100_000, b"\x89PNG\r\n\x1a\n" + b"\0" * 9**6])
def test_more_parts_than_any_photograph_has_are_not_walked_through(parts: bytes) -> None:
    refused = decode(parts)
    assert isinstance(refused, ImageFault) and refused.code == "undecodable" and "segments" in refused.message
