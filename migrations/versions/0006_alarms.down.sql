DROP VIEW analyst.drift, analyst.alarm_jobs, analyst.alarms;
DROP TABLE assay.drift_days, assay.alarm_jobs;
REVOKE ALL ON ALL TABLES IN SCHEMA assay FROM assay_watcher;
REVOKE SELECT (result_id, judged_at, revision, tenant, job_id, sku, category, verdict, p_genuine, reasons, provenance,
    serial, labels) ON assay.verdicts FROM assay_watcher;
REVOKE USAGE ON SCHEMA assay FROM assay_watcher;
DROP INDEX assay.ix_alarms_unpublished;
ALTER TABLE assay.alarms DROP COLUMN event_id, DROP COLUMN event, DROP COLUMN event_headers, DROP COLUMN published_at;
COMMENT ON TABLE assay.alarms IS 'One row an alarm.';
COMMENT ON COLUMN assay.alarms.kind IS 'What kind: degraded, default_partition, drift, ...';
DROP INDEX assay.ix_verdicts_counterfeit;
ALTER TABLE assay.verdicts DROP COLUMN serial, DROP COLUMN labels;
