ALTER TABLE assay.attempts ADD COLUMN engines TEXT[];
COMMENT ON COLUMN assay.attempts.engines IS
    'Steps of engines that served then, a candidate''s last; null where they are fixed.';
GRANT UPDATE (engines) ON assay.attempts TO assay_worker;
