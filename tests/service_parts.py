"""A PostgreSQL and a Redis of a test's own, to be killed, suspended and started again on the same port."""

from __future__ import annotations

from pathlib import Path

import psutil
from delivery_parts import eventually

from devstack import processes
from devstack.ports import free_port
from devstack.postgres import Postgres
from devstack.redis import Redis
from devstack.state import ProcessRecord


class OwnService:
    """`start` it first; `stop` ends it, whatever state it is in."""

    def __init__(self, service: Postgres | Redis, folder: Path) -> None:
        self.service = service
        self.port = free_port()
        self._ports = dict.fromkeys(service.port_names, self.port)
        self._log = folder / f"{service.name}.log"
        self._record: ProcessRecord | None = None

    def start(self) -> None:
        """Returns when it answers. PostgreSQL refuses to start while the killed one's children still hold memory."""
        eventually(self._answers, f"an answer of {self.service.name}")

    def kill(self) -> None:
        """SIGKILL to the main process alone."""
        process = self._process()
        process.kill()
        process.wait(60)

    def suspend(self) -> None:
        for process in self._family():
            process.suspend()

    def resume(self) -> None:
        for process in reversed(self._family()):
            process.resume()

    def restart(self) -> None:
        """In good order, as an upgrade would."""
        self.stop()
        self.start()

    def stop(self) -> None:
        if processes.find(self._record) is not None:
            self.resume()
        processes.stop(self._record, self.service.stop_signal, self.service.stop_deadline_s)

    def _answers(self) -> bool:
        if processes.find(self._record) is None:
            self._record = processes.start(self.service.prepare(self._ports), self._log)
        assert self._record is not None
        return self.service.ready(self._ports, self._record.pid)

    def _process(self) -> psutil.Process:
        process = processes.find(self._record)
        assert process is not None, f"{self.service.name} does not run"
        return process

    def _family(self) -> list[psutil.Process]:
        process = self._process()
        return [process, *process.children(recursive=True)]
