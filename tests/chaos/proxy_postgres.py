"""A TCP proxy that follows PostgreSQL's protocol far enough to lose a COMMIT, or the reply to one.

It looks at the server's replies alone: they name each command as it completes, whether it was sent as a simple query
(as psycopg does) or as an extended one. Only transactions that wrote something count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.chaos.proxy_tcp import Log, Passage, TcpProxy, Wire

NEGOTIATIONS = (80877103, 80877104)  # SSLRequest and GSSENCRequest, each answered by one byte
QUERY, COMMAND_COMPLETE = b"Q", b"C"
WRITES = (b"INSERT ", b"UPDATE ", b"DELETE ", b"COPY ", b"MERGE ")


@dataclass(slots=True)
class Losses:
    """What is still to be lost. Touched in the proxy's loop alone."""

    log: Log
    replies: int = 0
    commits: int = 0


class PostgresProxy(TcpProxy):
    """A TcpProxy before one server whose connections are not encrypted."""

    def __init__(self, target: str, *, name: str = "postgres") -> None:
        super().__init__(target, name=name)
        self._losses = Losses(self._deeds)

    def cut_commit_reply(self, times: int = 1) -> None:
        """The next writing transactions commit, and their connection is reset instead of the reply."""
        self._call(lambda: setattr(self._losses, "replies", times))

    def cut_commit(self, times: int = 1) -> None:
        """The next writing transactions lose their connection instead of their COMMIT (sent as a simple query)."""
        self._call(lambda: setattr(self._losses, "commits", times))

    def _wire(self) -> Wire:
        return PostgresWire(self._losses)

    def _clear(self) -> None:
        super()._clear()
        self._losses.replies = self._losses.commits = 0


class PostgresWire:
    """One connection."""

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        self._sent, self._received = bytearray(), bytearray()
        self._started = False  # the client's first message without a type, the start-up, was seen
        self._single_bytes = 0  # answers to negotiations that are under way
        self._wrote = False

    def to_server(self, data: bytes) -> Iterable[Passage]:
        self._sent += data
        return [self._request(message) for message in self._requests()]

    def to_client(self, data: bytes) -> Iterable[Passage]:
        self._received += data
        return [self._reply(message) for message in self._replies()]

    def _requests(self) -> Iterator[bytes]:
        while not self._started and len(self._sent) >= 8:
            size, code = int.from_bytes(self._sent[:4], "big"), int.from_bytes(self._sent[4:8], "big")
            if len(self._sent) < size:
                return
            self._started = code not in NEGOTIATIONS
            self._single_bytes += code in NEGOTIATIONS
            yield _cut(self._sent, size)
        if self._started:
            yield from _messages(self._sent)

    def _replies(self) -> Iterator[bytes]:
        while self._single_bytes and self._received:
            self._single_bytes -= 1
            yield _cut(self._received, 1)
        yield from _messages(self._received)

    def _request(self, message: bytes) -> Passage:
        lost = self._losses.commits and self._wrote and _is_commit(message)
        if lost:
            self._losses.commits -= 1
            self._losses.log.add("cut_commit", "COMMIT")
        return Passage(cut=True) if lost else Passage(data=message)

    def _reply(self, message: bytes) -> Passage:
        if not message.startswith(COMMAND_COMPLETE) or len(message) == 1:
            return Passage(data=message)
        tag = message[5:].rstrip(b"\0")
        if tag == b"COMMIT" and self._wrote and self._losses.replies:
            self._losses.replies -= 1
            self._losses.log.add("cut_commit_reply", "COMMIT")
            return Passage(cut=True)
        if tag in (b"COMMIT", b"ROLLBACK", b"BEGIN"):
            self._wrote = False
        elif tag.startswith(WRITES) and not tag.endswith(b" 0"):
            self._wrote = True
        return Passage(data=message)


def _is_commit(message: bytes) -> bool:
    return message.startswith(QUERY) and message[5:].rstrip(b"\0; ").upper() == b"COMMIT"


def _messages(buffer: bytearray) -> Iterator[bytes]:
    """Cut whole messages (type, size, body) from the front of `buffer`."""
    while len(buffer) >= 5:
        size = 1 + int.from_bytes(buffer[1:5], "big")
        if len(buffer) < size:
            return
        yield _cut(buffer, size)


def _cut(buffer: bytearray, size: int) -> bytes:
    cut = bytes(buffer[:size])
    del buffer[:size]
    return cut
