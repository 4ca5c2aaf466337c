"""The network of a run: a proxy before the broker, one before the database; one worker a group goes through them."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from sqlalchemy import make_url

from tests.chaos.fleet import now_ms
from tests.chaos.observation import FaultRecord
from tests.chaos.proxy import KafkaProxy, PostgresProxy, TcpProxy
from tests.chaos.world import World

LATENCY_MS = 120.0
THIN_BYTES_S = 375_000.0  # 3 Mbit/s
DELAY_S = 4.0
LASTING = frozenset({"blackhole", "latency", "bandwidth"})


class Network:
    """`play` begins a fault, and ends it by itself after its time where it lasts."""

    def __init__(self, world: World) -> None:
        database = make_url(world.stand.environment["ASSAY_DATABASE__URL"])
        self._kafka = KafkaProxy(world.addresses.kafka_bootstrap)
        self._postgres = PostgresProxy(f"{database.host}:{database.port}")
        self._database = database
        self._timers: list[threading.Timer] = []
        self.faults: list[FaultRecord] = []

    def start(self) -> None:
        self._kafka.start()
        self._postgres.start()

    def stop(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._kafka.stop()
        self._postgres.stop()

    def through(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The settings of a worker whose connections go through the proxies."""
        host, _, port = self._postgres.address.rpartition(":")
        url = self._database.set(host=host, port=int(port)).render_as_string(hide_password=False)
        return {**environment, "ASSAY_KAFKA__BOOTSTRAP": self._kafka.address, "ASSAY_DATABASE__URL": url}

    def play(self, fault: str, seconds: float) -> None:
        """`fault` is one of tests.chaos.schedule.NETWORK: WHERE:WHAT or kafka:ACTION:REQUEST."""
        where, what, *request = fault.split(":")
        if request:
            delayed = what.startswith("delay")
            self._kafka.on_request(request[0], what, delay_s=DELAY_S if delayed else 0.0)  # type: ignore[arg-type]
        else:
            self._harm(self._kafka if where == "kafka" else self._postgres, what)
        if what in LASTING:
            timer = threading.Timer(seconds, (self._kafka if where == "kafka" else self._postgres).clear)
            self._timers.append(timer)
            timer.start()
        self.faults.append(FaultRecord(at_ms=now_ms(), kind=fault))

    def clear(self) -> None:
        """End whatever lasts or waits."""
        self._kafka.clear()
        self._postgres.clear()

    def _harm(self, proxy: TcpProxy, what: str) -> None:
        match what:
            case "latency":
                proxy.latency(LATENCY_MS)
            case "bandwidth":
                proxy.bandwidth(THIN_BYTES_S)
            case "cut_commit":
                self._postgres.cut_commit()
            case "cut_commit_reply":
                self._postgres.cut_commit_reply()
            case _:
                {"blackhole": proxy.blackhole, "reset": proxy.reset, "half_open": proxy.half_open}[what]()
