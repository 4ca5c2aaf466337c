"""Kills, freezes and restarts the real services of a run: same ports, same data, as their supervisor would.

One at a time. The devstack starts whatever is down, so a service is down for as long as nobody asks it to.
"""

from __future__ import annotations

import contextlib
import signal
import time

import psutil
import psycopg
from sqlalchemy import make_url

from devstack import Devstack, DevstackError
from tests.chaos.fleet import now_ms
from tests.chaos.observation import FaultRecord, KillRecord

START_TRIES = 5


class Services:
    """`returns` holds (service, ms) of each return; the service answers from that moment on."""

    def __init__(self, stack: Devstack, superuser_url: str) -> None:
        self._stack = stack
        self._superuser_url = make_url(superuser_url).set(drivername="postgresql").render_as_string(hide_password=False)
        self.kills: list[KillRecord] = []
        self.faults: list[FaultRecord] = []
        self.returns: list[tuple[str, int]] = []
        self.broker_log: list[str] = []

    def kill(self, name: str, down_s: float) -> None:
        """SIGKILL to the service and its children, and a new start after `down_s`. Raises DevstackError."""
        self._keep_log(name)
        _signal(self._family(name), signal.SIGKILL)
        self.kills.append(KillRecord(at_ms=now_ms(), service=name, how="SIGKILL"))
        time.sleep(down_s)
        self._start(name)
        self.returns.append((name, now_ms()))

    def freeze(self, name: str, seconds: float) -> None:
        """SIGSTOP to the service and its children, SIGCONT after `seconds`."""
        family = self._family(name)
        _signal(family, signal.SIGSTOP)
        self.kills.append(KillRecord(at_ms=now_ms(), service=name, how="SIGSTOP"))
        time.sleep(seconds)
        _signal(family, signal.SIGCONT)
        self.returns.append((name, now_ms()))

    def terminate_backends(self, role: str) -> None:
        """End every session of a role, as an administrator might."""
        with psycopg.connect(self._superuser_url, autocommit=True) as connection:
            ended = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = %s", (role,)
            ).fetchone()
        self.faults.append(FaultRecord(at_ms=now_ms(), kind="terminate_backend", detail=f"{ended} sessions"))

    def keep_broker_log(self) -> None:
        """Take over what the broker's log says so far; a restart begins a new one."""
        self._keep_log("kafka")

    def _keep_log(self, name: str) -> None:
        log = self._stack.log_file("kafka")
        if name == "kafka" and log.exists():
            self.broker_log += log.read_text(errors="replace").splitlines()

    def _family(self, name: str) -> list[psutil.Process]:
        found = {one.name: one.pid for one in self._stack.status()}[name]
        if found is None:
            return []
        process = psutil.Process(found)
        return [process, *process.children(recursive=True)]

    def _start(self, name: str) -> None:
        for left in reversed(range(START_TRIES)):
            try:
                self._stack.restart(name)
            except DevstackError:  # PostgreSQL waits for the last of its killed children to let go of its memory
                if not left:
                    raise
                time.sleep(0.5)
            else:
                return


def _signal(family: list[psutil.Process], number: signal.Signals) -> None:
    """Children of a database come and go with its sessions."""
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
