"""The audit ledger: a chain of blocks a tenant, what each block seals, and what waits for the sealer.

A trigger of the owner's notes each verdict and each record in `audit_pending`, in the transaction that writes it: the
sealer can miss none, however late it commits, and who writes verdicts needs no right to the ledger.
"""

from __future__ import annotations

from sqlalchemy import Index, UniqueConstraint, text

from migrations.schema import BIGINT, BYTES, ID, INTEGER, JSON, NOW, TEXT, TIME, may, must, one_of, table

audit_blocks = table(
    "audit_blocks",
    "Append-only: the sealed chain of a tenant. The last one's head is published, signed.",
    must("tenant", TEXT, "Whose chain.", primary_key=True),
    must("height", BIGINT, "Place in the chain, from 0.", primary_key=True),
    must("previous", BYTES, "Digest of the block before."),
    must("root", BYTES, "Digest over the block's entries in order."),
    must("digest", BYTES, "Digest of this block's head."),
    must("key_id", TEXT, "Key that signed the head."),
    must("signature", BYTES, "Signature over the head."),
    must("sealed_at", TIME, "When (UTC).", server_default=NOW),
    must("entries", INTEGER, "How many entries the block has."),
    may("published_at", TIME, "When the head was confirmed by assay.audit (UTC)."),
    Index("ix_audit_blocks_published_at", "tenant", "height", postgresql_where=text("published_at IS NULL")),
)

audit_entries = table(
    "audit_entries",
    "Append-only: what a block seals: verdicts, erasures and dropped months.",
    must("tenant", TEXT, "Whose chain.", primary_key=True),
    must("height", BIGINT, "The block.", primary_key=True),
    must("position", INTEGER, "Place in the block, from 0.", primary_key=True),
    must("id", ID, "The verdict's result_id, or the audit record's id."),
    must("digest", BYTES, "SHA-256 of the verdict's event as settle stored it, or of the audit record."),
    must("kind", TEXT, "verdict, erasure or retention."),
    may("judged_at", TIME, "The verdict's judged_at, which names its partition (UTC)."),
    may("src", TEXT, "topic/partition/offset of the record that the verdict answers."),
    may("row_digest", BYTES, "SHA-256 over the verdict's columns and its job's; null where they were gone before."),
    may("views_digest", BYTES, "SHA-256 over the columns of its views; null as row_digest is."),
    UniqueConstraint("tenant", "id"),
    one_of("kind", "kind", ("verdict", "erasure", "retention")),
)

audit_records = table(
    "audit_records",
    "Append-only: why verdicts are gone, by erasure or with their month. The ledger seals each.",
    must("id", ID, "The record.", primary_key=True),
    must("tenant", TEXT, "Whose verdicts.", index=True),
    must("kind", TEXT, "erasure or retention."),
    must("by", TEXT, "Who did it."),
    must("why", TEXT, "On what grounds."),
    must("at", TIME, "When (UTC).", server_default=NOW),
    must("facts", JSON, "Erasure: verdicts [[result_id, judged_at], ...], jobs; retention: from, to, verdicts."),
    one_of("kind", "kind", ("erasure", "retention")),
)

audit_pending = table(
    "audit_pending",
    "What waits to be sealed: noted in the transaction that wrote it, so that no late commit is missed.",
    must("tenant", TEXT, "Whose chain.", primary_key=True),
    must("id", ID, "The verdict's result_id, or the audit record's id.", primary_key=True),
    must("kind", TEXT, "verdict, erasure or retention."),
    may("judged_at", TIME, "The verdict's judged_at (UTC)."),
    may("digest", BYTES, "The verdict's digest, should its row be gone before it is sealed."),
    must("noted_at", TIME, "When it was written (UTC).", server_default=text("clock_timestamp()")),
)
