"""Small files made to take much: pixels, passes over them, metadata that unfolds, profiles, frames, text."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.fuzz.corpus import own_images


def bombs() -> Iterator[tuple[str, bytes]]:
    """Name and bytes."""
    own = own_images()
    jpeg, png = own["baseline.jpg"], own["plain.png"]
    yield "png of 40 megapixels", _flat_png(6300, 6300, colour=2)
    yield "png of 25 megapixels with transparency", _flat_png(5000, 5000, colour=6)
    yield "png of 60 megapixels with a palette", _flat_png(7700, 7700, colour=3)
    yield "png of 400 megapixels", _flat_png(20_000, 20_000, colour=0)
    yield "png that unfolds beyond its header", _png((b"IHDR", _header(64, 64, 0)), (b"IDAT", _deflated(1 << 28)))
    yield "png with text that unfolds", _with_chunk(png, b"zTXt", b"k\0\0" + _deflated(1 << 28))
    yield "png with much text", _with_chunk(png, b"tEXt", b"k\0" + b"x" * (1 << 20)) + b"x" * (1 << 20)
    yield "png with a profile that unfolds", _with_chunk(png, b"iCCP", b"p\0\0" + _deflated(1 << 28))
    yield "png with metadata that unfolds", _with_chunk(png, b"eXIf", _overlapping_exif(60_000))
    yield "jpeg with metadata that unfolds", jpeg[:2] + _segment(0xE1, b"Exif\0\0" + _overlapping_exif(5000)) + jpeg[2:]
    yield "jpeg with metadata in many segments", jpeg[:2] + _segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 400 + jpeg[2:]
    yield "jpeg with a profile of rubbish", jpeg[:2] + _profile(random.Random(1).randbytes(60_000)) + jpeg[2:]
    yield "jpeg with a profile in many segments", jpeg[:2] + _profile(bytes(65_000)) * 200 + jpeg[2:]
    yield "jpeg of comments", jpeg[:2] + _segment(0xFE, b"") * 2_000_000 + jpeg[2:]
    yield "progressive jpeg of 40 megapixels and 15 passes", _passes(6300, 6300, 15)
    yield "progressive jpeg of 1 megapixel and 60 passes", _passes(1000, 1000, 60)
    yield "progressive jpeg of 900 passes", _passes(200, 200, 900)
    yield "baseline jpeg that is long and narrow", _jpeg(33, 65_000)
    yield "baseline jpeg of 49 megapixels", _jpeg(7000, 7000)
    yield "webp of 24 megapixels", _webp(4900, 4900)
    yield "webp of 60 megapixels", _webp(7700, 7700)
    yield "webp of many frames", _frames("WEBP", 300)
    yield "png of many frames", _frames("PNG", 300)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in (*chunks, (b"IEND", b"")))


def _with_chunk(png: bytes, name: bytes, body: bytes) -> bytes:
    return png[:33] + _chunk(name, body) + png[33:]


def _header(width: int, height: int, colour: int) -> bytes:
    return struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)


def _deflated(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]) + packer.flush()


def _flat_png(width: int, height: int, colour: int) -> bytes:
    row = 1 + width * {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    palette = [(b"PLTE", bytes(768))] if colour == 3 else []
    return _png((b"IHDR", _header(width, height, colour)), *palette, (b"IDAT", _deflated(row * height + (1 << 20))))


def _overlapping_exif(entries: int) -> bytes:
    """A directory whose every entry claims nearly all of it."""
    body = b"".join(struct.pack("<HHII", tag % 65_536, 7, 12 * entries - 64, 8) for tag in range(1, entries + 1))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + body


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def _profile(body: bytes) -> bytes:
    return _segment(0xE2, b"ICC_PROFILE\0\x01\x01" + body)


def _jpeg(width: int, height: int, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 90, 30)).save(out, "JPEG", quality=50, **options)
    return out.getvalue()


def _passes(width: int, height: int, count: int) -> bytes:
    """Its last pass again and again, which refines what is refined already."""
    blob = _jpeg(width, height, progressive=True)
    last = blob[blob.rindex(b"\xff\xda") : -2]
    return blob[:-2] + last * (count - 10) + blob[-2:]


def _webp(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 90, 30)).save(out, "WEBP", lossless=True, quality=0, method=0)
    return out.getvalue()


def _frames(kind: str, count: int) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), (number % 256, 0, 0)) for number in range(count)]
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    return out.getvalue()
