"""Graphs that lie packed in a folder. gzip takes a tenth off INT8 weights, and the shipped encoders are most of a
checkout. Digests and signatures are over the graph, never over what it is packed in."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Final

from engines.errors import EngineRefused, RefusalCode
from engines.manifest import model_path

_LARGEST_RATIO: Final = 100  # weights never pack so well; what does was made to fill the memory
_GZIP: Final = 16 + zlib.MAX_WBITS


def packed_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.onnx.gz"


def packed(model: bytes) -> bytes:
    """The same bytes for the same graph: no name, no time."""
    return gzip.compress(model, mtime=0)


def read_model(directory: Path, name: str) -> bytes:
    """A folder's graph NAME.onnx, else NAME.onnx.gz unpacked. Nothing of it is trusted yet. Raises OSError, and
    EngineRefused (digest_mismatch) for one that does not unpack."""
    packed_file = packed_path(directory, name)
    if model_path(directory, name).exists() or not packed_file.exists():
        return model_path(directory, name).read_bytes()
    return _unpacked(packed_file.read_bytes(), packed_file)


def _unpacked(raw: bytes, path: Path) -> bytes:
    stream = zlib.decompressobj(_GZIP)
    try:
        model = stream.decompress(raw, _LARGEST_RATIO * len(raw))
    except zlib.error as error:
        raise _altered(path, str(error)) from error
    if not stream.eof:
        raise _altered(path, f"it ends early, or unpacks to more than {len(model)} bytes")
    if stream.unused_data:
        raise _altered(path, f"{len(stream.unused_data)} bytes lie behind its end")
    return model


def _altered(path: Path, why: str) -> EngineRefused:
    fix = "publish the engine there again"
    return EngineRefused(RefusalCode.DIGEST_MISMATCH, f"{path} is not what was packed: {why}", fix)
