-- A photograph that comes a thousand times is one row here: what a new one is compared with must not grow with that.
CREATE TABLE assay.known_photographs (
    tenant TEXT NOT NULL,
    sha256 BYTEA NOT NULL,
    sku TEXT NOT NULL,
    subject TEXT NOT NULL,
    space TEXT NOT NULL,
    phash BIGINT NOT NULL,
    bands INTEGER[] NOT NULL,
    job_id TEXT NOT NULL,
    view TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_known_photographs PRIMARY KEY (tenant, sha256, sku, subject, space)
);
CREATE INDEX ix_known_photographs_bands ON assay.known_photographs USING gin (bands) WITH (fastupdate = off);
CREATE INDEX ix_known_photographs_tenant_job_id ON assay.known_photographs (tenant, job_id);
COMMENT ON TABLE assay.known_photographs IS
    'Photographs of judged jobs, once each SKU, subject and embedding space: what a new one is compared with.';
COMMENT ON COLUMN assay.known_photographs.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.known_photographs.sha256 IS 'SHA-256 of the photograph''s bytes.';
COMMENT ON COLUMN assay.known_photographs.sku IS 'The SKU that the job claims.';
COMMENT ON COLUMN assay.known_photographs.subject IS 'The physical item, empty where the sender names none.';
COMMENT ON COLUMN assay.known_photographs.space IS 'The embedding space of the job''s probe of it.';
COMMENT ON COLUMN assay.known_photographs.phash IS '64-bit perceptual hash, as a signed number.';
COMMENT ON COLUMN assay.known_photographs.bands IS
    'The perceptual hash in five pieces, each with its place: equal pieces find near copies.';
COMMENT ON COLUMN assay.known_photographs.job_id IS 'The first job with it that is still there.';
COMMENT ON COLUMN assay.known_photographs.view IS 'The view''s role in that job.';
COMMENT ON COLUMN assay.known_photographs.at IS 'When that job was judged (UTC).';
INSERT INTO assay.known_photographs
    SELECT DISTINCT ON (i.tenant, i.sha256, i.sku, coalesce(i.subject, ''), e.space)
        i.tenant, i.sha256, i.sku, coalesce(i.subject, ''), e.space, i.phash, i.bands, i.job_id, i.view, i.at
    FROM assay.probe_images AS i JOIN assay.probe_embeddings AS e USING (tenant, job_id, view)
    ORDER BY i.tenant, i.sha256, i.sku, coalesce(i.subject, ''), e.space, i.at, i.job_id, i.view;
DROP INDEX assay.ix_probe_images_bands;

-- Kept by the database, whatever build writes. In the order of the key: of two workers that know the same photographs, one
-- waits for the other and never both. By index, whatever the plan was made for: the tables may have been empty then.
CREATE FUNCTION assay.know_photographs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    INSERT INTO assay.known_photographs (tenant, sha256, sku, subject, space, phash, bands, job_id, view, at)
    SELECT i.tenant, i.sha256, i.sku, coalesce(i.subject, ''), added.space, i.phash, i.bands, i.job_id, i.view, i.at
    FROM added JOIN assay.probe_images AS i USING (tenant, job_id, view)
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER know_photographs AFTER INSERT ON assay.probe_embeddings
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION assay.know_photographs();

-- What was known by jobs that are erased is known by the next that showed it.
CREATE FUNCTION assay.forget_photographs() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    WITH forgotten AS (
        DELETE FROM assay.known_photographs AS known USING (SELECT DISTINCT tenant, job_id FROM gone) AS job
        WHERE (known.tenant, known.job_id) = (job.tenant, job.job_id)
        RETURNING known.tenant, known.sha256, known.sku, known.subject, known.space
    )
    INSERT INTO assay.known_photographs (tenant, sha256, sku, subject, space, phash, bands, job_id, view, at)
    SELECT DISTINCT ON (f.tenant, f.sha256, f.sku, f.subject, f.space)
        f.tenant, f.sha256, f.sku, f.subject, f.space, i.phash, i.bands, i.job_id, i.view, i.at
    FROM forgotten AS f
    JOIN assay.probe_images AS i ON (i.tenant, i.sha256, i.sku, coalesce(i.subject, '')) = (f.tenant, f.sha256, f.sku, f.subject)
    JOIN assay.probe_embeddings AS e ON (e.tenant, e.job_id, e.view, e.space) = (i.tenant, i.job_id, i.view, f.space)
    ORDER BY f.tenant, f.sha256, f.sku, f.subject, f.space, i.at, i.job_id, i.view;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_photographs AFTER DELETE ON assay.probe_images
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION assay.forget_photographs();
REVOKE ALL ON FUNCTION assay.know_photographs(), assay.forget_photographs() FROM PUBLIC;
GRANT SELECT ON assay.known_photographs TO assay_worker, assay_eraser, assay_curator, assay_auditor;
