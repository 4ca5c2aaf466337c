"""A probe as bytes and back, exactly, under a keyed MAC: no writer of the cache can change a verdict."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct

import numpy as np

from schemas.verdict import EngineUse
from worker.core.evidence import ViewProbe

MAC_BYTES = 32
HEAD = struct.Struct("<4sHHHHHHQII")  # version, D, patch rows and columns, d, attention rows and columns, phash, size
VERSION = b"apb1"


def sealed(probe: ViewProbe, *, key: bytes, context: bytes) -> bytes:
    """MAC and content. `context` is what the probe is the answer to; it is not stored. `key` has at most 64 bytes."""
    content = _packed(probe)
    return _mac(key, context, content) + content


def opened(value: bytes, *, key: bytes, context: bytes, view: str, sha256: str, engine: EngineUse) -> ViewProbe | None:
    """The probe, its arrays read-only; None for anything that was not sealed with this key for this context."""
    mac, content = value[:MAC_BYTES], value[MAC_BYTES:]
    if len(mac) != MAC_BYTES or not hmac.compare_digest(mac, _mac(key, context, content)):
        return None
    return _unpacked(content, view, sha256, engine)


def _mac(key: bytes, context: bytes, content: bytes) -> bytes:
    mac = hashlib.blake2b(key=key, digest_size=MAC_BYTES)
    mac.update(struct.pack("<I", len(context)))
    mac.update(context)
    mac.update(content)
    return mac.digest()


def _packed(probe: ViewProbe) -> bytes:
    rows, columns = probe.patch_grid
    head = HEAD.pack(
        VERSION,
        probe.embedding.shape[0],
        rows,
        columns,
        probe.patches.shape[1],
        *probe.attention.shape,
        probe.phash,
        *probe.source_size,
    )
    arrays = [np.ascontiguousarray(a, "<f4").tobytes() for a in (probe.embedding, probe.patches, probe.attention)]
    quality = json.dumps({name: float(value) for name, value in probe.quality.items()}, separators=(",", ":"))
    return b"".join([head, *arrays, quality.encode()])


def _unpacked(content: bytes, view: str, sha256: str, engine: EngineUse) -> ViewProbe | None:
    version, width, rows, columns, depth, tall, wide, phash, *size = HEAD.unpack_from(content)
    if version != VERSION:
        return None
    counts = [width, rows * columns * depth, tall * wide]
    numbers = np.frombuffer(content, "<f4", sum(counts), HEAD.size)
    embedding, patches, attention = np.split(numbers, np.cumsum(counts)[:-1])
    return ViewProbe(
        view=view,
        sha256=sha256,
        engine=engine,
        embedding=embedding,
        patches=patches.reshape(rows * columns, depth),
        patch_grid=(rows, columns),
        attention=attention.reshape(tall, wide),
        quality=json.loads(content[HEAD.size + 4 * len(numbers) :]),
        phash=phash,
        source_size=(size[0], size[1]),
    )
