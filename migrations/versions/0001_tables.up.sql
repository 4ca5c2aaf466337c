CREATE TABLE assay.alarms (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    kind TEXT NOT NULL,
    tenant TEXT,
    detail TEXT NOT NULL,
    labels JSONB NOT NULL,
    raised_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    cleared_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_alarms PRIMARY KEY (id)
);
CREATE INDEX ix_alarms_raised_at ON assay.alarms (raised_at);
COMMENT ON TABLE assay.alarms IS 'One row an alarm.';
COMMENT ON COLUMN assay.alarms.id IS 'Order of the alarms.';
COMMENT ON COLUMN assay.alarms.kind IS 'What kind: degraded, default_partition, drift, ...';
COMMENT ON COLUMN assay.alarms.tenant IS 'Whose, where it concerns one tenant.';
COMMENT ON COLUMN assay.alarms.detail IS 'What is wrong, naming values.';
COMMENT ON COLUMN assay.alarms.labels IS 'Facts for machines.';
COMMENT ON COLUMN assay.alarms.raised_at IS 'When (UTC).';
COMMENT ON COLUMN assay.alarms.cleared_at IS 'When it ended (UTC).';

CREATE TABLE assay.analyst_grants (
    role TEXT NOT NULL,
    tenant TEXT NOT NULL,
    CONSTRAINT pk_analyst_grants PRIMARY KEY (role, tenant)
);
COMMENT ON TABLE assay.analyst_grants IS 'One row a login role and a tenant whose answers it may read in the schema analyst.';
COMMENT ON COLUMN assay.analyst_grants.role IS 'Login role, a member of assay_analyst.';
COMMENT ON COLUMN assay.analyst_grants.tenant IS 'The tenant; * for all.';

CREATE TABLE assay.attempts (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    tenant TEXT,
    job_id TEXT,
    instance TEXT NOT NULL,
    process UUID NOT NULL,
    solo BOOLEAN NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    ended_by TEXT,
    CONSTRAINT pk_attempts PRIMARY KEY (id)
);
CREATE INDEX ix_attempts_source ON assay.attempts (topic, partition, "offset");
COMMENT ON TABLE assay.attempts IS 'One row a start of a dangerous step, closed when it ends; open rows of dead processes show poison.';
COMMENT ON COLUMN assay.attempts.id IS 'Order of the starts.';
COMMENT ON COLUMN assay.attempts.topic IS 'Topic of the record.';
COMMENT ON COLUMN assay.attempts.partition IS 'Partition of the record.';
COMMENT ON COLUMN assay.attempts."offset" IS 'Offset of the record.';
COMMENT ON COLUMN assay.attempts.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.attempts.job_id IS 'The job.';
COMMENT ON COLUMN assay.attempts.instance IS 'The worker.';
COMMENT ON COLUMN assay.attempts.process IS 'The process, new at each start of the worker.';
COMMENT ON COLUMN assay.attempts.solo IS 'Whether the job ran alone.';
COMMENT ON COLUMN assay.attempts.started_at IS 'When (UTC).';
COMMENT ON COLUMN assay.attempts.ended_at IS 'When it ended in order (UTC).';
COMMENT ON COLUMN assay.attempts.ended_by IS 'outcome, drain, revoke or stop.';

CREATE TABLE assay.attention_maps (
    result_id UUID NOT NULL,
    judged_at TIMESTAMP WITH TIME ZONE NOT NULL,
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    index JSONB NOT NULL,
    cells BYTEA NOT NULL,
    CONSTRAINT pk_attention_maps PRIMARY KEY (result_id, judged_at)
)
 PARTITION BY RANGE (judged_at);
COMMENT ON TABLE assay.attention_maps IS 'By month: all maps of a verdict in one row.';
COMMENT ON COLUMN assay.attention_maps.result_id IS 'The verdict.';
COMMENT ON COLUMN assay.attention_maps.judged_at IS 'The verdict''s judged_at (UTC); the partition key.';
COMMENT ON COLUMN assay.attention_maps.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.attention_maps.job_id IS 'The job.';
COMMENT ON COLUMN assay.attention_maps.index IS '[{view, kind, height, width, start}, ...]; kind is attention or deviation.';
COMMENT ON COLUMN assay.attention_maps.cells IS 'The maps one after another, 8-bit, row-major; 255 is most.';

CREATE TABLE assay.audit_blocks (
    tenant TEXT NOT NULL,
    height BIGINT NOT NULL,
    kind TEXT NOT NULL,
    previous BYTEA NOT NULL,
    root BYTEA NOT NULL,
    digest BYTEA NOT NULL,
    key_id TEXT NOT NULL,
    signature BYTEA NOT NULL,
    sealed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_audit_blocks PRIMARY KEY (tenant, height)
);
COMMENT ON TABLE assay.audit_blocks IS 'Append-only: the sealed chain of a tenant''s verdicts.';
COMMENT ON COLUMN assay.audit_blocks.tenant IS 'Whose chain.';
COMMENT ON COLUMN assay.audit_blocks.height IS 'Place in the chain, from 0.';
COMMENT ON COLUMN assay.audit_blocks.kind IS 'verdicts, or retention where a partition was dropped.';
COMMENT ON COLUMN assay.audit_blocks.previous IS 'Digest of the block before.';
COMMENT ON COLUMN assay.audit_blocks.root IS 'Digest over the block''s entries in order.';
COMMENT ON COLUMN assay.audit_blocks.digest IS 'Digest of this block''s head.';
COMMENT ON COLUMN assay.audit_blocks.key_id IS 'Key that signed the head.';
COMMENT ON COLUMN assay.audit_blocks.signature IS 'Signature over the head.';
COMMENT ON COLUMN assay.audit_blocks.sealed_at IS 'When (UTC).';

CREATE TABLE assay.audit_entries (
    tenant TEXT NOT NULL,
    height BIGINT NOT NULL,
    position INTEGER NOT NULL,
    result_id UUID NOT NULL,
    digest BYTEA NOT NULL,
    CONSTRAINT pk_audit_entries PRIMARY KEY (tenant, height, position),
    CONSTRAINT uq_audit_entries_tenant_result_id UNIQUE (tenant, result_id)
);
COMMENT ON TABLE assay.audit_entries IS 'Append-only: the verdicts that a block seals.';
COMMENT ON COLUMN assay.audit_entries.tenant IS 'Whose chain.';
COMMENT ON COLUMN assay.audit_entries.height IS 'The block.';
COMMENT ON COLUMN assay.audit_entries.position IS 'Place in the block, from 0.';
COMMENT ON COLUMN assay.audit_entries.result_id IS 'The verdict.';
COMMENT ON COLUMN assay.audit_entries.digest IS 'SHA-256 of its event.';

CREATE TABLE assay.calibrations (
    id TEXT NOT NULL,
    backend TEXT NOT NULL,
    engine_digests TEXT[] NOT NULL,
    document JSONB NOT NULL,
    n INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    active BOOLEAN NOT NULL,
    CONSTRAINT pk_calibrations PRIMARY KEY (id)
);
COMMENT ON TABLE assay.calibrations IS 'One row a score calibration; the active ones decide.';
COMMENT ON COLUMN assay.calibrations.id IS 'Calibration id, as verdicts name it.';
COMMENT ON COLUMN assay.calibrations.backend IS 'Backend that it was measured on.';
COMMENT ON COLUMN assay.calibrations.engine_digests IS 'Digests of the engines that it was measured with, ascending.';
COMMENT ON COLUMN assay.calibrations.document IS 'The ScoreCalibration.';
COMMENT ON COLUMN assay.calibrations.n IS 'Labelled items that it was fitted on.';
COMMENT ON COLUMN assay.calibrations.created_at IS 'When it was put (UTC).';
COMMENT ON COLUMN assay.calibrations.active IS 'Whether workers use it.';

CREATE TABLE assay.categories (
    category TEXT NOT NULL,
    alpha_accept DOUBLE PRECISION NOT NULL,
    alpha_reject DOUBLE PRECISION NOT NULL,
    prior_genuine DOUBLE PRECISION NOT NULL,
    min_references INTEGER NOT NULL,
    min_sharpness DOUBLE PRECISION NOT NULL,
    min_brightness DOUBLE PRECISION NOT NULL,
    max_brightness DOUBLE PRECISION NOT NULL,
    max_clipped DOUBLE PRECISION NOT NULL,
    max_glare DOUBLE PRECISION NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_categories PRIMARY KEY (category)
);
COMMENT ON TABLE assay.categories IS 'One row a category of goods: what its verdicts demand (CategoryProfile).';
COMMENT ON COLUMN assay.categories.category IS 'Name of the category, as jobs state it.';
COMMENT ON COLUMN assay.categories.alpha_accept IS 'Bound on counterfeits called authentic, 0 to 1.';
COMMENT ON COLUMN assay.categories.alpha_reject IS 'Bound on genuine items called counterfeit, 0 to 1.';
COMMENT ON COLUMN assay.categories.prior_genuine IS 'Declared share of genuine items among the jobs, 0 to 1.';
COMMENT ON COLUMN assay.categories.min_references IS 'Fewest active genuine references a required view needs.';
COMMENT ON COLUMN assay.categories.min_sharpness IS 'Quality limit: a view less sharp is asked for again.';
COMMENT ON COLUMN assay.categories.min_brightness IS 'Quality limit: a darker view is asked for again, 0 to 1.';
COMMENT ON COLUMN assay.categories.max_brightness IS 'Quality limit: a brighter view is asked for again, 0 to 1.';
COMMENT ON COLUMN assay.categories.max_clipped IS 'Quality limit: largest share of clipped pixels, 0 to 1.';
COMMENT ON COLUMN assay.categories.max_glare IS 'Quality limit: largest share of glare, 0 to 1.';
COMMENT ON COLUMN assay.categories.updated_at IS 'When the profile was last put (UTC).';

CREATE TABLE assay.dead_letters (
    id UUID NOT NULL,
    tenant TEXT,
    job_id TEXT,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    "offset" BIGINT NOT NULL,
    code TEXT NOT NULL,
    stage TEXT NOT NULL,
    detail TEXT NOT NULL,
    key BYTEA,
    value BYTEA NOT NULL,
    headers JSONB NOT NULL,
    attempt INTEGER NOT NULL,
    first_seen TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    replayed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_dead_letters PRIMARY KEY (id)
);
CREATE INDEX ix_dead_letters_created_at ON assay.dead_letters (created_at);
CREATE INDEX ix_dead_letters_tenant_job_id ON assay.dead_letters (tenant, job_id);
COMMENT ON TABLE assay.dead_letters IS 'One row a message that could not be answered with a verdict, with its original bytes.';
COMMENT ON COLUMN assay.dead_letters.id IS 'UUIDv5 of the source and the content: a redelivery is the same letter.';
COMMENT ON COLUMN assay.dead_letters.tenant IS 'Who asked, where that could be read.';
COMMENT ON COLUMN assay.dead_letters.job_id IS 'The job, where that could be read.';
COMMENT ON COLUMN assay.dead_letters.topic IS 'Topic of the record.';
COMMENT ON COLUMN assay.dead_letters.partition IS 'Partition of the record.';
COMMENT ON COLUMN assay.dead_letters."offset" IS 'Offset of the record.';
COMMENT ON COLUMN assay.dead_letters.code IS 'Error code of the contract''s closed set.';
COMMENT ON COLUMN assay.dead_letters.stage IS 'Stage that gave up.';
COMMENT ON COLUMN assay.dead_letters.detail IS 'What was wrong, naming values.';
COMMENT ON COLUMN assay.dead_letters.key IS 'Original key.';
COMMENT ON COLUMN assay.dead_letters.value IS 'Original value.';
COMMENT ON COLUMN assay.dead_letters.headers IS 'Original headers, [[name, base64 value], ...].';
COMMENT ON COLUMN assay.dead_letters.attempt IS 'Attempt that failed, from 1.';
COMMENT ON COLUMN assay.dead_letters.first_seen IS 'When the job was first seen (UTC).';
COMMENT ON COLUMN assay.dead_letters.created_at IS 'When the letter was written (UTC).';
COMMENT ON COLUMN assay.dead_letters.replayed_at IS 'When a replay of it was answered (UTC).';

CREATE TABLE assay.embedding_spaces (
    space TEXT NOT NULL,
    dims INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_embedding_spaces PRIMARY KEY (space),
    CONSTRAINT uq_embedding_spaces_space_dims UNIQUE (space, dims)
);
COMMENT ON TABLE assay.embedding_spaces IS 'One row an embedding space; vectors of different spaces are never compared.';
COMMENT ON COLUMN assay.embedding_spaces.space IS 'Digest of FP32 weights, architecture and preprocessing.';
COMMENT ON COLUMN assay.embedding_spaces.dims IS 'Length of its embeddings.';
COMMENT ON COLUMN assay.embedding_spaces.created_at IS 'When it was first used (UTC).';

CREATE TABLE assay.gallery_revisions (
    revision BIGINT GENERATED ALWAYS AS IDENTITY,
    tenant TEXT NOT NULL,
    why TEXT NOT NULL,
    by TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_gallery_revisions PRIMARY KEY (revision)
);
CREATE INDEX ix_gallery_revisions_tenant_revision ON assay.gallery_revisions (tenant, revision);
COMMENT ON TABLE assay.gallery_revisions IS 'Append-only: every change that workers must mirror, in commit order.';
COMMENT ON COLUMN assay.gallery_revisions.revision IS 'The revision; verdicts name it.';
COMMENT ON COLUMN assay.gallery_revisions.tenant IS 'Whose gallery moved; * for all (categories, score calibrations).';
COMMENT ON COLUMN assay.gallery_revisions.why IS 'Why, in words.';
COMMENT ON COLUMN assay.gallery_revisions.by IS 'Who did it.';
COMMENT ON COLUMN assay.gallery_revisions.at IS 'When (UTC).';

CREATE TABLE assay.jobs (
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    payload_digest BYTEA NOT NULL,
    state TEXT NOT NULL,
    result_id UUID,
    judged_at TIMESTAMP WITH TIME ZONE,
    dead_letter_id UUID,
    src TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_jobs PRIMARY KEY (tenant, job_id),
    CONSTRAINT ck_jobs_state CHECK (state IN ('judged', 'dead')),
    CONSTRAINT ck_jobs_points_at_its_end CHECK ((state = 'judged' AND result_id IS NOT NULL AND judged_at IS NOT NULL) OR (state = 'dead' AND dead_letter_id IS NOT NULL))
);
CREATE INDEX ix_jobs_created_at ON assay.jobs (created_at);
COMMENT ON TABLE assay.jobs IS 'One row a job that has an end: who was first, and where the answer stands.';
COMMENT ON COLUMN assay.jobs.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.jobs.job_id IS 'The sender''s idempotency key.';
COMMENT ON COLUMN assay.jobs.payload_digest IS 'SHA-256 over the job''s canonical content.';
COMMENT ON COLUMN assay.jobs.state IS 'judged or dead; a replay may turn dead into judged once.';
COMMENT ON COLUMN assay.jobs.result_id IS 'The first verdict, where judged.';
COMMENT ON COLUMN assay.jobs.judged_at IS 'The verdict''s judged_at, which names its partition (UTC).';
COMMENT ON COLUMN assay.jobs.dead_letter_id IS 'The dead letter, where dead or once dead.';
COMMENT ON COLUMN assay.jobs.src IS 'topic/partition/offset of the record that was answered: its redelivery is no duplicate.';
COMMENT ON COLUMN assay.jobs.created_at IS 'When the job got its first end (UTC).';

CREATE TABLE assay.probe_images (
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    view TEXT NOT NULL,
    sha256 BYTEA NOT NULL,
    phash BIGINT NOT NULL,
    bands INTEGER[] NOT NULL,
    sku TEXT NOT NULL,
    subject TEXT,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_probe_images PRIMARY KEY (tenant, job_id, view)
);
CREATE INDEX ix_probe_images_bands ON assay.probe_images USING gin (bands) WITH (fastupdate = off);
CREATE INDEX ix_probe_images_tenant_sha256 ON assay.probe_images (tenant, sha256);
COMMENT ON TABLE assay.probe_images IS 'One row a usable view of a judged job, to find photographs that come back.';
COMMENT ON COLUMN assay.probe_images.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.probe_images.job_id IS 'The job.';
COMMENT ON COLUMN assay.probe_images.view IS 'The view''s role.';
COMMENT ON COLUMN assay.probe_images.sha256 IS 'SHA-256 of the photograph''s bytes.';
COMMENT ON COLUMN assay.probe_images.phash IS '64-bit perceptual hash, as a signed number.';
COMMENT ON COLUMN assay.probe_images.bands IS 'The perceptual hash in five pieces, each with its place: equal pieces find near copies.';
COMMENT ON COLUMN assay.probe_images.sku IS 'The SKU that the job claims.';
COMMENT ON COLUMN assay.probe_images.subject IS 'The physical item, where the sender names it.';
COMMENT ON COLUMN assay.probe_images.at IS 'When the job was judged (UTC).';

CREATE TABLE assay.reference_grants (
    owner TEXT NOT NULL,
    grantee TEXT NOT NULL,
    by TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_reference_grants PRIMARY KEY (owner, grantee),
    CONSTRAINT ck_reference_grants_not_to_itself CHECK (owner <> grantee)
);
CREATE INDEX ix_reference_grants_grantee ON assay.reference_grants (grantee);
COMMENT ON TABLE assay.reference_grants IS 'One row a sharing: `grantee` compares with the references of `owner` too.';
COMMENT ON COLUMN assay.reference_grants.owner IS 'Tenant whose references are shared.';
COMMENT ON COLUMN assay.reference_grants.grantee IS 'Tenant that may compare with them.';
COMMENT ON COLUMN assay.reference_grants.by IS 'Who granted it.';
COMMENT ON COLUMN assay.reference_grants.at IS 'When (UTC).';

CREATE TABLE assay.reviews (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    result_id UUID,
    decision TEXT NOT NULL,
    by TEXT NOT NULL,
    why TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_reviews PRIMARY KEY (id),
    CONSTRAINT ck_reviews_decision CHECK (decision IN ('genuine', 'counterfeit'))
);
CREATE INDEX ix_reviews_tenant_job_id ON assay.reviews (tenant, job_id);
COMMENT ON TABLE assay.reviews IS 'Append-only: what a person found. Never alters a verdict.';
COMMENT ON COLUMN assay.reviews.id IS 'Order of the reviews.';
COMMENT ON COLUMN assay.reviews.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.reviews.job_id IS 'The job.';
COMMENT ON COLUMN assay.reviews.result_id IS 'The verdict that was reviewed.';
COMMENT ON COLUMN assay.reviews.decision IS 'genuine or counterfeit.';
COMMENT ON COLUMN assay.reviews.by IS 'Who decided.';
COMMENT ON COLUMN assay.reviews.why IS 'On what grounds.';
COMMENT ON COLUMN assay.reviews.at IS 'When (UTC).';

CREATE TABLE assay.verdicts (
    result_id UUID NOT NULL,
    judged_at TIMESTAMP WITH TIME ZONE NOT NULL,
    revision INTEGER NOT NULL,
    supersedes UUID,
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    sku TEXT NOT NULL,
    category TEXT NOT NULL,
    verdict TEXT NOT NULL,
    confidence DOUBLE PRECISION,
    p_genuine DOUBLE PRECISION,
    reasons JSONB NOT NULL,
    missing_views TEXT[] NOT NULL,
    nearest_skus TEXT[] NOT NULL,
    provenance JSONB NOT NULL,
    timings JSONB NOT NULL,
    event BYTEA NOT NULL,
    event_headers JSONB NOT NULL,
    digest BYTEA NOT NULL,
    submitted_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_verdicts PRIMARY KEY (result_id, judged_at),
    CONSTRAINT ck_verdicts_verdict CHECK (verdict IN ('authentic', 'counterfeit', 'inconclusive'))
)
 PARTITION BY RANGE (judged_at);
CREATE INDEX ix_verdicts_supersedes ON assay.verdicts (supersedes) WHERE supersedes IS NOT NULL;
CREATE INDEX ix_verdicts_tenant_job_id ON assay.verdicts (tenant, job_id);
CREATE INDEX ix_verdicts_tenant_judged_at ON assay.verdicts (tenant, judged_at);
COMMENT ON TABLE assay.verdicts IS 'Append-only, by month: one row a verdict. A re-evaluation adds a row that supersedes.';
COMMENT ON COLUMN assay.verdicts.result_id IS 'UUIDv5 of tenant, job and revision.';
COMMENT ON COLUMN assay.verdicts.judged_at IS 'When it was decided (UTC); the partition key.';
COMMENT ON COLUMN assay.verdicts.revision IS 'From 1; a re-evaluation is the next.';
COMMENT ON COLUMN assay.verdicts.supersedes IS 'The result that this one replaces.';
COMMENT ON COLUMN assay.verdicts.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.verdicts.job_id IS 'The job.';
COMMENT ON COLUMN assay.verdicts.sku IS 'The SKU that the job claims.';
COMMENT ON COLUMN assay.verdicts.category IS 'The category that the job claims.';
COMMENT ON COLUMN assay.verdicts.verdict IS 'authentic, counterfeit or inconclusive.';
COMMENT ON COLUMN assay.verdicts.confidence IS 'Probability of the stated verdict; null when inconclusive.';
COMMENT ON COLUMN assay.verdicts.p_genuine IS 'Posterior probability of genuine; null when nothing could be scored.';
COMMENT ON COLUMN assay.verdicts.reasons IS '[{code, view, detail}, ...].';
COMMENT ON COLUMN assay.verdicts.missing_views IS 'Required views that were absent or unusable.';
COMMENT ON COLUMN assay.verdicts.nearest_skus IS 'SKUs that the photographs resemble most.';
COMMENT ON COLUMN assay.verdicts.provenance IS 'Engines, degraded, gallery revision, calibration id, build.';
COMMENT ON COLUMN assay.verdicts.timings IS 'Milliseconds a stage.';
COMMENT ON COLUMN assay.verdicts.event IS 'The published message, byte for byte.';
COMMENT ON COLUMN assay.verdicts.event_headers IS 'Its headers, [[name, text], ...].';
COMMENT ON COLUMN assay.verdicts.digest IS 'SHA-256 of `event`; the audit ledger seals it.';
COMMENT ON COLUMN assay.verdicts.submitted_at IS 'When the sender made the job (UTC).';

CREATE TABLE assay.view_results (
    result_id UUID NOT NULL,
    view TEXT NOT NULL,
    judged_at TIMESTAMP WITH TIME ZONE NOT NULL,
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    sku TEXT NOT NULL,
    category TEXT NOT NULL,
    sha256 BYTEA NOT NULL,
    usable BOOLEAN NOT NULL,
    unusable_code TEXT,
    encoder TEXT,
    similarity DOUBLE PRECISION,
    counterfeit_similarity DOUBLE PRECISION,
    other_sku TEXT,
    other_sku_similarity DOUBLE PRECISION,
    deviation DOUBLE PRECISION,
    p_genuine DOUBLE PRECISION,
    aligned BOOLEAN,
    quality JSONB NOT NULL,
    matches JSONB NOT NULL,
    CONSTRAINT pk_view_results PRIMARY KEY (result_id, view, judged_at)
)
 PARTITION BY RANGE (judged_at);
CREATE INDEX ix_view_results_tenant_job_id ON assay.view_results (tenant, job_id);
COMMENT ON TABLE assay.view_results IS 'By month: one row a view of a verdict.';
COMMENT ON COLUMN assay.view_results.result_id IS 'The verdict.';
COMMENT ON COLUMN assay.view_results.view IS 'The view''s role.';
COMMENT ON COLUMN assay.view_results.judged_at IS 'The verdict''s judged_at (UTC); the partition key.';
COMMENT ON COLUMN assay.view_results.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.view_results.job_id IS 'The job.';
COMMENT ON COLUMN assay.view_results.sku IS 'The SKU that the job claims.';
COMMENT ON COLUMN assay.view_results.category IS 'The category that the job claims.';
COMMENT ON COLUMN assay.view_results.sha256 IS 'SHA-256 of the photograph that was judged.';
COMMENT ON COLUMN assay.view_results.usable IS 'Whether the view took part.';
COMMENT ON COLUMN assay.view_results.unusable_code IS 'Why it did not.';
COMMENT ON COLUMN assay.view_results.encoder IS 'The encoder that looked at it.';
COMMENT ON COLUMN assay.view_results.similarity IS 'Best cosine to a genuine reference of the SKU.';
COMMENT ON COLUMN assay.view_results.counterfeit_similarity IS 'Best cosine to a known counterfeit of the SKU.';
COMMENT ON COLUMN assay.view_results.other_sku IS 'Nearest other SKU.';
COMMENT ON COLUMN assay.view_results.other_sku_similarity IS 'Cosine to it.';
COMMENT ON COLUMN assay.view_results.deviation IS 'Mean of the most departing 5 % of cells, in units of the references'' own spread.';
COMMENT ON COLUMN assay.view_results.p_genuine IS 'Calibrated probability of genuine, this view alone.';
COMMENT ON COLUMN assay.view_results.aligned IS 'Whether the view could be laid over its references.';
COMMENT ON COLUMN assay.view_results.quality IS 'Quality measures by name.';
COMMENT ON COLUMN assay.view_results.matches IS 'References compared, best first: [{reference_id, similarity}, ...].';

CREATE TABLE assay.engines (
    digest TEXT NOT NULL,
    name TEXT NOT NULL,
    backend TEXT NOT NULL,
    precision TEXT NOT NULL,
    space TEXT NOT NULL,
    manifest JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    retired_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_engines PRIMARY KEY (digest),
    CONSTRAINT fk_engines_space FOREIGN KEY(space) REFERENCES assay.embedding_spaces (space)
);
COMMENT ON TABLE assay.engines IS 'One row an engine that may serve: an encoder at a precision on a backend.';
COMMENT ON COLUMN assay.engines.digest IS 'Digest of the engine''s bytes.';
COMMENT ON COLUMN assay.engines.name IS 'Encoder name.';
COMMENT ON COLUMN assay.engines.backend IS 'openvino, onnxruntime or tensorrt.';
COMMENT ON COLUMN assay.engines.precision IS 'Precision a layer group, in words.';
COMMENT ON COLUMN assay.engines.space IS 'The embedding space it joined.';
COMMENT ON COLUMN assay.engines.manifest IS 'The signed EngineManifest.';
COMMENT ON COLUMN assay.engines.created_at IS 'When it was published (UTC).';
COMMENT ON COLUMN assay.engines.retired_at IS 'When it stopped being offered (UTC).';

CREATE TABLE assay.items (
    tenant TEXT NOT NULL,
    sku TEXT NOT NULL,
    category TEXT NOT NULL,
    name TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_items PRIMARY KEY (tenant, sku),
    CONSTRAINT fk_items_category FOREIGN KEY(category) REFERENCES assay.categories (category)
);
COMMENT ON TABLE assay.items IS 'One row a SKU of a tenant.';
COMMENT ON COLUMN assay.items.tenant IS 'Owner of the item.';
COMMENT ON COLUMN assay.items.sku IS 'Stock keeping unit, as jobs claim it.';
COMMENT ON COLUMN assay.items.category IS 'Its category.';
COMMENT ON COLUMN assay.items.name IS 'Name for people.';
COMMENT ON COLUMN assay.items.created_at IS 'When it was first enrolled (UTC).';

CREATE TABLE assay.probe_embeddings (
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    view TEXT NOT NULL,
    space TEXT NOT NULL,
    embedding HALFVEC NOT NULL,
    CONSTRAINT pk_probe_embeddings PRIMARY KEY (tenant, job_id, view, space),
    CONSTRAINT fk_probe_embeddings_space FOREIGN KEY(space) REFERENCES assay.embedding_spaces (space)
);
COMMENT ON TABLE assay.probe_embeddings IS 'One row a usable view of a judged job: its embedding, for drift and re-evaluation.';
COMMENT ON COLUMN assay.probe_embeddings.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.probe_embeddings.job_id IS 'The job.';
COMMENT ON COLUMN assay.probe_embeddings.view IS 'The view''s role.';
COMMENT ON COLUMN assay.probe_embeddings.space IS 'The embedding space.';
COMMENT ON COLUMN assay.probe_embeddings.embedding IS 'L2-normalised embedding, 16-bit floats.';

CREATE TABLE assay.view_requirements (
    category TEXT NOT NULL,
    view TEXT NOT NULL,
    position INTEGER NOT NULL,
    required BOOLEAN NOT NULL,
    critical BOOLEAN NOT NULL,
    masked JSONB NOT NULL,
    CONSTRAINT pk_view_requirements PRIMARY KEY (category, view),
    CONSTRAINT fk_view_requirements_category FOREIGN KEY(category) REFERENCES assay.categories (category) ON DELETE CASCADE
);
COMMENT ON TABLE assay.view_requirements IS 'One row a view role of a category.';
COMMENT ON COLUMN assay.view_requirements.category IS 'The category.';
COMMENT ON COLUMN assay.view_requirements.view IS 'The role: logo, stitching, hardware, ...';
COMMENT ON COLUMN assay.view_requirements.position IS 'Order of the roles as the profile lists them, from 0.';
COMMENT ON COLUMN assay.view_requirements.required IS 'Without this view the verdict is inconclusive.';
COMMENT ON COLUMN assay.view_requirements.critical IS 'This view alone can veto an authentic verdict.';
COMMENT ON COLUMN assay.view_requirements.masked IS 'Regions that vary by nature: [[left, top, right, bottom], ...] as fractions of the view.';

CREATE TABLE assay.reference_images (
    id UUID NOT NULL,
    tenant TEXT NOT NULL,
    sku TEXT NOT NULL,
    view TEXT NOT NULL,
    genuine BOOLEAN NOT NULL,
    sha256 BYTEA NOT NULL,
    phash BIGINT NOT NULL,
    bands INTEGER[] NOT NULL,
    provenance JSONB NOT NULL,
    approved_by TEXT,
    state TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_reference_images PRIMARY KEY (id),
    CONSTRAINT fk_reference_images_tenant_sku FOREIGN KEY(tenant, sku) REFERENCES assay.items (tenant, sku),
    CONSTRAINT uq_reference_images_tenant_sku_view_sha256 UNIQUE (tenant, sku, view, sha256),
    CONSTRAINT ck_reference_images_state CHECK (state IN ('draft', 'active', 'quarantined', 'retired')),
    CONSTRAINT ck_reference_images_active_is_approved CHECK (state <> 'active' OR approved_by IS NOT NULL)
);
CREATE INDEX ix_reference_images_bands ON assay.reference_images USING gin (bands) WITH (fastupdate = off);
CREATE INDEX ix_reference_images_sha256 ON assay.reference_images (sha256);
COMMENT ON TABLE assay.reference_images IS 'One row a reference photograph: genuine, or a known counterfeit.';
COMMENT ON COLUMN assay.reference_images.id IS 'Reference id, UUIDv5 of tenant, SKU, view and digest.';
COMMENT ON COLUMN assay.reference_images.tenant IS 'Owner; others see it by reference_grants.';
COMMENT ON COLUMN assay.reference_images.sku IS 'The SKU that it shows.';
COMMENT ON COLUMN assay.reference_images.view IS 'The role that it shows.';
COMMENT ON COLUMN assay.reference_images.genuine IS 'False: a known counterfeit of the SKU.';
COMMENT ON COLUMN assay.reference_images.sha256 IS 'SHA-256 of the photograph''s bytes.';
COMMENT ON COLUMN assay.reference_images.phash IS '64-bit perceptual hash, as a signed number.';
COMMENT ON COLUMN assay.reference_images.bands IS 'The perceptual hash in five pieces, each with its place: equal pieces find near copies.';
COMMENT ON COLUMN assay.reference_images.provenance IS 'Where the photograph came from.';
COMMENT ON COLUMN assay.reference_images.approved_by IS 'Who let it become active.';
COMMENT ON COLUMN assay.reference_images.state IS 'draft, active, quarantined or retired; reference_events holds the history.';
COMMENT ON COLUMN assay.reference_images.created_at IS 'When it was enrolled (UTC).';

CREATE TABLE assay.reference_embeddings (
    reference_id UUID NOT NULL,
    space TEXT NOT NULL,
    dims INTEGER NOT NULL,
    embedding VECTOR NOT NULL,
    patches BYTEA NOT NULL,
    grid_h INTEGER NOT NULL,
    grid_w INTEGER NOT NULL,
    engine_digest TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_reference_embeddings PRIMARY KEY (reference_id, space),
    CONSTRAINT fk_reference_embeddings_space_dims FOREIGN KEY(space, dims) REFERENCES assay.embedding_spaces (space, dims),
    CONSTRAINT ck_reference_embeddings_dims CHECK (vector_dims(embedding) = dims),
    CONSTRAINT ck_reference_embeddings_patches CHECK (grid_h > 0 AND grid_w > 0 AND length(patches) % (grid_h * grid_w) = 0),
    CONSTRAINT fk_reference_embeddings_reference_id FOREIGN KEY(reference_id) REFERENCES assay.reference_images (id) ON DELETE CASCADE
);
COMMENT ON TABLE assay.reference_embeddings IS 'One row a reference in an embedding space.';
COMMENT ON COLUMN assay.reference_embeddings.reference_id IS 'The reference.';
COMMENT ON COLUMN assay.reference_embeddings.space IS 'The embedding space.';
COMMENT ON COLUMN assay.reference_embeddings.dims IS 'Length of the embedding, as the space says.';
COMMENT ON COLUMN assay.reference_embeddings.embedding IS 'L2-normalised embedding of the whole photograph.';
COMMENT ON COLUMN assay.reference_embeddings.patches IS 'Patch features, int8 row-major [grid_h * grid_w, patch_dims]: round(127 * x).';
COMMENT ON COLUMN assay.reference_embeddings.grid_h IS 'Rows of the patch grid.';
COMMENT ON COLUMN assay.reference_embeddings.grid_w IS 'Columns of the patch grid.';
COMMENT ON COLUMN assay.reference_embeddings.engine_digest IS 'The engine that made it.';
COMMENT ON COLUMN assay.reference_embeddings.created_at IS 'When it was made (UTC).';

CREATE TABLE assay.reference_events (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    reference_id UUID NOT NULL,
    state TEXT NOT NULL,
    by TEXT NOT NULL,
    why TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_reference_events PRIMARY KEY (id),
    CONSTRAINT ck_reference_events_state CHECK (state IN ('draft', 'active', 'quarantined', 'retired')),
    CONSTRAINT fk_reference_events_reference_id FOREIGN KEY(reference_id) REFERENCES assay.reference_images (id)
);
CREATE INDEX ix_reference_events_reference_id ON assay.reference_events (reference_id);
COMMENT ON TABLE assay.reference_events IS 'Append-only: every change of a reference''s state.';
COMMENT ON COLUMN assay.reference_events.id IS 'Order of the events.';
COMMENT ON COLUMN assay.reference_events.reference_id IS 'The reference.';
COMMENT ON COLUMN assay.reference_events.state IS 'The state that it entered.';
COMMENT ON COLUMN assay.reference_events.by IS 'Who did it.';
COMMENT ON COLUMN assay.reference_events.why IS 'Why, in words.';
COMMENT ON COLUMN assay.reference_events.at IS 'When (UTC).';
