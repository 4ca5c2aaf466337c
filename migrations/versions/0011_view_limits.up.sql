-- A plain lining is never as sharp as a seam: limits that fit every view of a category notice little.
ALTER TABLE assay.view_requirements ADD COLUMN quality JSONB;
COMMENT ON COLUMN assay.view_requirements.quality IS
    'Quality limits of this view in place of its category''s: {limit: value}, all of them.';
