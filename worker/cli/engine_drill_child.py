"""One case of `assay engine drill` in a process of its own, which may hang, die, or be ended: opens an engine as a
worker does, perhaps with a fault planted between the session and the runner, and shows it two photographs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines import catalogue
from engines.catalogue import SessionOptions, open_session, read_engine, shipped_keys
from engines.errors import EngineRefused
from engines.golden import golden_pixels
from engines.runner import EncoderOutputs, Pending, Runner
from schemas.job import JobView
from worker.adapters.encoder import SessionEncoder
from worker.core.evidence import ViewProbe
from worker.errors import Fatal

SERVED, REFUSED = "served", "refused"
_SLOW: Final = 3.0  # deadlines


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Implements ports.EncodeView."""

    view: JobView
    data: bytes
    encoder: str
    tenant: str = "drill"


class Planted:
    """A runner with a fault, which begins once it is open and self-tested."""

    def __init__(self, runner: Runner, fault: str, deadline_s: float) -> None:
        self._runner, self._fault, self._deadline_s = runner, fault, deadline_s
        self.info, self.close = runner.info, runner.close

    def start(self, pixels: NDArray[np.uint8]) -> Pending:
        if self._fault == "hang":
            threading.Event().wait()
        if self._fault == "slow":
            threading.Event().wait(_SLOW * self._deadline_s)
        pending = self._runner.start(pixels)
        return NotFinite(pending, pixels) if self._fault == "nan" else pending


class NotFinite:
    """Numbers that are none for dark photographs."""

    def __init__(self, pending: Pending, pixels: NDArray[np.uint8]) -> None:
        self._pending, self._dark = pending, pixels.mean(axis=(1, 2, 3)) < 1

    def result(self, timeout_s: float | None = None) -> EncoderOutputs:
        outputs = self._pending.result(timeout_s)
        outputs.embedding[self._dark] = np.nan
        return outputs


def planted(fault: str, deadline_s: float) -> Callable[..., Runner]:
    """catalogue.open_runner with the fault behind it."""
    open_runner = catalogue.open_runner
    return lambda *given, **more: Planted(open_runner(*given, **more), fault, deadline_s)


def photograph(pixels: NDArray[np.uint8], encoder: str) -> Shown:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    view = JobView(view="logo", sha256=hashlib.sha256(data.getvalue()).hexdigest())
    return Shown(view=view, data=data.getvalue(), encoder=encoder)


def seen(folder: Path, given: Mapping[str, Any]) -> dict[str, object]:
    """What became of the engine. Raises EngineRefused, Fatal."""
    name = given["name"]
    engine = read_engine(folder, name, shipped_keys(folder))
    options = SessionOptions(
        plans_dir=Path(given["plans"]), cpu_plans=True, decode_helpers=1, deadline_s=given["deadline_s"]
    )
    if given["fault"]:
        catalogue.open_runner = planted(given["fault"], given["deadline_s"])
    encoder = SessionEncoder(open_session([engine], given["backend"], options))
    size = engine.manifest.preprocessing.size
    pixels = (golden_pixels(size)[0], np.zeros((size, size, 3), np.uint8))
    found = encoder.start([photograph(one, name) for one in pixels]).result()
    encoder.close()
    return {"views": ["seen" if isinstance(one, ViewProbe) else one.code.value for one in found]}


def main() -> None:
    """Prints one line of JSON; a hanging engine's threads are left behind, as a worker leaves them."""
    folder, given = Path(sys.argv[1]), json.loads(sys.argv[2])
    code = 0
    try:
        told: dict[str, object] = {"end": SERVED, **seen(folder, given)}
    except EngineRefused as refusal:
        told = {"end": REFUSED, "code": refusal.code.value, "told": str(refusal)}
    except Fatal as failure:
        told, code = {"end": "ended", "told": str(failure)}, failure.exit_code
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
