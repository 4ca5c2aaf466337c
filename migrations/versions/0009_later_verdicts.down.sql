-- The later verdicts stay, and analyst.jobs shows them; who was first with them is no longer known.
DROP VIEW analyst.reevaluations;
DROP TABLE assay.later_verdicts;
ALTER TABLE assay.categories DROP COLUMN min_placed;
ALTER TABLE assay.view_results DROP COLUMN media_type;
