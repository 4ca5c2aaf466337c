"""`python -m layers.faults FAULT` plants one in a GPU that serves; step `faults` starts it, for it ends its process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from engines.catalogue import SessionOptions, open_session
from engines.gpu.device import Device
from engines.session import EncodeRequest
from layers.opening import PLANS, engine, photographs
from layers.telling import tell

ROOT = Path(__file__).resolve().parents[3]
# An endless loop in PTX, which the driver compiles.
ENDLESS = b""".version 7.0
.target sm_75
.address_size 64
.visible .entry endless() { loop: bra loop; }
"""


def faults() -> None:
    """Another process each: a kernel that reads nowhere, a device that hangs."""
    places = [str(ROOT), str(ROOT / "scripts/gpu"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PLANS": str(PLANS), "PYTHONPATH": os.pathsep.join(places)}
    for fault in FAULTS:
        began = time.perf_counter()
        command = [sys.executable, "-m", "layers.faults", fault]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=env)
        tell(f"{fault}: exit, s", (done.returncode, round(time.perf_counter() - began, 1)))
        print("\n".join((done.stdout + done.stderr).splitlines()[-12:]), flush=True)


def illegal(device: Device) -> object:
    """A kernel that reads and writes where nothing is."""
    bad, kernel = np.uint64(64), device.kernel("normalise")
    kernel(bad, bad, bad, bad, np.int32(64), np.int32(64), np.int32(3), block=(256, 1, 1), grid=(64, 1, 1))
    return kernel


def hang(device: Device) -> object:
    """As many endless blocks as fill the device, so that nothing beside them runs."""
    import pycuda.driver as cuda

    module, stream = cuda.module_from_buffer(ENDLESS), cuda.Stream()
    module.get_function("endless")(block=(1024, 1, 1), grid=(4096, 1), stream=stream)
    return module, stream


FAULTS = {"illegal": illegal, "hang": hang}


def _planted(fault: str) -> None:
    opened = open_session([engine("resnet18")], "tensorrt", SessionOptions(plans_dir=PLANS, deadline_s=5.0))
    device = opened.device
    assert device is not None, "the device path has one"
    # held to the end: to unload a module whose kernel runs is to wait for it
    _held = device.run(lambda: FAULTS[fault](device))
    for attempt in range(2):
        try:
            opened.start([EncodeRequest(blob=b, encoder="resnet18") for b in photographs()[:4]]).result()
            print("AN ANSWER CAME", flush=True)
        except Exception as error:
            print(attempt, type(error).__name__, error, flush=True)
    os._exit(74)


if __name__ == "__main__":
    _planted(sys.argv[1])
