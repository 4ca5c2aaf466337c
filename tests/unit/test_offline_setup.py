"""scripts/setup.sh with OFFLINE=1: it takes a Python that has what the demo needs, wherever it lies, and else names
what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "setup.sh"


def offline(python: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    own = {"OFFLINE": "1", "PYTHON": python, "PYTHONPATH": str(path or "")}
    command = ["bash", str(SCRIPT), "services"]
    return subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, timeout=120)


def test_a_python_that_has_what_the_demo_needs_is_taken() -> None:
    done = offline(sys.executable)
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable), done.stderr


def test_what_lies_on_the_path_counts_and_is_named_where_it_is_of_no_use(tmp_path: Path) -> None:
    (tmp_path / "structlog.py").write_text("raise ImportError('half of it is here')")
    (tmp_path / "typer.py").write_text("")
    info = tmp_path / "typer-0.3.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: typer\nVersion: 0.3.1\n")
    done = offline(sys.executable, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "structlog (cannot be imported: half of it is here)" in done.stderr
    assert "typer>=0.20 (0.3.1 is there)" in done.stderr
    assert "run without OFFLINE once" in done.stderr


def test_of_many_that_are_missing_ten_are_named(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    done = offline(str(bare))
    assert done.returncode == 1
    assert "lacks alembic>=1.18, " in done.stderr
    assert done.stderr.count(">=") == 10
    assert " more: " in done.stderr
