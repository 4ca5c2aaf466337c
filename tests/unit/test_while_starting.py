"""A worker that is told to end while it starts: it ends of the signal, and what it was at is let go of."""

from __future__ import annotations

import signal
import subprocess
import sys

STARTING = """
import os, signal, time
from worker.app import run_worker
from worker.settings import load_settings

def opened(settings):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        print("let go", flush=True)

run_worker(load_settings(), encoders=opened)
"""
AFTERWARDS = """
import os, signal, time
from worker.while_starting import ending_in_order

with ending_in_order():
    pass
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
finally:
    print("let go", flush=True)
"""


def ended(code: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_it_lets_go_of_what_it_was_opening_and_ends_of_the_signal() -> None:
    assert ended(STARTING) == (-signal.SIGTERM, "let go\n", "")


def test_afterwards_the_signal_ends_the_process_as_ever() -> None:
    assert ended(AFTERWARDS) == (-signal.SIGTERM, "", "")
