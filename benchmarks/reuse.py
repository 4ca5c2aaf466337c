"""Looking for photographs that were seen before, among many: `python -m benchmarks.reuse [HASHES]`.

Fills `known_photographs` with random perceptual hashes, then times the look-up that settle does for a group of jobs,
and counts what it finds: of photographs that were never seen, and of near copies. Nothing was analysed yet, as on the
first day of a busy database.

Random hashes know no scenes: how alike photographs of goods are is measured in `worker/adapters/reuse_index.py`.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from sqlalchemy import Engine, text

from devstack import Devstack
from migrations.apply import upgrade
from migrations.tables import probe_embeddings, probe_images
from schemas.job import AuthenticationJob, JobView
from schemas.verdict import EngineUse
from worker.adapters.bulk import copy
from worker.adapters.database import connect
from worker.adapters.phash import bands, signed
from worker.adapters.reuse import find_reused
from worker.adapters.reuse_index import CopyRule
from worker.core.evidence import JobEvidence, ViewMatch, ViewProbe

HASHES = 100_000
DIMENSIONS = 512
GROUP, VIEWS, ROUNDS = 20, 6, 30
KEPT, STEP = 4_000, 50_000  # photographs with probes; known ones a transaction
BITS = 3  # that a copy's hash differs in
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KNOWN = text("""
INSERT INTO assay.known_photographs (tenant, sha256, sku, subject, space, phash, bands, job_id, view, at)
SELECT 'bench', sha256(n::text::bytea), 'old', '', 'bench', ('x' || left(md5(n::text), 16))::bit(64)::bigint, '{}',
    'known-' || n, 'view-0', '2026-01-01' FROM generate_series(CAST(:first AS bigint), :last) AS n
""")
ENGINE = EngineUse(name="none", digest="d" * 64, backend="none", precision="none", embedding_space="bench")


def a_probe(rng: np.random.Generator, view: str) -> ViewProbe:
    embedding = rng.standard_normal(DIMENSIONS).astype(np.float32)
    return ViewProbe(
        view=view,
        sha256=rng.bytes(32).hex(),
        engine=ENGINE,
        embedding=embedding / np.linalg.norm(embedding),
        patches=np.empty((0, 0), np.float32),
        patch_grid=(0, 0),
        attention=np.zeros((1, 1), np.float32),
        quality={},
        phash=int.from_bytes(rng.bytes(8), "big"),
        source_size=(0, 0),
    )


def a_job(number: int, sku: str, probes: list[ViewProbe]) -> JobEvidence:
    job = AuthenticationJob(
        job_id=f"job-{sku}-{number}",
        tenant="bench",
        sku=sku,
        category="bag",
        submitted_at=NOW,
        views=tuple(JobView(view=probe.view, sha256=probe.sha256, uri="file:x") for probe in probes),
        payload_digest=hashlib.sha256(b"").hexdigest(),
    )
    matches = tuple(ViewMatch(probe=probe) for probe in probes)
    return JobEvidence(job=job, matches=matches, unusable=(), nearest_skus=(), gallery_revision=1)


def fill(database: Engine, rng: np.random.Generator, hashes: int) -> list[ViewProbe]:
    """So many known photographs of random hashes, and the probes of some jobs more, which are returned: the others'
    embeddings would be looked at where a hash is near, and of random ones none is."""
    with database.begin() as connection:
        for table in ("known_photographs", "probe_embeddings"):
            connection.execute(text(f"ALTER TABLE assay.{table} SET (autovacuum_enabled = off)"))
        connection.execute(
            text("INSERT INTO assay.embedding_spaces (space, dims) VALUES ('bench', :n)"), {"n": DIMENSIONS}
        )
    for first in range(1, hashes + 1, STEP):
        with database.begin() as connection:
            connection.execute(KNOWN, {"first": first, "last": min(first + STEP - 1, hashes)})
    probes = [a_probe(rng, f"view-{n % VIEWS}") for n in range(KEPT)]
    rows = [{"tenant": "bench", "job_id": f"old-{n // VIEWS}", "view": p.view} for n, p in enumerate(probes)]
    images = [
        {**row, "sha256": bytes.fromhex(p.sha256), "phash": signed(p.phash), "bands": bands(p.phash)}
        | {"sku": "old", "subject": None, "at": NOW}
        for row, p in zip(rows, probes, strict=True)
    ]
    with database.begin() as connection:
        copy(connection, probe_images, images)
        vectors = [{**row, "space": "bench", "embedding": p.embedding} for row, p in zip(rows, probes, strict=True)]
        connection.execute(probe_embeddings.insert(), vectors)
    return probes


def copied(rng: np.random.Generator, probe: ViewProbe) -> ViewProbe:
    """Recompressed: other bytes, a hash a few bits off, nearly the same embedding."""
    phash = probe.phash
    for bit in rng.choice(64, BITS, replace=False):
        phash ^= 1 << int(bit)
    embedding = probe.embedding + rng.standard_normal(DIMENSIONS).astype(np.float32) * np.float32(0.002)
    return replace(probe, sha256=rng.bytes(32).hex(), phash=phash, embedding=embedding / np.linalg.norm(embedding))


def looked_up(database: Engine, groups: list[list[JobEvidence]]) -> tuple[list[float], int, int]:
    """Milliseconds a group, photographs looked up, and photographs found."""
    took_ms, looked, found = [], 0, 0
    for group in groups:
        started_s = time.perf_counter()
        with database.begin() as connection:
            hits = find_reused(connection, group, rule=CopyRule())
        took_ms.append((time.perf_counter() - started_s) * 1e3)
        looked += sum(len(job.matches) for job in group)
        found += sum(len(job) for job in hits)
    return took_ms, looked, found


def main() -> None:
    hashes = int(sys.argv[1]) if len(sys.argv) > 1 else HASHES
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder, Devstack(Path(folder) / "stack").session() as addresses:
        upgrade(addresses.superuser_url)
        database = connect(addresses.superuser_url)
        seen = fill(database, rng, hashes)
        new = [
            [a_job(GROUP * at + n, "new", [a_probe(rng, f"view-{v}") for v in range(VIEWS)]) for n in range(GROUP)]
            for at in range(ROUNDS)
        ]
        back = [[a_job(n, "copy", [copied(rng, probe)]) for n, probe in enumerate(seen)]]
        looked_up(database, new[:2])
        took_ms, looked, found = looked_up(database, new)
        _, copies, recognised = looked_up(database, back)
        database.dispose()
    p50, p95 = np.quantile(took_ms, (0.5, 0.95))
    print(f"{hashes} photographs seen; a group of {GROUP} jobs of {VIEWS} views: P50 {p50:.1f} ms, P95 {p95:.1f} ms")
    print(f"never seen: {found} of {looked} found; copies of {BITS} bits: {recognised} of {copies} found")


if __name__ == "__main__":
    main()
