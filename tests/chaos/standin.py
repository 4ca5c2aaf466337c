"""`python -m tests.chaos.standin`: the real worker with a fast stand-in for its encoders, for delivery runs alone.

Images that are named by URI come from a host on loopback. Everything else is what runs in production: intake, fetching,
decoding, batching, matching, judging, settling, Kafka, PostgreSQL, Redis. Its verdicts say nothing of goods.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.decoder import PillowDecoder
from engines.runner import EncoderOutputs, EngineInfo, empty_outputs
from engines.session import EncoderSession
from tests.chaos.flaky_host import open_images
from tests.chaos.photographs import GRID, SIDE_PX, colours_of
from worker.adapters.encoder import SessionEncoder
from worker.app import run_worker
from worker.settings import Settings, load_settings

NAME = "standin"
INFO = EngineInfo(
    name=NAME,
    digest=hashlib.sha256((Path(__file__).parent / "photographs.py").read_bytes()).hexdigest(),
    backend="onnxruntime",
    precision="int8",
    embedding_space=f"{NAME}-1",
    embedding_dim=GRID * GRID * 2,
    patch_dim=4,
    patch_grid=(GRID, GRID),
    attention_grid=(GRID, GRID),
    input_size=SIDE_PX,
)


class StandIn:
    """An engines.runner.Runner whose answer rests on each photograph alone, whatever its neighbours."""

    info = INFO

    def start(self, pixels: NDArray[np.uint8]) -> StandInPending:
        return StandInPending(colours_of(pixels))

    def close(self) -> None:
        """Nothing is held."""


class StandInPending:
    def __init__(self, colours: NDArray[np.float32]) -> None:
        self._colours = colours

    def result(self, timeout_s: float | None = None) -> EncoderOutputs:
        count = len(self._colours)
        outputs = empty_outputs(INFO, count)
        flat = self._colours.reshape(count, GRID * GRID, 2)
        outputs.embedding[:] = _unit(flat.reshape(count, -1))
        padded = np.concatenate([flat, np.full((count, GRID * GRID, 2), 8.0, np.float32)], axis=-1)
        outputs.patches[:] = _unit(padded)
        strength = np.abs(flat).sum(axis=-1) + 1.0
        outputs.attention[:] = (strength / strength.sum(axis=1, keepdims=True)).reshape(count, GRID, GRID)
        return outputs


def open_standin(settings: Settings) -> SessionEncoder:
    """What worker.app.build_worker is given in place of the engines that the settings name."""
    decoder = PillowDecoder(SIDE_PX, settings.engines.decode_threads or 1)
    return SessionEncoder(EncoderSession({NAME: StandIn()}, decoder))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-6), np.float32)


if __name__ == "__main__":
    run_worker(load_settings(), encoders=open_standin, images=open_images)
