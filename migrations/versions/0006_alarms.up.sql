-- What ties counterfeits together must be on record. Older builds leave both null.
ALTER TABLE assay.verdicts ADD COLUMN serial TEXT, ADD COLUMN labels JSONB;
CREATE INDEX ix_verdicts_counterfeit ON assay.verdicts (judged_at) WHERE verdict = 'counterfeit';
COMMENT ON COLUMN assay.verdicts.serial IS 'The serial number that the sender gave.';
COMMENT ON COLUMN assay.verdicts.labels IS 'The sender''s labels, {name: text}.';

ALTER TABLE assay.alarms ADD COLUMN event_id UUID, ADD COLUMN event BYTEA, ADD COLUMN event_headers JSONB,
    ADD COLUMN published_at TIMESTAMP WITH TIME ZONE, ADD CONSTRAINT uq_alarms_event_id UNIQUE (event_id);
CREATE INDEX ix_alarms_unpublished ON assay.alarms (id) WHERE event IS NOT NULL AND published_at IS NULL;
COMMENT ON TABLE assay.alarms IS 'One row an alarm. The watcher''s are written before they are published.';
COMMENT ON COLUMN assay.alarms.kind IS 'What kind: repeated_counterfeit, calibration_stale, ...';
COMMENT ON COLUMN assay.alarms.event_id IS 'The alert''s id, where it is published.';
COMMENT ON COLUMN assay.alarms.event IS 'The published message, byte for byte.';
COMMENT ON COLUMN assay.alarms.event_headers IS 'Its headers, [[name, text], ...].';
COMMENT ON COLUMN assay.alarms.published_at IS 'When assay.alerts confirmed it (UTC).';

CREATE TABLE assay.alarm_jobs (
    tenant TEXT NOT NULL,
    job_id TEXT NOT NULL,
    alarm_id BIGINT NOT NULL,
    sku TEXT NOT NULL,
    serial TEXT,
    submitter TEXT,
    judged_at TIMESTAMP WITH TIME ZONE NOT NULL,
    joined_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_alarm_jobs PRIMARY KEY (tenant, job_id),
    CONSTRAINT fk_alarm_jobs_alarm_id FOREIGN KEY (alarm_id) REFERENCES assay.alarms (id)
);
CREATE INDEX ix_alarm_jobs_alarm_id ON assay.alarm_jobs (alarm_id);
COMMENT ON TABLE assay.alarm_jobs IS
    'One row a job of a repeated counterfeit; later ones join the alarm that was raised. A job has one alarm at most.';
COMMENT ON COLUMN assay.alarm_jobs.tenant IS 'Who asked.';
COMMENT ON COLUMN assay.alarm_jobs.job_id IS 'The job.';
COMMENT ON COLUMN assay.alarm_jobs.alarm_id IS 'The alarm.';
COMMENT ON COLUMN assay.alarm_jobs.sku IS 'The SKU that the job claims.';
COMMENT ON COLUMN assay.alarm_jobs.serial IS 'The serial number that the sender gave.';
COMMENT ON COLUMN assay.alarm_jobs.submitter IS 'The sender''s label of who submitted it.';
COMMENT ON COLUMN assay.alarm_jobs.judged_at IS 'When it was judged counterfeit (UTC).';
COMMENT ON COLUMN assay.alarm_jobs.joined_at IS 'When it was found to belong (UTC).';

CREATE TABLE assay.drift_days (
    day DATE NOT NULL,
    category TEXT NOT NULL,
    calibration_id TEXT NOT NULL,
    engine TEXT NOT NULL,
    view TEXT NOT NULL,
    measure TEXT NOT NULL,
    since DATE NOT NULL,
    jobs INTEGER NOT NULL,
    items INTEGER NOT NULL,
    distance DOUBLE PRECISION NOT NULL,
    threshold DOUBLE PRECISION NOT NULL,
    departed BOOLEAN NOT NULL,
    tested_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_drift_days PRIMARY KEY (day, category, calibration_id, engine, view, measure)
);
COMMENT ON TABLE assay.drift_days IS 'One row a distribution that was compared with the score calibration''s, a UTC day.';
COMMENT ON COLUMN assay.drift_days.day IS 'The last day that was compared, in UTC.';
COMMENT ON COLUMN assay.drift_days.category IS 'The category that the jobs claim.';
COMMENT ON COLUMN assay.drift_days.calibration_id IS 'The score calibration that judged them.';
COMMENT ON COLUMN assay.drift_days.engine IS 'The encoder''s name; * where it is of whole jobs.';
COMMENT ON COLUMN assay.drift_days.view IS 'The view''s role; * where it is of whole jobs.';
COMMENT ON COLUMN assay.drift_days.measure IS 'score, abstention, similarity, deviation, or a measure of quality.';
COMMENT ON COLUMN assay.drift_days.since IS 'The first day that was compared: days of few jobs are taken together.';
COMMENT ON COLUMN assay.drift_days.jobs IS 'Jobs compared.';
COMMENT ON COLUMN assay.drift_days.items IS 'Items of the calibration that they were compared with; of two classes, the fewer.';
COMMENT ON COLUMN assay.drift_days.distance IS 'Kolmogorov-Smirnov distance; of abstention, the rise of its rate.';
COMMENT ON COLUMN assay.drift_days.threshold IS 'What the distance must exceed to count.';
COMMENT ON COLUMN assay.drift_days.departed IS 'Whether it did.';
COMMENT ON COLUMN assay.drift_days.tested_at IS 'When (UTC).';

CREATE VIEW analyst.alarms WITH (security_barrier) AS
SELECT a.id, a.kind, a.tenant, a.labels ->> 'category' AS category, a.detail,
    ARRAY(SELECT jsonb_array_elements_text(a.labels -> 'skus')) AS skus,
    ARRAY(SELECT jsonb_array_elements_text(a.labels -> 'links')) AS links,
    (SELECT count(*) FROM assay.alarm_jobs j WHERE j.alarm_id = a.id) AS jobs,
    a.labels ->> 'calibration_id' AS calibration_id, a.event_id AS alert_id, a.raised_at, a.published_at, a.cleared_at
FROM assay.alarms a
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant IN (a.tenant, '*'));
COMMENT ON VIEW analyst.alarms IS 'One row an alarm; those that concern no one tenant are seen by grants of * only.';
COMMENT ON COLUMN analyst.alarms.id IS 'The alarm, as alarm_jobs names it.';
COMMENT ON COLUMN analyst.alarms.kind IS 'repeated_counterfeit, calibration_stale, ...';
COMMENT ON COLUMN analyst.alarms.tenant IS 'Whose jobs; null where it concerns all.';
COMMENT ON COLUMN analyst.alarms.category IS 'The category; of a repeated counterfeit, null where there are several.';
COMMENT ON COLUMN analyst.alarms.detail IS 'What was noticed when it was raised, in words.';
COMMENT ON COLUMN analyst.alarms.skus IS 'The SKUs that the jobs claimed when it was raised.';
COMMENT ON COLUMN analyst.alarms.links IS 'What tied the jobs together: serial, submitter, embedding, photograph.';
COMMENT ON COLUMN analyst.alarms.jobs IS 'How many jobs belong to it by now.';
COMMENT ON COLUMN analyst.alarms.calibration_id IS 'The score calibration that is stale.';
COMMENT ON COLUMN analyst.alarms.alert_id IS 'The event''s id on assay.alerts.';
COMMENT ON COLUMN analyst.alarms.raised_at IS 'When (UTC).';
COMMENT ON COLUMN analyst.alarms.published_at IS 'When assay.alerts confirmed it (UTC).';
COMMENT ON COLUMN analyst.alarms.cleared_at IS 'When it ended (UTC): a stale calibration, once it is active no more.';

CREATE VIEW analyst.alarm_jobs WITH (security_barrier) AS
SELECT j.alarm_id, j.tenant, j.job_id, j.sku, j.serial, j.submitter, j.judged_at, j.joined_at
FROM assay.alarm_jobs j
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant IN (j.tenant, '*'));
COMMENT ON VIEW analyst.alarm_jobs IS 'One row a job that belongs to a repeated counterfeit.';
COMMENT ON COLUMN analyst.alarm_jobs.alarm_id IS 'The alarm.';
COMMENT ON COLUMN analyst.alarm_jobs.tenant IS 'Who asked.';
COMMENT ON COLUMN analyst.alarm_jobs.job_id IS 'The job.';
COMMENT ON COLUMN analyst.alarm_jobs.sku IS 'The SKU that the job claims.';
COMMENT ON COLUMN analyst.alarm_jobs.serial IS 'The serial number that the sender gave.';
COMMENT ON COLUMN analyst.alarm_jobs.submitter IS 'The sender''s label of who submitted it.';
COMMENT ON COLUMN analyst.alarm_jobs.judged_at IS 'When it was judged counterfeit (UTC).';
COMMENT ON COLUMN analyst.alarm_jobs.joined_at IS 'When it was found to belong (UTC).';

CREATE VIEW analyst.drift WITH (security_barrier) AS
SELECT d.day, d.category, d.calibration_id, d.engine, d.view, d.measure, d.since, d.jobs, d.items, d.distance,
    d.threshold, d.departed
FROM assay.drift_days d
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant = '*');
COMMENT ON VIEW analyst.drift IS
    'One row a UTC day and distribution, compared with the score calibration; over all tenants, so for grants of * only.';
COMMENT ON COLUMN analyst.drift.day IS 'The last day that was compared, in UTC.';
COMMENT ON COLUMN analyst.drift.category IS 'The category that the jobs claim.';
COMMENT ON COLUMN analyst.drift.calibration_id IS 'The score calibration that judged them.';
COMMENT ON COLUMN analyst.drift.engine IS 'The encoder''s name; * where it is of whole jobs.';
COMMENT ON COLUMN analyst.drift.view IS 'The view''s role; * where it is of whole jobs.';
COMMENT ON COLUMN analyst.drift.measure IS 'score, abstention, similarity, deviation, or a measure of quality.';
COMMENT ON COLUMN analyst.drift.since IS 'The first day that was compared: days of few jobs are taken together.';
COMMENT ON COLUMN analyst.drift.jobs IS 'Jobs compared.';
COMMENT ON COLUMN analyst.drift.items IS 'Items of the calibration that they were compared with; of two classes, the fewer.';
COMMENT ON COLUMN analyst.drift.distance IS 'Kolmogorov-Smirnov distance; of abstention, the rise of its rate.';
COMMENT ON COLUMN analyst.drift.threshold IS 'What the distance must exceed to count.';
COMMENT ON COLUMN analyst.drift.departed IS 'Whether it did.';
GRANT SELECT ON analyst.alarms, analyst.alarm_jobs, analyst.drift TO assay_analyst;

-- The watcher reads what verdicts rest on, not the messages, and writes alarms alone.
GRANT USAGE ON SCHEMA assay TO assay_watcher;
GRANT SELECT (result_id, judged_at, revision, tenant, job_id, sku, category, verdict, p_genuine, reasons, provenance,
    serial, labels) ON assay.verdicts TO assay_watcher;
GRANT SELECT ON assay.view_results, assay.probe_images, assay.probe_embeddings, assay.calibrations, assay.categories,
    assay.view_requirements, assay.alarms, assay.alarm_jobs, assay.drift_days TO assay_watcher;
GRANT INSERT ON assay.alarms, assay.alarm_jobs, assay.drift_days TO assay_watcher;
GRANT UPDATE (published_at, cleared_at) ON assay.alarms TO assay_watcher;
GRANT SELECT ON assay.alarm_jobs, assay.drift_days TO assay_curator, assay_auditor;
GRANT SELECT, DELETE ON assay.alarm_jobs TO assay_eraser;
