-- Every view filters by analyst_grants of the session's login role (session_user: a view runs as its owner), and is a
-- security barrier, so that no function in a query sees a row before the filter did.

CREATE VIEW analyst.jobs WITH (security_barrier) AS
SELECT j.tenant, j.job_id, j.state, v.sku, v.category, v.verdict, v.confidence, v.p_genuine,
    ARRAY(SELECT reason ->> 'code' FROM jsonb_array_elements(v.reasons) AS reason) AS reasons,
    v.missing_views, v.nearest_skus, v.result_id, v.revision,
    (v.provenance ->> 'gallery_revision')::bigint AS gallery_revision,
    v.provenance ->> 'calibration_id' AS calibration_id,
    (v.provenance ->> 'degraded')::boolean AS degraded,
    v.provenance ->> 'build' AS build,
    (v.timings ->> 'total_ms')::double precision AS total_ms,
    d.code AS error_code, d.detail AS error_detail, v.submitted_at, v.judged_at, j.created_at AS ended_at
FROM assay.jobs j
LEFT JOIN (
    SELECT * FROM assay.verdicts latest
    WHERE NOT EXISTS (SELECT FROM assay.verdicts later WHERE later.supersedes = latest.result_id)
) v ON j.state = 'judged' AND v.tenant = j.tenant AND v.job_id = j.job_id
LEFT JOIN assay.dead_letters d ON j.state = 'dead' AND d.id = j.dead_letter_id
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant IN (j.tenant, '*'));
COMMENT ON VIEW analyst.jobs IS 'One row a job that has an end: its latest verdict, or why there is none.';
COMMENT ON COLUMN analyst.jobs.tenant IS 'Who asked.';
COMMENT ON COLUMN analyst.jobs.job_id IS 'The sender''s id of the job.';
COMMENT ON COLUMN analyst.jobs.state IS 'judged or dead.';
COMMENT ON COLUMN analyst.jobs.sku IS 'The SKU that the job claims.';
COMMENT ON COLUMN analyst.jobs.category IS 'The category that the job claims.';
COMMENT ON COLUMN analyst.jobs.verdict IS 'authentic, counterfeit or inconclusive; consistent with the references, never proof.';
COMMENT ON COLUMN analyst.jobs.confidence IS 'Probability of the stated verdict; null when inconclusive.';
COMMENT ON COLUMN analyst.jobs.p_genuine IS 'Posterior probability of genuine; null when nothing could be scored.';
COMMENT ON COLUMN analyst.jobs.reasons IS 'Reason codes of the verdict.';
COMMENT ON COLUMN analyst.jobs.missing_views IS 'Required views that were absent or unusable.';
COMMENT ON COLUMN analyst.jobs.nearest_skus IS 'SKUs that the photographs resemble most.';
COMMENT ON COLUMN analyst.jobs.result_id IS 'The verdict''s id.';
COMMENT ON COLUMN analyst.jobs.revision IS 'From 1; a re-evaluation is the next.';
COMMENT ON COLUMN analyst.jobs.gallery_revision IS 'The gallery that it was compared with.';
COMMENT ON COLUMN analyst.jobs.calibration_id IS 'The score calibration that decided.';
COMMENT ON COLUMN analyst.jobs.degraded IS 'Whether a fallback engine served.';
COMMENT ON COLUMN analyst.jobs.build IS 'The worker''s build.';
COMMENT ON COLUMN analyst.jobs.total_ms IS 'Milliseconds from submission to judgement.';
COMMENT ON COLUMN analyst.jobs.error_code IS 'Why there is no verdict, where dead.';
COMMENT ON COLUMN analyst.jobs.error_detail IS 'The same in words.';
COMMENT ON COLUMN analyst.jobs.submitted_at IS 'When the sender made the job (UTC).';
COMMENT ON COLUMN analyst.jobs.judged_at IS 'When the verdict was decided (UTC).';
COMMENT ON COLUMN analyst.jobs.ended_at IS 'When the job first got an end (UTC).';

CREATE VIEW analyst.views WITH (security_barrier) AS
SELECT v.tenant, v.job_id, v.result_id, v.view, v.sku, v.category, encode(v.sha256, 'hex') AS sha256, v.usable,
    v.unusable_code, v.encoder, v.similarity, v.counterfeit_similarity, v.other_sku, v.other_sku_similarity,
    v.deviation, v.p_genuine, v.aligned, v.quality, v.matches, v.judged_at
FROM assay.view_results v
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant IN (v.tenant, '*'));
COMMENT ON VIEW analyst.views IS 'One row a view of a verdict.';
COMMENT ON COLUMN analyst.views.tenant IS 'Who asked.';
COMMENT ON COLUMN analyst.views.job_id IS 'The job.';
COMMENT ON COLUMN analyst.views.result_id IS 'The verdict.';
COMMENT ON COLUMN analyst.views.view IS 'The view''s role.';
COMMENT ON COLUMN analyst.views.sku IS 'The SKU that the job claims.';
COMMENT ON COLUMN analyst.views.category IS 'The category that the job claims.';
COMMENT ON COLUMN analyst.views.sha256 IS 'SHA-256 of the photograph that was judged, in hex.';
COMMENT ON COLUMN analyst.views.usable IS 'Whether the view took part.';
COMMENT ON COLUMN analyst.views.unusable_code IS 'Why it did not.';
COMMENT ON COLUMN analyst.views.encoder IS 'The encoder that looked at it.';
COMMENT ON COLUMN analyst.views.similarity IS 'Best cosine to a genuine reference of the SKU.';
COMMENT ON COLUMN analyst.views.counterfeit_similarity IS 'Best cosine to a known counterfeit of the SKU.';
COMMENT ON COLUMN analyst.views.other_sku IS 'Nearest other SKU.';
COMMENT ON COLUMN analyst.views.other_sku_similarity IS 'Cosine to it.';
COMMENT ON COLUMN analyst.views.deviation IS 'Mean of the most departing 5 % of cells, in units of the references'' own spread.';
COMMENT ON COLUMN analyst.views.p_genuine IS 'Calibrated probability of genuine, this view alone.';
COMMENT ON COLUMN analyst.views.aligned IS 'Whether the view could be laid over its references.';
COMMENT ON COLUMN analyst.views.quality IS 'Quality measures by name.';
COMMENT ON COLUMN analyst.views.matches IS 'References compared, best first: [{reference_id, similarity}, ...].';
COMMENT ON COLUMN analyst.views.judged_at IS 'When the verdict was decided (UTC).';

CREATE VIEW analyst.verdict_daily WITH (security_barrier) AS
SELECT (v.judged_at AT TIME ZONE 'UTC')::date AS day, v.tenant, v.category, v.verdict, count(*) AS jobs,
    avg(v.confidence) AS mean_confidence,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY (v.timings ->> 'total_ms')::double precision) AS median_total_ms
FROM assay.verdicts v
WHERE v.revision = 1
    AND EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant IN (v.tenant, '*'))
GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW analyst.verdict_daily IS 'One row a UTC day, tenant, category and verdict; first verdicts only.';
COMMENT ON COLUMN analyst.verdict_daily.day IS 'The day, in UTC.';
COMMENT ON COLUMN analyst.verdict_daily.tenant IS 'Who asked.';
COMMENT ON COLUMN analyst.verdict_daily.category IS 'The category that the jobs claim.';
COMMENT ON COLUMN analyst.verdict_daily.verdict IS 'authentic, counterfeit or inconclusive.';
COMMENT ON COLUMN analyst.verdict_daily.jobs IS 'How many.';
COMMENT ON COLUMN analyst.verdict_daily.mean_confidence IS 'Mean confidence; null when inconclusive.';
COMMENT ON COLUMN analyst.verdict_daily.median_total_ms IS 'Median of the milliseconds from submission to judgement.';

CREATE VIEW analyst.dead_letters WITH (security_barrier) AS
SELECT d.id, d.tenant, d.job_id, d.topic, d.partition, d."offset", d.code, d.stage, d.detail, d.attempt,
    length(d.value) AS value_bytes, d.first_seen, d.created_at, d.replayed_at
FROM assay.dead_letters d
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant IN (d.tenant, '*'));
COMMENT ON VIEW analyst.dead_letters IS
    'One row a message without a verdict, without its payload; those of unknown tenant are seen by grants of * only.';
COMMENT ON COLUMN analyst.dead_letters.id IS 'Dead letter id; `assay dlq show` takes it.';
COMMENT ON COLUMN analyst.dead_letters.tenant IS 'Who asked, where that could be read.';
COMMENT ON COLUMN analyst.dead_letters.job_id IS 'The job, where that could be read.';
COMMENT ON COLUMN analyst.dead_letters.topic IS 'Topic of the record.';
COMMENT ON COLUMN analyst.dead_letters.partition IS 'Partition of the record.';
COMMENT ON COLUMN analyst.dead_letters."offset" IS 'Offset of the record.';
COMMENT ON COLUMN analyst.dead_letters.code IS 'Error code of the contract''s closed set.';
COMMENT ON COLUMN analyst.dead_letters.stage IS 'Stage that gave up.';
COMMENT ON COLUMN analyst.dead_letters.detail IS 'What was wrong, naming values.';
COMMENT ON COLUMN analyst.dead_letters.attempt IS 'Attempt that failed, from 1.';
COMMENT ON COLUMN analyst.dead_letters.value_bytes IS 'Size of the original value.';
COMMENT ON COLUMN analyst.dead_letters.first_seen IS 'When the job was first seen (UTC).';
COMMENT ON COLUMN analyst.dead_letters.created_at IS 'When the letter was written (UTC).';
COMMENT ON COLUMN analyst.dead_letters.replayed_at IS 'When a replay of it was answered (UTC).';

CREATE VIEW analyst.error_rates WITH (security_barrier) AS
SELECT r.tenant, v.category, count(*) AS reviewed,
    count(*) FILTER (WHERE r.decision = 'counterfeit') AS counterfeits,
    count(*) FILTER (WHERE r.decision = 'counterfeit' AND v.verdict = 'authentic') AS false_accepts,
    count(*) FILTER (WHERE r.decision = 'genuine') AS genuine,
    count(*) FILTER (WHERE r.decision = 'genuine' AND v.verdict = 'counterfeit') AS false_rejects,
    count(*) FILTER (WHERE v.verdict = 'inconclusive') AS inconclusive,
    count(*) FILTER (WHERE r.decision = 'counterfeit' AND v.verdict = 'authentic')::double precision
        / nullif(count(*) FILTER (WHERE r.decision = 'counterfeit'), 0) AS false_accept_rate,
    count(*) FILTER (WHERE r.decision = 'genuine' AND v.verdict = 'counterfeit')::double precision
        / nullif(count(*) FILTER (WHERE r.decision = 'genuine'), 0) AS false_reject_rate
FROM (SELECT DISTINCT ON (tenant, job_id) * FROM assay.reviews ORDER BY tenant, job_id, id DESC) r
JOIN assay.jobs j ON j.tenant = r.tenant AND j.job_id = r.job_id
JOIN assay.verdicts v ON v.result_id = coalesce(r.result_id, j.result_id)
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant IN (r.tenant, '*'))
GROUP BY r.tenant, v.category;
COMMENT ON VIEW analyst.error_rates IS
    'One row a tenant and category: the last review of each job beside the verdict that was reviewed. Reviewed jobs are rarely a fair sample.';
COMMENT ON COLUMN analyst.error_rates.tenant IS 'Who asked.';
COMMENT ON COLUMN analyst.error_rates.category IS 'The category that the jobs claim.';
COMMENT ON COLUMN analyst.error_rates.reviewed IS 'Jobs with a review and a verdict.';
COMMENT ON COLUMN analyst.error_rates.counterfeits IS 'Of these, found counterfeit.';
COMMENT ON COLUMN analyst.error_rates.false_accepts IS 'Found counterfeit, but called authentic.';
COMMENT ON COLUMN analyst.error_rates.genuine IS 'Of the reviewed, found genuine.';
COMMENT ON COLUMN analyst.error_rates.false_rejects IS 'Found genuine, but called counterfeit.';
COMMENT ON COLUMN analyst.error_rates.inconclusive IS 'Of the reviewed, without a decision.';
COMMENT ON COLUMN analyst.error_rates.false_accept_rate IS 'false_accepts / counterfeits.';
COMMENT ON COLUMN analyst.error_rates.false_reject_rate IS 'false_rejects / genuine.';

CREATE VIEW analyst."references" WITH (security_barrier) AS
SELECT r.id, r.tenant, r.sku, i.name AS sku_name, i.category, r.view, r.genuine, r.state, r.approved_by,
    encode(r.sha256, 'hex') AS sha256, r.provenance,
    ARRAY(SELECT e.space FROM assay.reference_embeddings e WHERE e.reference_id = r.id ORDER BY 1) AS spaces,
    r.created_at, (SELECT max(e.at) FROM assay.reference_events e WHERE e.reference_id = r.id) AS state_since
FROM assay.reference_images r
JOIN assay.items i ON i.tenant = r.tenant AND i.sku = r.sku
WHERE EXISTS (SELECT FROM assay.analyst_grants g WHERE g.role = session_user AND g.tenant IN (r.tenant, '*'));
COMMENT ON VIEW analyst."references" IS 'One row a reference photograph.';
COMMENT ON COLUMN analyst."references".id IS 'Reference id, as verdicts name it.';
COMMENT ON COLUMN analyst."references".tenant IS 'Owner.';
COMMENT ON COLUMN analyst."references".sku IS 'The SKU that it shows.';
COMMENT ON COLUMN analyst."references".sku_name IS 'The SKU''s name for people.';
COMMENT ON COLUMN analyst."references".category IS 'The SKU''s category.';
COMMENT ON COLUMN analyst."references".view IS 'The role that it shows.';
COMMENT ON COLUMN analyst."references".genuine IS 'False: a known counterfeit of the SKU.';
COMMENT ON COLUMN analyst."references".state IS 'draft, active, quarantined or retired.';
COMMENT ON COLUMN analyst."references".approved_by IS 'Who let it become active.';
COMMENT ON COLUMN analyst."references".sha256 IS 'SHA-256 of the photograph, in hex.';
COMMENT ON COLUMN analyst."references".provenance IS 'Where the photograph came from.';
COMMENT ON COLUMN analyst."references".spaces IS 'Embedding spaces that it was enrolled in.';
COMMENT ON COLUMN analyst."references".created_at IS 'When it was enrolled (UTC).';
COMMENT ON COLUMN analyst."references".state_since IS 'When it entered its state (UTC).';

GRANT USAGE ON SCHEMA analyst TO assay_analyst;
GRANT SELECT ON ALL TABLES IN SCHEMA analyst TO assay_analyst;
