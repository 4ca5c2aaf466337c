"""scripts/gpu/first_contact.py without a GPU: the steps that the documentation names are there and can be loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.__main__ import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu" / "first_contact.py"
EVERYTHING = ROOT / "scripts" / "gpu" / "everything.sh"
LOADS = """
import sys
from importlib import import_module
sys.path[:0] = sys.argv[1:]
from first_contact import STEPS
for name, module in STEPS.items():
    assert callable(getattr(import_module(f"layers.{module}"), name)), name
import decode_probe
"""


def said(*command: str, plans: str = "") -> str:
    env = {**os.environ, "PLANS": plans}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_step_that_the_documentation_names_is_there() -> None:
    pages = [page.read_text() for page in (ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"first_contact\.py ([a-z]+)", page)}
    steps = set(said(str(SCRIPT), "--list").split())
    assert {"build", "decoders", "session"} <= named
    assert named <= steps


def test_every_step_s_module_loads_without_a_gpu(tmp_path: Path) -> None:
    said("-c", LOADS, str(ROOT), str(SCRIPT.parent), plans=str(tmp_path))


def test_an_unknown_step_is_told_with_those_that_there_are() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "parse"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("no step parse; there are imports device kernels")


def test_everything_runs_steps_and_sections_that_there_are() -> None:
    """Each group's seconds fit into ten minutes, for whoever has a GPU for as long at a time."""
    done = subprocess.run(["bash", str(EVERYTHING), "list"], capture_output=True, text=True, timeout=60, check=True)
    seconds = {name: int(s) for name, s in re.findall(r"(?m)^(\S+) +(\d+) s, at most", done.stdout)}
    groups = re.findall(r"(?m)^(\S+): (.+)$", done.stdout)
    assert {step for _, steps in groups for step in steps.split()} <= seconds.keys()
    assert all(sum(seconds[step] for step in steps.split()) < 600 for _, steps in groups)
    text = EVERYTHING.read_text()
    sections = set(re.findall(r"\bbench ([a-z0-9-]+) \d", text))
    assert sections and sections <= SECTIONS.keys()
    asked = {name for line in re.findall(r"first_contact\.py ([a-z ]+)\n", text) for name in line.split()}
    assert asked and asked <= set(said(str(SCRIPT), "--list").split())
