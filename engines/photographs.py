"""Photographs from this machine's disk as the squares that an encoder sees, and what is wrong with a set of them: files
that cannot be used, the same picture twice, noise instead of photographs."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.decode import Decoded
from engines.decoder import PillowDecoder
from engines.drafts import MakingRefused
from engines.preprocess import Preprocessing, normalised

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_BLOCK: Final = 32
_SCALES: Final = (1, 2, 4)
# correlation of neighbours, at full, half and quarter scale: white noise has 0.30, 0.14 and 0.08 after the antialiased
# resize; the least of the demo's renders, weaves as fine as the pixels, 0.74, 0.53 and 0.42
_LEAST_CORRELATION: Final = (0.5, 0.35, 0.25)
_LEAST_SPREAD: Final = 2.0  # levels


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Photographs:
    """Distinct usable photographs: `pixels` uint8 [n,S,S,3], `digests` the SHA-256 of each file's bytes; `faults` names
    the files that were passed over and why, `duplicates` counts squares that another file had already."""

    pixels: NDArray[np.uint8]
    digests: tuple[str, ...]
    faults: tuple[tuple[str, str], ...]
    duplicates: int

    @property
    def digest(self) -> str:
        """SHA-256 of all pixels in order."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


def photograph_files(folder: Path) -> list[Path]:
    """Every JPEG, PNG and WebP below a folder, by path. Raises MakingRefused for none."""
    if not folder.is_dir():
        raise MakingRefused(f"{folder} is no folder", "name the folder of your photographs")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        names = ", ".join(sorted(SUFFIXES))
        raise MakingRefused(f"{folder} holds no photograph", f"put your photographs there ({names}), or name another")
    return found


def read_photographs(files: Sequence[Path], size: int) -> Photographs:
    """Decode photographs as workers do, in the given order."""
    seen: set[bytes] = set()
    squares: list[NDArray[np.uint8]] = []
    digests: list[str] = []
    faults: list[tuple[str, str]] = []
    duplicates = 0
    for path, digest, result in _decoded(files, size):
        if not isinstance(result, np.ndarray):
            faults.append((path.name, result))
            continue
        content = hashlib.sha256(result.tobytes()).digest()
        if content in seen:
            duplicates += 1
            continue
        seen.add(content)
        squares.append(result)
        digests.append(digest)
    pixels = np.stack(squares) if squares else np.empty((0, size, size, 3), np.uint8)
    return Photographs(pixels=pixels, digests=tuple(digests), faults=tuple(faults), duplicates=duplicates)


def _decoded(files: Sequence[Path], size: int) -> Iterator[tuple[Path, str, NDArray[np.uint8] | str]]:
    """Each file with its digest, and its square or why there is none."""
    decoder = PillowDecoder(size, len(os.sched_getaffinity(0)))
    try:
        for first in range(0, len(files), _BLOCK):
            block = files[first : first + _BLOCK]
            blobs = [path.read_bytes() for path in block]
            for path, blob, future in zip(block, blobs, decoder.decode(blobs), strict=True):
                result = future.result()
                digest = hashlib.sha256(blob).hexdigest()
                yield path, digest, result.pixels if isinstance(result, Decoded) else f"{result.code}: {result.message}"
    except OSError as error:
        raise MakingRefused(f"a photograph cannot be read: {error}", "give readable files") from error
    finally:
        decoder.close()


def looks_random(square: NDArray[np.uint8]) -> bool:
    """Whether a square is noise, or one flat colour: neighbours tell nothing of each other, at no scale."""
    grey = np.asarray(Image.fromarray(square).convert("L"), np.float64)
    if grey.std() < _LEAST_SPREAD:
        return True
    return all(_correlation(grey, s) < least for s, least in zip(_SCALES, _LEAST_CORRELATION, strict=True))


def _correlation(grey: NDArray[np.float64], scale: int) -> float:
    """Of neighbouring cells of `scale` pixels, along rows and columns."""
    side = len(grey) // scale * scale
    cells = grey[:side, :side].reshape(side // scale, scale, side // scale, scale).mean((1, 3))
    centred = cells - cells.mean()
    power = float((centred**2).mean())
    across = float((centred[:, :-1] * centred[:, 1:]).mean()) + float((centred[:-1] * centred[1:]).mean())
    return across / 2 / power if power > 0 else 0.0


class NormalisedSquares(Sequence[NDArray[np.float32]]):
    """What the graph takes of each photograph, float32 [3,S,S], made when asked for: all at once would fill memory."""

    def __init__(self, pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> None:
        self._pixels = pixels
        self._preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self._pixels)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> NormalisedSquares: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | NormalisedSquares:
        if isinstance(index, slice):
            return NormalisedSquares(self._pixels[index], self._preprocessing)
        return np.asarray(normalised(self._pixels[index][None], self._preprocessing)[0])
