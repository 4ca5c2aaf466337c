"""A deployment whose references, calibration and photographs are made up: every stage has its usual work."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.deployment import environment
from benchmarks.gpu.photographs import USUAL, jpeg_of
from benchmarks.gpu.serving import LOADED, Deployed, Load
from benchmarks.host_path.answers import KINDS, MANIFEST, told_kind, unit
from demo.stand import TENANT, new_stand
from devstack import Addresses
from engines.runner import EngineInfo
from schemas.job import AuthenticationJob, JobView
from schemas.verdict import ReferenceMatch
from worker.adapters.encoder import engine_use
from worker.adapters.references import NewItem, NewReference
from worker.app import open_database, open_references
from worker.core.calibration import fit
from worker.core.evidence import JobEvidence, ViewMatch, ViewProbe
from worker.core.labelled import LabelledEvidence
from worker.core.policy import CategoryProfile, ViewRequirement
from worker.items import Item
from worker.settings import Settings, load_settings

CATEGORY: Final = "bag"
SKUS: Final = ("bag-1", "bag-2", "bag-3")
VIEWS: Final = ("logo", "stitching", "hardware", "serial", "lining", "overview")
REFERENCES: Final = 5
ITEMS: Final = 120  # distinct jobs, each of one SKU
LABELLED: Final = 200
PROFILE: Final = CategoryProfile(
    category=CATEGORY,
    views=tuple(ViewRequirement(view=view, required=True) for view in VIEWS),
    alpha_accept=0.05,
    alpha_reject=0.05,
)
ENGINE: Final = engine_use(EngineInfo.of(MANIFEST, "tensorrt"))
assert len(VIEWS) * ITEMS <= KINDS


def deployed(addresses: Addresses, folder: Path, photographs: Path) -> Deployed:
    """Topics, references and a calibration in place; no worker yet, which finds `photographs`."""
    settings = {
        **LOADED,
        "ASSAY_ENGINES__DEFAULT_ENCODER": MANIFEST.name,
        "ASSAY_ENGINES__ENCODERS": "{}",
        "ASSAY_IMAGES__FILE_ROOT": str(photographs),
        "ASSAY_EVIDENCE__KEEP": "off",
        "ASSAY_BUILD": "bench",
    }
    stand = new_stand(addresses, folder / "stand", settings)
    stand.assay("topics", "apply")
    with environment(stand.curator):
        _furnish(load_settings())
    with environment(stand.environment):
        return Deployed(stand=stand, settings=load_settings(), file_root=photographs)


def drawn_load(folder: Path, count: int = ITEMS) -> Load:
    """`count` distinct jobs, at most ITEMS, whose photographs are written to `folder`."""
    items = [Item(sku=SKUS[number % len(SKUS)], category=CATEGORY, views={}) for number in range(count)]
    return Load(items=items, views=[_photographed(folder, number) for number in range(count)])


def _photographed(folder: Path, item: int) -> tuple[JobView, ...]:
    """Six JPEGs of the usual size and weight, of a kind each that their last bytes tell. Nobody decodes them."""
    folder.mkdir(parents=True, exist_ok=True)
    views = []
    for at, view in enumerate(VIEWS):
        path = folder / f"{item}-{view}.jpg"
        data = told_kind(_jpeg(at), len(VIEWS) * item + at)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        views.append(JobView(view=view, sha256=digest, uri=f"file:{path.name}", media_type="image/jpeg"))
    return tuple(views)


@cache
def _jpeg(seed: int) -> bytes:
    """Soft shapes, as photographs have them; jpeg_of adds grain until the weight is right."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return jpeg_of(coarse.repeat(USUAL.side // 32, 0).repeat(USUAL.side // 32, 1), USUAL.bits)


def _furnish(settings: Settings) -> None:
    database = open_database(settings)
    try:
        store = open_references(settings, database)
        store.put_categories([PROFILE], by="bench", why="host path")
        store.ensure_items(TENANT, [NewItem(sku=sku, category=CATEGORY) for sku in SKUS])
        ids = store.add(TENANT, references(), by="bench", why="host path")
        store.activate(TENANT, ids, by="bench", why="host path")
        calibration, _ = fit(_labelled(), {CATEGORY: PROFILE}, seed=0)
        store.put_calibration(calibration, n=LABELLED, by="bench", why="host path")
    finally:
        database.dispose()


def references() -> list[NewReference]:
    rng = np.random.default_rng(2)
    return [
        NewReference(sku=sku, genuine=True, probe=_probe(rng, view, f"{sku}/{view}/{n}"))
        for sku in SKUS
        for view in VIEWS
        for n in range(REFERENCES)
    ]


def _probe(rng: np.random.Generator, view: str, name: str) -> ViewProbe:
    rows, columns = MANIFEST.patch_grid
    return ViewProbe(
        view=view,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        engine=ENGINE,
        embedding=unit(rng.standard_normal(MANIFEST.embedding_dim)),
        patches=unit(rng.standard_normal((rows * columns, MANIFEST.patch_dim))),
        patch_grid=MANIFEST.patch_grid,
        attention=np.full(MANIFEST.attention_grid, 1 / 49, np.float32),
        quality={"sharpness": 500.0, "brightness": 0.5, "glare": 0.0, "clipped_low": 0.0, "clipped_high": 0.0},
        phash=int(rng.integers(2**63)),
        source_size=(USUAL.side, USUAL.side),
    )


def _labelled() -> list[LabelledEvidence]:
    """Genuine items near to their references, counterfeits far from them."""
    rng = np.random.default_rng(3)
    return [_item(rng, number, genuine=number % 2 == 0) for number in range(LABELLED)]


def _item(rng: np.random.Generator, number: int, *, genuine: bool) -> LabelledEvidence:
    job = AuthenticationJob(
        job_id=f"labelled-{number}", tenant=TENANT, sku=SKUS[0], category=CATEGORY, submitted_at=datetime.now(UTC),
        views=tuple(JobView(view=view, sha256=f"{number:064x}", uri="file:none") for view in VIEWS), payload_digest="",
    )  # fmt: skip
    matches = tuple(_match(rng, _probe(rng, view, f"labelled {number} {view}"), genuine=genuine) for view in VIEWS)
    evidence = JobEvidence(job=job, matches=matches, unusable=(), nearest_skus=(SKUS[1],), gallery_revision=1)
    return LabelledEvidence(evidence=evidence, genuine=genuine)


def _match(rng: np.random.Generator, probe: ViewProbe, *, genuine: bool) -> ViewMatch:
    similarity = float((0.9 if genuine else 0.3) + 0.05 * rng.random())
    return ViewMatch(
        probe=probe,
        references=tuple(ReferenceMatch(reference_id=f"{n:036x}", similarity=similarity) for n in range(REFERENCES)),
        similarity=similarity,
        other_sku=SKUS[1],
        other_sku_similarity=0.5,
        deviation=float((1.3 if genuine else 4.0) + 0.1 * rng.random()),
        deviation_map=(rng.random(MANIFEST.patch_grid) * (1.5 if genuine else 5.0)).astype(np.float32),
        aligned=genuine,
        role_similarity=dict.fromkeys(VIEWS, 0.4) | {probe.view: similarity},
        nearness=1.0,
        reference_count=REFERENCES,
    )
