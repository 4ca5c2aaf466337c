"""A deployment to measure: services, engines, an enrolled gallery, an active score calibration and a full topic."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from benchmarks.goods import Goods
from demo.backend import calibration_of, publish_shipped, read_calibration
from demo.recalibrate import PROFILES
from demo.stand import TENANT, Stand, new_stand
from devstack import Addresses
from engines.catalogue import MODELS_DIR, BackendChoice, VerifiedEngine, read_engine, shipped_keys
from engines.manifest import manifest_path
from engines.publish import seeded_model
from worker.adapters.references import ReferenceStore
from worker.app import open_database
from worker.cli.submission import build_job, submit_jobs
from worker.core.policy import ScoreCalibration
from worker.engine_settings import EngineSettings
from worker.settings import Settings, load_settings

FAMILIES = ("resnet18", "vit_tiny16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    folder: Path
    trained: bool
    backend: BackendChoice = "auto"

    def engine(self, name: str) -> VerifiedEngine:
        return read_engine(self.folder, name, shipped_keys(self.folder))

    def calibration(self) -> ScoreCalibration | None:
        """The shipped score calibration, if it belongs to these engines."""
        shipped = calibration_of("openvino", self.folder)
        if not shipped.exists():
            return None
        calibration = read_calibration(shipped)
        names = EngineSettings().names
        return (
            calibration
            if calibration.engine_digests == {self.engine(name).manifest.onnx_sha256 for name in names}
            else None
        )


def models(folder: Path) -> Models:
    """The shipped encoders; where there are none, untrained ones of the same speed."""
    if all(manifest_path(MODELS_DIR, name).exists() for name in EngineSettings().names):
        return Models(folder=MODELS_DIR, trained=True)
    seeded = folder / "models"
    if not all(manifest_path(seeded, family).exists() for family in FAMILIES):
        key = Ed25519PrivateKey.generate()
        for family in FAMILIES:
            seeded_model(seeded, family, 1, key)
    return Models(folder=seeded, trained=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    stand: Stand
    settings: Settings  # the worker's
    models: Models


def deploy(addresses: Addresses, folder: Path, goods: Goods, console: Console) -> Deployment:
    """Topics, references and calibration in place; no worker yet. Photographs are not kept: storing them is a copy
    to a disk, whose speed would be measured instead of ours."""
    chosen = models(folder)
    changes = {"ASSAY_ENGINES__MODELS_DIR": str(chosen.folder), "ASSAY_EVIDENCE__KEEP": "off", "ASSAY_BUILD": "bench"}
    stand = new_stand(addresses, folder / "stand", changes)
    stand.assay("topics", "apply")
    console.print("enrolling the references")
    enrol(stand, goods.references)
    _calibrate(stand, chosen, goods, console)
    with environment(stand.environment):
        return Deployment(stand=stand, settings=load_settings(), models=chosen)


def preload(deployment: Deployment, goods: Goods, count: int, prefix: str = "bench") -> list[str]:
    """Fill the jobs topic: the items in turn, each time under a new job id, photographs inline. Returns the ids."""
    kafka = deployment.settings.kafka
    ids = [f"{prefix}-{turn:06d}" for turn in range(count)]
    turns = zip(ids, itertools.cycle(goods.items), strict=False)
    jobs = (build_job(item, tenant=TENANT, job_id=job_id, transport="inline") for job_id, item in turns)
    submit_jobs(jobs, client_config=kafka.client_config(), topics=kafka.topics)
    return ids


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables and no others, for code that runs in this process."""
    before = dict(os.environ)
    try:
        _replace_environment(values)
        yield
    finally:
        _replace_environment(before)


def _replace_environment(values: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def enrol(stand: Stand, references: Path) -> None:
    """The references of a manifest, under the demo's profiles."""
    by = ("--tenant", TENANT, "--by", "bench")
    stand.assay("enroll", str(references), *by, "--profiles", str(PROFILES), env=stand.curator)


def calibrate_for_timing(stand: Stand, jobs: Path) -> None:
    """Publish a score calibration that is good for nothing but timing: fitted on the very jobs that it judges."""
    by = ("--tenant", TENANT, "--publish", "--by", "bench")
    budgets = ("--alpha-accept", "0.3", "--alpha-reject", "0.3")
    stand.assay("calibrate", str(jobs), *by, *budgets, env=stand.curator)


def _calibrate(stand: Stand, chosen: Models, goods: Goods, console: Console) -> None:
    """Publish the score calibration shipped for these engines; others get one of their own, for timing."""
    shipped = chosen.calibration()
    if shipped is not None:
        publish_calibration(stand, shipped)
        return
    console.print("no score calibration was shipped for these encoders: fitting one for the timing")
    calibrate_for_timing(stand, goods.jobs)


def publish_calibration(stand: Stand, calibration: ScoreCalibration) -> None:
    with environment(stand.curator):
        database = open_database(load_settings())
    try:
        publish_shipped(ReferenceStore(database), calibration, by="bench")
    finally:
        database.dispose()
