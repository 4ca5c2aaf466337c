"""What an engine lacks before it may take traffic: references without vectors in its embedding space, and a score
calibration. Verdicts would be inconclusive without either, never wrong; so nobody is let in half-ready."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, and_, func, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT

from migrations.tables import calibrations, items, reference_embeddings, reference_images
from worker.adapters.database import retrying

SERVING = ("active",)  # states of the references that verdicts rest on
BEHIND = text("""
SELECT DISTINCT i.tenant FROM assay.reference_embeddings e JOIN assay.reference_images i ON i.id = e.reference_id
WHERE e.space = :space AND NOT EXISTS (
    SELECT FROM assay.gallery_revisions g WHERE g.tenant = i.tenant AND g.at >= e.created_at)
ORDER BY 1
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
class Missing:
    """What is incomplete; nothing where `complete`."""

    name: str
    references: tuple[UnembeddedReference, ...] = ()
    uncalibrated: bool = False

    @property
    def complete(self) -> bool:
        return not self.references and not self.uncalibrated

    def sentences(self) -> Iterator[str]:
        """For a person: what is missing, and the command that brings it."""
        if self.references:
            tenants = Counter(one.tenant for one in self.references)
            whose = ", ".join(f"{count} of {tenant}" for tenant, count in sorted(tenants.items()))
            first = self.references[0]
            yield (
                f"{len(self.references)} references have no vectors in its embedding space ({whose}), such as the"
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
                references=tuple(unembedded(connection, newcomer.space, newcomer.serves, SERVING)),
                uncalibrated=not _is_calibrated(connection, newcomer),
            )

    return retrying(read)


def is_calibrated(database: Engine, newcomer: Newcomer) -> bool:
    """Whether a score calibration is there for it. Raises ServiceUnavailable where Postgres stays away."""

    def read() -> bool:
        with database.connect() as connection:
            return _is_calibrated(connection, newcomer)

    return retrying(read)


def unembedded(
    connection: Connection, space: str, serves: Callable[[str, str], bool], states: Sequence[str] = UNRETIRED
) -> list[UnembeddedReference]:
    """References in these states, of all tenants, that `serves` takes and that have no vector in `space`; in order."""
    image, vectors = reference_images.c, reference_embeddings.c
    wanted = (
        select(image.id, image.tenant, image.sku, items.c.category, image.view, image.sha256)
        .join_from(reference_images, items)
        .outerjoin(reference_embeddings, and_(vectors.reference_id == image.id, vectors.space == space))
        .where(image.state.in_(states), vectors.reference_id.is_(None))
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


def _is_calibrated(connection: Connection, newcomer: Newcomer) -> bool:
    """As core.scoring chooses one: of exactly this backend, fitted with all of these engines."""
    wanted = literal(sorted(newcomer.digests), ARRAY(TEXT))
    found = select(func.count()).where(
        calibrations.c.active,
        calibrations.c.backend == newcomer.backend,
        calibrations.c.engine_digests.contains(wanted),
    )
    return bool(connection.scalar(found))


def tenants_behind(connection: Connection, space: str) -> list[str]:
    """Tenants whose references got vectors in `space` after their gallery's last revision: workers lack those still, as
    where an embedding was broken off before its end."""
    return [str(tenant) for tenant in connection.scalars(BEHIND, {"space": space})]
