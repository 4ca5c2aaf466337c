"""Synthetic goods for the tests of worker.core: embeddings and patches with a geometry that is known.

A SKU's view is a smooth field of unit patches and one unit embedding. A genuine specimen adds noise and a small shift;
a forged one also replaces a block of patches and turns the embedding away.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from schemas.job import AuthenticationJob, JobView
from schemas.verdict import EngineUse
from worker.core.calibration import LabelledEvidence
from worker.core.enrolment import build_snapshot
from worker.core.evidence import JobEvidence, ViewProbe
from worker.core.gallery import GallerySnapshot, Reference
from worker.core.matching import NumpyMatcher, nearest_skus
from worker.core.policy import CategoryProfile, Policy, ViewRequirement

GRID = (16, 16)
DEPTH = 16
DIMENSIONS = 32
VIEWS = ("logo", "lining", "stitching")
SPACE = "space-1"
ENGINE = EngineUse(name="resnet", digest="d" * 64, backend="openvino", precision="int8", embedding_space=SPACE)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROFILE = CategoryProfile(
    category="bag",
    views=(
        ViewRequirement(view="logo", required=True, critical=True),
        ViewRequirement(view="stitching", required=True),
        ViewRequirement(view="lining", required=False),
    ),
    alpha_accept=0.05,
    alpha_reject=0.05,
)
POLICY = Policy(profiles={"bag": PROFILE})


@dataclass(frozen=True)
class Photo:
    embedding: NDArray[np.float32]
    patches: NDArray[np.float32]
    sha256: str
    phash: int


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class Goods:
    """Photographs by SKU, view and specimen; the same arguments give the same photograph."""

    def __init__(self, seed: int = 0, noise: float = 0.2) -> None:
        self.seed, self.noise = seed, noise

    def photo(
        self, sku: str, view: str, specimen: str, *, forged: float = 0.0, shift: tuple[int, int] = (0, 0)
    ) -> Photo:
        field = smooth(self._rng(sku, view).normal(size=(GRID[0] + 8, GRID[1] + 8, DEPTH)))
        embedding = unit(self._rng(sku, view, "embedding").normal(size=DIMENSIONS))
        rng = self._rng(sku, view, specimen, forged)
        cells = field[4 + shift[0] : 4 + shift[0] + GRID[0], 4 + shift[1] : 4 + shift[1] + GRID[1]].copy()
        if forged:
            cells[5:9, 5:9] += forged * rng.normal(size=(4, 4, DEPTH))
        cells += self.noise * rng.normal(size=cells.shape)
        turned = embedding + (0.3 * self.noise + 0.1 * forged) * rng.normal(size=DIMENSIONS)
        return Photo(
            embedding=unit(turned),
            patches=unit(cells.reshape(-1, DEPTH)),
            sha256=rng.bytes(32).hex(),
            phash=int(rng.integers(0, 1 << 63)),
        )

    def reference(self, sku: str, view: str, number: int, *, genuine: bool = True) -> Reference:
        photo = self.photo(sku, view, f"reference-{number}", forged=0.0 if genuine else 2.0)
        return Reference(
            reference_id=f"{sku}/{view}/{number}/{'genuine' if genuine else 'fake'}",
            sku=sku,
            category="bag",
            view=view,
            genuine=genuine,
            sha256=photo.sha256,
            phash=photo.phash,
            space=SPACE,
            embedding=photo.embedding,
            patches=np.rint(photo.patches * 127).astype(np.int8),
            patch_grid=GRID,
        )

    def references(self, skus: tuple[str, ...] = ("a", "b"), count: int = 4) -> list[Reference]:
        return [self.reference(sku, view, n) for sku in skus for view in VIEWS for n in range(count)]

    def snapshot(self, policy: Policy = POLICY, skus: tuple[str, ...] = ("a", "b"), count: int = 4) -> GallerySnapshot:
        return build_snapshot("acme", 7, self.references(skus, count), policy)

    def probe(self, sku: str, view: str, specimen: str, *, forged: float = 0.0) -> ViewProbe:
        photo = self.photo(sku, view, specimen, forged=forged)
        return ViewProbe(
            view=view,
            sha256=photo.sha256,
            engine=ENGINE,
            embedding=photo.embedding,
            patches=photo.patches,
            patch_grid=GRID,
            attention=np.full((4, 4), 1 / 16, np.float32),
            quality={"sharpness": 100.0, "brightness": 0.5, "glare": 0.0, "clipped_low": 0.0, "clipped_high": 0.0},
            phash=photo.phash,
            source_size=(1024, 1024),
        )

    def _rng(self, *names: object) -> np.random.Generator:
        return np.random.default_rng([self.seed, *"/".join(map(str, names)).encode()])


def smooth(field: NDArray[np.floating]) -> NDArray[np.floating]:
    for axis in (0, 1, 0, 1):
        field = (np.roll(field, 1, axis) + field + np.roll(field, -1, axis)) / 3
    return field / field.std()


def job_of(probes: list[ViewProbe], *, sku: str = "a", job_id: str = "job-1") -> AuthenticationJob:
    return AuthenticationJob(
        job_id=job_id,
        tenant="acme",
        sku=sku,
        category="bag",
        submitted_at=NOW,
        views=tuple(JobView(view=probe.view, sha256=probe.sha256, uri="file:x") for probe in probes),
        payload_digest="0" * 64,
    )


def evidence_of(
    probes: list[ViewProbe], gallery: GallerySnapshot, *, sku: str = "a", job_id: str = "job-1"
) -> JobEvidence:
    job = job_of(probes, sku=sku, job_id=job_id)
    matches = tuple(NumpyMatcher().match(job, probes, gallery))
    near = nearest_skus(matches, gallery)
    return JobEvidence(job=job, matches=matches, unusable=(), nearest_skus=near, gallery_revision=gallery.revision)


def specimen(goods: Goods, gallery: GallerySnapshot, name: str, *, sku: str = "a", forged: float = 0.0) -> JobEvidence:
    probes = [goods.probe(sku, view, name, forged=forged) for view in VIEWS]
    return evidence_of(probes, gallery, sku=sku, job_id=name)


def labelled(goods: Goods, gallery: GallerySnapshot, count: int, *, forged: float = 1.0) -> list[LabelledEvidence]:
    """`count` genuine and `count` forged items."""
    genuine = [specimen(goods, gallery, f"genuine-{n}") for n in range(count)]
    fakes = [specimen(goods, gallery, f"fake-{n}", forged=forged) for n in range(count)]
    return [
        *(LabelledEvidence(evidence=item, genuine=True) for item in genuine),
        *(LabelledEvidence(evidence=item, genuine=False, family="block") for item in fakes),
    ]
