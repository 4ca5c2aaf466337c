"""A deployment for the GPU sections: services, signed engines with random weights (or the demo's), an enrolled gallery,
a score calibration that is good for timing alone, and jobs of photographs below a file root."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.deployment import calibrate_for_timing, enrol, environment, publish_calibration
from benchmarks.gpu.networks import FAMILIES
from benchmarks.gpu.photographs import GpuGoods, Weight, views_of, weighed
from demo.backend import calibration_of, read_calibration
from demo.stand import TENANT, CommandFailed, Stand, new_stand
from devstack import Addresses
from engines.catalogue import MODELS_DIR, read_engine, shipped_keys
from engines.drafts import read_draft
from engines.export import ExportedEngine, golden_of
from engines.manifest import QuantizationCalibration, manifest_path, sha256_hex
from engines.publish import publish, write_public_key
from schemas.job import AuthenticationJob, JobView
from schemas.message import OutputRecord
from worker.adapters.kafka_sender import KafkaSender
from worker.cli.submission import job_record
from worker.core.policy import ScoreCalibration
from worker.core.policy_json import content_id
from worker.items import Item
from worker.settings import Settings, load_settings

DEMO: Final = "resnet18"
TRIED: Final = "BENCH_SETTINGS"  # "ASSAY_ENGINES__GPU_SLOTS=4 ...": what is tried in one run


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a worker of a section is told beyond its services."""

    backend: str
    engine: str
    models: Path
    plans: Path
    extra: dict[str, str] = field(default_factory=dict)

    def environment(self, file_root: Path) -> dict[str, str]:
        return {
            "ASSAY_ENGINES__BACKEND": self.backend,
            "ASSAY_ENGINES__MODELS_DIR": str(self.models),
            "ASSAY_ENGINES__PLANS_DIR": str(self.plans),
            "ASSAY_ENGINES__DEFAULT_ENCODER": self.engine,
            "ASSAY_ENGINES__ENCODERS": "{}",
            "ASSAY_IMAGES__FILE_ROOT": str(file_root),
            "ASSAY_EVIDENCE__KEEP": "off",
            "ASSAY_BUILD": "bench",
            "ASSAY_OBSERVE__LOG_LEVEL": "info",
            **LOADED,
            **self.extra,
            **dict(pair.split("=", 1) for pair in os.environ.get(TRIED, "").split()),
        }


# as docs/operations says for a GPU: enough in flight that the device never waits
LOADED: Final = {
    "ASSAY_BATCH__MAX_IMAGES": "256",
    "ASSAY_BATCH__MAX_BYTES": str(128 * 2**20),
    "ASSAY_BATCH__DEPTH": "4",
    "ASSAY_INTAKE__QUEUE_JOBS": "512",
    "ASSAY_INTAKE__HELD_BYTES": str(2**30),
    "ASSAY_INTAKE__WINDOW_RECORDS": "2048",
    "ASSAY_IMAGES__FETCH_THREADS": "16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Jobs of one weight of photographs: `views` by item, as URIs below the file root or inline."""

    items: Sequence[Item]
    views: Sequence[tuple[JobView, ...]]

    def job(self, number: int, job_id: str) -> AuthenticationJob:
        """The job of one item in turn; its id is the caller's."""
        place = number % len(self.items)
        item = self.items[place]
        return AuthenticationJob(
            job_id=job_id,
            tenant=TENANT,
            sku=item.sku,
            category=item.category,
            submitted_at=datetime.now(UTC),
            views=self.views[place],
            payload_digest="",
            serial=item.serial,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A stand with everything in place, and the worker's settings."""

    stand: Stand
    settings: Settings
    file_root: Path

    def fill(self, load: Load, count: int, name: str) -> None:
        """Put `count` jobs onto their topic. Returns when all are confirmed."""
        KafkaSender(self.settings.kafka.client_config()).send(self.records(load, count, name))

    def records(self, load: Load, count: int, name: str) -> Iterator[OutputRecord]:
        topics = self.settings.kafka.topics
        return (job_record(load.job(n, f"{name}-{n:07d}"), topics) for n in range(count))


def load_of(goods: GpuGoods, weight: Weight, root: Path, *, inline: bool = False) -> Load:
    items = weighed(goods, weight, root)
    return Load(items=items, views=[views_of(item, root, inline=inline) for item in items])


def deployed(addresses: Addresses, folder: Path, goods: GpuGoods, serving: Serving, file_root: Path) -> Deployed:
    """Topics, references and a calibration; no worker yet. The first command builds the engine's plan."""
    stand = new_stand(addresses, folder, serving.environment(file_root))
    stand.assay("topics", "apply")
    enrol(stand, goods.references)
    try:
        calibrate_for_timing(stand, goods.jobs)
    except CommandFailed as refused:  # random weights can make all goods look like their references
        print(f"{serving.engine}: the demo's calibration instead of its own: {str(refused)[-200:]}", flush=True)
        publish_calibration(stand, borrowed_calibration(serving))
    with environment(stand.environment):
        return Deployed(stand=stand, settings=load_settings(), file_root=file_root)


def borrowed_calibration(serving: Serving) -> ScoreCalibration:
    """The demo's, as if it had been fitted on this engine: good for timing alone."""
    demo = read_calibration(calibration_of("openvino"))
    digest = read_engine(serving.models, serving.engine, shipped_keys(serving.models)).manifest.onnx_sha256
    views = {(category, view, digest, serving.backend): cell for (category, view, _, _), cell in demo.views.items()}
    made = dataclasses.replace(
        demo, backend=serving.backend, engine_digests=frozenset((digest,)), views=views, baselines={}
    )
    return dataclasses.replace(made, calibration_id=content_id(made))


def signed_models(prepared: Sequence[Path], folder: Path) -> Path:
    """The INT8 engines of prepared networks (benchmarks.gpu.networks), signed with a key that is forgotten, in a folder
    to serve from; another section may have left it there."""
    if all(manifest_path(folder, place.name).exists() for place in prepared):
        return folder
    key = Ed25519PrivateKey.generate()
    write_public_key(folder, "bench", key)
    for place in prepared:
        publish(int8_engine(place), folder, key)
    return folder


def int8_engine(prepared: Path) -> ExportedEngine:
    """The engine of a prepared folder's INT8 graph, described as its FP32 draft is."""
    draft = read_draft(prepared / "draft")
    model = (prepared / "int8.onnx").read_bytes()
    calibration = QuantizationCalibration(method="min-max", images=8, digest=sha256_hex(model))
    kind = "convolutions" if FAMILIES[prepared.name].recipe == "residual" else "linear layers"
    manifest = dataclasses.replace(
        draft.manifest,
        precision="int8",
        groups=((kind, "int8"), ("everything else", "fp32")),
        calibration=calibration,
        onnx_sha256=sha256_hex(model),
        golden_sha256="",
    )
    assert onnx.load_from_string(model).graph.input[0].name == "images"
    golden = golden_of(model, manifest)
    manifest = dataclasses.replace(manifest, golden_sha256=sha256_hex(golden))
    return ExportedEngine(manifest=manifest, model=model, golden=golden)


def serving_of(name: str, folder: Path, *, dry: bool, extra: dict[str, str] | None = None) -> Serving:
    """How a worker serves one engine: the demo's ResNet-18, or a prepared network below `folder`."""
    models = MODELS_DIR if name == DEMO else signed_models([folder / name], folder / "models" / name)
    backend = "onnxruntime" if dry else "tensorrt"  # what made the golden outputs
    return Serving(backend=backend, engine=name, models=models, plans=folder / "plans", extra=extra or {})
