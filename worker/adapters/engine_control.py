"""The topic `assay.control` wakes workers after a change of the registry, which they read again. Its records say which
encoder and nothing else that anybody relies on: a lost one only delays."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from schemas import headers
from schemas.message import OutputRecord
from worker.adapters.kafka_follower import KafkaFollower
from worker.adapters.kafka_sender import KafkaSender
from worker.errors import AssayError

POLL_S = 1.0
REST_S = 10.0
SEND_TIMEOUT_S = 5.0
_log = structlog.get_logger()


def ring(client_config: Mapping[str, Any], topic: str, name: str) -> str | None:
    """Tell workers that encoder `name` changed; why they were not told, where Kafka is away."""
    value = json.dumps({"changed": "engines", "name": name}).encode()
    record = OutputRecord(
        topic=topic, key=name.encode(), value=value, headers=((headers.CONTENT_TYPE, b"application/json"),)
    )
    try:
        KafkaSender(client_config, delivery_timeout_s=SEND_TIMEOUT_S).send([record])
    except AssayError as error:
        return str(error)
    return None


class ControlBell:
    """Calls `wake` for every record of the topic, from a thread of its own."""

    def __init__(self, client_config: Mapping[str, Any], topic: str, wake: Callable[[], None]) -> None:
        self._config = client_config
        self._topic = topic
        self._wake = wake
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-bell", daemon=True)

    def start(self) -> ControlBell:
        self._thread.start()
        return self

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(2 * POLL_S)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except AssayError as error:
                _log.warning("engine_bell_silent", error=str(error))
                self._stopped.wait(REST_S)

    def _listen(self) -> None:
        with KafkaFollower(self._config, [self._topic]) as follower:
            self._wake()  # whatever came before it listened
            while not self._stopped.is_set():
                if follower.poll(POLL_S) is not None:
                    self._wake()
