"""The offset watermark: which outputs may be published, and which offset each partition may commit.

Records of a partition stand in delivery order. They finish in any order, and are published as a prefix: an output
leaves only in the transaction whose offset passes its input. Offsets have gaps (control records, aborted data), so
nothing is computed from them but the offset after the last record of a prefix. An assignment has an epoch; what
belongs to an older one is refused, because another worker may have the partition by now.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from schemas.message import OutputRecord, Source
from worker.ports import Partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What one transaction may hold: outputs with their tags, in offset order, and the next offset to read."""

    outputs: tuple[OutputRecord, ...]
    tags: tuple[object, ...]
    offsets: Mapping[Partition, int]
    epochs: Mapping[Partition, int]

    def __bool__(self) -> bool:
        return bool(self.offsets)


@dataclass(slots=True, kw_only=True)
class _Entry:
    offset: int
    output: OutputRecord | None = None
    tag: object = None


@dataclass(slots=True, kw_only=True)
class _Room:
    """What a snapshot may still take. Its first record is taken whatever its size, or it would never get out."""

    records: int
    size_bytes: float
    empty: bool = True

    def takes(self, entry: _Entry) -> bool:
        if entry.output is None or not self.records:
            return False
        size_bytes = entry.output.size_bytes
        if size_bytes > self.size_bytes and not self.empty:
            return False
        self.records -= 1
        self.size_bytes -= size_bytes
        self.empty = False
        return True


@dataclass(slots=True, kw_only=True)
class _Lane:
    """One assigned partition. `entries` are the records not yet published, oldest first."""

    epoch: int
    last: int = -1
    entries: deque[_Entry] = field(default_factory=deque)
    by_offset: dict[int, _Entry] = field(default_factory=dict)

    def pop_below(self, next_offset: int) -> None:
        while self.entries and self.entries[0].offset < next_offset:
            del self.by_offset[self.entries.popleft().offset]


class Watermark:
    """Thread-safe. Intake assigns, delivers and drops; settle finishes and publishes."""

    def __init__(self) -> None:
        self._lanes: dict[Partition, _Lane] = {}
        self._epoch = 0
        self._publishing: Mapping[Partition, int] = {}
        self._changed = threading.Condition()

    def assign(self, partitions: Iterable[Partition]) -> int:
        """Start the partitions afresh under a new epoch, which is returned."""
        with self._changed:
            self._epoch += 1
            self._lanes.update({partition: _Lane(epoch=self._epoch) for partition in partitions})
            self._changed.notify_all()
            return self._epoch

    def delivered(self, source: Source, epoch: int) -> bool:
        """Note that a record is on its way; False for a stale epoch or a record that was delivered already."""
        with self._changed:
            lane = self._lane(source, epoch)
            if lane is None or source.offset <= lane.last:
                return False
            entry = _Entry(offset=source.offset)
            lane.entries.append(entry)
            lane.by_offset[source.offset] = entry
            lane.last = source.offset
            return True

    def expects(self, source: Source, epoch: int) -> bool:
        """Whether `finished` would be the first outcome of this record under its present assignment."""
        with self._changed:
            return self._open(source, epoch) is not None

    def finished(self, source: Source, epoch: int, output: OutputRecord, tag: object = None) -> bool:
        """Keep the output of a record until it is published; False for a stale epoch or a second outcome."""
        with self._changed:
            entry = self._open(source, epoch)
            if entry is None:
                return False
            entry.output, entry.tag = output, tag
            return True

    def ready(self, max_records: int, max_bytes: float = math.inf) -> Ready:
        """The finished prefixes, at most so many records and bytes together. They stay until `published`.

        One record above `max_bytes` is handed out alone. One snapshot is out at a time: the publisher asks
        `still_owned` about the latest.
        """
        with self._changed:
            room = _Room(records=max_records, size_bytes=max_bytes)
            found = {partition: list(takewhile(room.takes, lane.entries)) for partition, lane in self._lanes.items()}
            prefixes = {partition: prefix for partition, prefix in found.items() if prefix}
            self._publishing = {partition: self._lanes[partition].epoch for partition in prefixes}
            return _snapshot(prefixes, self._publishing)

    def still_owned(self) -> bool:
        """Whether every partition of the latest snapshot is still under the assignment it was taken from.

        Ask after the group's metadata was read: if the answer is True, that metadata is no newer than the assignment,
        and the broker refuses it once the partition has moved on. A newer one would commit what others own.
        """
        with self._changed:
            return all(self._epoch_of(partition) == epoch for partition, epoch in self._publishing.items())

    def published(self, ready: Ready) -> None:
        """Forget a snapshot's records: they are committed."""
        with self._changed:
            for partition, next_offset in ready.offsets.items():
                if self._epoch_of(partition) == ready.epochs[partition]:
                    self._lanes[partition].pop_below(next_offset)
            # a lane just served goes to the end, so that a small transaction starves none
            for partition in ready.offsets:
                if partition in self._lanes:
                    self._lanes[partition] = self._lanes.pop(partition)
            self._changed.notify_all()

    def drop(self, partitions: Iterable[Partition]) -> None:
        """The partitions belong to others now."""
        with self._changed:
            for partition in partitions:
                self._lanes.pop(partition, None)
            self._changed.notify_all()

    def drop_below(self, committed: Mapping[Partition, int]) -> None:
        """Forget what the broker says is committed, finished here or not."""
        with self._changed:
            for partition, next_offset in committed.items():
                if partition in self._lanes:
                    self._lanes[partition].pop_below(next_offset)
            self._changed.notify_all()

    def withdraw(self, source: Source, epoch: int) -> None:
        """Take back the latest `delivered` of a partition: nobody else has seen the record."""
        with self._changed:
            lane = self._lane(source, epoch)
            if lane is not None and lane.entries and lane.entries[-1].offset == source.offset:
                del lane.by_offset[lane.entries.pop().offset]
                self._changed.notify_all()

    def owned(self) -> list[Partition]:
        with self._changed:
            return list(self._lanes)

    def in_flight(self, partition: Partition) -> int:
        """Records delivered and not yet published; 0 where the partition is not owned."""
        with self._changed:
            return self._in_flight(partition)

    def unpublished(self) -> int:
        """Records in flight over all partitions."""
        with self._changed:
            return sum(len(lane.entries) for lane in self._lanes.values())

    def wait_drained(self, partitions: Iterable[Partition], deadline_s: float) -> bool:
        """Wait until nothing of the partitions is in flight; False when `deadline_s` seconds passed first."""
        wanted = tuple(partitions)
        with self._changed:
            return self._changed.wait_for(lambda: not any(self._in_flight(p) for p in wanted), deadline_s)

    def _in_flight(self, partition: Partition) -> int:
        lane = self._lanes.get(partition)
        return len(lane.entries) if lane else 0

    def _epoch_of(self, partition: Partition) -> int | None:
        lane = self._lanes.get(partition)
        return lane.epoch if lane else None

    def _lane(self, source: Source, epoch: int) -> _Lane | None:
        lane = self._lanes.get((source.topic, source.partition))
        return lane if lane is not None and lane.epoch == epoch else None

    def _open(self, source: Source, epoch: int) -> _Entry | None:
        lane = self._lane(source, epoch)
        entry = lane.by_offset.get(source.offset) if lane else None
        return entry if entry is not None and entry.output is None else None


def _snapshot(prefixes: Mapping[Partition, list[_Entry]], epochs: Mapping[Partition, int]) -> Ready:
    entries = [entry for prefix in prefixes.values() for entry in prefix]
    return Ready(
        outputs=tuple(entry.output for entry in entries if entry.output is not None),
        tags=tuple(entry.tag for entry in entries),
        offsets={partition: prefix[-1].offset + 1 for partition, prefix in prefixes.items()},
        epochs=dict(epochs),
    )
