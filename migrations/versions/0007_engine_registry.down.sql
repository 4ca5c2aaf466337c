-- The build before this one neither reads nor writes engines: the table goes back to empty, as it was.
DROP TABLE assay.engine_events;
DROP FUNCTION assay.move_engine();
DROP TABLE assay.engines;

CREATE TABLE assay.engines (
    digest TEXT NOT NULL,
    name TEXT NOT NULL,
    backend TEXT NOT NULL,
    precision TEXT NOT NULL,
    space TEXT NOT NULL,
    manifest JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    retired_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_engines PRIMARY KEY (digest),
    CONSTRAINT fk_engines_space FOREIGN KEY(space) REFERENCES assay.embedding_spaces (space)
);
COMMENT ON TABLE assay.engines IS 'One row an engine that may serve: an encoder at a precision on a backend.';
COMMENT ON COLUMN assay.engines.digest IS 'Digest of the engine''s bytes.';
COMMENT ON COLUMN assay.engines.name IS 'Encoder name.';
COMMENT ON COLUMN assay.engines.backend IS 'openvino, onnxruntime or tensorrt.';
COMMENT ON COLUMN assay.engines.precision IS 'Precision a layer group, in words.';
COMMENT ON COLUMN assay.engines.space IS 'The embedding space it joined.';
COMMENT ON COLUMN assay.engines.manifest IS 'The signed EngineManifest.';
COMMENT ON COLUMN assay.engines.created_at IS 'When it was published (UTC).';
COMMENT ON COLUMN assay.engines.retired_at IS 'When it stopped being offered (UTC).';
GRANT SELECT ON assay.engines TO assay_worker, assay_curator, assay_eraser, assay_auditor;
GRANT INSERT, UPDATE ON assay.engines TO assay_curator;
