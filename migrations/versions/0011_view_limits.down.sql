ALTER TABLE assay.view_requirements DROP COLUMN quality;
