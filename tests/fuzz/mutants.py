"""Seeded mutants of images: bits flipped, files cut and spliced, headers that lie, parts doubled, things hung on."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

LARGEST_SOURCE_BYTES = 200_000
Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def mutants(sources: Mapping[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Name and bytes; equal for equal arguments. A name says from what and how the mutant was made."""
    names = sorted(name for name, blob in sources.items() if 16 < len(blob) <= LARGEST_SOURCE_BYTES)
    pool = [sources[name] for name in names]
    chance = random.Random(seed)
    for number in range(count):
        name = chance.choice(names)
        mutation = chance.choice(MUTATIONS)
        yield f"{number} {name} {mutation.__name__.strip('_')}", mutation(sources[name], chance, pool)


def _flipped_bits(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    out = bytearray(blob)
    for _ in range(2 ** chance.randrange(8)):
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def _noise_in_the_header(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    out = bytearray(blob)
    for _ in range(chance.randrange(1, 5)):
        out[chance.randrange(8, min(len(out), 700))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(out)


def _cut(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    return blob[: chance.randrange(1, len(blob))]


def _spliced(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    other = chance.choice(pool)
    return blob[: chance.randrange(len(blob))] + other[chance.randrange(len(other)) :]


def _piece_doubled(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    start = chance.randrange(len(blob))
    piece = blob[start : start + chance.randrange(1, 4000)]
    return blob[:start] + piece * chance.randrange(2, 40) + blob[start:]


def _piece_removed(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    start = chance.randrange(8, len(blob))
    return blob[:start] + blob[start + chance.randrange(1, 300) :]


def _hung_on(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    return blob + chance.choice((b"PK\x03\x04", b"<script>alert(1)</script>", b"\xff\xd9", chance.choice(pool)))


def _size_that_lies(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    """Width and height of a JPEG, a PNG (with its checksum mended) or a WebP; other kinds have their bytes swapped."""
    wide, tall = (chance.choice((0, 1, 33, 5000, 20_000, 65_535, 2**31 - 1, 2**32 - 1)) for _ in range(2))
    if blob.startswith(b"\x89PNG"):
        header = struct.pack(">II", wide, tall) + blob[24:29]
        return blob[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + blob[33:]
    at = max(blob.find(b"\xff\xc0"), blob.find(b"\xff\xc2"))
    if blob.startswith(b"\xff\xd8") and at > 0:
        return blob[: at + 5] + struct.pack(">HH", tall & 0xFFFF, wide & 0xFFFF) + blob[at + 9 :]
    return blob[:26] + struct.pack("<HH", wide & 0xFFFF, tall & 0xFFFF) + blob[30:]


def _lengths_that_lie(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    """A segment or chunk announces another length."""
    segments = [b"\xff" + bytes([marker]) for marker in (0xDB, 0xC4, 0xDA, 0xE1, 0xE2)]
    marks = (*segments, b"IDAT", b"iCCP", b"VP8 ", b"ALPH", b"RIFF")
    places = [at for mark in marks if (at := blob.find(mark)) >= 0]
    at = chance.choice(places) if places else chance.randrange(len(blob))
    value = struct.pack(">H", chance.choice((0, 1, 2, 0x7FFF, 0xFFFF, chance.randrange(1 << 16))))
    return blob[: at + 2] + value + blob[at + 4 :]


def _scans_repeated(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    """A JPEG's last scan again and again; another kind's last kilobyte."""
    at = blob.rfind(b"\xff\xda")
    at = at if at > 0 else max(0, len(blob) - 1024)
    return blob[:-2] + blob[at:-2] * chance.randrange(1, 120) + blob[-2:]


def _another_kinds_head(blob: bytes, chance: random.Random, pool: Sequence[bytes]) -> bytes:
    webp = b"RIFF\xff\xff\xff\x7fWEBPVP8 "
    head = chance.choice((b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", webp, b"GIF89a", b"II*\0"))
    return head + blob[len(head) :]


MUTATIONS: tuple[Mutation, ...] = (
    _flipped_bits,
    _flipped_bits,
    _noise_in_the_header,
    _noise_in_the_header,
    _cut,
    _spliced,
    _piece_doubled,
    _piece_removed,
    _hung_on,
    _size_that_lies,
    _lengths_that_lie,
    _scans_repeated,
    _another_kinds_head,
)
