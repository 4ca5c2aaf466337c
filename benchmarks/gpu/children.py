"""Processes that a section starts beside itself, with their output in a file and an end that is waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(slots=True, kw_only=True)
class Child:
    """A running module of ours."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def started(
        cls, module: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> Self:
        """`environment` is added to this process's own."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**os.environ, **(environment or {})},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        return cls(process=process, log=log)

    def wait(self, timeout_s: float) -> str:
        """Its output. Raises RuntimeError where it failed or did not end in time; it is ended then."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"did not end within {timeout_s:.0f} s:\n{self.tail()}") from None
        if code:
            raise RuntimeError(f"ended with {code}:\n{self.tail()}")
        return self.tail()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def tail(self) -> str:
        return self.log.read_bytes()[-2000:].decode(errors="replace")
