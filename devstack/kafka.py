"""Apache Kafka as one local KRaft node, run from its jars.

The group and transaction settings are those of docs/design.md (a restarted worker resumes within seconds);
everything else makes one small node of it: single replicas, few internal partitions, no automatic topics.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from devstack.java import find_jars, find_java
from devstack.processes import Launch, run
from devstack.service import Ports

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "log.cleaner.dedupe.buffer.size": "16777216",  # the default of 128 MiB is a quarter of this small heap
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "5000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}
JAVA_OPTIONS = (
    "-Xmx512m",
    "-Djava.awt.headless=true",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)


class Kafka:
    """The broker. Data and server.properties lie under `folder`."""

    name = "kafka"
    port_names: tuple[str, ...] = ("kafka", "kafka_controller")
    stop_signal = signal.SIGTERM
    stop_deadline_s = 20.0

    def __init__(self, folder: Path, cluster_id: str) -> None:
        self._folder = folder
        self._cluster_id = cluster_id

    def available(self) -> bool:
        return True

    def prepare(self, ports: Ports) -> Launch:
        java, jars = find_java(), find_jars()
        self._folder.mkdir(parents=True, exist_ok=True)
        properties = self._folder / "server.properties"
        properties.write_text(self._properties(ports))
        program = (java, *JAVA_OPTIONS, "-cp", f"{jars}/*")
        if not (self._data / "meta.properties").exists():
            shutil.rmtree(self._data, ignore_errors=True)
            options = ("format", f"--cluster-id={self._cluster_id}", "-c", str(properties))
            run(Launch(argv=(*program, "kafka.tools.StorageTool", *options), folder=self._folder))
        return Launch(argv=(*program, "kafka.Kafka", str(properties)), folder=self._folder)

    def ready(self, ports: Ports, pid: int) -> bool:
        """The cluster id tells this broker from a stranger that took the port."""
        try:
            return bool(self._admin(ports).list_topics(timeout=1.0).cluster_id == self._cluster_id)
        except KafkaException:
            return False

    def finish(self, ports: Ports) -> None:
        """Topics are made by `assay topics apply`, not here."""

    def delete(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _properties(self, ports: Ports) -> str:
        controller = f"127.0.0.1:{ports['kafka_controller']}"
        address = f"PLAINTEXT://127.0.0.1:{ports['kafka']}"
        settings = SETTINGS | {
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{address},CONTROLLER://{controller}",
            "advertised.listeners": address,
            "log.dirs": str(self._data),
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())

    def _admin(self, ports: Ports) -> AdminClient:
        return AdminClient({"bootstrap.servers": f"127.0.0.1:{ports['kafka']}", "log_level": 0})
