"""What a file is and where its photograph ends, found by walking the container: nothing is decoded here. A decoder is
given the parts that make the picture and its colours; comments, thumbnails, metadata and whatever was hung on behind
never reach one."""

from __future__ import annotations

import dataclasses
import re
import struct
from typing import Final, Literal

import numpy as np

Kind = Literal["JPEG", "PNG", "WEBP"]

_MAGIC: Final[tuple[tuple[Kind, int, bytes], ...]] = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("WEBP", 8, b"WEBP"),
)
# The walk runs in the caller's thread, so what it may take is bounded too.
_MAX_SEGMENTS: Final = 1000
_MAX_FILL_BYTES: Final = 64
_MAX_CHUNKS: Final = 20_000
_MAX_PROFILE_BYTES: Final = 4 << 20

_SOF0, _EOI, _SOS, _DHT, _DQT, _DRI, _COM = 0xC0, 0xD9, 0xDA, 0xC4, 0xDB, 0xDD, 0xFE
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP: Final = range(0xE0, 0xF0)
_TABLES: Final = frozenset((_DHT, _DQT, _DRI))
_SCANNED_BYTES: Final = 1 << 16  # looked at together for the next marker
_XMP_ORIENTATION: Final = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")
_EXIF: Final = b"Exif\0\0"
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
_ICC: Final = b"ICC_PROFILE\0"
_ADOBE: Final = b"Adobe"
_ADOBE_BYTES: Final = 12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """`spans` are the (start, end) of the bytes a decoder is given, in order. `baseline`: a JPEG of one baseline scan,
    8 bits, one or three components, without anything irregular. `regular`: the walk understood all of it. `size` is
    (width, height) before orientation, None where only a decoder can tell. `orientation` is EXIF's, of a regular JPEG;
    `profile` a regular JPEG's ICC segments. `bytes_per_pixel` bounds what decoding takes at its peak, and so its time.
    `whole`: a JPEG whose end is there. `ycc`: a JPEG that is grey or YCbCr beyond doubt. `excessive`: it has more
    segments or chunks than any photograph. `trailing_bytes` counts what follows the photograph's end; zeros and line
    ends alone count as nothing."""

    kind: Kind
    spans: tuple[tuple[int, int], ...]
    regular: bool = False
    baseline: bool = False
    size: tuple[int, int] | None = None
    scans: int = 1
    frames: int = 1
    orientation: int | None = None
    profile: bytes = b""
    bytes_per_pixel: int = 16
    excessive: bool = False
    whole: bool = False
    ycc: bool = False
    trailing_bytes: int = 0

    def picture(self, blob: bytes) -> bytes:
        """The bytes for a decoder."""
        return b"".join([blob[start:end] for start, end in self.spans])


def examined(blob: bytes) -> Container | None:
    """The container of a photograph; None where the content is no JPEG, PNG or WebP. Never raises."""
    kind = next((name for name, at, magic in _MAGIC if blob.startswith(magic, at)), None)
    if kind is None:
        return None
    try:
        return {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}[kind](blob)
    except _Excessive:
        return Container(kind=kind, spans=((0, len(blob)),), excessive=True)
    except (struct.error, IndexError, _Irregular):
        return Container(kind=kind, spans=((0, len(blob)),))


class _Irregular(Exception):
    """The walk cannot go on; a decoder in a helper process may still make something of the file."""


class _Excessive(Exception):
    """The walk will not go on: a decoder would walk as long, and no photograph asks for that."""


@dataclasses.dataclass(slots=True, kw_only=True)
class _JpegHeader:
    """What the segments before the first scan say."""

    spans: list[tuple[int, int]]
    frame: tuple[int, int, int, int, int] | None = None  # marker, bits, height, width, components
    exif: int | None = None
    xmp: int | None = None
    profile: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    ids: bytes = b""  # of the components
    transform: int | None = None  # Adobe's word on the colours

    def take(self, blob: bytes, marker: int, start: int, end: int) -> None:
        body = start + 4
        if marker in _FRAMES:
            if self.frame is not None:
                raise _Irregular
            self.frame = (marker, *struct.unpack_from(">BHHB", blob, body))
            self.ids = blob[body + 6 : end : 3]
        elif marker == 0xEE and blob.startswith(_ADOBE, body) and end - body >= _ADOBE_BYTES:
            self.transform = blob[body + _ADOBE_BYTES - 1]
        elif marker in _APP:
            self._metadata(blob, marker, body, end)
        elif marker not in _TABLES and marker != _COM:
            raise _Irregular
        is_profile = marker == 0xE2 and blob.startswith(_ICC, body)
        if is_profile:
            self.profile.append((start, end))
        if is_profile or marker in (0xE0, 0xEE) or marker in _TABLES or marker in _FRAMES:
            self.spans.append((start, end))

    def _metadata(self, blob: bytes, marker: int, body: int, end: int) -> None:
        if marker != 0xE1:
            return
        if self.exif is None and blob.startswith(_EXIF, body):
            self.exif = _exif_orientation(blob[body + len(_EXIF) : end])
        elif self.xmp is None and blob.startswith(_XMP, body):
            found = _XMP_ORIENTATION.search(blob, body, end)
            self.xmp = int(found[1]) if found else None

    @property
    def ycc(self) -> bool:
        """Whether all decoders agree that the components are grey or YCbCr; they guess differently at the rest."""
        return self.transform in (None, 1) and self.ids in (b"\x01", b"\x00", b"\x01\x02\x03", b"\x00\x01\x02")

    @property
    def orientation(self) -> int | None:
        return self.xmp if self.exif is None else self.exif


def _jpeg(blob: bytes) -> Container:
    header = _JpegHeader(spans=[(0, 2)])
    at = 2
    for _ in range(_MAX_SEGMENTS):
        marker, start, end = _segment(blob, at)
        if marker == _SOS:
            return _jpeg_scans(blob, header, start)
        header.take(blob, marker, start, end)
        at = end
    raise _Excessive


def _segment(blob: bytes, at: int) -> tuple[int, int, int]:
    """The marker at `at`, where it starts and where its segment ends."""
    if blob[at] != 0xFF:
        raise _Irregular
    at = _past_fill(blob, at)
    (length,) = struct.unpack_from(">H", blob, at + 2)
    end = at + 2 + length
    if length < 2 or end > len(blob):
        raise _Irregular
    return blob[at + 1], at, end


def _past_fill(blob: bytes, at: int) -> int:
    """A marker may follow any number of 0xFF; a sane file has few."""
    for place in range(at, at + _MAX_FILL_BYTES):
        if blob[place + 1] != 0xFF:
            return place
    raise _Irregular


def _jpeg_scans(blob: bytes, header: _JpegHeader, start: int) -> Container:
    if header.frame is None:
        raise _Irregular
    marker, bits, height, width, components = header.frame
    scans, end, after_first = _counted_scans(blob, start)
    whole = blob[start + 4] == components
    plain = marker == _SOF0 and bits == 8 and components in (1, 3) and whole and after_first in (_EOI, None)
    profile = b"".join([blob[s:e] for s, e in header.profile])
    return Container(
        kind="JPEG",
        spans=(*header.spans, (start, end)),
        regular=True,
        baseline=plain and 0 not in (width, height) and len(profile) <= _MAX_PROFILE_BYTES,
        size=(width, height),
        scans=scans,
        orientation=header.orientation,
        profile=profile,
        bytes_per_pixel=4 if plain else 4 + 2 * components,
        whole=blob.startswith(b"\xff\xd9", end - 2),
        ycc=header.ycc,
        trailing_bytes=_trailing(blob, end),
    )


def _counted_scans(blob: bytes, start: int) -> tuple[int, int, int | None]:
    """How many scans, where the image ends, and the marker behind the first scan; a cut file ends where it is cut."""
    scans, after_first, at = 1, None, start
    for _ in range(_MAX_SEGMENTS):
        if blob[at + 1] == _EOI:
            return scans, at + 2, after_first
        (length,) = struct.unpack_from(">H", blob, at + 2)
        found = _next_marker(blob, at + 2 + length)
        if found is None:
            return scans, len(blob), after_first
        at = found
        after_first = blob[at + 1] if after_first is None else after_first
        scans += blob[at + 1] == _SOS
    return scans, len(blob), after_first


def _next_marker(blob: bytes, at: int) -> int | None:
    """Where the next marker is that ends coded data: neither a stuffed zero, nor fill, nor a restart. A regular
    expression would hold the interpreter's lock for as long as it takes; NumPy releases it."""
    data = np.frombuffer(blob, np.uint8)
    for first in range(at, len(data) - 1, _SCANNED_BYTES):
        part = data[first : first + _SCANNED_BYTES + 1]
        places = np.flatnonzero(part[:-1] == 0xFF)
        codes = part[places + 1]
        markers = places[(codes != 0) & (codes != 0xFF) & (codes & 0xF8 != 0xD0)]
        if len(markers):
            return first + int(markers[0])
    return None


def _exif_orientation(tiff: bytes) -> int | None:
    """Tag 0x0112 of the first directory, read where it lies: nothing is allocated for what else it claims to hold."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order is None:
            return None
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(at + 2, min(at + 2 + 12 * count, len(tiff) - 11), 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
            if tag == 0x0112:
                form = {1: "B", 3: "H", 4: "I"}.get(kind)
                return int(struct.unpack_from(order + form, tiff, entry + 8)[0]) if form else None
    except struct.error:
        return None
    return None


def _png(blob: bytes) -> Container:
    width, height, bits, colour = struct.unpack_from(">IIBB", blob, 16)
    at, frames, opaque = 8, 1, colour in (0, 2, 3)
    for _ in range(_MAX_CHUNKS):
        length, name = struct.unpack_from(">I4s", blob, at)
        if name == b"acTL":
            (frames,) = struct.unpack_from(">I", blob, at + 8)
        opaque = opaque and name != b"tRNS"
        at += 12 + length
        if name == b"IEND":
            break
    else:
        raise _Excessive
    end = min(at, len(blob))
    return Container(
        kind="PNG",
        spans=((0, end),),
        regular=True,
        size=(width, height),
        frames=frames,
        bytes_per_pixel=(4 if colour == 2 and bits == 8 else 8) if opaque else 16,
        trailing_bytes=_trailing(blob, end),
    )


def _webp(blob: bytes) -> Container:
    (length,) = struct.unpack_from("<I", blob, 4)
    end = min(8 + length + length % 2, len(blob))
    return Container(
        kind="WEBP",
        spans=((0, end),),
        regular=True,
        size=_webp_size(blob[:30]),
        frames=max(1, _webp_frames(blob, end)),
        bytes_per_pixel=20,
        trailing_bytes=_trailing(blob, end),
    )


def _webp_size(head: bytes) -> tuple[int, int] | None:
    if head[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    if head[12:16] == b"VP8L":
        (packed,) = struct.unpack_from("<I", head, 21)
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def _webp_frames(blob: bytes, end: int) -> int:
    at, frames = 12, 0
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            break
        name, length = struct.unpack_from("<4sI", blob, at)
        frames += name == b"ANMF"
        at += 8 + length + length % 2
    return frames


def _trailing(blob: bytes, end: int) -> int:
    return len(blob) - end if blob[end:].strip(b"\0\r\n") else 0
