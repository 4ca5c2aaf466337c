"""Avro's binary encoding, with bounds: a hostile message costs no more memory than a small multiple of its size."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import fastavro

from schemas import published
from schemas.invalid import malformed

# Each value of a message costs at least one read. A job of 24 views with full labels needs under 1,000, a verdict
# of 24 views under 5,000; millions would fill the memory with empty records.
MAX_READS = 100_000


class BoundedBytes:
    """A reader over one message that refuses negative and absurd lengths before anything is allocated."""

    __slots__ = ("at", "reads_left", "value")

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.at = 0
        self.reads_left = MAX_READS

    def read(self, size: int) -> bytes:
        """The next `size` bytes, copied once. Raises EOFError."""
        start = self.at
        end = start + size
        if size < 0 or end > len(self.value):
            raise EOFError(f"a length of {size} at byte {start} of {len(self.value)}")
        self.reads_left -= 1
        if self.reads_left < 0:
            raise EOFError(f"more than {MAX_READS} values")
        self.at = end
        return self.value[start:end]


def encode(name: str, record: Mapping[str, object]) -> bytes:
    """Encode with the published schema `name`. Raises ValueError where the record does not fit it.

    Fields that were added since are left out while none of them is set: whoever knows the first schema alone reads on.
    """
    buffer = io.BytesIO()
    anew = any(record.get(added) is not None for added in published.ADDED.get(name, ()))
    schema = published.avro(name) if anew else published.first_avro(name)
    try:
        fastavro.schemaless_writer(buffer, schema, record)
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"the record does not fit {name}: {error}") from error
    return buffer.getvalue()


def decode(name: str, value: bytes, *, writer_schema: str | None = None) -> Mapping[str, object]:
    """Decode with the published schema `name`; `writer_schema` is the sender's (JSON text) where it is known.

    A payload may end before the fields that were added since: unframed, nothing else tells which revision wrote it.
    Raises InvalidMessage (malformed_payload) whatever the bytes are.
    """
    reader = BoundedBytes(value)
    try:
        record = _read(reader, name, writer_schema)
    except Exception as error:  # fastavro lets many kinds out of hostile bytes; all of them mean the same
        reason = str(error) or type(error).__name__
        raise malformed(f"not Avro of {name} ({reason[:200]}): encode with the published schema") from error
    if reader.at != len(value):
        raise malformed(f"{len(value) - reader.at} bytes follow the Avro record of {name}: send one record a message")
    if not isinstance(record, dict):
        raise malformed(f"the sender's schema is no record: register {name}")
    return record


def _read(reader: BoundedBytes, name: str, writer_schema: str | None) -> object:
    if writer_schema is not None:
        return fastavro.schemaless_reader(reader, _parsed(writer_schema), published.avro(name))
    record: object = fastavro.schemaless_reader(reader, published.first_avro(name), None)
    if name not in published.ADDED or reader.at == len(reader.value):
        return record
    reader.at = 0
    return fastavro.schemaless_reader(reader, published.avro(name), None)


@lru_cache(maxsize=64)
def _parsed(writer_schema: str) -> Any:
    return fastavro.parse_schema(json.loads(writer_schema))
