"""The index of published engines, and every change of state that they went through.

A change is a row of `engine_events`; a trigger of the owner's moves the engine's state with it, so that no state
changes without who and why, and nobody else may change one. The engines' files lie in a folder or S3, by id.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, text

from migrations.schema import BIGINT, FLOAT, ID, INTEGER, JSON, NOW, TEXT, TIME, may, must, one_of, table

ENGINE_STATES = ("draft", "verified", "canary", "current", "previous", "retired")
RELEASE_STATES = ("running", "promoted", "taken_back", "held")
VERDICTS = ("authentic", "counterfeit", "inconclusive")
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

engine_releases = table(
    "engine_releases",
    "One row a release of a candidate engine beside the current one. It is decided once, and then never changed.",
    must("id", ID, "The release.", primary_key=True),
    must("name", TEXT, "Encoder name; one release a name runs at a time."),
    must("candidate", TEXT, "The engine that is tried.", ForeignKey("assay.engines.id")),
    must("current", TEXT, "The engine that it would replace.", ForeignKey("assay.engines.id")),
    must(
        "mode",
        TEXT,
        "canary: the candidate's verdicts are published for its share; shadow: the current engine's are.",
    ),
    must("share", FLOAT, "Share of the jobs that run on both engines, above 0 to 1."),
    must("started_at", TIME, "When (UTC).", server_default=NOW),
    must("by", TEXT, "Who started it."),
    must("why", TEXT, "On what grounds."),
    must("state", TEXT, "running, or how it was decided: promoted, taken_back or held.", server_default="running"),
    may("decided_at", TIME, "When it was decided (UTC)."),
    may("decision", JSON, "Who decided, why, and the numbers that it rests on."),
    one_of("mode", "mode", ("canary", "shadow")),
    one_of("state", "state", RELEASE_STATES),
    CheckConstraint("share > 0 AND share <= 1", name="share"),
    CheckConstraint("candidate <> current", name="two_engines"),
    CheckConstraint(
        "(state = 'running') = (decided_at IS NULL) AND (state = 'running') = (decision IS NULL)", name="decided"
    ),
    Index("uq_engine_releases_running", "name", unique=True, postgresql_where=text("state = 'running'")),
    Index("ix_engine_releases_name_started_at", "name", "started_at"),
)

engine_golden = table(
    "engine_golden",
    "One row a golden job: its truth is known. A curator registers it before it is submitted.",
    must("tenant", TEXT, "Who will ask.", primary_key=True),
    must("job_id", TEXT, "The job.", primary_key=True),
    must("label", TEXT, "What it truly shows: genuine or counterfeit."),
    must("by", TEXT, "Who answers for the label."),
    must("why", TEXT, "On what grounds."),
    must("at", TIME, "When it was registered (UTC).", server_default=NOW),
    one_of("label", "label", ("genuine", "counterfeit")),
)

engine_comparisons = table(
    "engine_comparisons",
    "One row a job that ran on both engines of a release.",
    must("release_id", ID, "The release.", ForeignKey("assay.engine_releases.id"), primary_key=True),
    must("tenant", TEXT, "Who asked.", primary_key=True),
    must("job_id", TEXT, "The job.", primary_key=True),
    must("at", TIME, "When it was compared (UTC).", server_default=NOW),
    must("published", TEXT, "Whose verdict was published: candidate or current."),
    must("current_verdict", TEXT, "What the current engine led to."),
    may("candidate_verdict", TEXT, "What the candidate led to; null where it failed."),
    may("current_p_genuine", FLOAT, "Posterior of genuine; null when nothing could be scored."),
    may("candidate_p_genuine", FLOAT, "The same of the candidate."),
    must("current_ms", FLOAT, "Milliseconds that the job's views took on the current engine."),
    may("candidate_ms", FLOAT, "The same of the candidate; null where it failed."),
    may("candidate_error", TEXT, "Why the candidate has no verdict."),
    may(
        "golden_label",
        TEXT,
        "genuine or counterfeit, where the job was registered as golden before; a trigger sets it.",
    ),
    one_of("published", "published", ("candidate", "current")),
    one_of("current_verdict", "current_verdict", VERDICTS),
    one_of("candidate_verdict", "candidate_verdict", VERDICTS),
    CheckConstraint(
        "candidate_error IS NOT NULL OR (candidate_verdict IS NOT NULL AND candidate_ms IS NOT NULL)",
        name="candidate_end",
    ),
    Index("ix_engine_comparisons_tenant_job_id", "tenant", "job_id"),
)
