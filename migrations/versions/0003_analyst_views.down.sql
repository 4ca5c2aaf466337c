REVOKE USAGE ON SCHEMA analyst FROM assay_analyst;
DROP VIEW analyst."references", analyst.error_rates, analyst.dead_letters, analyst.verdict_daily, analyst.views,
    analyst.jobs;
