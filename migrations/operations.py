"""What keeps it running: attempts, alarms and who may read which tenant's answers."""

from __future__ import annotations

from sqlalchemy import Identity, Index

from migrations.schema import BIGINT, BOOLEAN, ID, INTEGER, JSON, NOW, TEXT, TIME, may, must, table

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
)

alarms = table(
    "alarms",
    "One row an alarm.",
    must("id", BIGINT, "Order of the alarms.", Identity(always=True), primary_key=True),
    must("kind", TEXT, "What kind: degraded, default_partition, drift, ..."),
    may("tenant", TEXT, "Whose, where it concerns one tenant."),
    must("detail", TEXT, "What is wrong, naming values."),
    must("labels", JSON, "Facts for machines."),
    must("raised_at", TIME, "When (UTC).", server_default=NOW),
    may("cleared_at", TIME, "When it ended (UTC)."),
    Index("ix_alarms_raised_at", "raised_at"),
)

analyst_grants = table(
    "analyst_grants",
    "One row a login role and a tenant whose answers it may read in the schema analyst.",
    must("role", TEXT, "Login role, a member of assay_analyst.", primary_key=True),
    must("tenant", TEXT, "The tenant; * for all.", primary_key=True),
)
