"""Photographs from bytes to squares. Decoding is a port with its own pool, so that limited processes can take it over;
this adapter is Pillow in threads. A bad photograph is a value, an ImageFault, never an exception."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from engines.preprocess import resized
from engines.quality import QualityMeasures, measured, perceptual_hash

FaultCode = Literal["undecodable", "truncated", "too_many_pixels", "type_not_allowed", "too_small", "decoder_crashed"]

_MAGIC: Final = (("JPEG", 0, b"\xff\xd8\xff"), ("PNG", 0, b"\x89PNG\r\n\x1a\n"), ("WEBP", 8, b"WEBP"))
_OTHER_MAGIC: Final = ((0, b"GIF8"), (0, b"BM"), (0, b"II*\0"), (0, b"MM\0*"), (4, b"ftyp"), (0, b"%PDF"), (0, b"<"))

_ORIENTATION: Final = 0x0112
_TURNS: Final[dict[object, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING: Final = frozenset(_TURNS[o] for o in (5, 6, 7, 8))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageFault:
    """Why a photograph could not be used; the message names the values."""

    code: FaultCode
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One photograph, ready for an encoder. `pixels` is uint8 [S,S,3] sRGB on the host, owned by this value;
    `source_size` the photograph's (width, height) after orientation; `phash` 64 bits, unsigned."""

    pixels: NDArray[np.uint8]
    source_size: tuple[int, int]
    quality: QualityMeasures
    phash: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What is refused before a pixel is decoded."""

    max_pixels: int = 50_000_000
    max_bytes: int = 32 * 1024 * 1024


class Decoder(Protocol):
    """Decodes photographs in the background, one future a photograph, in order."""

    def decode(self, blobs: Sequence[bytes]) -> list[Future[Decoded | ImageFault]]: ...
    def close(self) -> None: ...


class PillowDecoder:
    """Pillow in a pool of named threads. `reduced` decodes a JPEG at the smallest power-of-two fraction that still
    covers the square (libjpeg's scaled DCT), two to four times as fast."""

    def __init__(self, size: int, threads: int, limits: DecodeLimits | None = None, reduced: bool = True) -> None:
        self._decode = functools.partial(decode_photograph, size=size, limits=limits or DecodeLimits(), reduced=reduced)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def decode(self, blobs: Sequence[bytes]) -> list[Future[Decoded | ImageFault]]:
        return [self._pool.submit(self._decode, blob) for blob in blobs]

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Unusable(Exception):
    """Carries a fault out of the steps below; never leaves this module."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(message)
        self.fault = ImageFault(code=code, message=message)


def decode_photograph(blob: bytes, *, size: int, limits: DecodeLimits, reduced: bool) -> Decoded | ImageFault:
    """One photograph to its square and measures, or why not."""
    try:
        square, source_size = _square(blob, size, limits, reduced)
        return Decoded(
            pixels=np.array(square),
            source_size=source_size,
            quality=measured(square),
            phash=perceptual_hash(square),
        )
    except _Unusable as error:
        return error.fault
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return ImageFault(code="too_many_pixels", message=str(error))
    except Exception as error:  # a decoder can raise anything on hostile bytes, and each of it means the same
        truncated = "truncated" in str(error).lower()
        return ImageFault(code="truncated" if truncated else "undecodable", message=f"{type(error).__name__}: {error}")


def _square(blob: bytes, size: int, limits: DecodeLimits, reduced: bool) -> tuple[Image.Image, tuple[int, int]]:
    if len(blob) > limits.max_bytes:
        raise _Unusable("too_many_pixels", f"{len(blob)} bytes, the limit is {limits.max_bytes}")
    with Image.open(io.BytesIO(blob), formats=[_format_of(blob)]) as opened:
        width, height = opened.size
        if width * height > limits.max_pixels:
            raise _Unusable("too_many_pixels", f"{width} x {height} pixels, the limit is {limits.max_pixels}")
        if min(width, height) < size:
            raise _Unusable("too_small", f"{width} x {height} px, the short side must be at least {size}")
        if reduced:
            least = size * 8 // 7  # with no resize left to do, the square would be sharper than the rule has it
            opened.draft("RGB", (least, least))
        turn = _turn(opened)
        square = _srgb(resized(_plain(opened), size), opened.info.get("icc_profile"))
    # the cut is centred, so that turning the small square is turning the photograph
    swapped = turn in _SWAPPING
    return (square.transpose(turn) if turn is not None else square), ((height, width) if swapped else (width, height))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The EXIF orientation as a transposition; metadata that cannot be read turns nothing."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # hostile EXIF must not sink a good photograph
        return None


def _format_of(blob: bytes) -> str:
    for name, at, magic in _MAGIC:
        if blob[at : at + len(magic)] == magic:
            return name
    if any(blob[at : at + len(magic)] == magic for at, magic in _OTHER_MAGIC):
        raise _Unusable("type_not_allowed", "not a JPEG, PNG or WebP by its content")
    raise _Unusable("undecodable", "the content is no known image type")


def _plain(image: Image.Image) -> Image.Image:
    """RGB (or CMYK, for its profile) without transparency; what is transparent becomes white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode == "CMYK" and "icc_profile" in image.info:
        return image
    return image.convert("RGB")


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Through the embedded colour profile to sRGB; a profile that cannot be used is passed over."""
    if not profile:
        return image.convert("RGB")
    try:
        transform = _transform_to_srgb(profile, image.mode)
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, ValueError):
        converted = None
    return converted if converted is not None else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    source = ImageCms.getOpenProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
