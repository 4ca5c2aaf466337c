"""`python -m demo.int8 DIR`: what the shipped INT8 encoders make of the training's evaluation set, through OpenVINO.
The set is rendered into DIR first (120 SKUs, 4,320 photographs, 2.6 GB), as for the float figures of the manifests."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.train.layout import Dataset, load
from demo.train.renders import render_set
from demo.train.ship import accuracy
from engines.catalogue import MODELS_DIR, open_runner, read_engine, shipped_keys
from engines.runner import Runner

ENCODERS = ("resnet18", "vit_tiny16")
SKUS = 120


def main() -> None:
    """Parse the command line, render, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the photographs are rendered")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    render_set(given.folder, "eval", range(SKUS), math.inf, given.processes)
    test = load(given.folder, "eval")
    figures = {
        name: measured(open_runner(read_engine(MODELS_DIR, name, shipped_keys()), "openvino"), test)
        for name in ENCODERS
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


def measured(runner: Runner, test: Dataset) -> dict[str, float]:
    """Recall and ROC areas; see demo.train.ship. Closes the runner."""
    embeddings = embedded(runner, test)
    return accuracy(embeddings, test, np.ones(embeddings.shape[:2], bool))


def embedded(runner: Runner, test: Dataset) -> NDArray[np.float32]:
    """Embeddings [G,K,D] of the whole set. Closes the runner."""
    try:
        return np.stack([_embedded(runner, test.pixels[group]) for group in test.groups])
    finally:
        runner.close()


def _embedded(runner: Runner, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return runner.start(np.ascontiguousarray(pixels)).result().embedding


if __name__ == "__main__":
    main()
