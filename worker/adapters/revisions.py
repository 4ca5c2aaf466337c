"""The gallery's revision: moved by the curator, watched by workers, in commit order."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sqlalchemy import Connection, insert, text

from migrations.tables import gallery_revisions

EVERYONE = "*"  # categories and score calibrations concern all tenants
ADVISORY_LOCK = 0x617373617903  # "assay", 3

Announce = Callable[[str, int], object]

# A tenant's revision is the newest of its own, of everyone's, and of those who share with it.
NEWEST = text("""
SELECT wanted.tenant, coalesce(max(moved.revision), 0) AS revision
FROM unnest(CAST(:tenants AS text[])) AS wanted (tenant)
CROSS JOIN LATERAL (
    SELECT wanted.tenant AS source UNION ALL SELECT :everyone
    UNION ALL SELECT share.owner FROM assay.reference_grants AS share WHERE share.grantee = wanted.tenant
) AS followed
LEFT JOIN LATERAL (
    SELECT revision FROM assay.gallery_revisions WHERE tenant = followed.source ORDER BY revision DESC LIMIT 1
) AS moved ON true
GROUP BY wanted.tenant
""")


def silent(_tenant: str, _revision: int) -> None:
    """Announces nothing: workers poll."""


def move(connection: Connection, tenant: str, *, why: str, by: str) -> int:
    """Append the next revision of `tenant`.

    The lock is held until the commit: a worker that has seen revision 6 must not find 5 appearing later.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
    row = insert(gallery_revisions).values(tenant=tenant, why=why, by=by).returning(gallery_revisions.c.revision)
    return int(connection.execute(row).scalar_one())


def newest(connection: Connection, tenants: Iterable[str]) -> dict[str, int]:
    rows = connection.execute(NEWEST, {"tenants": sorted(tenants), "everyone": EVERYONE})
    return {row.tenant: row.revision for row in rows}
