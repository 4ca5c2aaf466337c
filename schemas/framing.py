"""Confluent's Schema Registry framing: a zero byte and a four-byte schema id before the payload. Optional."""

from __future__ import annotations

import struct
from typing import Protocol

from schemas.invalid import malformed

MAGIC = 0
PREFIX = struct.Struct(">bI")


class SchemaLookup(Protocol):
    """Finds a sender's schema. The worker's adapter asks the registry; tests use a dict."""

    def schema(self, schema_id: int) -> str | None:
        """The schema as JSON text; None where the registry knows no such id."""


def frame(value: bytes, schema_id: int) -> bytes:
    return PREFIX.pack(MAGIC, schema_id) + value


def is_framed(value: bytes) -> bool:
    """No Avro job or verdict starts with a zero byte (an empty first string), and no JSON text does."""
    return len(value) >= PREFIX.size and value[0] == MAGIC


def unframe(value: bytes) -> tuple[int, bytes]:
    """Schema id and payload. Raises InvalidMessage."""
    if not is_framed(value):
        raise malformed("the payload has no Schema Registry frame")
    return PREFIX.unpack_from(value)[1], value[PREFIX.size :]


def sender_schema(value: bytes, lookup: SchemaLookup) -> tuple[str, bytes]:
    """The sender's schema and the payload. Raises InvalidMessage, and whatever the lookup raises."""
    schema_id, payload = unframe(value)
    schema = lookup.schema(schema_id)
    if schema is None:
        raise malformed(f"the Schema Registry knows no schema {schema_id}: register it before sending")
    return schema, payload
