"""The topics as the contract documents them: what is missing or set otherwise, and making it so.

Nothing is ever deleted, and partitions are only added: their number decides which records keep an order together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from worker.adapters.kafka_errors import opened
from worker.errors import ConfigurationError, ServiceUnavailable

MIB = 1024 * 1024
DAY_MS = 24 * 3600 * 1000
JOB_BYTES = 10 * MIB
# A record that fills a jobs topic must still fit when it is passed on with more headers, or it would block for ever.
PASSED_ON_BYTES = JOB_BYTES + MIB
TIMEOUT_S = 30.0
LIST_EVERY_S = 0.05


class TopicNames(Protocol):
    """worker.settings.Topics, or anything with its names."""

    @property
    def jobs(self) -> str: ...
    @property
    def jobs_high(self) -> str: ...
    @property
    def jobs_bulk(self) -> str: ...
    @property
    def jobs_slow(self) -> str: ...
    @property
    def retry(self) -> tuple[str, ...]: ...
    @property
    def results(self) -> str: ...
    @property
    def dlq(self) -> str: ...
    @property
    def alerts(self) -> str: ...
    @property
    def audit(self) -> str: ...
    @property
    def control(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSpec:
    """One topic as it should be; `config` holds only what the contract fixes."""

    name: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicChange:
    """One step of a plan. action: create, add_partitions or configure."""

    action: str
    topic: str
    partitions: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        told = [f"partitions={self.partitions}"] if self.partitions else []
        told += [f"{name}={value}" for name, value in sorted(self.config.items())]
        return f"{self.action} {self.topic}: {', '.join(told)}"


def topic_specs(topics: TopicNames, *, partitions: int) -> tuple[TopicSpec, ...]:
    """The table of docs/contract: jobs keep 7 days, retries 7, results 30, dead letters 90, audit the last a key."""

    def spec(name: str, count: int, max_bytes: int, **config: str) -> TopicSpec:
        return TopicSpec(name=name, partitions=count, config={"max.message.bytes": str(max_bytes)} | _dotted(config))

    jobs = (topics.jobs_high, topics.jobs, topics.jobs_bulk, topics.jobs_slow)
    return (
        *(spec(name, partitions, _size(name, topics), **_kept(7)) for name in jobs),
        *(spec(name, partitions, PASSED_ON_BYTES, **_kept(7)) for name in topics.retry),
        spec(topics.results, partitions, MIB, **_kept(30)),
        spec(topics.dlq, partitions, PASSED_ON_BYTES, **_kept(90)),
        spec(topics.alerts, 1, MIB, **_kept(30)),
        spec(topics.audit, 1, MIB, cleanup_policy="compact"),
        spec(topics.control, 1, MIB, **_kept(7)),
    )


def plan_topics(
    client_config: Mapping[str, Any], topics: TopicNames, *, partitions: int = 12, replication: int = 1
) -> list[TopicChange]:
    """What `apply_topics` would do. Raises ServiceUnavailable, ConfigurationError."""
    del replication  # of topics that exist it is moved by the broker's own tools, not here
    admin = opened(lambda: AdminClient(dict(client_config)))
    specs = topic_specs(topics, partitions=partitions)
    present = _present_partitions(admin)
    created = [_creation(spec) for spec in specs if spec.name not in present]
    known = [spec for spec in specs if spec.name in present]
    grown = [_growth(spec) for spec in known if present[spec.name] < spec.partitions]
    return created + grown + _reconfigured(admin, known)


def apply_topics(client_config: Mapping[str, Any], changes: Sequence[TopicChange], *, replication: int = 1) -> None:
    """Carry a plan out, and wait until the brokers tell of it; a topic that another process made is left as it is.

    Raises ServiceUnavailable, and ConfigurationError that names the change that Kafka refuses.
    """
    admin = opened(lambda: AdminClient(dict(client_config)))
    for change in changes:
        for future in _futures(admin, change, replication):
            _wait(future, change)
    _await_visible(admin, changes)


def _size(name: str, topics: TopicNames) -> int:
    """The slow lane holds records that were passed on."""
    return PASSED_ON_BYTES if name == topics.jobs_slow else JOB_BYTES


def _kept(days: int) -> dict[str, str]:
    return {"cleanup_policy": "delete", "retention_ms": str(days * DAY_MS)}


def _dotted(config: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "."): value for name, value in config.items()}


def _creation(spec: TopicSpec) -> TopicChange:
    return TopicChange(action="create", topic=spec.name, partitions=spec.partitions, config=spec.config)


def _growth(spec: TopicSpec) -> TopicChange:
    return TopicChange(action="add_partitions", topic=spec.name, partitions=spec.partitions)


def _present_partitions(admin: AdminClient) -> dict[str, int]:
    try:
        found = admin.list_topics(timeout=TIMEOUT_S).topics
    except KafkaException as failure:
        raise ServiceUnavailable("kafka", str(failure.args[0])) from failure
    return {name: len(topic.partitions) for name, topic in found.items()}


def _await_visible(admin: AdminClient, changes: Sequence[TopicChange]) -> None:
    """The controller says yes before the brokers' own list is up to date: a client that reads it would find nothing."""
    wanted = {change.topic: change.partitions for change in changes if change.partitions is not None}
    deadline_s = time.monotonic() + TIMEOUT_S
    while late := _late(wanted, _present_partitions(admin)):
        if time.monotonic() > deadline_s:
            raise ServiceUnavailable("kafka", f"made, but not yet listed by the broker: {', '.join(late)}")
        threading.Event().wait(LIST_EVERY_S)


def _late(wanted: Mapping[str, int], present: Mapping[str, int]) -> list[str]:
    return [topic for topic, partitions in wanted.items() if present.get(topic, 0) < partitions]


def _reconfigured(admin: AdminClient, specs: Iterable[TopicSpec]) -> list[TopicChange]:
    wanted = {ConfigResource(ResourceType.TOPIC, spec.name): spec for spec in specs}
    if not wanted:
        return []
    try:
        answers = {r: f.result(TIMEOUT_S) for r, f in admin.describe_configs(list(wanted)).items()}
    except TimeoutError as failure:
        raise ServiceUnavailable("kafka", f"no answer about the topics' settings in {TIMEOUT_S:.0f} s") from failure
    except KafkaException as failure:
        raise ServiceUnavailable("kafka", str(failure.args[0])) from failure
    changes = []
    for resource, spec in wanted.items():
        present = {name: entry.value for name, entry in answers[resource].items()}
        other = {name: value for name, value in spec.config.items() if present.get(name) != value}
        if other:
            changes.append(TopicChange(action="configure", topic=spec.name, config=other))
    return changes


def _futures(admin: AdminClient, change: TopicChange, replication: int) -> list[Any]:
    match change.action:
        case "create":
            topic = NewTopic(change.topic, change.partitions, replication, config=dict(change.config))
            return list(admin.create_topics([topic]).values())
        case "add_partitions":
            return list(admin.create_partitions([NewPartitions(change.topic, change.partitions)]).values())
        case _:
            entries = [
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in change.config.items()
            ]
            resource = ConfigResource(ResourceType.TOPIC, change.topic, incremental_configs=entries)
            return list(admin.incremental_alter_configs([resource]).values())


def _wait(future: Any, change: TopicChange) -> None:
    try:
        future.result(TIMEOUT_S)
    except TimeoutError as failure:
        raise ServiceUnavailable("kafka", f"no answer to '{change}' in {TIMEOUT_S:.0f} s") from failure
    except KafkaException as failure:
        error = failure.args[0]
        if change.action == "create" and error.name() == "TOPIC_ALREADY_EXISTS":
            return
        if error.retriable():
            raise ServiceUnavailable("kafka", str(error)) from failure
        raise ConfigurationError(f"Kafka refuses '{change}': {error}") from failure
