"""What an encoder that was never trained tells of genuine and forged: no other part may make it good."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.evaluate.measure import Figures, told
from demo.evaluate.photographs import photograph_of
from demo.evaluate.plan import Plan, first_skus
from demo.evaluate.statistics import auc_estimate
from demo.photographs import Specimen
from engines.decode import Decoded
from engines.decoder import PillowDecoder
from engines.openvino_runner import OpenVinoRunner
from engines.publish import seeded_engine

SKUS = 40  # the first ones of the plan: an interval of a tenth is enough to tell chance from skill
THREADS = 2
Vectors = NDArray[np.float32]


def untrained(plan: Plan, folder: Path) -> Figures:
    """The area of genuine against forged jobs of strength 1 by their mean best cosine to the references, over views."""
    some = first_skus(plan, SKUS)
    engine = seeded_engine("resnet18", 1)
    decoder = PillowDecoder(engine.manifest.preprocessing.size, THREADS)
    runner = OpenVinoRunner(engine.model, engine.manifest, THREADS)
    try:
        scores = _scores(some, folder, decoder, runner)
    finally:
        runner.close()
        decoder.close()
    jobs = [*some.genuine, *some.forged]
    genuine = np.array([job.family is None for job in jobs], np.bool_)
    skus = np.array([job.sku.seed for job in jobs], np.intp)
    return {**told(auc_estimate(scores, genuine, skus)), "skus": len(some.skus)}


def _scores(plan: Plan, folder: Path, decoder: PillowDecoder, runner: OpenVinoRunner) -> NDArray[np.float64]:
    """One score a job, genuine ones first."""
    known: dict[str, list[Vectors]] = {sku.sku_id: [] for sku in plan.skus}
    for reference in plan.references:
        known[reference.sku.sku_id].append(_embedded(reference, folder, decoder, runner))
    found = []
    for job in (*plan.genuine, *plan.forged):
        probe = _embedded(job, folder, decoder, runner)
        best = np.stack([(probe * reference).sum(1) for reference in known[job.sku.sku_id]]).max(0)
        found.append(float(best.mean()))
    return np.array(found, np.float64)


def _embedded(specimen: Specimen, folder: Path, decoder: PillowDecoder, runner: OpenVinoRunner) -> Vectors:
    """One vector a view, in the order of the specimen's views."""
    blobs = [photograph_of(folder, specimen, view).read_bytes() for view in specimen.views]
    pixels = np.stack(list(_pixels(decoder, blobs)))
    return runner.start(pixels).result().embedding


def _pixels(decoder: PillowDecoder, blobs: Sequence[bytes]) -> Iterable[NDArray[np.uint8]]:
    for found in decoder.decode(blobs):
        decoded = found.result()
        if not isinstance(decoded, Decoded):
            raise ValueError(f"a rendered photograph cannot be decoded: {decoded}")
        yield decoded.pixels
