REVOKE UPDATE (solo, started_at), DELETE ON assay.attempts FROM assay_worker;
TRUNCATE assay.attempts;
ALTER TABLE assay.attempts RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
ALTER TABLE assay.attempts SET LOGGED;
ALTER TABLE assay.attempts DROP CONSTRAINT pk_attempts;
ALTER TABLE assay.attempts ADD COLUMN id BIGINT GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_attempts PRIMARY KEY,
    ADD COLUMN ended_at TIMESTAMP WITH TIME ZONE, ADD COLUMN ended_by TEXT;
CREATE INDEX ix_attempts_source ON assay.attempts (topic, partition, "offset");
GRANT UPDATE (ended_at, ended_by) ON assay.attempts TO assay_worker;
COMMENT ON TABLE assay.attempts IS
    'One row a start of a dangerous step, closed when it ends; open rows of dead processes show poison.';
COMMENT ON COLUMN assay.attempts.id IS 'Order of the starts.';
COMMENT ON COLUMN assay.attempts.solo IS 'Whether the job ran alone.';
COMMENT ON COLUMN assay.attempts.ended_at IS 'When it ended in order (UTC).';
COMMENT ON COLUMN assay.attempts.ended_by IS 'outcome, drain, revoke or stop.';
