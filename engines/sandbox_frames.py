"""What a helper process and its owner say to each other over a socket: frames of a length and a body. The owner trusts
nothing that a helper says beyond its shape; there is no pickle here."""

from __future__ import annotations

import dataclasses
import struct
from typing import Final, Literal, get_args

import numpy as np

from engines.decode import Decoded, FaultCode, ImageFault
from engines.quality import QualityMeasures

LENGTH: Final = struct.Struct("<I")
_DECODED: Final = struct.Struct("<II6dQQ")  # width, height, quality, perceptual hash, trailing bytes
_MEASURES: Final = tuple(field.name for field in dataclasses.fields(QualityMeasures))
_CODES: Final[tuple[FaultCode, ...]] = get_args(FaultCode)
_MAX_MESSAGE_BYTES: Final = 500
READY: Final = b"R"
NO_MEMORY: Final = b"M"
_DECODED_KIND, _FAULT_KIND = b"D", b"F"


class BrokenFrame(Exception):
    """Not what a sane helper says."""


def largest_answer(size: int) -> int:
    """Bytes of the largest answer about a square of `size` px."""
    return 1 + _DECODED.size + size * size * 3 + _MAX_MESSAGE_BYTES


def packed(result: Decoded | ImageFault) -> bytes:
    """The body of an answer."""
    if isinstance(result, ImageFault):
        message = result.message.encode("utf-8", "replace")[:_MAX_MESSAGE_BYTES]
        return _FAULT_KIND + bytes((_CODES.index(result.code),)) + message
    quality = dataclasses.astuple(result.quality)
    head = _DECODED.pack(*result.source_size, *quality, result.phash, result.trailing_bytes)
    return _DECODED_KIND + head + result.pixels.tobytes()


def unpacked(body: bytes, size: int) -> Decoded | ImageFault | Literal["no_memory"]:
    """What a helper says of a photograph. Raises BrokenFrame."""
    kind, rest = body[:1], body[1:]
    if body == NO_MEMORY:
        return "no_memory"
    if kind == _FAULT_KIND and rest and rest[0] < len(_CODES):
        return ImageFault(code=_CODES[rest[0]], message=rest[1:].decode("utf-8", "replace"))
    if kind != _DECODED_KIND or len(rest) != _DECODED.size + size * size * 3:
        raise BrokenFrame(f"an answer of {len(body)} bytes and kind {kind!r}")
    width, height, *quality, phash, trailing_bytes = _DECODED.unpack_from(rest)
    pixels = np.frombuffer(rest, np.uint8, offset=_DECODED.size).reshape(size, size, 3)
    return Decoded(
        pixels=pixels,
        source_size=(width, height),
        quality=QualityMeasures(**dict(zip(_MEASURES, quality, strict=True))),
        phash=phash,
        trailing_bytes=trailing_bytes,
    )
