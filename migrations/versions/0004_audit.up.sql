-- The ledger's tables stood without a writer until now: both are empty, so columns may come and go.
ALTER TABLE assay.audit_blocks DROP COLUMN kind;
ALTER TABLE assay.audit_blocks ADD COLUMN entries INTEGER NOT NULL;
ALTER TABLE assay.audit_blocks ADD COLUMN published_at TIMESTAMP WITH TIME ZONE;
CREATE INDEX ix_audit_blocks_published_at ON assay.audit_blocks (tenant, height) WHERE published_at IS NULL;
COMMENT ON TABLE assay.audit_blocks IS 'Append-only: the sealed chain of a tenant. The last one''s head is published, signed.';
COMMENT ON COLUMN assay.audit_blocks.entries IS 'How many entries the block has.';
COMMENT ON COLUMN assay.audit_blocks.published_at IS 'When the head was confirmed by assay.audit (UTC).';

ALTER TABLE assay.audit_entries RENAME COLUMN result_id TO id;
ALTER TABLE assay.audit_entries RENAME CONSTRAINT uq_audit_entries_tenant_result_id TO uq_audit_entries_tenant_id;
ALTER TABLE assay.audit_entries ADD COLUMN kind TEXT NOT NULL;
ALTER TABLE assay.audit_entries ADD COLUMN judged_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE assay.audit_entries ADD COLUMN src TEXT;
ALTER TABLE assay.audit_entries ADD COLUMN row_digest BYTEA;
ALTER TABLE assay.audit_entries ADD COLUMN views_digest BYTEA;
ALTER TABLE assay.audit_entries ADD CONSTRAINT ck_audit_entries_kind CHECK (kind IN ('verdict', 'erasure', 'retention'));
COMMENT ON TABLE assay.audit_entries IS 'Append-only: what a block seals: verdicts, erasures and dropped months.';
COMMENT ON COLUMN assay.audit_entries.id IS 'The verdict''s result_id, or the audit record''s id.';
COMMENT ON COLUMN assay.audit_entries.digest IS 'SHA-256 of the verdict''s event as settle stored it, or of the audit record.';
COMMENT ON COLUMN assay.audit_entries.kind IS 'verdict, erasure or retention.';
COMMENT ON COLUMN assay.audit_entries.judged_at IS 'The verdict''s judged_at, which names its partition (UTC).';
COMMENT ON COLUMN assay.audit_entries.src IS 'topic/partition/offset of the record that the verdict answers.';
COMMENT ON COLUMN assay.audit_entries.row_digest IS 'SHA-256 over the verdict''s columns and its job''s; null where they were gone before.';
COMMENT ON COLUMN assay.audit_entries.views_digest IS 'SHA-256 over the columns of its views; null as row_digest is.';

CREATE TABLE assay.audit_records (
    id UUID NOT NULL,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    by TEXT NOT NULL,
    why TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    facts JSONB NOT NULL,
    CONSTRAINT pk_audit_records PRIMARY KEY (id),
    CONSTRAINT ck_audit_records_kind CHECK (kind IN ('erasure', 'retention'))
);
CREATE INDEX ix_audit_records_tenant ON assay.audit_records (tenant);
COMMENT ON TABLE assay.audit_records IS 'Append-only: why verdicts are gone, by erasure or with their month. The ledger seals each.';
COMMENT ON COLUMN assay.audit_records.id IS 'The record.';
COMMENT ON COLUMN assay.audit_records.tenant IS 'Whose verdicts.';
COMMENT ON COLUMN assay.audit_records.kind IS 'erasure or retention.';
COMMENT ON COLUMN assay.audit_records.by IS 'Who did it.';
COMMENT ON COLUMN assay.audit_records.why IS 'On what grounds.';
COMMENT ON COLUMN assay.audit_records.at IS 'When (UTC).';
COMMENT ON COLUMN assay.audit_records.facts IS 'Erasure: verdicts [[result_id, judged_at], ...], jobs; retention: from, to, verdicts.';

CREATE TABLE assay.audit_pending (
    tenant TEXT NOT NULL,
    id UUID NOT NULL,
    kind TEXT NOT NULL,
    judged_at TIMESTAMP WITH TIME ZONE,
    digest BYTEA,
    noted_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_audit_pending PRIMARY KEY (tenant, id)
);
COMMENT ON TABLE assay.audit_pending IS 'What waits to be sealed: noted in the transaction that wrote it, so that no late commit is missed.';
COMMENT ON COLUMN assay.audit_pending.tenant IS 'Whose chain.';
COMMENT ON COLUMN assay.audit_pending.id IS 'The verdict''s result_id, or the audit record''s id.';
COMMENT ON COLUMN assay.audit_pending.kind IS 'verdict, erasure or retention.';
COMMENT ON COLUMN assay.audit_pending.judged_at IS 'The verdict''s judged_at (UTC).';
COMMENT ON COLUMN assay.audit_pending.digest IS 'The verdict''s digest, should its row be gone before it is sealed.';
COMMENT ON COLUMN assay.audit_pending.noted_at IS 'When it was written (UTC).';

-- As the owner: who may add a verdict needs no right to the ledger's tables.
CREATE FUNCTION assay.note_verdicts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO assay.audit_pending (tenant, id, kind, judged_at, digest)
        SELECT tenant, result_id, 'verdict', judged_at, digest FROM fresh ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE FUNCTION assay.note_records() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO assay.audit_pending (tenant, id, kind)
        SELECT tenant, id, kind FROM fresh ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION assay.note_verdicts(), assay.note_records() FROM PUBLIC;
CREATE TRIGGER note_verdicts AFTER INSERT ON assay.verdicts
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION assay.note_verdicts();
CREATE TRIGGER note_records AFTER INSERT ON assay.audit_records
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION assay.note_records();
INSERT INTO assay.audit_pending (tenant, id, kind, judged_at, digest)
    SELECT tenant, result_id, 'verdict', judged_at, digest FROM assay.verdicts ON CONFLICT DO NOTHING;

-- A job whose data was erased keeps its row, so that a duplicate is told so.
ALTER TABLE assay.jobs DROP CONSTRAINT ck_jobs_state, DROP CONSTRAINT ck_jobs_points_at_its_end;
ALTER TABLE assay.jobs ADD CONSTRAINT ck_jobs_state CHECK (state IN ('judged', 'dead', 'erased')),
    ADD CONSTRAINT ck_jobs_points_at_its_end CHECK (
        (state = 'judged' AND result_id IS NOT NULL AND judged_at IS NOT NULL)
        OR (state = 'dead' AND dead_letter_id IS NOT NULL) OR state = 'erased');
COMMENT ON COLUMN assay.jobs.state IS 'judged, dead or erased; a replay may turn dead into judged once.';
COMMENT ON COLUMN analyst.jobs.state IS 'judged, dead or erased.';

GRANT USAGE ON SCHEMA assay TO assay_sealer;
GRANT SELECT ON assay.jobs, assay.verdicts, assay.view_results, assay.audit_blocks, assay.audit_entries,
    assay.audit_records, assay.audit_pending TO assay_sealer;
GRANT INSERT ON assay.audit_blocks, assay.audit_entries TO assay_sealer;
GRANT UPDATE (published_at) ON assay.audit_blocks TO assay_sealer;
GRANT DELETE ON assay.audit_pending TO assay_sealer;
GRANT SELECT ON assay.audit_records, assay.audit_pending TO assay_auditor;
GRANT SELECT, INSERT ON assay.audit_records TO assay_eraser;
GRANT INSERT ON assay.jobs TO assay_eraser; -- in place of a row that it deletes
