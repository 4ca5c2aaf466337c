"""Asks a broker which transactions it knows (Kafka's ListTransactions): librdkafka has no call for it.

The request and its answer are a few fields of the protocol, version 0, spoken over one plain connection.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from tests.chaos.observation import OpenTransaction

API_KEY, VERSION, CORRELATION = 66, 0, 7
TIMEOUT_S = 20.0
NO_TAGS = b"\x00"
EMPTY_ARRAY = b"\x01"  # compact arrays and strings tell their length plus one


class Refused(Exception):
    """The broker answered with an error code of the protocol, or broke the connection off."""


def list_transactions(bootstrap: str, *, prefix: str = "") -> tuple[OpenTransaction, ...]:
    """The transactions of every broker of `bootstrap` (host:port, comma-separated) whose id begins with `prefix`.

    Those that are over are told too, with their state. Raises OSError and Refused.
    """
    found = (one for broker in bootstrap.split(",") for one in _ask(broker.strip()))
    return tuple(one for one in found if one.transactional_id.startswith(prefix))


def _ask(broker: str) -> Iterator[OpenTransaction]:
    host, _, port = broker.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        connection.sendall(_framed(request()))
        (length,) = struct.unpack(">i", _exactly(connection, 4))
        yield from answer(_exactly(connection, length))


def request() -> bytes:
    """All states, all producers. The header's client id is an old-style string, also where the rest is compact."""
    client = b"chaos"
    header = struct.pack(">hhih", API_KEY, VERSION, CORRELATION, len(client)) + client + NO_TAGS
    return header + EMPTY_ARRAY + EMPTY_ARRAY + NO_TAGS


def answer(data: bytes) -> Iterator[OpenTransaction]:
    """The transactions of an answer without its length. Raises Refused for an error code."""
    field = _Fields(data)
    if field.number(">i") != CORRELATION:
        raise Refused("the answer is to another request")
    field.skip_tags()
    field.number(">i")  # throttled for ms
    if code := field.number(">h"):
        raise Refused(f"ListTransactions ended with the protocol's error {code}")
    for _ in range(field.length()):
        field.text()  # a state filter that the broker does not know
    for _ in range(field.length()):
        transactional_id = field.text()
        field.number(">q")  # producer id
        yield OpenTransaction(transactional_id=transactional_id, state=field.text())
        field.skip_tags()


class _Fields:
    """Reads the fields of a message one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.number(">B")
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def length(self) -> int:
        return max(0, self.varint() - 1)

    def text(self) -> str:
        size = self.length()
        self._at += size
        return self._data[self._at - size : self._at].decode()

    def skip_tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self._at += self.varint()


def _framed(message: bytes) -> bytes:
    return struct.pack(">i", len(message)) + message


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise Refused("the broker broke the connection off")
        parts += part
    return bytes(parts)
