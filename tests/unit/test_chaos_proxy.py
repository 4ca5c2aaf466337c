"""The fault proxies against small servers on plain sockets: what passes, what is lost, what is cut."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.chaos.proxy import Action, KafkaProxy, PostgresProxy, TcpProxy

SOON_S, PATIENCE_S = 0.15, 5.0


class Server:
    """Runs `handle` for each connection, in a thread of its own; notes what came in and who was cut off."""

    def __init__(self, handle: Callable[[Server, socket.socket], None]) -> None:
        self.handle = handle
        self.seen: list[bytes] = []
        self.ended: list[str] = []
        self.changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        end = "closed"
        with connection:
            try:
                self.handle(self, connection)
            except OSError:
                end = "reset"
        with self.changed:
            self.ended.append(end)
            self.changed.notify_all()

    def saw(self, data: bytes) -> None:
        with self.changed:
            self.seen.append(data)
            self.changed.notify_all()

    def wait(self, done: Callable[[], object]) -> bool:
        with self.changed:
            return bool(self.changed.wait_for(done, PATIENCE_S))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)


def echo(server: Server, connection: socket.socket) -> None:
    while data := connection.recv(65536):
        server.saw(data)
        connection.sendall(data)


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def dial(proxy: TcpProxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE_S)


def silent(connection: socket.socket) -> bool:
    connection.settimeout(SOON_S)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(PATIENCE_S)
    return False


@pytest.fixture
def closing() -> Iterator[list[Any]]:
    things: list[Any] = []
    yield things
    for thing in things:  # clients, then proxies, then servers
        thing.stop() if isinstance(thing, TcpProxy) else thing.close()


@pytest.fixture
def line(closing: list[Any]) -> tuple[Server, TcpProxy]:
    server = Server(echo)
    proxy = TcpProxy(server.address, name="test")
    proxy.start()
    closing += [proxy, server]
    return server, proxy


def opened(proxy: TcpProxy, closing: list[Any]) -> socket.socket:
    client = dial(proxy)
    closing.insert(0, client)
    return client


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return exactly(client, len(data))


def test_bytes_pass_both_ways_and_an_end_is_passed_on(line: tuple[Server, TcpProxy], closing: list[Any]) -> None:
    server, proxy = line
    client = opened(proxy, closing)
    assert ask(client, b"x" * 300_000) == b"x" * 300_000
    assert proxy.connections() == 1
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert server.wait(lambda: server.ended == ["closed"])


def test_a_black_hole_delivers_nothing_until_it_is_cleared(
    line: tuple[Server, TcpProxy], closing: list[Any]
) -> None:  # fmt: skip
    server, proxy = line
    client = opened(proxy, closing)
    ask(client, b"before")
    proxy.blackhole()
    client.sendall(b"during")
    assert silent(client)
    assert server.seen == [b"before"]
    proxy.clear()
    assert exactly(client, 6) == b"during"
    assert [deed.fault for deed in proxy.log] == ["blackhole", "clear"]


def test_a_reset_is_seen_by_both_sides_and_the_next_connection_works(
    line: tuple[Server, TcpProxy], closing: list[Any]
) -> None:
    server, proxy = line
    client = opened(proxy, closing)
    ask(client, b"a")
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert server.wait(lambda: server.ended == ["reset"])
    assert ask(opened(proxy, closing), b"b") == b"b"


def test_a_half_open_connection_swallows_and_says_nothing(line: tuple[Server, TcpProxy], closing: list[Any]) -> None:
    server, proxy = line
    client = opened(proxy, closing)
    ask(client, b"a")
    proxy.half_open()
    assert server.wait(lambda: len(server.ended) == 1)
    client.sendall(b"lost")
    assert silent(client)
    assert ask(opened(proxy, closing), b"b") == b"b"
    assert server.seen == [b"a", b"b"]


def test_latency_and_bandwidth_hold_bytes_back(line: tuple[Server, TcpProxy], closing: list[Any]) -> None:
    _, proxy = line
    client = opened(proxy, closing)
    proxy.latency(100)
    started_s = time.monotonic()
    ask(client, b"there and back")
    assert time.monotonic() - started_s >= 0.2
    proxy.clear()
    proxy.bandwidth(200_000)
    started_s = time.monotonic()
    ask(client, b"x" * 40_000)
    assert time.monotonic() - started_s >= 0.2


def test_a_server_that_is_away_shows_as_a_closed_connection_and_its_return_is_noticed(
    line: tuple[Server, TcpProxy], closing: list[Any]
) -> None:
    server, proxy = line
    free = socket.create_server(("127.0.0.1", 0))
    proxy.target = f"127.0.0.1:{free.getsockname()[1]}"
    free.close()
    with pytest.raises(ConnectionError):
        ask(opened(proxy, closing), b"a")
    proxy.target = server.address
    assert ask(opened(proxy, closing), b"a") == b"a"


def test_stopping_closes_all_and_leaves_no_thread(line: tuple[Server, TcpProxy], closing: list[Any]) -> None:
    _, proxy = line
    client = opened(proxy, closing)
    proxy.blackhole()
    client.sendall(b"held")
    proxy.stop()
    with pytest.raises((ConnectionError, AssertionError)):
        assert client.recv(1)
    assert "proxy-test" not in {thread.name for thread in threading.enumerate()}


METADATA, END_TXN, HEARTBEAT = 3, 26, 12


def kafka_request(api: int, correlation: int, client: str = "w1", body: bytes = b"body") -> bytes:
    head = struct.pack(">hhih", api, 4, correlation, len(client)) + client.encode()
    return struct.pack(">i", len(head + body)) + head + body


def kafka_broker(server: Server, connection: socket.socket) -> None:
    """Answers with the correlation id and its own address."""
    host, _, port = server.address.rpartition(":")
    while True:
        (size,) = struct.unpack(">i", exactly(connection, 4))
        request = exactly(connection, size)
        server.saw(request)
        answer = request[4:8] + b"\x0a" + host.encode() + struct.pack(">i", int(port))
        connection.sendall(struct.pack(">i", len(answer)) + answer)


def kafka_answer(connection: socket.socket) -> tuple[int, int]:
    """Its correlation id and the port it tells."""
    (size,) = struct.unpack(">i", exactly(connection, 4))
    answer = exactly(connection, size)
    correlation, port = struct.unpack(">i", answer[:4])[0], struct.unpack(">i", answer[-4:])[0]
    return correlation, port


@pytest.fixture
def kafka(closing: list[Any]) -> tuple[Server, KafkaProxy]:
    server = Server(kafka_broker)
    proxy = KafkaProxy(server.address)
    proxy.start()
    closing += [proxy, server]
    return server, proxy


def test_only_what_tells_where_the_broker_is_gets_the_proxys_address(
    kafka: tuple[Server, KafkaProxy], closing: list[Any]
) -> None:
    server, proxy = kafka
    client = opened(proxy, closing)
    client.sendall(kafka_request(METADATA, 1) + kafka_request(HEARTBEAT, 2))
    assert kafka_answer(client) == (1, int(proxy.address.rpartition(":")[2]))
    assert kafka_answer(client) == (2, int(server.address.rpartition(":")[2]))
    assert proxy.requests() == {"Metadata": 1, "Heartbeat": 1}


@pytest.mark.parametrize(("action", "carried_out"), [("drop_request", False), ("drop_response", True)])
def test_a_chosen_request_or_its_answer_is_lost_once(
    kafka: tuple[Server, KafkaProxy], closing: list[Any], action: Action, carried_out: bool
) -> None:
    server, proxy = kafka
    client = opened(proxy, closing)
    proxy.on_request("EndTxn", action)
    for correlation, api in enumerate((HEARTBEAT, END_TXN, HEARTBEAT, END_TXN)):
        for byte in kafka_request(api, correlation):  # however the bytes come in
            client.sendall(bytes((byte,)))
    assert [kafka_answer(client)[0] for _ in range(3)] == [0, 2, 3]
    assert len(server.seen) == 3 + carried_out
    assert [(deed.fault, deed.what) for deed in proxy.log] == [(action, "EndTxn")]


@pytest.mark.parametrize(("action", "carried_out"), [("reset_request", False), ("reset_response", True)])
def test_a_connection_is_reset_before_a_request_or_instead_of_its_answer(
    kafka: tuple[Server, KafkaProxy], closing: list[Any], action: Action, carried_out: bool
) -> None:
    server, proxy = kafka
    client = opened(proxy, closing)
    proxy.on_request("EndTxn", action)
    client.sendall(kafka_request(END_TXN, 1))
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert server.wait(lambda: server.ended)
    assert len(server.seen) == carried_out
    again = opened(proxy, closing)
    again.sendall(kafka_request(END_TXN, 1))
    assert kafka_answer(again)[0] == 1


def test_a_delayed_request_arrives_although_its_sender_has_gone(
    kafka: tuple[Server, KafkaProxy], closing: list[Any]
) -> None:
    server, proxy = kafka
    proxy.on_request("EndTxn", 0.3)
    early = opened(proxy, closing)
    early.sendall(kafka_request(END_TXN, 1))
    assert proxy.wait_for("delay_request", timeout_s=PATIENCE_S)
    early.close()
    late = opened(proxy, closing)
    late.sendall(kafka_request(HEARTBEAT, 2))
    assert kafka_answer(late)[0] == 2
    assert server.wait(lambda: len(server.seen) == 2)
    assert [struct.unpack(">h", request[:2])[0] for request in server.seen] == [HEARTBEAT, END_TXN]


def test_a_rule_may_be_for_one_client_and_an_unknown_request_is_refused(
    kafka: tuple[Server, KafkaProxy], closing: list[Any]
) -> None:
    _, proxy = kafka
    client = opened(proxy, closing)
    proxy.on_request("EndTxn", "drop_response", client="w2", times=2)
    client.sendall(kafka_request(END_TXN, 1, "w1") + kafka_request(END_TXN, 2, "w2") + kafka_request(END_TXN, 3, "w1"))
    assert [kafka_answer(client)[0] for _ in range(2)] == [1, 3]
    proxy.clear()
    client.sendall(kafka_request(END_TXN, 4, "w2"))
    assert kafka_answer(client)[0] == 4
    with pytest.raises(ValueError, match="EndTransaction"):
        proxy.on_request("EndTransaction", "drop_request")


def postgres_server(server: Server, connection: socket.socket) -> None:
    """Refuses encryption, then answers each simple query with the tag of its first word."""
    assert exactly(connection, 8)[4:] == struct.pack(">i", 80877103)
    connection.sendall(b"N")
    exactly(connection, struct.unpack(">i", exactly(connection, 4))[0] - 4)
    connection.sendall(b"Z" + struct.pack(">i", 5) + b"I")
    while True:
        kind, size = struct.unpack(">ci", exactly(connection, 5))
        text = exactly(connection, size - 4).rstrip(b"\0")
        server.saw(text)
        tag = {b"INSERT": b"INSERT 0 1", b"SELECT": b"SELECT 7", b"UPDATE": b"UPDATE 0"}.get(text.split()[0], text)
        assert kind == b"Q"
        connection.sendall(b"C" + struct.pack(">i", 5 + len(tag)) + tag + b"\0" + b"Z" + struct.pack(">i", 5) + b"I")


class Psql:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.sendall(struct.pack(">ii", 8, 80877103))
        assert exactly(connection, 1) == b"N"
        connection.sendall(struct.pack(">ii", 12, 196608) + b"user")
        exactly(connection, 6)

    def tell(self, text: bytes) -> bytes:
        self._connection.sendall(b"Q" + struct.pack(">i", 5 + len(text)) + text + b"\0")
        _, size = struct.unpack(">ci", exactly(self._connection, 5))
        tag = exactly(self._connection, size - 4).rstrip(b"\0")
        exactly(self._connection, 6)
        return tag


@pytest.fixture
def postgres(closing: list[Any]) -> tuple[Server, PostgresProxy]:
    server = Server(postgres_server)
    proxy = PostgresProxy(server.address)
    proxy.start()
    closing += [proxy, server]
    return server, proxy


def test_the_reply_to_the_commit_of_what_was_written_is_lost_and_no_other(
    postgres: tuple[Server, PostgresProxy], closing: list[Any]
) -> None:
    server, proxy = postgres
    client = Psql(opened(proxy, closing))
    proxy.cut_commit_reply()
    for harmless in (b"SELECT 1", b"UPDATE nothing"):
        assert [client.tell(text) for text in (b"BEGIN", harmless, b"COMMIT")][-1] == b"COMMIT"
    assert client.tell(b"INSERT INTO t") == b"INSERT 0 1"
    with pytest.raises(ConnectionError):
        client.tell(b"COMMIT")
    assert server.wait(lambda: server.ended)
    assert server.seen[-1] == b"COMMIT"
    again = Psql(opened(proxy, closing))
    assert [again.tell(text) for text in (b"INSERT INTO t", b"COMMIT")] == [b"INSERT 0 1", b"COMMIT"]
    assert [deed.fault for deed in proxy.log] == ["cut_commit_reply"]


def test_a_commit_is_lost_before_the_server_sees_it(
    postgres: tuple[Server, PostgresProxy], closing: list[Any]
) -> None:  # fmt: skip
    server, proxy = postgres
    client = Psql(opened(proxy, closing))
    proxy.cut_commit()
    client.tell(b"INSERT INTO t")
    with pytest.raises(ConnectionError):
        client.tell(b"COMMIT")
    assert server.wait(lambda: server.ended)
    assert server.seen == [b"INSERT INTO t"]
