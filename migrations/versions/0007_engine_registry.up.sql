-- No build wrote or read the old table.
DROP TABLE assay.engines;

CREATE TABLE assay.engines (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    backend TEXT NOT NULL,
    capability TEXT NOT NULL,
    requires TEXT NOT NULL,
    precision TEXT NOT NULL,
    space TEXT NOT NULL,
    digest TEXT NOT NULL,
    key_id TEXT NOT NULL,
    manifest JSONB NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    published_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    state TEXT DEFAULT 'draft' NOT NULL,
    CONSTRAINT pk_engines PRIMARY KEY (id),
    CONSTRAINT fk_engines_space FOREIGN KEY (space) REFERENCES assay.embedding_spaces (space),
    CONSTRAINT uq_engines_name_version_backend_capability_requires_precision
        UNIQUE (name, version, backend, capability, requires, precision),
    CONSTRAINT ck_engines_version CHECK (version > 0),
    CONSTRAINT ck_engines_state CHECK (state IN ('draft', 'verified', 'canary', 'current', 'previous', 'retired'))
);
CREATE UNIQUE INDEX uq_engines_alone ON assay.engines (name, backend, capability, requires, state)
    WHERE state IN ('canary', 'current', 'previous');
COMMENT ON TABLE assay.engines IS 'One row a published engine: an encoder''s version for one kind of machine.';
COMMENT ON COLUMN assay.engines.id IS 'SHA-256 of its manifest''s file, in hex; its files lie under it.';
COMMENT ON COLUMN assay.engines.name IS 'Encoder name.';
COMMENT ON COLUMN assay.engines.version IS 'Version of the encoder; only grows.';
COMMENT ON COLUMN assay.engines.backend IS 'What it is for: any, openvino, onnxruntime or tensorrt.';
COMMENT ON COLUMN assay.engines.capability IS 'Compute capability of the GPU that it is for; empty for any.';
COMMENT ON COLUMN assay.engines.requires IS 'Versions that must be there, in one line; empty for any.';
COMMENT ON COLUMN assay.engines.precision IS 'Precision of its quantised layers.';
COMMENT ON COLUMN assay.engines.space IS 'The embedding space it joined.';
COMMENT ON COLUMN assay.engines.digest IS 'SHA-256 of its graph, as verdicts name it.';
COMMENT ON COLUMN assay.engines.key_id IS 'Key that signed it.';
COMMENT ON COLUMN assay.engines.manifest IS 'The signed EngineManifest.';
COMMENT ON COLUMN assay.engines.expires_at IS 'From when it is refused (UTC).';
COMMENT ON COLUMN assay.engines.published_at IS 'When it was published (UTC).';
COMMENT ON COLUMN assay.engines.state IS 'Its last state in engine_events, whose trigger sets it.';

CREATE TABLE assay.engine_events (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    engine TEXT NOT NULL,
    came_from TEXT,
    state TEXT NOT NULL,
    by TEXT NOT NULL,
    why TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    role TEXT DEFAULT SESSION_USER NOT NULL,
    CONSTRAINT pk_engine_events PRIMARY KEY (id),
    CONSTRAINT fk_engine_events_engine FOREIGN KEY (engine) REFERENCES assay.engines (id),
    -- A comparison with null would let it pass.
    CONSTRAINT ck_engine_events_move CHECK (CASE WHEN came_from IS NULL THEN state = 'draft' ELSE (came_from, state) IN (
        ('draft', 'verified'), ('draft', 'retired'), ('verified', 'canary'), ('verified', 'current'),
        ('verified', 'retired'), ('canary', 'current'), ('canary', 'verified'), ('canary', 'retired'),
        ('current', 'previous'), ('current', 'retired'), ('previous', 'current'), ('previous', 'retired')) END)
);
CREATE INDEX ix_engine_events_engine ON assay.engine_events (engine, id);
COMMENT ON TABLE assay.engine_events IS 'Append-only: one row a change of an engine''s state.';
COMMENT ON COLUMN assay.engine_events.id IS 'Order of the changes.';
COMMENT ON COLUMN assay.engine_events.engine IS 'The engine.';
COMMENT ON COLUMN assay.engine_events.came_from IS 'State before; null for its publication.';
COMMENT ON COLUMN assay.engine_events.state IS 'State after.';
COMMENT ON COLUMN assay.engine_events.by IS 'Who did it.';
COMMENT ON COLUMN assay.engine_events.why IS 'On what grounds.';
COMMENT ON COLUMN assay.engine_events.at IS 'When (UTC).';
COMMENT ON COLUMN assay.engine_events.role IS 'Database role that did it.';

-- As the owner: the state moves with an event and in no other way, and curators need no right to change an engine.
CREATE FUNCTION assay.move_engine() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.came_from IS NULL THEN
        PERFORM FROM assay.engine_events WHERE engine = NEW.engine AND id <> NEW.id;
        IF FOUND THEN
            RAISE EXCEPTION 'engine % is published already', left(NEW.engine, 12);
        END IF;
        RETURN NULL;
    END IF;
    -- The events remember the highest version of a name that was current: forward leads no way below it.
    IF NEW.state IN ('canary', 'current') AND NEW.came_from <> 'previous' THEN
        PERFORM FROM assay.engine_events e JOIN assay.engines was ON was.id = e.engine
            JOIN assay.engines chosen ON chosen.id = NEW.engine
            WHERE was.name = chosen.name AND was.version > chosen.version AND e.state = 'current';
        IF FOUND THEN
            RAISE EXCEPTION 'engine % is rolled back: a higher version was current', left(NEW.engine, 12);
        END IF;
    END IF;
    UPDATE assay.engines SET state = NEW.state WHERE id = NEW.engine AND state = NEW.came_from
        AND EXISTS (SELECT FROM assay.engine_events e WHERE e.engine = NEW.engine AND e.came_from IS NULL);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'engine % is not, or no longer, %', left(NEW.engine, 12), NEW.came_from;
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION assay.move_engine() FROM PUBLIC;
CREATE TRIGGER move_engine AFTER INSERT ON assay.engine_events FOR EACH ROW EXECUTE FUNCTION assay.move_engine();

GRANT SELECT ON assay.engines, assay.engine_events TO assay_worker, assay_curator, assay_auditor;
GRANT SELECT ON assay.engines TO assay_eraser; -- as before
-- Neither the state nor the moments: those are set here.
GRANT INSERT (id, name, version, backend, capability, requires, precision, space, digest, key_id, manifest, expires_at)
    ON assay.engines TO assay_curator;
GRANT INSERT (engine, came_from, state, by, why) ON assay.engine_events TO assay_curator;
