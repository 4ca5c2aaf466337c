"""`python -m benchmarks.gpu.timed_worker`: `assay worker` whose log tells how long the parts of its start take, in
events `part`. A part may lie in another; what a GPU alone has is not told on a CPU."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import Any, Final

import structlog

from worker.cli.main import main as assay

# (what it is, its module, its name there); imports of PyCUDA, TensorRT and the decoder are within the first that needs
# them: device, plan loaded, decoder
PARTS: Final = (
    ("all until it listens", "worker.app", "build_worker"),
    ("engines read and verified", "worker.adapters.engine_opening", "chosen_engines"),
    ("engines opened", "worker.adapters.engine_opening", "open_session"),
    ("device", "engines.gpu.opened", "Device"),
    ("plan read", "engines.gpu.encoder", "kept_plan"),
    ("plan built", "engines.gpu.encoder", "plan_now"),
    ("plan loaded", "engines.gpu.encoder", "load_plan"),
    ("slot", "engines.gpu.encoder", "Slot"),
    ("self-test", "engines.golden", "self_test"),
    ("decoder", "engines.gpu.opened", "Jpegs"),
    ("source", "worker.app", "open_source"),
    ("gallery", "worker.app", "open_gallery"),
    ("matcher", "worker.app", "open_matcher"),
    ("collector", "worker.app", "collect_seldom"),
)
REWRITES: Final = ("graph rewritten", "engines.gpu.rewrite", "device_graphs")  # each when it is asked for
_log = structlog.get_logger()


def plant() -> None:
    """From now on the parts are told."""
    for part, module, name in PARTS:
        holder = import_module(module)
        setattr(holder, name, _timed(part, getattr(holder, name)))
    part, module, name = REWRITES
    holder = import_module(module)
    setattr(holder, name, _each_timed(part, getattr(holder, name)))
    logging.getLogger("engines").setLevel(logging.INFO)


def _timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call, updated=())
    def timed(*given: Any, **more: Any) -> Any:
        with _told(part):
            return call(*given, **more)

    return timed


def _each_timed(part: str, call: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    @wraps(call)
    def timed(*given: Any, **more: Any) -> Iterator[Any]:
        made = call(*given, **more)
        while True:
            with _told(part):
                one = next(made, None)
            if one is None:
                return
            yield one

    return timed


@contextmanager
def _told(part: str) -> Iterator[None]:
    began_s = time.monotonic()
    try:
        yield
    finally:
        _log.info("part", part=part, took_s=round(time.monotonic() - began_s, 3))


def main() -> None:
    plant()
    sys.argv = ["assay", "worker"]
    assay()


if __name__ == "__main__":
    main()
