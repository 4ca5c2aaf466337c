"""What jobs are compared with: categories, items, references, their embeddings, engines and score calibrations."""

from __future__ import annotations

from pgvector.sqlalchemy import VECTOR
from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Identity, Index, UniqueConstraint, text

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

_GOES_WITH_CATEGORY = ForeignKey("assay.categories.category", ondelete="CASCADE")
_GOES_WITH_REFERENCE = ForeignKey("assay.reference_images.id", ondelete="CASCADE")

categories = table(
    "categories",
    "One row a category of goods: what its verdicts demand (CategoryProfile).",
    must("category", TEXT, "Name of the category, as jobs state it.", primary_key=True),
    must("alpha_accept", FLOAT, "Bound on counterfeits called authentic, 0 to 1."),
    must("alpha_reject", FLOAT, "Bound on genuine items called counterfeit, 0 to 1."),
    must("prior_genuine", FLOAT, "Declared share of genuine items among the jobs, 0 to 1."),
    must("min_references", INTEGER, "Fewest active genuine references a required view needs."),
    must("min_sharpness", FLOAT, "Quality limit: a view less sharp is asked for again."),
    must("min_brightness", FLOAT, "Quality limit: a darker view is asked for again, 0 to 1."),
    must("max_brightness", FLOAT, "Quality limit: a brighter view is asked for again, 0 to 1."),
    must("max_clipped", FLOAT, "Quality limit: largest share of clipped pixels, 0 to 1."),
    must("max_glare", FLOAT, "Quality limit: largest share of glare, 0 to 1."),
    must("min_placed", FLOAT, "Quality limit: a view that places less is misframed, 0 to 1.", server_default=text("0")),
    must("updated_at", TIME, "When the profile was last put (UTC).", server_default=NOW),
)

view_requirements = table(
    "view_requirements",
    "One row a view role of a category.",
    must(
        "category", TEXT, "The category.", ForeignKey("assay.categories.category", ondelete="CASCADE"), primary_key=True
    ),
    must("view", TEXT, "The role: logo, stitching, hardware, ...", primary_key=True),
    must("position", INTEGER, "Order of the roles as the profile lists them, from 0."),
    must("required", BOOLEAN, "Without this view the verdict is inconclusive."),
    must("critical", BOOLEAN, "This view alone can veto an authentic verdict."),
    must("masked", JSON, "Regions that vary by nature: [[left, top, right, bottom], ...] as fractions of the view."),
    may("quality", JSON, "Quality limits of this view in place of its category's: {limit: value}, all of them."),
)

items = table(
    "items",
    "One row a SKU of a tenant.",
    must("tenant", TEXT, "Owner of the item.", primary_key=True),
    must("sku", TEXT, "Stock keeping unit, as jobs claim it.", primary_key=True),
    must("category", TEXT, "Its category.", ForeignKey("assay.categories.category")),
    may("name", TEXT, "Name for people."),
    must("created_at", TIME, "When it was first enrolled (UTC).", server_default=NOW),
)

embedding_spaces = table(
    "embedding_spaces",
    "One row an embedding space; vectors of different spaces are never compared.",
    must("space", TEXT, "Digest of FP32 weights, architecture and preprocessing.", primary_key=True),
    must("dims", INTEGER, "Length of its embeddings."),
    must("created_at", TIME, "When it was first used (UTC).", server_default=NOW),
    UniqueConstraint("space", "dims"),
)

calibrations = table(
    "calibrations",
    "One row a score calibration; the active ones decide.",
    must("id", TEXT, "Calibration id, as verdicts name it.", primary_key=True),
    must("backend", TEXT, "Backend that it was measured on."),
    must("engine_digests", TEXTS, "Digests of the engines that it was measured with, ascending."),
    must("document", JSON, "The ScoreCalibration."),
    must("n", INTEGER, "Labelled items that it was fitted on."),
    must("created_at", TIME, "When it was put (UTC).", server_default=NOW),
    must("active", BOOLEAN, "Whether workers use it."),
)

REFERENCE_STATES = ("draft", "active", "quarantined", "retired")

reference_images = table(
    "reference_images",
    "One row a reference photograph: genuine, or a known counterfeit.",
    must("id", ID, "Reference id, UUIDv5 of tenant, SKU, view and digest.", primary_key=True),
    must("tenant", TEXT, "Owner; others see it by reference_grants."),
    must("sku", TEXT, "The SKU that it shows."),
    must("view", TEXT, "The role that it shows."),
    must("genuine", BOOLEAN, "False: a known counterfeit of the SKU."),
    must("sha256", BYTES, "SHA-256 of the photograph's bytes."),
    must("phash", BIGINT, "64-bit perceptual hash, as a signed number."),
    must("bands", INTEGERS, "The perceptual hash in five pieces, each with its place: equal pieces find near copies."),
    must("provenance", JSON, "Where the photograph came from."),
    may("approved_by", TEXT, "Who let it become active."),
    must("state", TEXT, "draft, active, quarantined or retired; reference_events holds the history."),
    must("created_at", TIME, "When it was enrolled (UTC).", server_default=NOW),
    ForeignKeyConstraint(["tenant", "sku"], ["assay.items.tenant", "assay.items.sku"]),
    UniqueConstraint("tenant", "sku", "view", "sha256"),
    one_of("state", "state", REFERENCE_STATES),
    CheckConstraint("state <> 'active' OR approved_by IS NOT NULL", name="active_is_approved"),
    Index("ix_reference_images_sha256", "sha256"),
    Index("ix_reference_images_bands", "bands", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
    Index("ix_reference_images_pairs", PHASH_PAIRS, postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
)

reference_events = table(
    "reference_events",
    "Append-only: every change of a reference's state.",
    must("id", BIGINT, "Order of the events.", Identity(always=True), primary_key=True),
    must("reference_id", ID, "The reference.", ForeignKey("assay.reference_images.id"), index=True),
    must("state", TEXT, "The state that it entered."),
    must("by", TEXT, "Who did it."),
    must("why", TEXT, "Why, in words."),
    must("at", TIME, "When (UTC).", server_default=NOW),
    one_of("state", "state", REFERENCE_STATES),
)

reference_embeddings = table(
    "reference_embeddings",
    "One row a reference in an embedding space.",
    must(
        "reference_id",
        ID,
        "The reference.",
        ForeignKey("assay.reference_images.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    must("space", TEXT, "The embedding space.", primary_key=True),
    must("dims", INTEGER, "Length of the embedding, as the space says."),
    must("embedding", VECTOR(), "L2-normalised embedding of the whole photograph."),
    must("patches", BYTES, "Patch features, int8 row-major [grid_h * grid_w, patch_dims]: round(127 * x)."),
    must("grid_h", INTEGER, "Rows of the patch grid."),
    must("grid_w", INTEGER, "Columns of the patch grid."),
    must("engine_digest", TEXT, "The engine that made it."),
    must("created_at", TIME, "When it was made (UTC).", server_default=NOW),
    # A vector of another length, or of a space nobody declared, cannot enter.
    ForeignKeyConstraint(["space", "dims"], ["assay.embedding_spaces.space", "assay.embedding_spaces.dims"]),
    CheckConstraint("vector_dims(embedding) = dims", name="dims"),
    CheckConstraint("grid_h > 0 AND grid_w > 0 AND length(patches) % (grid_h * grid_w) = 0", name="patches"),
)

reference_grants = table(
    "reference_grants",
    "One row a sharing: `grantee` compares with the references of `owner` too.",
    must("owner", TEXT, "Tenant whose references are shared.", primary_key=True),
    must("grantee", TEXT, "Tenant that may compare with them.", primary_key=True, index=True),
    must("by", TEXT, "Who granted it."),
    must("at", TIME, "When (UTC).", server_default=NOW),
    CheckConstraint("owner <> grantee", name="not_to_itself"),
)

gallery_revisions = table(
    "gallery_revisions",
    "Append-only: every change that workers must mirror, in commit order.",
    must("revision", BIGINT, "The revision; verdicts name it.", Identity(always=True), primary_key=True),
    must("tenant", TEXT, "Whose gallery moved; * for all (categories, score calibrations)."),
    must("why", TEXT, "Why, in words."),
    must("by", TEXT, "Who did it."),
    must("at", TIME, "When (UTC).", server_default=NOW),
    Index("ix_gallery_revisions_tenant_revision", "tenant", "revision"),
)
