"""What was answered: jobs, verdicts and their views and maps, dead letters, probes, reviews.

`jobs` is not partitioned because a unique constraint on a partitioned table must hold the partition key: it alone
decides who was first. Partitioned tables have no foreign keys, so that a month can be dropped.
"""

from __future__ import annotations

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, text

from migrations.schema import (
    BIGINT,
    BOOLEAN,
    BYTES,
    FLOAT,
    ID,
    INTEGER,
    INTEGERS,
    JSON,
    NOW,
    PHASH_PAIRS,
    TEXT,
    TEXTS,
    TIME,
    may,
    must,
    one_of,
    table,
)

BY_MONTH = "RANGE (judged_at)"
PARTITIONED = ("verdicts", "view_results", "attention_maps")

jobs = table(
    "jobs",
    "One row a job that has an end: who was first, and where the answer stands.",
    must("tenant", TEXT, "Who asked.", primary_key=True),
    must("job_id", TEXT, "The sender's idempotency key.", primary_key=True),
    must("payload_digest", BYTES, "SHA-256 over the job's canonical content."),
    must("state", TEXT, "judged, dead or erased; a replay may turn dead into judged once."),
    may("result_id", ID, "The first verdict, where judged."),
    may("judged_at", TIME, "The verdict's judged_at, which names its partition (UTC)."),
    may("dead_letter_id", ID, "The dead letter, where dead or once dead."),
    must("src", TEXT, "topic/partition/offset of the record that was answered: its redelivery is no duplicate."),
    must("created_at", TIME, "When the job got its first end (UTC).", server_default=NOW),
    one_of("state", "state", ("judged", "dead", "erased")),
    CheckConstraint(
        "(state = 'judged' AND result_id IS NOT NULL AND judged_at IS NOT NULL)"
        " OR (state = 'dead' AND dead_letter_id IS NOT NULL) OR state = 'erased'",
        name="points_at_its_end",
    ),
    Index("ix_jobs_created_at", "created_at"),
)

verdicts = table(
    "verdicts",
    "Append-only, by month: one row a verdict. A re-evaluation adds a row that supersedes.",
    must("result_id", ID, "UUIDv5 of tenant, job and revision.", primary_key=True),
    must("judged_at", TIME, "When it was decided (UTC); the partition key.", primary_key=True),
    must("revision", INTEGER, "From 1; a re-evaluation is the next."),
    may("supersedes", ID, "The result that this one replaces."),
    must("tenant", TEXT, "Who asked."),
    must("job_id", TEXT, "The job."),
    must("sku", TEXT, "The SKU that the job claims."),
    must("category", TEXT, "The category that the job claims."),
    must("verdict", TEXT, "authentic, counterfeit or inconclusive."),
    may("confidence", FLOAT, "Probability of the stated verdict; null when inconclusive."),
    may("p_genuine", FLOAT, "Posterior probability of genuine; null when nothing could be scored."),
    must("reasons", JSON, "[{code, view, detail}, ...]."),
    must("missing_views", TEXTS, "Required views that were absent or unusable."),
    must("nearest_skus", TEXTS, "SKUs that the photographs resemble most."),
    must("provenance", JSON, "Engines, degraded, gallery revision, calibration id, build."),
    must("timings", JSON, "Milliseconds a stage."),
    must("event", BYTES, "The published message, byte for byte."),
    must("event_headers", JSON, "Its headers, [[name, text], ...]."),
    must("digest", BYTES, "SHA-256 of `event`; the audit ledger seals it."),
    must("submitted_at", TIME, "When the sender made the job (UTC)."),
    may("serial", TEXT, "The serial number that the sender gave."),
    may("labels", JSON, "The sender's labels, {name: text}."),
    one_of("verdict", "verdict", ("authentic", "counterfeit", "inconclusive")),
    Index("ix_verdicts_tenant_job_id", "tenant", "job_id"),
    Index("ix_verdicts_tenant_judged_at", "tenant", "judged_at"),
    Index("ix_verdicts_supersedes", "supersedes", postgresql_where=text("supersedes IS NOT NULL")),
    Index("ix_verdicts_counterfeit", "judged_at", postgresql_where=text("verdict = 'counterfeit'")),
    partition_by=BY_MONTH,
)

later_verdicts = table(
    "later_verdicts",
    "Append-only: one row a verdict after a job's first: who was first with that revision, and where it stands.",
    must("tenant", TEXT, "Who asked.", primary_key=True),
    must("job_id", TEXT, "The job.", primary_key=True),
    must("revision", INTEGER, "From 2; it replaces the one before.", primary_key=True),
    must("result_id", ID, "The verdict."),
    must("judged_at", TIME, "The verdict's judged_at, which names its partition (UTC)."),
    must("src", TEXT, "topic/partition/offset of the record that it answers."),
    must("created_at", TIME, "When it was written (UTC).", server_default=NOW),
    UniqueConstraint("result_id"),
    CheckConstraint("revision > 1", name="revision"),
    Index("ix_later_verdicts_judged_at", "judged_at"),
)

view_results = table(
    "view_results",
    "By month: one row a view of a verdict.",
    must("result_id", ID, "The verdict.", primary_key=True),
    must("view", TEXT, "The view's role.", primary_key=True),
    must("judged_at", TIME, "The verdict's judged_at (UTC); the partition key.", primary_key=True),
    must("tenant", TEXT, "Who asked."),
    must("job_id", TEXT, "The job."),
    must("sku", TEXT, "The SKU that the job claims."),
    must("category", TEXT, "The category that the job claims."),
    must("sha256", BYTES, "SHA-256 of the photograph that was judged."),
    must("usable", BOOLEAN, "Whether the view took part."),
    may("unusable_code", TEXT, "Why it did not."),
    may("encoder", TEXT, "The encoder that looked at it."),
    may("similarity", FLOAT, "Best cosine to a genuine reference of the SKU."),
    may("counterfeit_similarity", FLOAT, "Best cosine to a known counterfeit of the SKU."),
    may("other_sku", TEXT, "Nearest other SKU."),
    may("other_sku_similarity", FLOAT, "Cosine to it."),
    may("deviation", FLOAT, "Mean of the most departing 5 % of cells, in units of the references' own spread."),
    may("p_genuine", FLOAT, "Calibrated probability of genuine, this view alone."),
    may("aligned", BOOLEAN, "Whether the view could be laid over its references."),
    must("quality", JSON, "Quality measures by name."),
    must("matches", JSON, "References compared, best first: [{reference_id, similarity}, ...]."),
    may("media_type", TEXT, "The media type that the sender gave."),
    Index("ix_view_results_tenant_job_id", "tenant", "job_id"),
    partition_by=BY_MONTH,
)

attention_maps = table(
    "attention_maps",
    "By month: all maps of a verdict in one row.",
    must("result_id", ID, "The verdict.", primary_key=True),
    must("judged_at", TIME, "The verdict's judged_at (UTC); the partition key.", primary_key=True),
    must("tenant", TEXT, "Who asked."),
    must("job_id", TEXT, "The job."),
    must("index", JSON, "[{view, kind, height, width, start}, ...]; kind is attention or deviation."),
    must("cells", BYTES, "The maps one after another, 8-bit, row-major; 255 is most."),
    partition_by=BY_MONTH,
)

dead_letters = table(
    "dead_letters",
    "One row a message that could not be answered with a verdict, with its original bytes.",
    must("id", ID, "UUIDv5 of the source and the content: a redelivery is the same letter.", primary_key=True),
    may("tenant", TEXT, "Who asked, where that could be read."),
    may("job_id", TEXT, "The job, where that could be read."),
    must("topic", TEXT, "Topic of the record."),
    must("partition", INTEGER, "Partition of the record."),
    must("offset", BIGINT, "Offset of the record."),
    must("code", TEXT, "Error code of the contract's closed set."),
    must("stage", TEXT, "Stage that gave up."),
    must("detail", TEXT, "What was wrong, naming values."),
    may("key", BYTES, "Original key."),
    must("value", BYTES, "Original value."),
    must("headers", JSON, "Original headers, [[name, base64 value], ...]."),
    must("attempt", INTEGER, "Attempt that failed, from 1."),
    must("first_seen", TIME, "When the job was first seen (UTC)."),
    must("created_at", TIME, "When the letter was written (UTC).", server_default=NOW),
    may("replayed_at", TIME, "When a replay of it was answered (UTC)."),
    Index("ix_dead_letters_tenant_job_id", "tenant", "job_id"),
    Index("ix_dead_letters_created_at", "created_at"),
)

probe_images = table(
    "probe_images",
    "One row a usable view of a judged job, to find photographs that come back.",
    must("tenant", TEXT, "Who asked.", primary_key=True),
    must("job_id", TEXT, "The job.", primary_key=True),
    must("view", TEXT, "The view's role.", primary_key=True),
    must("sha256", BYTES, "SHA-256 of the photograph's bytes."),
    must("phash", BIGINT, "64-bit perceptual hash, as a signed number."),
    must("bands", INTEGERS, "The perceptual hash in five pieces, each with its place: equal pieces find near copies."),
    must("sku", TEXT, "The SKU that the job claims."),
    may("subject", TEXT, "The physical item, where the sender names it."),
    must("at", TIME, "When the job was judged (UTC)."),
    Index("ix_probe_images_tenant_sha256", "tenant", "sha256"),
)

known_photographs = table(
    "known_photographs",
    "Photographs of judged jobs, once each SKU, subject and embedding space: what a new one is compared with.",
    must("tenant", TEXT, "Who asked.", primary_key=True),
    must("sha256", BYTES, "SHA-256 of the photograph's bytes.", primary_key=True),
    must("sku", TEXT, "The SKU that the job claims.", primary_key=True),
    must("subject", TEXT, "The physical item, empty where the sender names none.", primary_key=True),
    must("space", TEXT, "The embedding space of the job's probe of it.", primary_key=True),
    must("phash", BIGINT, "64-bit perceptual hash, as a signed number."),
    must("bands", INTEGERS, "The perceptual hash in five pieces, each with its place: equal pieces find near copies."),
    must("job_id", TEXT, "The first job with it that is still there."),
    must("view", TEXT, "The view's role in that job."),
    must("at", TIME, "When that job was judged (UTC)."),
    Index("ix_known_photographs_pairs", PHASH_PAIRS, postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
    Index("ix_known_photographs_tenant_job_id", "tenant", "job_id"),
)

probe_embeddings = table(
    "probe_embeddings",
    "One row a usable view of a judged job: its embedding, for drift and re-evaluation.",
    must("tenant", TEXT, "Who asked.", primary_key=True),
    must("job_id", TEXT, "The job.", primary_key=True),
    must("view", TEXT, "The view's role.", primary_key=True),
    must("space", TEXT, "The embedding space.", ForeignKey("assay.embedding_spaces.space"), primary_key=True),
    must("embedding", HALFVEC(), "L2-normalised embedding, 16-bit floats."),
)

reviews = table(
    "reviews",
    "Append-only: what a person found. Never alters a verdict.",
    must("id", BIGINT, "Order of the reviews.", Identity(always=True), primary_key=True),
    must("tenant", TEXT, "Who asked."),
    must("job_id", TEXT, "The job."),
    may("result_id", ID, "The verdict that was reviewed."),
    must("decision", TEXT, "genuine or counterfeit."),
    must("by", TEXT, "Who decided."),
    must("why", TEXT, "On what grounds."),
    must("at", TIME, "When (UTC).", server_default=NOW),
    one_of("decision", "decision", ("genuine", "counterfeit")),
    Index("ix_reviews_tenant_job_id", "tenant", "job_id"),
)
