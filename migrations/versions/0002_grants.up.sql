GRANT USAGE ON SCHEMA assay TO assay_worker, assay_gateway, assay_curator, assay_eraser, assay_auditor;

-- The worker appends. It can neither change nor remove what it said.
GRANT SELECT ON ALL TABLES IN SCHEMA assay TO assay_worker;
REVOKE SELECT ON assay.analyst_grants, assay.audit_blocks, assay.audit_entries FROM assay_worker;
GRANT INSERT ON assay.jobs, assay.verdicts, assay.view_results, assay.attention_maps, assay.dead_letters,
    assay.probe_images, assay.probe_embeddings, assay.embedding_spaces, assay.attempts, assay.alarms TO assay_worker;
GRANT UPDATE (state, result_id, judged_at, dead_letter_id, src) ON assay.jobs TO assay_worker; -- replays
GRANT UPDATE (replayed_at) ON assay.dead_letters TO assay_worker;
GRANT UPDATE (ended_at, ended_by) ON assay.attempts TO assay_worker;
GRANT UPDATE (cleared_at) ON assay.alarms TO assay_worker;

GRANT SELECT ON assay.categories, assay.view_requirements, assay.items, assay.jobs, assay.verdicts,
    assay.view_results, assay.attention_maps, assay.dead_letters, assay.reviews TO assay_gateway;
GRANT INSERT ON assay.reviews TO assay_gateway;

GRANT SELECT ON ALL TABLES IN SCHEMA assay TO assay_curator;
REVOKE SELECT ON assay.analyst_grants FROM assay_curator;
GRANT INSERT, UPDATE ON assay.categories, assay.items, assay.calibrations, assay.engines TO assay_curator;
GRANT INSERT, UPDATE, DELETE ON assay.view_requirements, assay.reference_grants TO assay_curator;
GRANT INSERT ON assay.embedding_spaces, assay.reference_images, assay.reference_events, assay.reference_embeddings,
    assay.gallery_revisions, assay.reviews TO assay_curator;
GRANT UPDATE (state, approved_by) ON assay.reference_images TO assay_curator;

GRANT SELECT ON ALL TABLES IN SCHEMA assay TO assay_eraser;
REVOKE SELECT ON assay.analyst_grants FROM assay_eraser;
GRANT DELETE ON assay.jobs, assay.verdicts, assay.view_results, assay.attention_maps, assay.dead_letters,
    assay.probe_images, assay.probe_embeddings, assay.reviews, assay.attempts TO assay_eraser;

GRANT SELECT ON ALL TABLES IN SCHEMA assay TO assay_auditor;
REVOKE SELECT ON assay.dead_letters, assay.probe_embeddings, assay.reference_embeddings FROM assay_auditor;
