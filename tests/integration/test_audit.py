"""The audit ledger on a real database: what is sealed, in what order, and that verification finds every change."""

# ruff: noqa: S608 (the tests' own statements)
from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_parts import KEY, new_tenant, one_database
from outcome_builders import Topics, a_job, judged, rejected
from sqlalchemy import Engine, text

from devstack import Addresses
from worker.adapters.audit_chain import PostgresChains
from worker.adapters.audit_keys import SealingKey, TrustedKeys, trusting
from worker.adapters.audit_verify import Check, Counts, Finding, verify, verify_ledger
from worker.adapters.database import connect
from worker.adapters.results import PostgresResults
from worker.core.ledger import SignedHead


class Ledger:
    """A tenant of its own in the tests' database, and a sealer whose published heads are kept, oldest first."""

    def __init__(self, database: Engine) -> None:
        self.database = database
        self.tenant = new_tenant()
        self.chains = PostgresChains(database=database, signer=KEY)
        self.counts = Counts()
        self._published: list[SignedHead] = []
        self._results = PostgresResults(database, group="group", topics=Topics())
        self._offset = 0

    def settle(self, *job_ids: str, tenant: str | None = None) -> None:
        for job_id in job_ids:
            self._offset += 1
            self._results.settle([judged(self._offset, a_job(job_id, tenant=tenant or self.tenant))])

    def seal(self, *job_ids: str, tenant: str | None = None) -> None:
        """Settle these, seal what waits and publish."""
        self.settle(*job_ids, tenant=tenant)
        self.chains.seal()
        self.chains.publish(self.send)

    def send(self, heads: Sequence[SignedHead]) -> None:
        self._published.extend(heads)

    def heads(self, tenant: str | None = None) -> list[SignedHead]:
        return [signed for signed in self._published if signed.head.tenant == (tenant or self.tenant)]

    def tamper(self, statement: str) -> None:
        """Run it, with {mine} for `tenant = ...`."""
        with self.database.begin() as connection:
            done = connection.execute(text(statement.format(mine=f"tenant = '{self.tenant}'")))
            assert done.rowcount > 0, "nothing was tampered with"

    def verify(self, *, tenant: str | None = None, **changes: object) -> list[Finding]:
        findings: list[Finding] = []
        own = tenant or self.tenant
        last = {signed.head.tenant: signed for signed in self.heads(own)}
        check = Check(heads=last, keys=trusting(KEY), grace_s=0.0)
        wanted = replace(check, **changes)  # type: ignore[arg-type]
        self.counts = verify(self.database, wanted, findings.append, tenant=own)
        return findings


@pytest.fixture(scope="module")
def database(stack: Addresses, template_database: str) -> Iterator[Engine]:
    """One for all tests of this module: each has a tenant of its own."""
    with one_database(stack, template_database) as url:
        database = connect(url, pool_size=8)
        yield database
        database.dispose()


@pytest.fixture
def ledger(database: Engine) -> Ledger:
    return Ledger(database)


def said(findings: Sequence[Finding]) -> str:
    return "\n".join(map(str, findings))


def test_what_is_sealed_verifies(ledger: Ledger) -> None:
    ledger.seal("a", "b")
    ledger.seal("c")
    assert ledger.verify() == []
    assert (ledger.counts.blocks, ledger.counts.verdicts) == (2, 3)
    first, second = ledger.heads()
    assert (first.head.height, second.head.height) == (0, 1)
    assert second.head.previous == first.head.digest
    found = verify_ledger(ledger.database, {ledger.tenant: second}, trusting(KEY))
    assert ledger.tenant not in {finding.tenant for finding in found}


VERDICT_OF = "WHERE {mine} AND job_id = 'b'"
SWAP = """
UPDATE assay.verdicts v SET (verdict, confidence, event, digest) = (o.verdict, o.confidence, o.event, o.digest)
FROM assay.verdicts o WHERE o.{mine} AND v.{mine} AND (v.job_id, o.job_id) IN (('a', 'b'), ('b', 'a'))
"""
REORDER = """
UPDATE assay.audit_entries e SET (digest, row_digest, views_digest) = (o.digest, o.row_digest, o.views_digest)
FROM assay.audit_entries o WHERE e.{mine} AND o.{mine} AND o.height = e.height AND o.position = 1 - e.position
"""
TAMPERED = {
    "a flipped verdict": (
        f"UPDATE assay.verdicts SET verdict = 'counterfeit' {VERDICT_OF}",
        "block 0, entry 1: verdict {b} of job 'b': its row is not as it was sealed: "
        "verdict is 'counterfeit', its event says 'authentic'",
    ),
    "a moved confidence": (
        f"UPDATE assay.verdicts SET confidence = confidence - 1e-9 {VERDICT_OF}",
        "its row is not as it was sealed: confidence is",
    ),
    "another sku": (f"UPDATE assay.verdicts SET sku = 'SKU-2' {VERDICT_OF}", "sku is 'SKU-2'"),
    "one bit of an event": (
        f"UPDATE assay.verdicts SET event = set_bit(event, 77, 1 - get_bit(event, 77)) {VERDICT_OF}",
        "its event's bytes are not those that were sealed",
    ),
    "an event with its digest": (
        f"UPDATE assay.verdicts SET event = event || '\\x00', digest = sha256(event || '\\x00') {VERDICT_OF}",
        "its event's bytes are not those that were sealed",
    ),
    "a view's score": (
        f"UPDATE assay.view_results SET similarity = 0.1 {VERDICT_OF}",
        "the rows of its views are not as they were sealed",
    ),
    "a view that is gone": (
        f"DELETE FROM assay.view_results {VERDICT_OF} AND NOT usable",
        "the rows of its views are not as they were sealed",
    ),
    "a job's content": (
        f"UPDATE assay.jobs SET payload_digest = '\\x00' {VERDICT_OF}",
        "its row is not as it was sealed",
    ),
    "a deleted row": (f"DELETE FROM assay.verdicts {VERDICT_OF}", "entry 1: verdict {b} is gone"),
    "two rows swapped": (SWAP, "entry 0: verdict {a}"),
    "two entries swapped": (REORDER, "block 0: its entries are not those that were sealed"),
    "an entry that is gone": (
        "DELETE FROM assay.audit_entries WHERE {mine} AND position = 0 AND height = 0",
        "it has 1 entries",
    ),
    "a block in the middle": ("DELETE FROM assay.audit_blocks WHERE {mine} AND height = 1", "blocks 1 to 1 are gone"),
    "a block's time": (
        "UPDATE assay.audit_blocks SET sealed_at = sealed_at - interval '1 day' WHERE {mine} AND height = 1",
        "block 1: its digest is not that of its content",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_change_is_found(ledger: Ledger, name: str) -> None:
    statement, expected = TAMPERED[name]
    ledger.seal("a", "b")
    ledger.seal("c")
    ledger.seal("d")
    with ledger.database.connect() as connection:
        mine = {"tenant": ledger.tenant}
        rows = connection.execute(text("SELECT job_id, result_id FROM assay.verdicts WHERE tenant = :tenant"), mine)
        ids = {row.job_id: row.result_id for row in rows}
    ledger.tamper(statement)
    assert expected.format(**ids) in said(ledger.verify())


def test_two_rows_swapped_are_both_found(ledger: Ledger) -> None:
    ledger.seal("a", "b", "c")
    ledger.tamper(SWAP)
    assert {finding.entry for finding in ledger.verify()} == {0, 1}


def test_a_cut_tail_is_found_by_the_published_head(ledger: Ledger) -> None:
    ledger.seal("a")
    ledger.seal("b")
    for table in ("audit_entries", "audit_blocks"):
        ledger.tamper(f"DELETE FROM assay.{table} WHERE {{mine}} AND height = 1")
    for table in ("verdicts", "view_results", "jobs"):
        ledger.tamper(f"DELETE FROM assay.{table} WHERE {{mine}} AND job_id = 'b'")
    assert "the chain ends with block 0, and the head of block 1 was published" in said(ledger.verify())


def test_a_chain_that_is_gone_is_found(ledger: Ledger) -> None:
    ledger.seal("a")
    for table in ("audit_entries", "audit_blocks", "verdicts", "view_results", "jobs"):
        ledger.tamper(f"DELETE FROM assay.{table} WHERE {{mine}}")
    assert "the chain is gone" in said(ledger.verify())


def test_a_chain_written_anew_is_found(ledger: Ledger) -> None:
    """Whoever holds the database but not the key can make a chain that fits, and cannot sign it."""
    ledger.seal("a")
    ledger.tamper("UPDATE assay.verdicts SET verdict = 'counterfeit' WHERE {mine}")
    for table in ("audit_entries", "audit_blocks"):
        ledger.tamper(f"DELETE FROM assay.{table} WHERE {{mine}}")
    ledger.tamper(
        "INSERT INTO assay.audit_pending (tenant, id, kind, judged_at, digest)"
        " SELECT tenant, result_id, 'verdict', judged_at, digest FROM assay.verdicts WHERE {mine}"
    )
    forger = SealingKey(Ed25519PrivateKey.generate())
    PostgresChains(database=ledger.database, signer=forger).seal()
    told = said(ledger.verify())
    assert f"block 0: it is signed by key {forger.key_id!r}" in told
    assert "it is not the block whose head was published" in told


def test_a_row_written_past_the_worker_is_found(ledger: Ledger) -> None:
    ledger.seal("a")
    ledger.settle("b")
    ledger.tamper("DELETE FROM assay.audit_pending WHERE {mine}")
    assert "was never sealed" in said(ledger.verify(grace_s=3600.0))


def test_a_second_row_of_a_sealed_id_is_found_and_stops_no_sealer(ledger: Ledger) -> None:
    ledger.seal("a")
    with ledger.database.begin() as connection:
        connection.execute(
            text("CREATE TEMP TABLE again ON COMMIT DROP AS SELECT * FROM assay.verdicts WHERE tenant = :t"),
            {"t": ledger.tenant},
        )
        connection.execute(text("UPDATE again SET judged_at = judged_at + interval '1 day', verdict = 'counterfeit'"))
        connection.execute(text("INSERT INTO assay.verdicts SELECT * FROM again"))
    ledger.seal("b")
    findings = ledger.verify()
    assert len(findings) == 1
    assert "was never sealed" in said(findings)


def test_what_just_waits_is_not_wrong(ledger: Ledger) -> None:
    ledger.seal("a")
    ledger.settle("b")
    assert ledger.verify(grace_s=60.0) == []
    assert "was never sealed" in said(ledger.verify())


def test_a_verdict_deleted_before_it_was_sealed_is_found(ledger: Ledger) -> None:
    ledger.settle("a")
    ledger.tamper("DELETE FROM assay.verdicts WHERE {mine}")
    ledger.seal()
    assert "is gone, and no erasure" in said(ledger.verify())


def test_a_verdict_of_a_transaction_that_ends_late_is_not_missed(ledger: Ledger) -> None:
    ledger.seal("first")
    with ledger.database.connect() as late:
        names = ", ".join(late.scalars(text(COLUMNS)))
        wanted = f"SELECT gen_random_uuid(), 'late', {names} FROM assay.verdicts WHERE tenant = '{ledger.tenant}'"
        late.execute(text(f"INSERT INTO assay.verdicts (result_id, job_id, {names}) {wanted}"))
        ledger.seal("second")
        ledger.seal("third")
        assert ledger.verify() == []
        late.commit()
    assert "was never sealed" in said(ledger.verify())
    ledger.seal()
    assert ledger.verify() == []
    assert (ledger.counts.verdicts, len(ledger.heads())) == (4, 4)


COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = 'assay.verdicts'::regclass AND attnum > 0 AND NOT attisdropped
    AND attname NOT IN ('result_id', 'job_id')
"""


def test_tenants_have_chains_of_their_own(ledger: Ledger) -> None:
    names = [f"{ledger.tenant}-{place}" for place in ("a", "b", "c")]
    for tenant in names:
        ledger.settle("one", "two", tenant=tenant)
    ledger.seal()
    ledger.seal("three", tenant=names[1])
    assert [len(ledger.heads(tenant)) for tenant in names] == [1, 2, 1]
    ledger.tenant = names[1]
    ledger.tamper("UPDATE assay.verdicts SET verdict = 'inconclusive' WHERE {mine} AND job_id = 'three'")
    assert [len(ledger.verify(tenant=tenant)) for tenant in names] == [0, 1, 0]


def test_a_wrong_key_and_a_forged_head_are_found(ledger: Ledger) -> None:
    ledger.seal("a")
    other = SealingKey(Ed25519PrivateKey.generate())
    assert "it is signed by key" in said(ledger.verify(keys=trusting(other)))
    assert "trusted are none" in said(ledger.verify(keys=TrustedKeys({})))
    (real,) = ledger.heads()
    forged = replace(real, head=replace(real.head, root=bytes(32)))
    told = said(ledger.verify(heads={ledger.tenant: forged}))
    assert f"its signature is not key {KEY.key_id}'s over this head" in told
    assert "it is not the block whose head was published" in told


def test_a_chain_whose_heads_were_never_published_is_found(ledger: Ledger) -> None:
    ledger.seal("a")
    assert "no head of its chain was published" in said(ledger.verify(heads={}))
    assert ledger.verify(heads={}, complete=False) == []


def test_many_sealers_make_one_chain(ledger: Ledger) -> None:
    stop = threading.Event()

    def work(chains: PostgresChains) -> None:
        while not stop.is_set():
            chains.seal()
            chains.publish(ledger.send)

    with ThreadPoolExecutor(4) as pool:
        small = [PostgresChains(database=ledger.database, signer=KEY, block_entries=3) for _ in range(4)]
        running = [pool.submit(work, chains) for chains in small]
        ledger.settle(*(f"job-{number}" for number in range(20)))
        stop.set()
        for one in running:
            one.result()
    ledger.seal()
    assert ledger.verify() == []
    assert ledger.counts.verdicts == 20
    heights = [signed.head.height for signed in ledger.heads()]
    assert heights == list(range(len(heights)))
    assert len(heights) >= 7


def test_a_sealer_that_died_before_it_published_is_made_good(ledger: Ledger) -> None:
    ledger.settle("a")
    ledger.chains.seal()

    def die(_heads: Sequence[SignedHead]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.chains.publish(die)
    assert ledger.chains.backlog()[1] == 1
    ledger.seal("b")
    ledger.chains.publish(ledger.send, again=True)  # as a sealer does when it starts
    assert [signed.head.height for signed in ledger.heads()] == [0, 1, 1]
    assert ledger.verify() == []


def test_a_sealer_that_dies_in_a_block_leaves_nothing_of_it(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.settle("a")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("worker.adapters.audit_chain.copy", die)
        with pytest.raises(KeyboardInterrupt):
            ledger.chains.seal()
    ledger.seal()
    assert (len(ledger.heads()), ledger.verify()) == (1, [])


def test_a_dead_letter_is_no_verdict(ledger: Ledger) -> None:
    job = a_job("dead", tenant=ledger.tenant)
    PostgresResults(ledger.database, group="group", topics=Topics()).settle([rejected(9, job)])
    ledger.seal()
    assert (ledger.heads(), ledger.verify()) == ([], [])


def test_numbers_that_json_lacks_are_sealed_all_the_same(ledger: Ledger) -> None:
    ledger.settle("a")
    ledger.tamper("UPDATE assay.view_results SET similarity = 'NaN', deviation = 'Infinity' WHERE {mine}")
    ledger.seal()
    assert ledger.verify() == []
    ledger.tamper("UPDATE assay.view_results SET similarity = 'Infinity', deviation = 'NaN' WHERE {mine}")
    assert "the rows of its views" in said(ledger.verify())
