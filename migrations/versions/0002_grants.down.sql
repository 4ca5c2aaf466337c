REVOKE ALL ON ALL TABLES IN SCHEMA assay
    FROM assay_worker, assay_gateway, assay_curator, assay_eraser, assay_auditor;
REVOKE USAGE ON SCHEMA assay FROM assay_worker, assay_gateway, assay_curator, assay_eraser, assay_auditor;
