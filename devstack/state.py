"""What a devstack remembers between commands: one JSON file (mode 0600, it holds a password) and two lock files.

`lock` is held while services are started or stopped. `users` is held, shared, by every session that uses the
services, so that the last one out knows that it is the last. Both vanish with their process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from devstack.errors import StateBroken


class ProcessRecord(BaseModel):
    """A started process. The start time tells it from a later one that was given the same number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    created_at_s: float


class State(BaseModel):
    """The content of `state.json`. `held`: a person asked for it, so no session may stop it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    held: bool = False
    password: str
    cluster_id: str
    ports: dict[str, int] = {}
    processes: dict[str, ProcessRecord] = {}

    def with_port(self, name: str, port: int) -> State:
        return self.model_copy(update={"ports": {**self.ports, name: port}})

    def with_process(self, name: str, record: ProcessRecord) -> State:
        return self.model_copy(update={"processes": {**self.processes, name: record}})

    def without_process(self, name: str) -> State:
        kept = {key: value for key, value in self.processes.items() if key != name}
        return self.model_copy(update={"processes": kept})

    def with_held(self, held: bool) -> State:
        return self.model_copy(update={"held": held})


class StateFile:
    """Reads and replaces `state.json` whole, so that a reader never sees half of it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.json"

    def read(self) -> State | None:
        """The state, or None where nothing was ever started. Raises StateBroken."""
        try:
            return State.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            raise StateBroken(f"{self._path} cannot be read ({error}); `assay devstack reset` starts anew") from error

    def write(self, state: State) -> None:
        partial = self._path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(state.model_dump_json(indent=2) + "\n")
        partial.replace(self._path)

    def delete(self) -> None:
        self._path.unlink(missing_ok=True)


class FileLock:
    """A `flock` on one open file. Not re-entrant; conversions happen under the other lock, see Devstack."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def shared(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def exclusive(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def exclusive_now(self) -> bool:
        """True when nobody else holds it. On False the lock may be lost: the caller is leaving or asks again."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` alone; waits for whoever holds it, which is bounded by the start and stop deadlines."""
    lock = FileLock(path)
    try:
        lock.exclusive()
        yield
    finally:
        lock.close()
