-- A job's row points at its first verdict for ever. Each later one has a row here: verdicts is partitioned, so that no
-- constraint of its own could say that a revision exists once.
CREATE TABLE assay.later_verdicts (
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    result_id UUID NOT NULL,
    judged_at TIMESTAMP WITH TIME ZONE NOT NULL,
    src TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_later_verdicts PRIMARY KEY (tenant, job_id, revision),
    CONSTRAINT uq_later_verdicts_result_id UNIQUE (result_id),
    CONSTRAINT ck_later_verdicts_revision CHECK (revision > 1)
);
CREATE INDEX ix_later_verdicts_judged_at ON assay.later_verdicts (judged_at);
COMMENT ON TABLE assay.later_verdicts IS
    'Append-only: one row a verdict after a job''s first: who was first with that revision, and where it stands.';
COMMENT ON COLUMN assay.later_verdicts.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.later_verdicts.job_id IS 'The job.';
COMMENT ON COLUMN assay.later_verdicts.revision IS 'From 2; it replaces the one before.';
COMMENT ON COLUMN assay.later_verdicts.result_id IS 'The verdict.';
COMMENT ON COLUMN assay.later_verdicts.judged_at IS 'The verdict''s judged_at, which names its partition (UTC).';
COMMENT ON COLUMN assay.later_verdicts.src IS 'topic/partition/offset of the record that it answers.';
COMMENT ON COLUMN assay.later_verdicts.created_at IS 'When it was written (UTC).';

-- Part of a job's content, which a re-evaluation must state again. Older builds leave it null.
ALTER TABLE assay.view_results ADD COLUMN media_type TEXT;
COMMENT ON COLUMN assay.view_results.media_type IS 'The media type that the sender gave.';

ALTER TABLE assay.categories ADD COLUMN min_placed DOUBLE PRECISION DEFAULT 0 NOT NULL;
COMMENT ON COLUMN assay.categories.min_placed IS 'Quality limit: a view that places less is misframed, 0 to 1.';

CREATE VIEW analyst.reevaluations WITH (security_barrier) AS
SELECT l.tenant, l.job_id, l.revision, after.sku, after.category, before.verdict AS verdict_before, after.verdict,
    before.verdict <> after.verdict AS flipped, before.p_genuine AS p_genuine_before, after.p_genuine,
    ARRAY(SELECT reason ->> 'code' FROM jsonb_array_elements(after.reasons) AS reason) AS reasons,
    before.result_id AS result_id_before, l.result_id, before.judged_at AS judged_at_before, l.judged_at
FROM assay.later_verdicts l
JOIN assay.verdicts after ON after.result_id = l.result_id AND after.judged_at = l.judged_at
LEFT JOIN assay.verdicts before ON before.result_id = after.supersedes
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant IN (l.tenant, '*'));
COMMENT ON VIEW analyst.reevaluations IS 'One row a verdict that replaced another, beside the one that it replaced.';
COMMENT ON COLUMN analyst.reevaluations.tenant IS 'Who asked.';
COMMENT ON COLUMN analyst.reevaluations.job_id IS 'The sender''s id of the job.';
COMMENT ON COLUMN analyst.reevaluations.revision IS 'From 2.';
COMMENT ON COLUMN analyst.reevaluations.sku IS 'The SKU that the job claims.';
COMMENT ON COLUMN analyst.reevaluations.category IS 'The category that the job claims.';
COMMENT ON COLUMN analyst.reevaluations.verdict_before IS 'The verdict that was replaced; null where its month was dropped.';
COMMENT ON COLUMN analyst.reevaluations.verdict IS 'authentic, counterfeit or inconclusive.';
COMMENT ON COLUMN analyst.reevaluations.flipped IS 'Whether they differ.';
COMMENT ON COLUMN analyst.reevaluations.p_genuine_before IS 'Posterior probability of genuine, as it was.';
COMMENT ON COLUMN analyst.reevaluations.p_genuine IS 'Posterior probability of genuine; null when nothing could be scored.';
COMMENT ON COLUMN analyst.reevaluations.reasons IS 'Reason codes of the verdict.';
COMMENT ON COLUMN analyst.reevaluations.result_id_before IS 'Id of the verdict that was replaced.';
COMMENT ON COLUMN analyst.reevaluations.result_id IS 'The verdict''s id.';
COMMENT ON COLUMN analyst.reevaluations.judged_at_before IS 'When that was decided (UTC).';
COMMENT ON COLUMN analyst.reevaluations.judged_at IS 'When the verdict was decided (UTC).';
GRANT SELECT ON analyst.reevaluations TO assay_analyst;

GRANT SELECT, INSERT ON assay.later_verdicts TO assay_worker;
GRANT SELECT ON assay.later_verdicts TO assay_gateway, assay_curator, assay_sealer, assay_auditor;
GRANT SELECT, DELETE ON assay.later_verdicts TO assay_eraser;
