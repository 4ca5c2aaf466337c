"""What PostgreSQL reads to find photographs that come back, of tables that grew since anyone analysed them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from outcome_builders import a_job, a_probe, an_evidence
from sqlalchemy import Connection, text

from worker.adapters.database import connect
from worker.adapters.phash import MOST_BITS, signed
from worker.adapters.reuse import FIND, arrays_of

PHOTOGRAPHS = 20_000
GROWN = f"""
ALTER TABLE assay.known_photographs SET (autovacuum_enabled = off);
ALTER TABLE assay.probe_embeddings SET (autovacuum_enabled = off);
INSERT INTO assay.known_photographs (tenant, sha256, sku, subject, space, phash, bands, job_id, view, at)
SELECT 'acme', sha256(n::text::bytea), 'SKU-OLD', '', 'space', n, ARRAY[n % 8191, 8192 + n % 8179, 16384 + n % 8171],
    'job-' || n, 'logo', now() FROM generate_series(1, {PHOTOGRAPHS}) AS n;
SET session_replication_role = replica;
INSERT INTO assay.probe_embeddings (tenant, job_id, view, space, embedding)
SELECT 'acme', 'job-' || n, 'logo', 'space', '[1,2,3]' FROM generate_series(1, {PHOTOGRAPHS}) AS n;
"""  # noqa: S608 # a constant of this module


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    database = connect(database_url)
    with database.begin() as connection:
        yield connection
    database.dispose()


@pytest.fixture
def grown(connection: Connection) -> Connection:
    for statement in GROWN.split(";\n"):
        if statement.strip():
            connection.execute(text(statement))
    return connection


def scans(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The tables that a plan reads, each with how: an index's condition, or the whole table's."""
    if "Relation Name" in node:
        yield node["Relation Name"], node.get("Index Cond", node.get("Recheck Cond", "all of it"))
    for part in node.get("Plans", ()):
        yield from scans(part)


def test_each_search_goes_by_its_own_index_though_nothing_was_analysed(grown: Connection) -> None:
    jobs = [an_evidence(a_job(f"new-{n}"), a_probe(photograph=f"photograph {n}")) for n in range(20)]
    (plan,) = grown.execute(text(f"EXPLAIN (FORMAT JSON) {FIND.text}"), {**arrays_of(jobs), "bits": 4}).scalars()
    found = set(scans(plan[0]["Plan"]))
    seen = [condition for table, condition in found if table == "known_photographs"]
    assert seen and all("sha256 = probe" in one or re.search(r"&& probe_\d+\.pairs", one) for one in seen)
    (kept,) = (condition for table, condition in found if table == "probe_embeddings")
    assert all(f"{column} = " in kept for column in ("tenant", "job_id", "view", "space"))


def test_hashes_within_four_bits_have_a_pair_of_pieces_in_common(connection: Connection) -> None:
    chance = random.Random(7)
    looks = [chance.getrandbits(64) for _ in range(3000)]
    nears = [look ^ sum(1 << bit for bit in chance.sample(range(64), MOST_BITS)) for look in looks]
    found = connection.execute(
        text("""
            WITH pair AS (
                SELECT assay.phash_pairs(look) AS look, assay.phash_pairs(near) AS near,
                    assay.phash_pairs(other) AS other
                FROM unnest(CAST(:looks AS bigint[]), CAST(:nears AS bigint[]), CAST(:others AS bigint[]))
                    AS given (look, near, other))
            SELECT bool_and(look && near), min(cardinality(look)), count(*) FILTER (WHERE look && other) FROM pair
        """),
        {
            "looks": [signed(look) for look in looks],
            "nears": [signed(near) for near in nears],
            "others": [signed(look) for look in (*looks[1:], looks[0])],
        },
    ).one()
    assert (found[0], found[1]) == (True, 15)
    assert found[2] <= 3  # seven of a million at random
