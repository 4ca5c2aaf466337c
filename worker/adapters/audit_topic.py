"""Heads of the ledger in Kafka: published by the sealer, read by whoever verifies. The key is the tenant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas import headers as names
from schemas.message import OutputRecord
from worker.adapters.audit_keys import TrustedKeys
from worker.adapters.kafka_follower import KafkaFollower
from worker.adapters.kafka_sender import KafkaSender
from worker.core.ledger import SignedHead, head_message, read_head

HEAD_TYPE = "assay.audit.head.v1"


@dataclass(slots=True)
class LatestHeads:
    """The highest head of each tenant that a trusted key signed, and what was wrong with others."""

    keys: TrustedKeys
    heads: dict[str, SignedHead] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)  # tenant, what is wrong

    def add(self, message: bytes) -> None:
        try:
            signed = read_head(message)
        except ValueError as error:
            self.faults.append(("?", f"a published head cannot be read: {error}"))
            return
        head = signed.head
        if fault := self.keys.fault(signed):
            self.faults.append(
                (head.tenant, f"the published head of block {head.height} is not to be trusted: {fault}")
            )
            return
        best = self.heads.get(head.tenant)
        if best and best.head.height == head.height and best.head != head:
            self.faults.append((head.tenant, f"two heads of block {head.height} were published: the chain has a fork"))
        if best is None or head.height > best.head.height:
            self.heads[head.tenant] = signed


def publish_heads(client_config: Mapping[str, Any], topic: str) -> Callable[[Sequence[SignedHead]], None]:
    """Sends heads, and returns when all are confirmed. Raises ServiceUnavailable."""
    sender = KafkaSender(client_config)

    def send(heads: Sequence[SignedHead]) -> None:
        if heads:
            sender.send(_record(topic, signed) for signed in heads)

    return send


def read_heads(client_config: Mapping[str, Any], topic: str) -> Iterator[bytes]:
    """Every head that the topic holds, oldest first, as its message. Raises AssayError."""
    with KafkaFollower(client_config, [topic], from_beginning=True) as follower:
        yield from (record.value for record in follower.rest() if record.value)


def latest_heads(client_config: Mapping[str, Any], topic: str, keys: TrustedKeys) -> LatestHeads:
    """What the topic holds, as an auditor takes it. Raises AssayError."""
    latest = LatestHeads(keys)
    for message in read_heads(client_config, topic):
        latest.add(message)
    return latest


def _record(topic: str, signed: SignedHead) -> OutputRecord:
    headers = ((names.CE_TYPE, HEAD_TYPE.encode()), (names.CONTENT_TYPE, names.JSON.encode()))
    return OutputRecord(topic=topic, key=signed.head.tenant.encode(), value=head_message(signed), headers=headers)
