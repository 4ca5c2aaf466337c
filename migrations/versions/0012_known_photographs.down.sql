DROP TRIGGER know_photographs ON assay.probe_embeddings;
DROP TRIGGER forget_photographs ON assay.probe_images;
DROP FUNCTION assay.know_photographs(), assay.forget_photographs();
DROP TABLE assay.known_photographs;
CREATE INDEX ix_probe_images_bands ON assay.probe_images USING gin (bands) WITH (fastupdate = off);
