"""What an engine lacks before it may take traffic: references without vectors in its embedding space, and a score
calibration. Verdicts would be inconclusive without either, never wrong; so nobody is let in half-ready."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, and_, func, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from migrations.tables import calibrations, items, reference_embeddings, reference_images
from worker.adapters.database import retrying
from worker.core.policy_json import VERSION

BEHIND = text("""
SELECT DISTINCT i.tenant FROM assay.reference_embeddings e JOIN assay.reference_images i ON i.id = e.reference_id
WHERE e.space = :space AND NOT EXISTS (
    SELECT FROM assay.gallery_revisions g WHERE g.tenant = i.tenant AND g.at >= e.created_at)
ORDER BY 1
""")
# Of the references that verdicts rest on.
COUNTS = text("""
SELECT i.tenant, t.category, i.view, count(*) AS missing, min(i.sku) AS sku
FROM assay.reference_images i JOIN assay.items t USING (tenant, sku)
WHERE i.state = 'active' AND NOT EXISTS (
    SELECT FROM assay.reference_embeddings e WHERE e.reference_id = i.id AND e.space = :space)
GROUP BY i.tenant, t.category, i.view ORDER BY i.tenant, t.category, i.view
""")
UNRETIRED = ("active", "draft", "quarantined")  # those that may still come to serve


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """An engine that is to take traffic. `digests`: of its graph, and of those that serve beside it; `serves` tells
    whether a (category, view) is this encoder's."""

    name: str
    space: str
    backend: str
    digests: frozenset[str]
    serves: Callable[[str, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnembeddedReference:
    """A reference without a vector in a space."""

    reference_id: str
    tenant: str
    sku: str
    view: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnembeddedViews:
    """How many references of a tenant's view have no vector in a space, and the SKU of one of them."""

    tenant: str
    view: str
    count: int
    sku: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What is incomplete; nothing where `complete`."""

    name: str
    unembedded: tuple[UnembeddedViews, ...] = ()
    uncalibrated: bool = False

    @property
    def complete(self) -> bool:
        return not self.unembedded and not self.uncalibrated

    def sentences(self) -> Iterator[str]:
        """For a person: what is missing, and the command that brings it."""
        if self.unembedded:
            tenants: Counter[str] = Counter()
            for one in self.unembedded:
                tenants[one.tenant] += one.count
            whose = ", ".join(f"{count} of {tenant}" for tenant, count in sorted(tenants.items()))
            first = self.unembedded[0]
            yield (
                f"{tenants.total()} references have no vectors in its embedding space ({whose}), such as the"
                f" {first.view} of {first.sku}: assay engine embed {self.name}"
            )
        if self.uncalibrated:
            yield "no active score calibration was fitted for it: assay calibrate MANIFEST --publish"


def missing_for(database: Engine, newcomer: Newcomer) -> Missing:
    """What `newcomer` lacks. Raises ServiceUnavailable where Postgres stays away."""

    def read() -> Missing:
        with database.connect() as connection:
            return Missing(
                name=newcomer.name,
                unembedded=tuple(_unembedded_views(connection, newcomer)),
                uncalibrated=not _is_calibrated(connection, newcomer),
            )

    return retrying(read)


def is_calibrated(database: Engine, newcomer: Newcomer) -> bool:
    """Whether a score calibration is there for it. Raises ServiceUnavailable where Postgres stays away."""

    def read() -> bool:
        with database.connect() as connection:
            return _is_calibrated(connection, newcomer)

    return retrying(read)


def unembedded(connection: Connection, space: str, serves: Callable[[str, str], bool]) -> list[UnembeddedReference]:
    """References that serve or may come to, of all tenants, that `serves` takes and that have no vector in `space`; in
    order."""
    image, vectors = reference_images.c, reference_embeddings.c
    wanted = (
        select(image.id, image.tenant, image.sku, items.c.category, image.view, image.sha256)
        .join_from(reference_images, items)
        .outerjoin(reference_embeddings, and_(vectors.reference_id == image.id, vectors.space == space))
        .where(image.state.in_(UNRETIRED), vectors.reference_id.is_(None))
        .order_by(image.tenant, image.id)
    )
    return [
        UnembeddedReference(
            reference_id=str(row.id),
            tenant=row.tenant,
            sku=row.sku,
            view=row.view,
            sha256=bytes(row.sha256).hex(),
        )
        for row in connection.execute(wanted)
        if serves(row.category, row.view)
    ]


def _unembedded_views(connection: Connection, newcomer: Newcomer) -> Iterator[UnembeddedViews]:
    """Counted where the rows lie: workers ask at every poll while a candidate waits."""
    for row in connection.execute(COUNTS, {"space": newcomer.space}):
        if newcomer.serves(row.category, row.view):
            yield UnembeddedViews(tenant=row.tenant, view=row.view, count=row.missing, sku=row.sku)


def _is_calibrated(connection: Connection, newcomer: Newcomer) -> bool:
    """As core.scoring chooses one: that can be read, of exactly this backend, fitted with all of these engines."""
    wanted = literal(sorted(newcomer.digests), ARRAY(TEXT))
    found = select(func.count()).where(
        calibrations.c.active,
        calibrations.c.document.contains({"version": VERSION}),
        calibrations.c.backend == newcomer.backend,
        calibrations.c.engine_digests.contains(wanted),
    )
    return bool(connection.scalar(found))


def tenants_behind(connection: Connection, space: str) -> list[str]:
    """Tenants whose references got vectors in `space` after their gallery's last revision: workers lack those still, as
    where an embedding was broken off before its end."""
    return [str(tenant) for tenant in connection.scalars(BEHIND, {"space": space})]
