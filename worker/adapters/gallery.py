"""PostgresGallery: an exact mirror a tenant of its active references, and of those shared with it, in every space.

A mirror is loaded in one snapshot of the database, so that its revision names its content, and replaced whole when the
revision moves. One thread watches: it polls, and a Redis message, where there is Redis, only makes it look sooner.
While Postgres is away the last mirrors serve.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import structlog
from sqlalchemy import Connection, Engine, Row, or_, select

from migrations.tables import items, reference_embeddings, reference_grants, reference_images
from worker.adapters.database import retrying
from worker.adapters.phash import unsigned
from worker.adapters.policy_rows import read_policy
from worker.adapters.revisions import newest
from worker.core.enrolment import build_snapshot
from worker.core.gallery import GallerySnapshot, Reference
from worker.errors import ServiceUnavailable

Wait = Callable[[float], object]
_log = structlog.get_logger()


class PostgresGallery:
    """Implements worker.ports.Gallery. Thread-safe.

    `start` runs `refresh` and `measure` in a thread of its own every `poll_s`; `wait` (seconds), where given, returns
    sooner when a change was announced. `failed` holds what ended that thread, if anything did.
    """

    def __init__(
        self, database: Engine, *, max_medoids: int = 5, poll_s: float = 2.0, wait: Wait | None = None
    ) -> None:
        self._database = database
        self._max_medoids = max_medoids
        self._poll_s = poll_s
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._loading = threading.Lock()
        self._mirrors: dict[str, GallerySnapshot] = {}
        self._thread: threading.Thread | None = None
        self.failed: BaseException | None = None

    def start(self) -> PostgresGallery:
        self._thread = threading.Thread(target=self._watch, name="gallery", daemon=True)
        self._thread.start()
        return self

    def snapshot(self, tenant: str) -> GallerySnapshot:
        """Raises ServiceUnavailable where a tenant that is not mirrored yet cannot be loaded."""
        mirror = self._mirrors.get(tenant)
        if mirror is not None:
            return mirror
        with self._loading:
            if tenant not in self._mirrors:
                self._mirrors[tenant] = self._load(tenant)
            return self._mirrors[tenant]

    def refresh(self) -> None:
        """Raises ServiceUnavailable; the mirrors stay as they are then."""
        with self._loading:
            if not self._mirrors:
                return
            revisions = retrying(self._revisions)
            for tenant, mirror in list(self._mirrors.items()):
                if revisions[tenant] != mirror.revision:
                    self._mirrors[tenant] = self._load(tenant)

    def measure(self) -> None:
        """Measure the spread of every set, which a job would otherwise do that is the first to need it."""
        for mirror in list(self._mirrors.values()):
            for found in mirror.sets.values():
                if self._stopped.is_set():
                    return
                found.measured.spread  # noqa: B018 (is measured when it is asked for)

    def close(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        try:
            while not self._stopped.is_set():
                self._wait(self._poll_s)
                self._refresh_or_say()
                self.measure()
        except BaseException as error:  # the thread's owner asks for it
            self.failed = error
            _log.exception("gallery_thread_failed")

    def _refresh_or_say(self) -> None:
        try:
            self.refresh()
        except ServiceUnavailable as error:
            _log.warning("gallery_refresh_failed", detail=str(error))

    def _revisions(self) -> dict[str, int]:
        with self._database.connect() as connection:
            return newest(connection, self._mirrors)

    def _load(self, tenant: str) -> GallerySnapshot:
        mirror = retrying(lambda: self._read(tenant))
        _log.info("gallery_loaded", tenant=tenant, revision=mirror.revision, references=len(set(mirror.reference_ids)))
        return mirror

    def _read(self, tenant: str) -> GallerySnapshot:
        with self._database.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            revision = newest(connection, [tenant])[tenant]
            references = _references(connection, tenant)
            policy = read_policy(connection)
        return build_snapshot(
            tenant,
            revision,
            references,
            policy,
            max_medoids=self._max_medoids,
            previous=self._mirrors.get(tenant),
        )


def _references(connection: Connection, tenant: str) -> list[Reference]:
    """The active references of a tenant and of those who share with it: one a reference and space."""
    owners = select(reference_grants.c.owner).where(reference_grants.c.grantee == tenant)
    image, vectors = reference_images.c, reference_embeddings.c
    wanted = (
        select(
            *(image.id, image.sku, items.c.category, image.view, image.genuine, image.sha256, image.phash),
            *(vectors.space, vectors.embedding, vectors.patches, vectors.grid_h, vectors.grid_w),
        )
        .join_from(reference_images, items)
        .join(reference_embeddings, vectors.reference_id == image.id)
        .where(image.state == "active", or_(image.tenant == tenant, image.tenant.in_(owners)))
        .order_by(image.id, vectors.space)
    )
    return [_reference(row) for row in connection.execute(wanted)]


def _reference(row: Row[*tuple[Any, ...]]) -> Reference:
    patches = np.frombuffer(row.patches, np.int8).reshape(row.grid_h * row.grid_w, -1)
    return Reference(
        reference_id=str(row.id),
        sku=row.sku,
        category=row.category,
        view=row.view,
        genuine=row.genuine,
        sha256=row.sha256.hex(),
        phash=unsigned(row.phash),
        space=row.space,
        embedding=np.asarray(row.embedding, np.float32),
        patches=patches,
        patch_grid=(row.grid_h, row.grid_w),
    )
