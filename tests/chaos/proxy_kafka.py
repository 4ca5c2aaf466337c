"""A TCP proxy that reads Kafka's request headers and can lose or hold back the requests and answers of one kind.

The broker tells its clients where it is in a few answers; there its address is replaced by the proxy's, so that all
that a client does goes through the proxy it was given, and one broker may have any number of proxies.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.proxy_tcp import Log, Passage, TcpProxy, Wire

APIS: Mapping[str, int] = {
    "Produce": 0,
    "Fetch": 1,
    "ListOffsets": 2,
    "Metadata": 3,
    "OffsetCommit": 8,
    "OffsetFetch": 9,
    "FindCoordinator": 10,
    "JoinGroup": 11,
    "Heartbeat": 12,
    "LeaveGroup": 13,
    "SyncGroup": 14,
    "ApiVersions": 18,
    "InitProducerId": 22,
    "AddPartitionsToTxn": 24,
    "AddOffsetsToTxn": 25,
    "EndTxn": 26,
    "TxnOffsetCommit": 28,
    "DescribeCluster": 60,
    "ConsumerGroupHeartbeat": 68,
}
NAMES = {number: name for name, number in APIS.items()}
TELLS_ADDRESSES = frozenset({"Metadata", "FindCoordinator", "DescribeCluster"})
SIZE_BYTES = 4
Action = Literal[
    "drop_request",
    "drop_response",
    "delay_request",
    "delay_response",
    "reset_request",
    "reset_response",
    "late_request",
]


@dataclass(slots=True, kw_only=True)
class Rule:
    """What happens to the next `left` requests of `api` from clients whose id begins with `client`."""

    api: str
    action: Action
    delay_s: float
    client: str
    left: int


@dataclass(slots=True)
class Plan:
    """The rules of a proxy, and what it has seen. Touched in the proxy's loop alone."""

    log: Log
    rules: list[Rule] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    moved: tuple[bytes, bytes] = (b"", b"")  # the broker's address as its answers hold it, and the proxy's

    def rule_for(self, api: str, client: str) -> Rule | None:
        self.requests[api] += 1
        for rule in self.rules:
            if rule.api == api and client.startswith(rule.client):
                rule.left -= 1
                self.rules = [kept for kept in self.rules if kept.left > 0]
                self.log.add(rule.action, api)
                return rule
        return None


class KafkaProxy(TcpProxy):
    """A TcpProxy before one broker; `target` must be the address that the broker advertises."""

    def __init__(self, target: str, *, name: str = "kafka") -> None:
        super().__init__(target, name=name)
        self._plan = Plan(self._deeds)

    def on_request(
        self, api: str, action: Action | float, *, delay_s: float = 0.0, times: int = 1, client: str = ""
    ) -> None:
        """Do `action` to the next `times` requests of `api`; a number means delay_request by so many seconds.

        drop_request: the broker never sees it. drop_response: it is carried out and the answer never returns.
        delay_request, delay_response: `delay_s` later, and all that follows on its connection behind it.
        reset_request: the connection is reset instead of passing it on; reset_response: instead of the answer.
        late_request: the connection is reset, and the request arrives at the broker `delay_s` later all the same.
        `client` limits it to clients whose client.id begins so. Raises ValueError for an unknown api.
        """
        if api not in APIS:
            raise ValueError(f"unknown request {api}; one of {sorted(APIS)}")
        if not isinstance(action, str):
            action, delay_s = "delay_request", float(action)
        rule = Rule(api=api, action=action, delay_s=delay_s, client=client, left=times)
        self._call(lambda: self._plan.rules.append(rule))

    def requests(self) -> Counter[str]:
        """How many requests of each kind came, by name; unknown kinds by number."""
        return self._call(lambda: Counter(self._plan.requests))

    def _wire(self) -> Wire:
        self._plan.moved = (_endpoint(self.target), _endpoint(self.address))
        return KafkaWire(self._plan)

    def _clear(self) -> None:
        super()._clear()
        self._plan.rules.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    api: str
    rule: Rule | None


class KafkaWire:
    """One connection: requests and their answers, matched by correlation id."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sent, self._received = bytearray(), bytearray()
        self._awaited: dict[int, Awaited] = {}

    def to_server(self, data: bytes) -> Iterable[Passage]:
        self._sent += data
        return [passage for frame in _frames(self._sent) for passage in self._request(frame)]

    def to_client(self, data: bytes) -> Iterable[Passage]:
        self._received += data
        return [passage for frame in _frames(self._received) for passage in self._response(frame)]

    def _request(self, frame: bytes) -> Iterable[Passage]:
        number, _version, correlation, client_size = struct.unpack_from(">hhih", frame, SIZE_BYTES)
        start = SIZE_BYTES + 10
        api = NAMES.get(number, str(number))
        rule = self._plan.rule_for(api, frame[start : start + max(0, client_size)].decode(errors="replace"))
        match rule:
            case Rule(action="drop_request"):
                return ()
            case Rule(action="reset_request"):
                return (Passage(cut=True),)
        self._awaited[correlation] = Awaited(api=api, rule=rule)
        held = rule is not None and rule.action in ("delay_request", "late_request")
        late = rule is not None and rule.action == "late_request"
        return (Passage(data=frame, delay_s=rule.delay_s if rule and held else 0.0, late=late),)

    def _response(self, frame: bytes) -> Iterable[Passage]:
        (correlation,) = struct.unpack_from(">i", frame, SIZE_BYTES)
        awaited = self._awaited.pop(correlation, None)
        if awaited is None:
            return (Passage(data=frame),)
        if awaited.api in TELLS_ADDRESSES:
            frame = frame.replace(*self._plan.moved)
        match awaited.rule:
            case Rule(action="drop_response"):
                return ()
            case Rule(action="reset_response"):
                return (Passage(cut=True),)
            case Rule(action="delay_response", delay_s=delay_s):
                return (Passage(data=frame, delay_s=delay_s),)
        return (Passage(data=frame),)


def _endpoint(address: str) -> bytes:
    """`host:port` as answers hold it: the host's characters, then the port in four bytes."""
    host, _, port = address.rpartition(":")
    return host.encode() + struct.pack(">i", int(port))


def _frames(buffer: bytearray) -> Iterator[bytes]:
    """Cut whole messages, size included, from the front of `buffer`."""
    while len(buffer) >= SIZE_BYTES:
        end = SIZE_BYTES + int.from_bytes(buffer[:SIZE_BYTES], "big")
        if len(buffer) < end:
            return
        frame = bytes(buffer[:end])
        del buffer[:end]
        yield frame
