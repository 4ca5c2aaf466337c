"""python3 scripts/gpu/first_contact.py [STEP ...]: each layer of the device path by itself, bottom up, with its times.

A step that fails is told with its traceback, and the next one goes on. `--list` names the steps. `PLANS` is where plans
are kept, `SIDE` the photographs' size, `EFFORTS` the builder efforts that `build` tries. JSON goes to $OUT, if set.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from layers.telling import TOLD  # noqa: E402

# The step's function is in that module of `layers`, which is imported for the step: where one cannot be, others can.
STEPS = {
    "imports": "libraries",
    "device": "kernels",
    "kernels": "kernels",
    "decode": "decoding",
    "decoders": "decoding",
    "build": "encoding",
    "run": "encoding",
    "session": "sessions",
    "faults": "faults",
}


def main(asked: Sequence[str]) -> None:
    if asked == ["--list"]:
        print(" ".join(STEPS))
        return
    if unknown := set(asked) - STEPS.keys():
        sys.exit(f"no step {', '.join(sorted(unknown))}; there are {' '.join(STEPS)}")
    logging.basicConfig(level=logging.INFO, format="  log %(name)s %(message)s")
    try:
        for name in asked or STEPS:
            _run(name)
    finally:
        if opening := sys.modules.get("layers.opening"):
            opening.close()
    print("FAILED:", [n for n in TOLD if n.endswith("FAILED")] or "nothing", flush=True)
    if out := os.environ.get("OUT"):
        (Path(out) / "first_contact.json").write_text(json.dumps(TOLD, default=str, indent=1))


def _run(name: str) -> None:
    began = time.perf_counter()
    print(f"== {name}", flush=True)
    try:
        getattr(import_module(f"layers.{STEPS[name]}"), name)()
    except Exception:
        traceback.print_exc()
        TOLD[f"{name} FAILED"] = traceback.format_exc(limit=1)
    print(f"== {name}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
