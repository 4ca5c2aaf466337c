CREATE TABLE assay.engine_releases (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    candidate TEXT NOT NULL,
    current TEXT NOT NULL,
    mode TEXT NOT NULL,
    share DOUBLE PRECISION NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    by TEXT NOT NULL,
    why TEXT NOT NULL,
    state TEXT DEFAULT 'running' NOT NULL,
    decided_at TIMESTAMP WITH TIME ZONE,
    decision JSONB,
    CONSTRAINT pk_engine_releases PRIMARY KEY (id),
    CONSTRAINT fk_engine_releases_candidate FOREIGN KEY (candidate) REFERENCES assay.engines (id),
    CONSTRAINT fk_engine_releases_current FOREIGN KEY (current) REFERENCES assay.engines (id),
    CONSTRAINT ck_engine_releases_mode CHECK (mode IN ('canary', 'shadow')),
    CONSTRAINT ck_engine_releases_state CHECK (state IN ('running', 'promoted', 'taken_back', 'held')),
    CONSTRAINT ck_engine_releases_share CHECK (share > 0 AND share <= 1),
    CONSTRAINT ck_engine_releases_two_engines CHECK (candidate <> current),
    CONSTRAINT ck_engine_releases_decided CHECK (
        (state = 'running') = (decided_at IS NULL) AND (state = 'running') = (decision IS NULL))
);
CREATE UNIQUE INDEX uq_engine_releases_running ON assay.engine_releases (name) WHERE state = 'running';
CREATE INDEX ix_engine_releases_name_started_at ON assay.engine_releases (name, started_at);
COMMENT ON TABLE assay.engine_releases IS
    'One row a release of a candidate engine beside the current one. It is decided once, and then never changed.';
COMMENT ON COLUMN assay.engine_releases.id IS 'The release.';
COMMENT ON COLUMN assay.engine_releases.name IS 'Encoder name; one release a name runs at a time.';
COMMENT ON COLUMN assay.engine_releases.candidate IS 'The engine that is tried.';
COMMENT ON COLUMN assay.engine_releases.current IS 'The engine that it would replace.';
COMMENT ON COLUMN assay.engine_releases.mode IS
    'canary: the candidate''s verdicts are published for its share; shadow: the current engine''s are.';
COMMENT ON COLUMN assay.engine_releases.share IS 'Share of the jobs that run on both engines, above 0 to 1.';
COMMENT ON COLUMN assay.engine_releases.started_at IS 'When (UTC).';
COMMENT ON COLUMN assay.engine_releases.by IS 'Who started it.';
COMMENT ON COLUMN assay.engine_releases.why IS 'On what grounds.';
COMMENT ON COLUMN assay.engine_releases.state IS 'running, or how it was decided: promoted, taken_back or held.';
COMMENT ON COLUMN assay.engine_releases.decided_at IS 'When it was decided (UTC).';
COMMENT ON COLUMN assay.engine_releases.decision IS 'Who decided, why, and the numbers that it rests on.';

-- A decision is set once. Which columns may change, the grants say.
CREATE FUNCTION assay.decide_release() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.state <> 'running' THEN
        RAISE EXCEPTION 'release % of % is decided: %', OLD.id, OLD.name, OLD.state;
    END IF;
    IF NEW.state <> 'running' THEN
        NEW.decided_at := now();
    END IF;
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION assay.decide_release() FROM PUBLIC;
CREATE TRIGGER decide_release BEFORE UPDATE ON assay.engine_releases
    FOR EACH ROW EXECUTE FUNCTION assay.decide_release();

CREATE TABLE assay.engine_golden (
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    label TEXT NOT NULL,
    by TEXT NOT NULL,
    why TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_engine_golden PRIMARY KEY (tenant, job_id),
    CONSTRAINT ck_engine_golden_label CHECK (label IN ('genuine', 'counterfeit'))
);
COMMENT ON TABLE assay.engine_golden IS
    'One row a golden job: its truth is known. A curator registers it before it is submitted.';
COMMENT ON COLUMN assay.engine_golden.tenant IS 'Who will ask.';
COMMENT ON COLUMN assay.engine_golden.job_id IS 'The job.';
COMMENT ON COLUMN assay.engine_golden.label IS 'What it truly shows: genuine or counterfeit.';
COMMENT ON COLUMN assay.engine_golden.by IS 'Who answers for the label.';
COMMENT ON COLUMN assay.engine_golden.why IS 'On what grounds.';
COMMENT ON COLUMN assay.engine_golden.at IS 'When it was registered (UTC).';

CREATE TABLE assay.engine_comparisons (
    release_id UUID NOT NULL,
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    published TEXT NOT NULL,
    current_verdict TEXT NOT NULL,
    candidate_verdict TEXT,
    current_p_genuine DOUBLE PRECISION,
    candidate_p_genuine DOUBLE PRECISION,
    current_ms DOUBLE PRECISION NOT NULL,
    candidate_ms DOUBLE PRECISION,
    candidate_error TEXT,
    golden_label TEXT,
    CONSTRAINT pk_engine_comparisons PRIMARY KEY (release_id, tenant, job_id),
    CONSTRAINT fk_engine_comparisons_release_id FOREIGN KEY (release_id) REFERENCES assay.engine_releases (id),
    CONSTRAINT ck_engine_comparisons_published CHECK (published IN ('candidate', 'current')),
    CONSTRAINT ck_engine_comparisons_current_verdict CHECK (
        current_verdict IN ('authentic', 'counterfeit', 'inconclusive')),
    CONSTRAINT ck_engine_comparisons_candidate_verdict CHECK (
        candidate_verdict IN ('authentic', 'counterfeit', 'inconclusive')),
    CONSTRAINT ck_engine_comparisons_candidate_end CHECK (
        candidate_error IS NOT NULL OR (candidate_verdict IS NOT NULL AND candidate_ms IS NOT NULL))
);
CREATE INDEX ix_engine_comparisons_tenant_job_id ON assay.engine_comparisons (tenant, job_id);
COMMENT ON TABLE assay.engine_comparisons IS 'One row a job that ran on both engines of a release.';
COMMENT ON COLUMN assay.engine_comparisons.release_id IS 'The release.';
COMMENT ON COLUMN assay.engine_comparisons.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.engine_comparisons.job_id IS 'The job.';
COMMENT ON COLUMN assay.engine_comparisons.at IS 'When it was compared (UTC).';
COMMENT ON COLUMN assay.engine_comparisons.published IS 'Whose verdict was published: candidate or current.';
COMMENT ON COLUMN assay.engine_comparisons.current_verdict IS 'What the current engine led to.';
COMMENT ON COLUMN assay.engine_comparisons.candidate_verdict IS 'What the candidate led to; null where it failed.';
COMMENT ON COLUMN assay.engine_comparisons.current_p_genuine IS 'Posterior of genuine; null when nothing could be scored.';
COMMENT ON COLUMN assay.engine_comparisons.candidate_p_genuine IS 'The same of the candidate.';
COMMENT ON COLUMN assay.engine_comparisons.current_ms IS 'Milliseconds that the job''s views took on the current engine.';
COMMENT ON COLUMN assay.engine_comparisons.candidate_ms IS 'The same of the candidate; null where it failed.';
COMMENT ON COLUMN assay.engine_comparisons.candidate_error IS 'Why the candidate has no verdict.';
COMMENT ON COLUMN assay.engine_comparisons.golden_label IS
    'genuine or counterfeit, where the job was registered as golden before; a trigger sets it.';

-- As the owner: whatever a worker or the job's own labels say, a job is golden if a curator registered it before.
CREATE FUNCTION assay.mark_golden() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.golden_label := (SELECT label FROM assay.engine_golden WHERE tenant = NEW.tenant AND job_id = NEW.job_id);
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION assay.mark_golden() FROM PUBLIC;
CREATE TRIGGER mark_golden BEFORE INSERT ON assay.engine_comparisons
    FOR EACH ROW EXECUTE FUNCTION assay.mark_golden();

CREATE VIEW analyst.engine_releases WITH (security_barrier) AS
SELECT r.id, r.name, r.candidate, r.current, r.mode, r.share, r.started_at, r.by, r.why, r.state, r.decided_at, r.decision
FROM assay.engine_releases r
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant = '*');
COMMENT ON VIEW analyst.engine_releases IS
    'One row a release of a candidate engine; over all tenants, so for grants of * only.';
COMMENT ON COLUMN analyst.engine_releases.id IS 'The release.';
COMMENT ON COLUMN analyst.engine_releases.name IS 'Encoder name.';
COMMENT ON COLUMN analyst.engine_releases.candidate IS 'The engine that is tried.';
COMMENT ON COLUMN analyst.engine_releases.current IS 'The engine that it would replace.';
COMMENT ON COLUMN analyst.engine_releases.mode IS 'canary or shadow.';
COMMENT ON COLUMN analyst.engine_releases.share IS 'Share of the jobs that run on both engines.';
COMMENT ON COLUMN analyst.engine_releases.started_at IS 'When (UTC).';
COMMENT ON COLUMN analyst.engine_releases.by IS 'Who started it.';
COMMENT ON COLUMN analyst.engine_releases.why IS 'On what grounds.';
COMMENT ON COLUMN analyst.engine_releases.state IS 'running, promoted, taken_back or held.';
COMMENT ON COLUMN analyst.engine_releases.decided_at IS 'When it was decided (UTC).';
COMMENT ON COLUMN analyst.engine_releases.decision IS 'Who decided, why, and the numbers that it rests on.';

CREATE VIEW analyst.engine_comparisons WITH (security_barrier) AS
SELECT c.release_id, c.tenant, c.job_id, c.at, c.published, c.current_verdict, c.candidate_verdict,
    c.current_p_genuine, c.candidate_p_genuine, c.current_ms, c.candidate_ms, c.candidate_error
FROM assay.engine_comparisons c
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant IN (c.tenant, '*'));
COMMENT ON VIEW analyst.engine_comparisons IS 'One row a job that ran on both engines of a release.';
COMMENT ON COLUMN analyst.engine_comparisons.release_id IS 'The release.';
COMMENT ON COLUMN analyst.engine_comparisons.tenant IS 'Who asked.';
COMMENT ON COLUMN analyst.engine_comparisons.job_id IS 'The job.';
COMMENT ON COLUMN analyst.engine_comparisons.at IS 'When it was compared (UTC).';
COMMENT ON COLUMN analyst.engine_comparisons.published IS 'Whose verdict was published: candidate or current.';
COMMENT ON COLUMN analyst.engine_comparisons.current_verdict IS 'What the current engine led to.';
COMMENT ON COLUMN analyst.engine_comparisons.candidate_verdict IS 'What the candidate led to; null where it failed.';
COMMENT ON COLUMN analyst.engine_comparisons.current_p_genuine IS 'Posterior of genuine; null when nothing could be scored.';
COMMENT ON COLUMN analyst.engine_comparisons.candidate_p_genuine IS 'The same of the candidate.';
COMMENT ON COLUMN analyst.engine_comparisons.current_ms IS 'Milliseconds that the job''s views took on the current engine.';
COMMENT ON COLUMN analyst.engine_comparisons.candidate_ms IS 'The same of the candidate; null where it failed.';
COMMENT ON COLUMN analyst.engine_comparisons.candidate_error IS 'Why the candidate has no verdict.';
GRANT SELECT ON analyst.engine_releases, analyst.engine_comparisons TO assay_analyst;

GRANT SELECT ON assay.engine_releases TO assay_worker, assay_curator, assay_watcher, assay_auditor, assay_eraser;
GRANT INSERT (id, name, candidate, current, mode, share, by, why) ON assay.engine_releases TO assay_curator;
GRANT UPDATE (state, decided_at, decision) ON assay.engine_releases TO assay_curator, assay_watcher;
GRANT INSERT ON assay.engine_comparisons TO assay_worker;
GRANT SELECT (release_id, tenant, job_id) ON assay.engine_comparisons TO assay_worker; -- ON CONFLICT names them
GRANT SELECT ON assay.engine_comparisons TO assay_curator, assay_watcher, assay_auditor;
GRANT SELECT, INSERT ON assay.engine_golden TO assay_curator;
GRANT SELECT ON assay.engine_golden TO assay_watcher, assay_auditor;
GRANT SELECT, DELETE ON assay.engine_comparisons, assay.engine_golden TO assay_eraser;

-- The watcher executes what its judgement decided: the moves of a promotion or a taking back, and of a name alone whose
-- release runs. Curators move what they want.
GRANT SELECT ON assay.engines, assay.engine_events TO assay_watcher;
GRANT INSERT (engine, came_from, state, by, why) ON assay.engine_events TO assay_watcher;
GRANT INSERT ON assay.alarms TO assay_curator; -- a judgement that a curator asked for is told like the watcher's
ALTER TABLE assay.engine_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY anybody_reads ON assay.engine_events FOR SELECT USING (true);
CREATE POLICY curators_move ON assay.engine_events FOR INSERT TO assay_curator WITH CHECK (true);
CREATE POLICY watcher_executes ON assay.engine_events FOR INSERT TO assay_watcher WITH CHECK (
    (came_from, state) IN (('canary', 'current'), ('canary', 'verified'), ('current', 'previous'), ('previous', 'retired'))
    AND EXISTS (SELECT FROM assay.engines e JOIN assay.engine_releases r ON r.name = e.name
        WHERE e.id = engine AND r.state = 'running'));
