"""What the devstack asks of each service, and what the services tell about themselves."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from devstack.processes import Launch

Ports = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the services listen, all on the loopback interface. Both database URLs carry the superuser's password.

    postgres_url is the database `assay`, superuser_url the database `postgres` of the same server, both as SQLAlchemy
    reads them. redis_url is None where the machine has no Redis.
    """

    kafka_bootstrap: str
    postgres_url: str
    superuser_url: str
    redis_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """One service as it is now. state: ready, unresponsive, stopped, or missing (not on this machine)."""

    name: str
    state: str
    pid: int | None = None
    address: str | None = None
    note: str = ""


class Service(Protocol):
    """One local server. `port_names` are the ports it needs; the first is the one that clients use."""

    name: str
    port_names: tuple[str, ...]
    stop_signal: signal.Signals
    stop_deadline_s: float

    def available(self) -> bool:
        """False only for a service that the stack can do without and that this machine does not have."""
        ...

    def prepare(self, ports: Ports) -> Launch:
        """Make the data folder if it is new and return the command that serves it. Raises DevstackError."""
        ...

    def ready(self, ports: Ports, pid: int) -> bool:
        """Whether this very process answers in its own protocol; waits a second at most, never raises."""
        ...

    def finish(self, ports: Ports) -> None:
        """What must exist inside the service once it answers; may be called again. Raises DevstackError."""
        ...

    def delete(self) -> None:
        """Remove the data folder."""
        ...
