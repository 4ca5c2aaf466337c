"""A running Assay for the demo, the benchmarks and the acceptance tests: a fresh database and topics on the devstack,
and the `assay` commands as the processes that a user would start."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from devstack import Addresses
from migrations.apply import upgrade
from migrations.roles import create_analyst, set_role_password

TENANT = "demo"
ANALYST = "demo_analyst"
READY_DEADLINE_S = 120.0
ASSAY_WORKER = ("-m", "worker.cli.main", "worker")


class CommandFailed(Exception):
    """A command ended with another code than 0; the message holds its last lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """One deployment: `owner_url` is the superuser's, `environment` what the worker and most commands run with."""

    owner_url: str
    curator_url: str
    analyst_url: str
    environment: Mapping[str, str]
    folder: Path  # logs, evidence
    topic_prefix: str

    @property
    def curator(self) -> Mapping[str, str]:
        """The environment of those who enrol and calibrate."""
        return {**self.environment, "ASSAY_DATABASE__URL": self.curator_url}

    def assay(self, *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 600.0) -> str:
        """Run one command to its end and return what it printed. Raises CommandFailed."""
        command = [sys.executable, "-m", "worker.cli.main", *arguments]
        given = dict(env or self.environment)
        done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=timeout_s)
        if done.returncode != 0:
            raise CommandFailed(f"assay {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stdout

    def worker(self, instance: str, **settings: str) -> WorkerProcess:
        """Start a worker process; it ends with `stop`, or as the caller likes."""
        changed = {"ASSAY_KAFKA__INSTANCE": instance, **settings}
        log = self.folder / f"{instance}.log"
        return WorkerProcess.start({**self.environment, **changed}, log)


@dataclass(slots=True, kw_only=True)
class WorkerProcess:
    """`assay worker` as a child process. `log` holds its structured log, where it tells its health address."""

    process: subprocess.Popen[bytes]
    log: Path
    skip: int  # bytes of the log that an earlier worker wrote
    _health: str | None = field(default=None)

    @classmethod
    def start(cls, environment: Mapping[str, str], log: Path, python: Sequence[str] = ASSAY_WORKER) -> WorkerProcess:
        """`python`: what the interpreter is given; tests plant something before they run `assay worker`."""
        skip = log.stat().st_size if log.exists() else 0
        with log.open("ab") as out:
            command = [sys.executable, *python]
            process = subprocess.Popen(command, env=dict(environment), stdout=out, stderr=out, start_new_session=True)
        return cls(process=process, log=log, skip=skip)

    def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Return when /readyz says so. Raises CommandFailed when the worker ends or the deadline passes first."""
        until = monotonic() + deadline_s
        while not self._is_ready():
            if self.process.poll() is not None:
                raise CommandFailed(f"the worker ended with {self.process.returncode}:\n{self.log_tail()}")
            if monotonic() > until:
                raise CommandFailed(f"the worker was not ready within {deadline_s:.0f} s:\n{self.log_tail()}")
            sleep(0.1)

    def get(self, page: str) -> str:
        """A page of the health server: /metrics, /livez, /readyz. Raises urllib.error.URLError."""
        with urllib.request.urlopen(f"{self.health}{page}", timeout=5) as answer:  # noqa: S310 (loopback, ours)
            return str(answer.read().decode())

    @property
    def health(self) -> str:
        """The health server's address, which the worker logs once it listens; '' before."""
        if self._health is None:
            self._health = self._logged_address()
        return self._health or ""

    def kill(self) -> None:
        """As a power cut would: SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self, deadline_s: float = 60.0) -> int:
        """SIGTERM, drain, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(deadline_s)

    def log_tail(self) -> str:
        return self.log.read_bytes()[self.skip :][-3000:].decode(errors="replace")

    def _is_ready(self) -> bool:
        try:
            return bool(self.health) and bool(self.get("/readyz"))
        except (urllib.error.URLError, OSError):
            return False

    def _logged_address(self) -> str | None:
        for line in self.log.read_bytes()[self.skip :].splitlines():
            if b'"health_listening"' in line:
                return str(json.loads(line)["address"])
        return None


def new_stand(addresses: Addresses, folder: Path, settings: Mapping[str, str] | None = None) -> Stand:
    """Make a database, its roles' passwords, topics' names and a folder; `settings` are added to the environment."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"assay_{uuid.uuid4().hex[:8]}"
    owner_url = _create_database(addresses.superuser_url, name)
    upgrade(owner_url)
    worker_url, curator_url = (_log_in_as(owner_url, role) for role in ("assay_worker", "assay_curator"))
    analyst_password = secrets.token_urlsafe(18)
    create_analyst(owner_url, ANALYST, tenants=[TENANT], password=analyst_password)
    prefix = f"{name}."
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ASSAY_")},
        "ASSAY_KAFKA__BOOTSTRAP": addresses.kafka_bootstrap,
        "ASSAY_KAFKA__GROUP": name,
        "ASSAY_KAFKA__TOPICS__PREFIX": prefix,
        "ASSAY_DATABASE__URL": worker_url,
        "ASSAY_EVIDENCE__KEEP": "all",
        "ASSAY_EVIDENCE__ROOT": str(folder / "evidence"),
        **({"ASSAY_REDIS__URL": addresses.redis_url} if addresses.redis_url else {}),
        **(settings or {}),
    }
    return Stand(
        owner_url=owner_url,
        curator_url=curator_url,
        analyst_url=_as_role(owner_url, ANALYST, analyst_password),
        environment=environment,
        folder=folder,
        topic_prefix=prefix,
    )


def psql_line(url: str) -> str:
    """How a person connects: the plain PostgreSQL URL, quoted for a shell."""
    return f"psql '{_plain(url)}'"


def query(url: str, statement: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
    with psycopg.connect(_plain(url)) as connection:
        return connection.execute(statement.encode(), parameters).fetchall()


def _create_database(superuser_url: str, name: str) -> str:
    with psycopg.connect(_plain(superuser_url), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return make_url(superuser_url).set(database=name).render_as_string(hide_password=False)


def _log_in_as(owner_url: str, role: str) -> str:
    """Give a role a new password; the devstack is one person's, so the last one to ask has it."""
    password = secrets.token_urlsafe(18)
    set_role_password(owner_url, role, password)
    return _as_role(owner_url, role, password)


def _as_role(url: str, role: str, password: str) -> str:
    return make_url(url).set(username=role, password=password).render_as_string(hide_password=False)


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
