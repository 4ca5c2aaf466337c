"""What a verdict costs beside the encoder: deviation, the judge, and fitting a score calibration.

    python -m benchmarks.verdict_cost [--jobs 10000]

Drawn values; one process, as many threads as BLAS takes (OMP_NUM_THREADS=1 for one core). Medians of wall time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median

import numpy as np

from benchmarks.drawn_patches import GRID, REFERENCES, genuine_view
from benchmarks.host import host_facts
from demo.evaluate.run import calibration, profiles
from schemas.job import AuthenticationJob, JobView
from schemas.verdict import EngineUse, ReferenceMatch
from worker.core.calibration import fit
from worker.core.decision import judge
from worker.core.deviation import Floats, deviation
from worker.core.evidence import JobEvidence, ViewMatch, ViewProbe
from worker.core.labelled import LabelledEvidence
from worker.core.policy import CategoryProfile, Policy

DEPTH = 64
ROUNDS, BATCH, SHARED_MAPS = 40, 32, 200


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdict_cost", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="labelled items of the fit")
    given = parser.parse_args()
    told = {
        **host_facts(),
        "deviation, ms a view": round(deviation_ms(), 2),
        "judge, ms a job": round(judge_ms(), 3),
        f"calibration of {given.jobs} jobs, s": round(calibration_s(given.jobs), 1),
    }
    sys.stdout.write(json.dumps(told, indent=1) + "\n")


def deviation_ms() -> float:
    """Of a genuine view, aligned, against five references."""
    probe, references, spread = genuine_view(np.random.default_rng(0), DEPTH)
    if not deviation(probe, references, GRID, spread).aligned:
        raise AssertionError("the drawn view is not aligned, which takes another time")
    return _median_ms(lambda: deviation(probe, references, GRID, spread))


def judge_ms() -> float:
    fitted = calibration()
    policy = Policy(profiles=profiles(), calibrations=(fitted,))
    digest = sorted(fitted.engine_digests)[0]
    engine = EngineUse(name="e", digest=digest, backend=fitted.backend, precision="int8", embedding_space="s")
    evidence = [one.evidence for one in _labelled(BATCH, policy.profiles["bag"], engine)]
    return _median_ms(lambda: judge(evidence, policy)) / BATCH


def calibration_s(jobs: int) -> float:
    """Fitting and its report, from evidence that is there: encoding the photographs is not in it."""
    profile = profiles()["bag"]
    engine = EngineUse(name="e", digest="d" * 64, backend="drawn", precision="int8", embedding_space="s")
    items = list(_labelled(jobs, profile, engine))
    started_s = time.monotonic()
    fit(items, {"bag": profile}, seed=0)
    return time.monotonic() - started_s


def _labelled(count: int, profile: CategoryProfile, engine: EngineUse) -> Iterator[LabelledEvidence]:
    """Items of which every second is forged, in one view."""
    rng = np.random.default_rng(1)
    maps = rng.gamma(2.0, 0.5, (SHARED_MAPS, *GRID)).astype(np.float32)
    views = [requirement.view for requirement in profile.views]
    for number in range(count):
        genuine = number % 2 == 0
        matches = [_match(rng, engine, view, f"{number:060x}{at:04x}", maps) for at, view in enumerate(views)]
        if not genuine:
            matches[1] = replace(matches[1], similarity=float(rng.normal(0.7, 0.15)), deviation=float(rng.gamma(4.0)))
        yield LabelledEvidence(
            evidence=JobEvidence(
                job=_job(number, views), matches=tuple(matches), unusable=(), nearest_skus=(), gallery_revision=1
            ),
            genuine=genuine,
            family=None if genuine else "drawn",
            forged_views=None if genuine else frozenset({views[1]}),
        )


def _match(rng: np.random.Generator, engine: EngineUse, view: str, sha256: str, maps: Floats) -> ViewMatch:
    nothing = np.empty((0, 0), np.float32)
    probe = ViewProbe(
        view=view,
        sha256=sha256,
        engine=engine,
        embedding=nothing.ravel(),
        patches=nothing,
        patch_grid=GRID,
        attention=nothing,
        quality={"sharpness": 400.0, "brightness": 0.5, "glare": 0.0, "clipped_low": 0.0, "clipped_high": 0.0},
        phash=int(rng.integers(2**63)),
        source_size=(1024, 1024),
    )
    similarity = float(rng.normal(0.97, 0.02))
    return ViewMatch(
        probe=probe,
        references=tuple(
            ReferenceMatch(reference_id=f"{at}", similarity=similarity - at / 100) for at in range(REFERENCES)
        ),
        similarity=similarity,
        other_sku="bag-2",
        other_sku_similarity=0.5,
        deviation=float(rng.gamma(3.0)),
        deviation_map=maps[int(rng.integers(SHARED_MAPS))],
        aligned=True,
        placing={"placed": 0.9, "off_frame": 0.0, "hash_bits": 6.0},
        nearness=1.0,
        reference_count=REFERENCES,
    )


def _job(number: int, views: list[str]) -> AuthenticationJob:
    return AuthenticationJob(
        job_id=f"{number}",
        tenant="demo",
        sku=f"bag-{number % 100}",
        category="bag",
        submitted_at=datetime.now(UTC),
        views=tuple(JobView(view=view, sha256=f"{number:060x}{at:04x}") for at, view in enumerate(views)),
        payload_digest="p",
    )


def _median_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        started_s = time.perf_counter()
        call()
        times.append((time.perf_counter() - started_s) * 1e3)
    return median(times[1:])


if __name__ == "__main__":
    main()
