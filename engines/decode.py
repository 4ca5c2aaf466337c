"""Photographs from bytes to squares, by Pillow. A bad photograph is a value, an ImageFault, never an exception. Where
this runs, a thread of the worker or a limited process, engines.decoder decides."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from engines.container import Container, examined
from engines.preprocess import resized
from engines.quality import QualityMeasures, measured, perceptual_hash

FaultCode = Literal[
    "undecodable", "truncated", "too_many_pixels", "type_not_allowed", "too_small", "decoder_crashed", "encoder_failed"
]

_OTHER_MAGIC: Final = ((0, b"GIF8"), (0, b"BM"), (0, b"II*\0"), (0, b"MM\0*"), (4, b"ftyp"), (0, b"%PDF"), (0, b"<"))

_STRIP_ROWS: Final = 256
_MAX_PROFILE_BYTES: Final = 4 << 20
_ORIENTATION: Final = 0x0112
TURNS: Final[dict[object, Image.Transpose]] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING: Final = frozenset(TURNS[o] for o in (5, 6, 7, 8))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageFault:
    """Why a photograph could not be used; the message names the values."""

    code: FaultCode
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One photograph, ready for an encoder. `pixels` is uint8 [S,S,3] sRGB on the host, owned by this value;
    `source_size` the photograph's (width, height) after orientation; `phash` 64 bits, unsigned; `trailing_bytes` what
    hung behind the photograph's end and was not looked at."""

    pixels: NDArray[np.uint8]
    source_size: tuple[int, int]
    quality: QualityMeasures
    phash: int
    trailing_bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What is refused before a pixel is decoded. `max_scans` are the passes of a progressive JPEG; `max_frames` those
    of an animation; `memory_bytes` what decoding may take above a process's own."""

    max_pixels: int = 50_000_000
    max_bytes: int = 32 * 1024 * 1024
    max_scans: int = 64
    max_frames: int = 1
    memory_bytes: int = 512 * 1024 * 1024


class Apart(Future["Decoded | ImageFault"]):
    """Of a photograph that a helper process decodes: it may take seconds, and nobody should wait for it with others."""


class Decoder(Protocol):
    """Decodes photographs in the background, one future a photograph, in order; some are `Apart`."""

    def decode(self, blobs: Sequence[bytes]) -> list[Future[Decoded | ImageFault]]: ...
    def close(self) -> None: ...


class Unusable(Exception):
    """Carries a fault out of the steps below."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(message)
        self.fault = ImageFault(code=code, message=message)


def decode_photograph(blob: bytes, *, size: int, limits: DecodeLimits, reduced: bool) -> Decoded | ImageFault:
    """One photograph to its square and measures, or why not. `reduced` decodes a JPEG at the smallest power-of-two
    fraction that still covers the square (libjpeg's scaled DCT), two to four times as fast. Raises MemoryError."""
    try:
        container = permitted(blob, size, limits)
    except Unusable as error:
        return error.fault
    return decode_permitted(blob, container, size=size, limits=limits, reduced=reduced)


def decode_permitted(
    blob: bytes, container: Container, *, size: int, limits: DecodeLimits, reduced: bool
) -> Decoded | ImageFault:
    """As decode_photograph, of a photograph whose container is known. Raises MemoryError."""
    try:
        square, source_size = _square(blob, container, size, limits, reduced)
        return Decoded(
            pixels=np.array(square),
            source_size=source_size,
            quality=measured(square),
            phash=perceptual_hash(square),
            trailing_bytes=container.trailing_bytes,
        )
    except Unusable as error:
        return error.fault
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return ImageFault(code="too_many_pixels", message=str(error))
    except Exception as error:  # a decoder can raise anything on hostile bytes, and each of it means the same
        truncated = "truncated" in str(error).lower()
        return ImageFault(code="truncated" if truncated else "undecodable", message=f"{type(error).__name__}: {error}")


def permitted(blob: bytes, size: int, limits: DecodeLimits) -> Container:
    """The container of a photograph within the limits, as far as its headers tell. Raises Unusable."""
    if len(blob) > limits.max_bytes:
        raise Unusable("too_many_pixels", f"{len(blob)} bytes, the limit is {limits.max_bytes}")
    container = examined(blob)
    if container is None:
        if any(blob.startswith(magic, at) for at, magic in _OTHER_MAGIC):
            raise Unusable("type_not_allowed", "not a JPEG, PNG or WebP by its content")
        raise Unusable("undecodable", "the content is no known image type")
    if container.excessive:
        raise Unusable("undecodable", "more segments or chunks than a photograph has")
    if container.frames > limits.max_frames:
        raise Unusable("type_not_allowed", f"an animation of {container.frames} frames, not a photograph")
    if container.scans > limits.max_scans:
        raise Unusable("too_many_pixels", f"{container.scans} passes over the pixels, the limit is {limits.max_scans}")
    if container.size is not None:
        _check_size(container.size, container.bytes_per_pixel, size, limits)
    return container


def _check_size(found: tuple[int, int], bytes_per_pixel: int, size: int, limits: DecodeLimits) -> None:
    width, height = found
    most = min(limits.max_pixels, limits.memory_bytes * 15 // 16 // bytes_per_pixel)
    if width * height > most:
        raise Unusable("too_many_pixels", f"{width} x {height} pixels, the limit is {most} for this kind of file")
    if min(width, height) < size:
        raise Unusable("too_small", f"{width} x {height} px, the short side must be at least {size}")


def _square(
    blob: bytes, container: Container, size: int, limits: DecodeLimits, reduced: bool
) -> tuple[Image.Image, tuple[int, int]]:
    with Image.open(io.BytesIO(container.picture(blob)), formats=[container.kind]) as opened:
        width, height = opened.size
        _check_size(opened.size, container.bytes_per_pixel, size, limits)
        if reduced:
            least = size * 8 // 7  # with no resize left to do, the square would be sharper than the rule has it
            opened.draft("RGB", (least, least))
        known = container.kind == "JPEG" and container.regular
        turn = TURNS.get(container.orientation) if known else _turn(opened)
        square = _srgb(resized(_plain(opened), size), opened.info.get("icc_profile"))
    # the cut is centred, so that turning the small square is turning the photograph
    swapped = turn in _SWAPPING
    return (square.transpose(turn) if turn is not None else square), ((height, width) if swapped else (width, height))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The EXIF orientation as a transposition; metadata that cannot be read turns nothing."""
    try:
        return TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # hostile EXIF must not sink a good photograph
        return None


def _plain(image: Image.Image) -> Image.Image:
    """RGB (or CMYK, for its profile) without transparency; what is transparent becomes white."""
    image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return _on_white(image)
    if image.mode == "RGB" or (image.mode == "CMYK" and "icc_profile" in image.info):
        return image
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its high byte, as Pillow itself reads colours of 16 bits; its conversion would cut off
    everything above 255, which is nearly all of a photograph."""
    if not image.mode.startswith("I;16"):
        return image
    grey = image.point(lambda level: level * (1 / 256))
    clear = grey.info.get("transparency")
    if isinstance(clear, int):
        grey.info["transparency"] = clear >> 8
    return grey.convert("L")


def _on_white(image: Image.Image) -> Image.Image:
    """Strip by strip: the whole in three copies would take more memory than the photograph may."""
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        whole.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return whole


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Through the embedded colour profile to sRGB; a profile that cannot be used is passed over."""
    if not profile or len(profile) > _MAX_PROFILE_BYTES:
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
