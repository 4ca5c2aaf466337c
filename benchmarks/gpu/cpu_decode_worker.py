"""`python -m benchmarks.gpu.cpu_decode_worker`: the worker on a GPU whose photographs are decoded by the CPU, to tell
what decoding on the device is worth. No setting leads here."""

from __future__ import annotations

from engines.gpu.opened import Gpu
from worker.app import run_worker
from worker.settings import load_settings


def main() -> None:
    Gpu.decodes = lambda self: False  # type: ignore[method-assign]
    run_worker(load_settings())


if __name__ == "__main__":
    main()
