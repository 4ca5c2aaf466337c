"""The index of published engines, and every change of state that they went through.

A change is a row of `engine_events`; a trigger of the owner's moves the engine's state with it, so that no state
changes without who and why, and nobody else may change one. The engines' files lie in a folder or S3, by id.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, text

from migrations.schema import BIGINT, INTEGER, JSON, NOW, TEXT, TIME, may, must, one_of, table

ENGINE_STATES = ("draft", "verified", "canary", "current", "previous", "retired")
ALONE = "state IN ('canary', 'current', 'previous')"
# engines.lifecycle decides which moves are legal; a test compares.
MOVES = (
    ("draft", "verified"),
    ("draft", "retired"),
    ("verified", "canary"),
    ("verified", "current"),
    ("verified", "retired"),
    ("canary", "current"),
    ("canary", "verified"),
    ("canary", "retired"),
    ("current", "previous"),
    ("current", "retired"),
    ("previous", "current"),
    ("previous", "retired"),
)

engines = table(
    "engines",
    "One row a published engine: an encoder's version for one kind of machine.",
    must("id", TEXT, "SHA-256 of its manifest's file, in hex; its files lie under it.", primary_key=True),
    must("name", TEXT, "Encoder name."),
    must("version", INTEGER, "Version of the encoder; only grows."),
    must("backend", TEXT, "What it is for: any, openvino, onnxruntime or tensorrt."),
    must("capability", TEXT, "Compute capability of the GPU that it is for; empty for any."),
    must("requires", TEXT, "Versions that must be there, in one line; empty for any."),
    must("precision", TEXT, "Precision of its quantised layers."),
    must("space", TEXT, "The embedding space it joined.", ForeignKey("assay.embedding_spaces.space")),
    must("digest", TEXT, "SHA-256 of its graph, as verdicts name it."),
    must("key_id", TEXT, "Key that signed it."),
    must("manifest", JSON, "The signed EngineManifest."),
    may("expires_at", TIME, "From when it is refused (UTC)."),
    must("published_at", TIME, "When it was published (UTC).", server_default=NOW),
    must("state", TEXT, "Its last state in engine_events, whose trigger sets it.", server_default=text("'draft'")),
    one_of("state", "state", ENGINE_STATES),
    CheckConstraint("version > 0", name="version"),
    UniqueConstraint("name", "version", "backend", "capability", "requires", "precision"),
    Index(
        "uq_engines_alone", "name", "backend", "capability", "requires", "state",
        unique=True, postgresql_where=text(ALONE),
    ),
)  # fmt: skip

engine_events = table(
    "engine_events",
    "Append-only: one row a change of an engine's state.",
    must("id", BIGINT, "Order of the changes.", Identity(always=True), primary_key=True),
    must("engine", TEXT, "The engine.", ForeignKey("assay.engines.id")),
    may("came_from", TEXT, "State before; null for its publication."),
    must("state", TEXT, "State after."),
    must("by", TEXT, "Who did it."),
    must("why", TEXT, "On what grounds."),
    must("at", TIME, "When (UTC).", server_default=NOW),
    must("role", TEXT, "Database role that did it.", server_default=text("SESSION_USER")),
    CheckConstraint(
        "CASE WHEN came_from IS NULL THEN state = 'draft' ELSE (came_from, state) IN ("
        + ", ".join(f"('{before}', '{after}')" for before, after in MOVES)
        + ") END",
        name="move",
    ),
    Index("ix_engine_events_engine", "engine", "id"),
)
