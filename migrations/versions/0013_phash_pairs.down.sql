DROP INDEX assay.ix_known_photographs_pairs, assay.ix_reference_images_pairs;
DROP FUNCTION assay.phash_pairs(bigint);
CREATE INDEX ix_known_photographs_bands ON assay.known_photographs USING gin (bands) WITH (fastupdate = off);
