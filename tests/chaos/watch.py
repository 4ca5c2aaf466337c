"""What is looked at while a run goes on: the groups' committed offsets, and whether anything is left to do.

The broker is asked directly, never through a proxy; while it is away, there is nothing to see.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tests.chaos.fleet import now_ms
from tests.chaos.observation import OffsetSample
from tests.chaos.world import Group, World

SAMPLE_S = 1.0
ANSWER_S = 5.0
EOF_S = 5.0
Place = tuple[str, int]


class Watch:
    """Samples committed offsets from `start` to `stop`."""

    def __init__(self, world: World) -> None:
        self.samples: list[OffsetSample] = []
        self._groups = world.groups
        self._kafka = world.kafka
        self._lock = threading.Lock()
        self._askers: dict[str, Consumer] = {}
        self._known: dict[str, list[Place]] = {}
        self.trouble = ""  # why the last question had no answer
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def behind(self) -> dict[str, int]:
        """Records that each group has still to pass, data and control records alike; -1 where nobody answers."""
        return {group.name: self._behind(group) for group in self._groups}

    def finished(self) -> bool:
        """Whether no data record stands at or above any group's committed offset."""
        return all(self._finished(group) for group in self._groups)

    def _run(self) -> None:
        while not self._ending.wait(SAMPLE_S):
            for group in self._groups:
                try:
                    found = self._committed(group)
                except KafkaException as failure:
                    self._give_up(group, failure)
                    continue
                seen_ms = now_ms()
                self.samples += [
                    OffsetSample(seen_at_ms=seen_ms, topic=topic, partition=partition, offset=offset)
                    for (topic, partition), offset in found.items()
                ]

    def _finished(self, group: Group) -> bool:
        try:
            return not self._unread(self._open_places(group))
        except KafkaException as failure:
            self._give_up(group, failure)
            return False

    def _behind(self, group: Group) -> int:
        try:
            return sum(high - offset for (offset, high) in self._open_places(group).values())
        except KafkaException as failure:
            self._give_up(group, failure)
            return -1

    def _open_places(self, group: Group) -> dict[Place, tuple[int, int]]:
        """Committed offset and end of each partition that is not read to its end."""
        committed, ends = self._committed(group), self._ends(group)
        found = {place: (committed.get(place, 0), high) for place, high in ends.items()}
        return {place: (offset, high) for place, (offset, high) in found.items() if offset < high}

    def _committed(self, group: Group) -> dict[Place, int]:
        places = [TopicPartition(*place) for place in self._places(group)]
        found = self._asker(group).committed(places, timeout=ANSWER_S)
        return {(place.topic, place.partition): place.offset for place in found if place.offset >= 0}

    def _ends(self, group: Group) -> dict[Place, int]:
        asker = self._asker(group)
        return {p: asker.get_watermark_offsets(TopicPartition(*p), timeout=ANSWER_S)[1] for p in self._places(group)}

    def _places(self, group: Group) -> list[Place]:
        if group.group_id not in self._known:
            found = self._asker(group).list_topics(timeout=ANSWER_S).topics
            names = group.topics.consumed
            self._known[group.group_id] = [(name, number) for name in names for number in found[name].partitions]
        return self._known[group.group_id]

    def _asker(self, group: Group) -> Consumer:
        """Asks for offsets and joins nothing. (The admin client's own request for committed offsets ends the process
        where the coordinator is loading: librdkafka 2.15 takes it for a member of the group.)"""
        with self._lock:
            if group.group_id not in self._askers:
                config = {"group.id": group.group_id, "enable.auto.commit": False, "log_level": 0}
                self._askers[group.group_id] = Consumer({**self._kafka, **config})
            return self._askers[group.group_id]

    def _give_up(self, group: Group, failure: KafkaException) -> None:
        """Ask with another client next time: one that has seen a broker die may hold on to what it knew."""
        self.trouble = str(failure)
        with self._lock:
            self._askers.pop(group.group_id, None)

    def _unread(self, places: Mapping[Place, tuple[int, int]]) -> bool:
        """Whether a committed data record stands between the offset and the end of any place."""
        if not places:
            return False
        config: dict[str, Any] = {
            **self._kafka, "group.id": "chaos-watch", "enable.auto.commit": False, "enable.partition.eof": True,
            "isolation.level": "read_committed", "auto.offset.reset": "error",
        }  # fmt: skip
        consumer = Consumer(config)
        try:
            consumer.assign([TopicPartition(*place, offset) for place, (offset, _) in places.items()])
            return not _all_at_end(consumer, len(places))
        finally:
            consumer.close()


def _all_at_end(consumer: Consumer, count: int) -> bool:
    ended: set[Place] = set()
    while len(ended) < count:
        message = consumer.poll(EOF_S)
        if message is None or message.error() is None:
            return False
        if message.error().code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 (that is its name)
            return False
        ended.add((message.topic(), message.partition()))
    return True
