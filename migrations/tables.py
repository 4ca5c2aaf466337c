"""Every table of the schema `assay`, for adapters and for alembic's comparison."""

from __future__ import annotations

from migrations.answers import (
    PARTITIONED,
    attention_maps,
    dead_letters,
    jobs,
    known_photographs,
    later_verdicts,
    probe_embeddings,
    probe_images,
    reviews,
    verdicts,
    view_results,
)
from migrations.audit import audit_blocks, audit_entries, audit_pending, audit_records
from migrations.engines import (
    ENGINE_STATES,
    engine_comparisons,
    engine_events,
    engine_golden,
    engine_releases,
    engines,
)
from migrations.goods import (
    REFERENCE_STATES,
    calibrations,
    categories,
    embedding_spaces,
    gallery_revisions,
    items,
    reference_embeddings,
    reference_events,
    reference_grants,
    reference_images,
    view_requirements,
)
from migrations.operations import alarm_jobs, alarms, analyst_grants, attempts, drift_days
from migrations.schema import SCHEMA, VIEWS, metadata

__all__ = [
    "ENGINE_STATES",
    "PARTITIONED",
    "REFERENCE_STATES",
    "SCHEMA",
    "VIEWS",
    "alarm_jobs",
    "alarms",
    "analyst_grants",
    "attempts",
    "attention_maps",
    "audit_blocks",
    "audit_entries",
    "audit_pending",
    "audit_records",
    "calibrations",
    "categories",
    "dead_letters",
    "drift_days",
    "embedding_spaces",
    "engine_comparisons",
    "engine_events",
    "engine_golden",
    "engine_releases",
    "engines",
    "gallery_revisions",
    "items",
    "jobs",
    "known_photographs",
    "later_verdicts",
    "metadata",
    "probe_embeddings",
    "probe_images",
    "reference_embeddings",
    "reference_events",
    "reference_grants",
    "reference_images",
    "reviews",
    "verdicts",
    "view_requirements",
    "view_results",
]
