REVOKE INSERT ON assay.jobs FROM assay_eraser;
REVOKE ALL ON ALL TABLES IN SCHEMA assay FROM assay_sealer;
REVOKE USAGE ON SCHEMA assay FROM assay_sealer;

DELETE FROM assay.jobs WHERE state = 'erased';
ALTER TABLE assay.jobs DROP CONSTRAINT ck_jobs_state, DROP CONSTRAINT ck_jobs_points_at_its_end;
ALTER TABLE assay.jobs ADD CONSTRAINT ck_jobs_state CHECK (state IN ('judged', 'dead')),
    ADD CONSTRAINT ck_jobs_points_at_its_end CHECK (
        (state = 'judged' AND result_id IS NOT NULL AND judged_at IS NOT NULL)
        OR (state = 'dead' AND dead_letter_id IS NOT NULL));
COMMENT ON COLUMN assay.jobs.state IS 'judged or dead; a replay may turn dead into judged once.';
COMMENT ON COLUMN analyst.jobs.state IS 'judged or dead.';

DROP TRIGGER note_verdicts ON assay.verdicts;
DROP TABLE assay.audit_records, assay.audit_pending;
DROP FUNCTION assay.note_verdicts(), assay.note_records();

-- Without this build nobody can write or check the chain: the tables go back to empty, as they were.
DELETE FROM assay.audit_entries;
DELETE FROM assay.audit_blocks;
ALTER TABLE assay.audit_entries DROP COLUMN kind, DROP COLUMN judged_at, DROP COLUMN src, DROP COLUMN row_digest,
    DROP COLUMN views_digest;
ALTER TABLE assay.audit_entries RENAME CONSTRAINT uq_audit_entries_tenant_id TO uq_audit_entries_tenant_result_id;
ALTER TABLE assay.audit_entries RENAME COLUMN id TO result_id;
COMMENT ON TABLE assay.audit_entries IS 'Append-only: the verdicts that a block seals.';
COMMENT ON COLUMN assay.audit_entries.result_id IS 'The verdict.';
COMMENT ON COLUMN assay.audit_entries.digest IS 'SHA-256 of its event.';
ALTER TABLE assay.audit_blocks DROP COLUMN entries, DROP COLUMN published_at, ADD COLUMN kind TEXT NOT NULL;
COMMENT ON TABLE assay.audit_blocks IS 'Append-only: the sealed chain of a tenant''s verdicts.';
COMMENT ON COLUMN assay.audit_blocks.kind IS 'verdicts, or retention where a partition was dropped.';
