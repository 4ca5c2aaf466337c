"""The devstack as a whole: Kafka, PostgreSQL and Redis brought up, looked at, taken down and wiped together.

`up` and `down` are idempotent and may race with each other in several processes: a lock file orders them. Whatever an
earlier crash left running is taken over if it still answers, and ended if not.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic

from devstack import processes
from devstack.errors import StartFailed, StateBroken
from devstack.kafka import Kafka
from devstack.ports import with_free_ports
from devstack.postgres import DATABASE, SUPERUSER, Postgres
from devstack.redis import Redis
from devstack.service import Addresses, Service, ServiceStatus
from devstack.state import FileLock, State, StateFile, locked

READY_DEADLINE_S = 90.0
READY_PAUSE_S = 0.1
PORT_ATTEMPTS = 3
OWN_ENTRIES = frozenset({"state.json", "state.partial", "lock", "users", "logs", "kafka", "postgres", "redis"})
Report = Callable[[str], None]


def default_state_dir() -> Path:
    """`$ASSAY_DEVSTACK`, else `.devstack` under the repository's root, else (installed from a wheel) the user's own."""
    if given := os.environ.get("ASSAY_DEVSTACK"):
        return Path(given)
    root = Path(__file__).resolve().parent.parent
    if (root / "pyproject.toml").exists():
        return root / ".devstack"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "assay" / "devstack"


class Devstack:
    """Real services as local processes, with everything they own under `state_dir`.

    `report` receives one short line a step, for people who wait.
    """

    def __init__(self, state_dir: Path, report: Report = lambda line: None) -> None:
        self.state_dir = state_dir.resolve()
        self._file = StateFile(self.state_dir)
        self._report = report

    def up(self) -> Addresses:
        """Start what is not running and return where it listens; it stays up until `down`. Raises DevstackError."""
        with self._exclusively():
            state = self._start_all()
            self._file.write(state.with_held(True))
            return _addresses(state)

    def restart(self, name: str) -> None:
        """Start the service `name` anew with its ports and data, ending what is left of it; the others are not touched.

        Raises DevstackError, also where its ports were taken meanwhile.
        """
        with self._exclusively():
            state = self._file.read() or new_state()
            (service,) = (one for one in self._services(state) if one.name == name)
            ports = dict(state.ports)
            state = self._await(service, self._launch(service, state, renew=False))
            if state.ports != ports:
                raise StartFailed(f"{name} came back on other ports: {ports} are now {state.ports}")

    def down(self) -> None:
        """Stop what is running; data and logs stay. Raises DevstackError."""
        if self.state_dir.exists():
            with self._exclusively():
                self._stop_all()

    def reset(self) -> None:
        """Stop everything and delete data and logs. Raises StateBroken when the folder holds anything else."""
        if not self.state_dir.exists():
            return
        self._refuse_strange_folder()
        with self._exclusively():
            self._wipe()

    def status(self) -> tuple[ServiceStatus, ...]:
        """Each service as it is now, asked in its own protocol. Raises StateBroken."""
        state = self._file.read()
        if state is None:
            state = new_state()
        return tuple(_status(service, state) for service in self._services(state))

    def addresses(self) -> Addresses | None:
        """Where the services listen, or None while they are not all up. Raises StateBroken."""
        state = self._file.read()
        if state is None or any(one.state not in ("ready", "missing") for one in self.status()):
            return None
        return _addresses(state)

    @contextlib.contextmanager
    def session(self) -> Iterator[Addresses]:
        """Use the services for a while: the first session of a folder starts them anew, the last one stops them.

        Services that a person holds (`up`) are used as they are and left running. Raises DevstackError.
        """
        self._make_folder()
        users = FileLock(self.state_dir / "users")
        try:
            yield self._enter(users)
        finally:
            self._leave(users)
            users.close()

    def log_file(self, name: str) -> Path:
        """The log of the service `name` since its last start; the one before is kept beside it."""
        return self.state_dir / "logs" / f"{name}.log"

    def _enter(self, users: FileLock) -> Addresses:
        with self._exclusively():
            state = self._file.read()
            if users.exclusive_now() and not (state and state.held):
                self._wipe()
            state = self._start_all()
            users.shared()
            return _addresses(state)

    def _leave(self, users: FileLock) -> None:
        with self._exclusively():
            state = self._file.read()
            if users.exclusive_now() and state and not state.held:
                self._stop_all()

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        self._make_folder()
        with locked(self.state_dir / "lock"):
            yield

    def _make_folder(self) -> None:
        try:
            (self.state_dir / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateBroken(
                f"{self.state_dir} cannot be made ({error}): choose another with ASSAY_DEVSTACK"
            ) from error

    def _refuse_strange_folder(self) -> None:
        strange = sorted(entry.name for entry in self.state_dir.iterdir() if entry.name not in OWN_ENTRIES)
        if strange:
            raise StateBroken(f"{self.state_dir} holds {strange[:5]}, not made by a devstack: remove it by hand")

    def _services(self, state: State) -> list[Service]:
        """In the order of starting; stopped in the same order, so that clients of the broker go first."""
        return [
            Kafka(self.state_dir / "kafka", state.cluster_id),
            Postgres(self.state_dir / "postgres", state.password),
            Redis(self.state_dir / "redis"),
        ]

    def _start_all(self) -> State:
        state = self._file.read() or new_state()
        pending = [service for service in self._services(state) if not _answers(service, state)]
        for service in [service for service in pending if not service.available()]:
            self._report(f"{service.name}: not on this machine, going on without")
            pending.remove(service)
        try:
            for service in pending:
                state = self._launch(service, state, renew=False)
            for service in pending:
                state = self._await(service, state)
        except BaseException:  # Ctrl-C too: what this call started does not stay behind
            self._stop(pending)
            raise
        return state

    def _launch(self, service: Service, state: State, *, renew: bool) -> State:
        """Start one service, ending first whatever of it a crash left behind; its process is on record at once."""
        processes.stop(state.processes.get(service.name), service.stop_signal, service.stop_deadline_s)
        state = with_free_ports(state.without_process(service.name), service.port_names, renew=renew)
        self._report(f"{service.name}: starting on port {state.ports[service.port_names[0]]}")
        self._file.write(state)
        command = service.prepare(state.ports)
        log = self.log_file(service.name)
        if log.exists():
            log.replace(log.with_suffix(".previous.log"))
        state = state.with_process(service.name, processes.start(command, log))
        self._file.write(state)
        return state

    def _await(self, service: Service, state: State) -> State:
        """Wait until `service` answers; where another process took its port meanwhile, try other ports."""
        for _ in range(PORT_ATTEMPTS):
            if self._becomes_ready(service, state):
                service.finish(state.ports)
                self._report(f"{service.name}: ready")
                return state
            if "in use" not in self._log_tail(service):
                break
            state = self._launch(service, state, renew=True)
        log = self.log_file(service.name)
        raise StartFailed(f"{service.name} did not come up; the end of {log}:\n{self._log_tail(service)}")

    def _becomes_ready(self, service: Service, state: State) -> bool:
        deadline, pause = monotonic() + READY_DEADLINE_S, Event()
        while monotonic() < deadline and processes.find(state.processes[service.name]):
            if _answers(service, state):
                return True
            pause.wait(READY_PAUSE_S)
        return False

    def _log_tail(self, service: Service) -> str:
        lines = self.log_file(service.name).read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])

    def _stop(self, services: list[Service]) -> None:
        state = self._file.read()
        for service in services:
            if state is None or service.name not in state.processes:
                continue
            self._report(f"{service.name}: stopping")
            processes.stop(state.processes[service.name], service.stop_signal, service.stop_deadline_s)
            state = state.without_process(service.name)
            self._file.write(state)

    def _stop_all(self) -> None:
        state = self._file.read()
        if state is not None:
            self._file.write(state.with_held(False))
            self._stop(self._services(state))

    def _wipe(self) -> None:
        try:
            self._stop_all()
        except StateBroken as error:
            self._report(f"{error}; its processes, if any, are left alone")
        for service in self._services(new_state()):
            service.delete()
        shutil.rmtree(self.state_dir / "logs", ignore_errors=True)
        self._make_folder()
        self._file.delete()


def new_state() -> State:
    """The first state of a folder: a fresh password and cluster id (22 characters of base64, as Kafka writes them)."""
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return State(password=secrets.token_urlsafe(24), cluster_id=cluster_id)


def _answers(service: Service, state: State) -> bool:
    record = state.processes.get(service.name)
    return record is not None and processes.find(record) is not None and service.ready(state.ports, record.pid)


def _status(service: Service, state: State) -> ServiceStatus:
    process = processes.find(state.processes.get(service.name))
    if process is None:
        if not service.available():
            return ServiceStatus(name=service.name, state="missing", note="not on this machine; Assay runs without")
        crashed = service.name in state.processes
        return ServiceStatus(name=service.name, state="stopped", note="it died: see its log" if crashed else "")
    answers = _answers(service, state)
    address = f"127.0.0.1:{state.ports[service.port_names[0]]}"
    return ServiceStatus(
        name=service.name, state="ready" if answers else "unresponsive", pid=process.pid, address=address
    )


def _addresses(state: State) -> Addresses:
    server = f"postgresql+psycopg://{SUPERUSER}:{state.password}@127.0.0.1:{state.ports['postgres']}"
    has_redis = "redis" in state.processes
    return Addresses(
        kafka_bootstrap=f"127.0.0.1:{state.ports['kafka']}",
        postgres_url=f"{server}/{DATABASE}",
        superuser_url=f"{server}/postgres",
        redis_url=f"redis://127.0.0.1:{state.ports['redis']}/0" if has_redis else None,
    )
