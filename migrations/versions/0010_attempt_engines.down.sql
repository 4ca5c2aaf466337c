ALTER TABLE assay.attempts DROP COLUMN engines;
