"""Starting, recognising and ending the processes of a devstack.

A process runs in a session of its own, so Ctrl-C of whoever started it does not reach it. It is known by its number
and its start time together: a number that the system gave to another process later is never touched.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from devstack.errors import PartMissing, StartFailed
from devstack.state import ProcessRecord

START_TIME_TOLERANCE_S = 2.0  # the clock may be stepped between the two readings
KILL_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The unprivileged user that a service runs as when the devstack runs as root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One command: its arguments, the folder it runs in, who runs it, and additions to its environment."""

    argv: tuple[str, ...]
    folder: Path
    account: Account | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def uid(self) -> int | None:
        return self.account.uid if self.account else None

    @property
    def gid(self) -> int | None:
        return self.account.gid if self.account else None

    @property
    def extra_groups(self) -> list[int] | None:
        return [] if self.account else None


def nobody() -> Account:
    """The system's unprivileged user. Raises PartMissing where there is none."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise PartMissing("PostgreSQL refuses to run as root and there is no user 'nobody': add one") from error
    return Account(name="nobody", uid=entry.pw_uid, gid=entry.pw_gid)


def run(launch: Launch, *, timeout_s: float = 120.0) -> str:
    """Run a command to its end; returns what it printed. Raises StartFailed."""
    try:
        done = subprocess.run(
            launch.argv, cwd=launch.folder, env=_environment(launch), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False,
            user=launch.uid, group=launch.gid, extra_groups=launch.extra_groups,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise StartFailed(f"{launch.argv[0]} could not run: {error}") from error
    if done.returncode != 0:
        raise StartFailed(f"{launch.argv[0]} ended with {done.returncode}: {done.stdout.strip()[-2000:]}")
    return done.stdout


def start(launch: Launch, log: Path) -> ProcessRecord:
    """Start a service; its output is appended to `log`. Raises StartFailed when it cannot even begin."""
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                launch.argv, cwd=launch.folder, env=_environment(launch), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
                user=launch.uid, group=launch.gid, extra_groups=launch.extra_groups,
            )  # fmt: skip
            created_at_s = psutil.Process(process.pid).create_time()
        except (OSError, subprocess.SubprocessError, psutil.Error) as error:
            raise StartFailed(f"{launch.argv[0]} could not start: {error}") from error
    process.returncode = 0  # it outlives this object by design: without this, Popen warns that it still runs
    return ProcessRecord(pid=process.pid, created_at_s=created_at_s)


def find(record: ProcessRecord | None) -> psutil.Process | None:
    """The recorded process if it still lives, else None."""
    if record is None:
        return None
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.created_at_s) < START_TIME_TOLERANCE_S
        alive = process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    if same and not alive:
        _reap(process)
    return process if same and alive else None


def stop(record: ProcessRecord | None, first_signal: signal.Signals, deadline_s: float) -> None:
    """Ask a process to end; after `deadline_s` seconds kill it and its children. Nothing happens if it is gone."""
    process = find(record)
    if process is None:
        return
    try:
        family = [process, *process.children(recursive=True)]
        process.send_signal(first_signal)
        _, alive = psutil.wait_procs([process], timeout=deadline_s)
    except psutil.NoSuchProcess:
        return
    if alive:
        _kill(family)


def _kill(family: list[psutil.Process]) -> None:
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=KILL_DEADLINE_S)


def _reap(process: psutil.Process) -> None:
    try:
        process.wait(timeout=0)
    except psutil.Error:  # not our child, or not yet over: whoever started it reaps it
        return


def _environment(launch: Launch) -> dict[str, str]:
    return {**os.environ, **launch.environment}
