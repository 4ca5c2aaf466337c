"""A Kafka record as Assay sees it, coming in and going out; no client types."""

from __future__ import annotations

from dataclasses import dataclass, field

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an input record stands: the identity that every output names in its header `src`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRecord:
    """One record of a jobs topic. `epoch` is the assignment it was delivered under."""

    source: Source
    epoch: int
    key: bytes | None
    value: bytes = field(repr=False)
    headers: Headers
    timestamp_ms: int  # the broker's record timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRecord:
    """One record to produce. `headers` already hold `src` and `traceparent`."""

    topic: str
    key: bytes | None
    value: bytes = field(repr=False)
    headers: Headers

    @property
    def size_bytes(self) -> int:
        """Before compression, without what Kafka adds."""
        named = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value) + named
