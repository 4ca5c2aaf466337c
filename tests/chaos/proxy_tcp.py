"""A TCP proxy on the loopback interface that harms what passes through it: silence, resets, latency, a thin line.

One named thread runs the loop of one proxy; every method may be called from any thread. Bytes of one direction keep
their order, and what is held back is delivered later, even if its sender has long gone: so a network behaves.
A subclass gives each connection a `Wire`, which sees the bytes and may keep, delay or cut what it recognises.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self, TypeVar

T = TypeVar("T")
Direction = Literal["to_server", "to_client"]
READ_BYTES = 64 * 1024
SLICE_BYTES = 8 * 1024  # what a thin line carries at a time
QUEUED_CHUNKS = 256
CALL_TIMEOUT_S = 10.0
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: close sends RST


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Bytes that go on after `delay_s`, in order; `cut` resets both sides of the connection instead.

    `late` resets the client at once, and the bytes arrive at the server all the same.
    """

    data: bytes = b""
    delay_s: float = 0.0
    cut: bool = False
    late: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What a proxy did, when (seconds of time.monotonic) and to which request; `what` is '' for the whole line."""

    at_s: float
    fault: str
    what: str = ""


class Wire(Protocol):
    """Understands one connection. Called in the order of the bytes."""

    def to_server(self, data: bytes) -> Iterable[Passage]: ...

    def to_client(self, data: bytes) -> Iterable[Passage]: ...


class PlainWire:
    def to_server(self, data: bytes) -> Iterable[Passage]:
        return (Passage(data=data),)

    to_client = to_server


class Log:
    """The deeds of a proxy; other threads read it and wait for it."""

    def __init__(self) -> None:
        self._deeds: list[Deed] = []
        self._changed = threading.Condition()

    def add(self, fault: str, what: str = "") -> None:
        with self._changed:
            self._deeds.append(Deed(at_s=time.monotonic(), fault=fault, what=what))
            self._changed.notify_all()

    def deeds(self) -> tuple[Deed, ...]:
        with self._changed:
            return tuple(self._deeds)

    def wait(self, fault: str, times: int, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: sum(d.fault == fault for d in self._deeds) >= times, timeout_s)


@dataclass(slots=True)
class Line:
    """The condition that all connections of a proxy share. Times are the loop's."""

    loop: asyncio.AbstractEventLoop
    latency_s: float = 0.0
    bytes_s: float | None = None
    open: asyncio.Event = field(default_factory=asyncio.Event)
    free_at_s: dict[Direction, float] = field(default_factory=dict)

    async def carry(self, data: bytes, direction: Direction, writer: asyncio.StreamWriter) -> None:
        """Write `data` as fast as the line allows; waits while it is silent."""
        rest = memoryview(data)
        while rest:
            await self.open.wait()
            size = len(rest) if self.bytes_s is None else SLICE_BYTES
            await self._share(min(size, len(rest)), direction)
            writer.write(rest[:size])
            await writer.drain()
            rest = rest[size:]

    async def _share(self, size: int, direction: Direction) -> None:
        if self.bytes_s is not None:
            free_s = max(self.loop.time(), self.free_at_s.get(direction, 0.0)) + size / self.bytes_s
            self.free_at_s[direction] = free_s
            await asyncio.sleep(free_s - self.loop.time())


class Connection:
    """One client and its own connection to the server, until both are done."""

    def __init__(self, line: Line, wire: Wire, client: Streams, server: Streams) -> None:
        self._line, self._wire = line, wire
        self._client, self._server = client, server
        self._queues: dict[Direction, asyncio.Queue[tuple[float, Passage | None]]] = {
            "to_server": asyncio.Queue(QUEUED_CHUNKS),
            "to_client": asyncio.Queue(QUEUED_CHUNKS),
        }
        self._half_open = False

    async def run(self) -> None:
        try:
            await asyncio.gather(
                self._read("to_server", self._client.reader, self._wire.to_server),
                self._read("to_client", self._server.reader, self._wire.to_client),
                self._deliver("to_server", self._server.writer),
                self._deliver("to_client", self._client.writer),
            )
        finally:
            self._client.abort()
            self._server.abort()

    def reset(self) -> None:
        for side in (self._client, self._server):
            side.reset()

    def half_open(self) -> None:
        """The server is gone and the client is not told; what it sends is lost."""
        self._half_open = True
        self._server.abort()

    async def _read(
        self, direction: Direction, reader: asyncio.StreamReader, feed: Callable[[bytes], Iterable[Passage]]
    ) -> None:
        queue = self._queues[direction]
        while data := await _read_some(reader):
            now_s = self._line.loop.time()
            for passage in _joined(feed(data)):
                await queue.put((now_s + self._line.latency_s + passage.delay_s, passage))
                if passage.late:
                    self._client.reset()
        for ended in self._ended_by(direction):
            await self._queues[ended].put((0.0, None))

    def _ended_by(self, direction: Direction) -> Sequence[Direction]:
        """A side that ends ends its own direction; of a half-open connection only the client is there to end both."""
        if not self._half_open:
            return (direction,)
        return ("to_server", "to_client") if direction == "to_server" else ()

    async def _deliver(self, direction: Direction, writer: asyncio.StreamWriter) -> None:
        while True:
            due_s, passage = await self._queues[direction].get()
            if passage is None:
                break
            if (wait_s := due_s - self._line.loop.time()) > 0:
                await asyncio.sleep(wait_s)
            if passage.cut:
                self.reset()
            elif not writer.transport.is_closing():
                await self._write(passage.data, direction, writer)
        if not writer.transport.is_closing():
            _end(writer)

    async def _write(self, data: bytes, direction: Direction, writer: asyncio.StreamWriter) -> None:
        try:
            await self._line.carry(data, direction, writer)
        except ConnectionError:
            writer.transport.abort()  # its reader sees the end as well


@dataclass(frozen=True, slots=True)
class Streams:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def abort(self) -> None:
        self.writer.transport.abort()

    def reset(self) -> None:
        if (opened := self.writer.get_extra_info("socket")) is not None and not self.writer.transport.is_closing():
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.abort()


class TcpProxy:
    """Passes connections on to `target` (host:port). Start it, give clients `address`, harm them, stop it.

    The target may be set anew at any time, for connections to come.
    """

    def __init__(self, target: str, *, name: str = "proxy") -> None:
        self.target = target
        self.name = name
        self._deeds = Log()
        self._loop = asyncio.new_event_loop()
        self._line = Line(self._loop)
        self._line.open.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{name}", daemon=True)
        self._connections: dict[asyncio.Task[None], Connection | None] = {}
        self._server: asyncio.Server | None = None
        self._port = 0

    def start(self, port: int = 0) -> int:
        """Listen on `port` of 127.0.0.1, or on a free one, which is returned. Raises OSError."""
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, "127.0.0.1", port), self._loop
        ).result(CALL_TIMEOUT_S)
        self._port = int(self._server.sockets[0].getsockname()[1])
        return self._port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def log(self) -> tuple[Deed, ...]:
        """What was done so far, oldest first."""
        return self._deeds.deeds()

    def wait_for(self, fault: str, *, times: int = 1, timeout_s: float = 30.0) -> bool:
        """Wait until `fault` was done `times` times since the start; False when `timeout_s` passed first."""
        return self._deeds.wait(fault, times, timeout_s)

    def blackhole(self) -> None:
        """Nothing passes and nothing is closed, until `clear`; then what was on its way arrives."""
        self._do("blackhole", self._line.open.clear)

    def latency(self, milliseconds: float) -> None:
        """Each direction takes this much longer."""
        self._do("latency", lambda: setattr(self._line, "latency_s", milliseconds / 1e3))

    def bandwidth(self, bytes_s: float) -> None:
        """All connections together carry this much each way. 3 Mbit/s are 375_000."""
        self._do("bandwidth", lambda: setattr(self._line, "bytes_s", bytes_s))

    def reset(self) -> None:
        """Reset every present connection, both sides."""
        self._do("reset", lambda: [connection.reset() for connection in self._present()])

    def half_open(self) -> None:
        """Every present connection loses its server and the client hears nothing of it; new ones work."""
        self._do("half_open", lambda: [connection.half_open() for connection in self._present()])

    def clear(self) -> None:
        """End every fault that lasts."""
        self._do("clear", self._clear)

    def connections(self) -> int:
        """How many are open now."""
        return self._call(lambda: len(self._present()))

    def stop(self) -> None:
        """Close everything; the thread ends."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(CALL_TIMEOUT_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wire(self) -> Wire:
        """For one connection; called in the loop."""
        return PlainWire()

    def _clear(self) -> None:
        self._line.latency_s, self._line.bytes_s = 0.0, None
        self._line.open.set()

    def _call(self, call: Callable[[], T]) -> T:
        """Run `call` in the loop, which alone touches what the connections share."""

        async def run() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(CALL_TIMEOUT_S)

    def _do(self, fault: str, call: Callable[[], object]) -> None:
        self._call(call)
        self._deeds.add(fault)

    def _present(self) -> list[Connection]:
        return [connection for connection in self._connections.values() if connection is not None]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None
        try:
            await self._serve(task, Streams(reader, writer))
        except asyncio.CancelledError:
            pass  # the proxy is being stopped; a task that ends as cancelled would be logged as an error
        finally:
            del self._connections[task]

    async def _serve(self, task: asyncio.Task[None], client: Streams) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            server = Streams(*await asyncio.open_connection(host, int(port)))
        except OSError:
            client.reset()  # as a closed port would answer, as nearly as an accepted connection can
            return
        except asyncio.CancelledError:
            client.abort()
            raise
        self._connections[task] = connection = Connection(self._line, self._wire(), client, server)
        await connection.run()

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports say good-bye in the next turn
        await asyncio.sleep(0)


def _joined(passages: Iterable[Passage]) -> Iterator[Passage]:
    """Neighbours that simply go on, as one."""
    data = bytearray()
    for passage in passages:
        if passage.cut or passage.late or passage.delay_s:
            yield Passage(data=bytes(data))
            yield passage
            data.clear()
        else:
            data += passage.data
    if data:
        yield Passage(data=bytes(data))


async def _read_some(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(READ_BYTES)
    except ConnectionError:
        return b""


def _end(writer: asyncio.StreamWriter) -> None:
    try:
        writer.write_eof()
    except OSError:
        writer.transport.abort()
