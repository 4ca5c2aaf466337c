-- A row now lasts as long as the dangerous step and is deleted at its end; one a record and process. No release wrote any.
TRUNCATE assay.attempts;
DROP INDEX assay.ix_attempts_source;
ALTER TABLE assay.attempts DROP COLUMN id, DROP COLUMN ended_at, DROP COLUMN ended_by;
ALTER TABLE assay.attempts ADD CONSTRAINT pk_attempts PRIMARY KEY (topic, partition, "offset", process);
-- Rows come and go with every job: no WAL for them. A crash of the server empties the table, and poison takes longer.
ALTER TABLE assay.attempts SET UNLOGGED;
ALTER TABLE assay.attempts SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
COMMENT ON TABLE assay.attempts IS
    'One row a record and process that is in the dangerous step, or died in it; rows of dead processes show poison.';
COMMENT ON COLUMN assay.attempts.solo IS 'Whether the job runs alone.';
GRANT UPDATE (solo, started_at), DELETE ON assay.attempts TO assay_worker;
