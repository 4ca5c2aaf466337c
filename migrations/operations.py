"""What keeps it running: attempts, alarms with what they are raised on, and who may read which tenant's answers."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Identity, Index, UniqueConstraint, text

from migrations.schema import (
    BIGINT,
    BOOLEAN,
    BYTES,
    DAY,
    FLOAT,
    ID,
    INTEGER,
    JSON,
    NOW,
    TEXT,
    TEXTS,
    TIME,
    may,
    must,
    table,
)

attempts = table(
    "attempts",
    "One row a record and process that is in the dangerous step, or died in it; rows of dead processes show poison.",
    must("topic", TEXT, "Topic of the record.", primary_key=True),
    must("partition", INTEGER, "Partition of the record.", primary_key=True, autoincrement=False),
    must("offset", BIGINT, "Offset of the record.", primary_key=True, autoincrement=False),
    may("tenant", TEXT, "Who asked."),
    may("job_id", TEXT, "The job."),
    must("instance", TEXT, "The worker."),
    must("process", ID, "The process, new at each start of the worker.", primary_key=True),
    must("solo", BOOLEAN, "Whether the job runs alone."),
    must("started_at", TIME, "When (UTC).", server_default=NOW),
    may("engines", TEXTS, "Steps of engines that served then, a candidate's last; null where they are fixed."),
)

alarms = table(
    "alarms",
    "One row an alarm. The watcher's are written before they are published.",
    must("id", BIGINT, "Order of the alarms.", Identity(always=True), primary_key=True),
    must("kind", TEXT, "What kind: repeated_counterfeit, calibration_stale, ..."),
    may("tenant", TEXT, "Whose, where it concerns one tenant."),
    must("detail", TEXT, "What is wrong, naming values."),
    must("labels", JSON, "Facts for machines."),
    must("raised_at", TIME, "When (UTC).", server_default=NOW),
    may("cleared_at", TIME, "When it ended (UTC)."),
    may("event_id", ID, "The alert's id, where it is published."),
    may("event", BYTES, "The published message, byte for byte."),
    may("event_headers", JSON, "Its headers, [[name, text], ...]."),
    may("published_at", TIME, "When assay.alerts confirmed it (UTC)."),
    Index("ix_alarms_raised_at", "raised_at"),
    Index("ix_alarms_unpublished", "id", postgresql_where=text("event IS NOT NULL AND published_at IS NULL")),
    UniqueConstraint("event_id"),
)

alarm_jobs = table(
    "alarm_jobs",
    "One row a job of a repeated counterfeit; later ones join the alarm that was raised. A job has one alarm at most.",
    must("tenant", TEXT, "Who asked.", primary_key=True),
    must("job_id", TEXT, "The job.", primary_key=True),
    must("alarm_id", BIGINT, "The alarm.", ForeignKey("assay.alarms.id"), index=True),
    must("sku", TEXT, "The SKU that the job claims."),
    may("serial", TEXT, "The serial number that the sender gave."),
    may("submitter", TEXT, "The sender's label of who submitted it."),
    must("judged_at", TIME, "When it was judged counterfeit (UTC)."),
    must("joined_at", TIME, "When it was found to belong (UTC).", server_default=NOW),
)

drift_days = table(
    "drift_days",
    "One row a distribution that was compared with the score calibration's, a UTC day.",
    must("day", DAY, "The last day that was compared, in UTC.", primary_key=True),
    must("category", TEXT, "The category that the jobs claim.", primary_key=True),
    must("calibration_id", TEXT, "The score calibration that judged them.", primary_key=True),
    must("engine", TEXT, "The encoder's name; * where it is of whole jobs.", primary_key=True),
    must("view", TEXT, "The view's role; * where it is of whole jobs.", primary_key=True),
    must("measure", TEXT, "score, abstention, similarity, deviation, or a measure of quality.", primary_key=True),
    must("since", DAY, "The first day that was compared: days of few jobs are taken together."),
    must("jobs", INTEGER, "Jobs compared."),
    must("items", INTEGER, "Items of the calibration that they were compared with; of two classes, the fewer."),
    must("distance", FLOAT, "Kolmogorov-Smirnov distance; of abstention, the rise of its rate."),
    must("threshold", FLOAT, "What the distance must exceed to count."),
    must("departed", BOOLEAN, "Whether it did."),
    must("tested_at", TIME, "When (UTC).", server_default=NOW),
)

analyst_grants = table(
    "analyst_grants",
    "One row a login role and a tenant whose answers it may read in the schema analyst.",
    must("role", TEXT, "Login role, a member of assay_analyst.", primary_key=True),
    must("tenant", TEXT, "The tenant; * for all.", primary_key=True),
)
