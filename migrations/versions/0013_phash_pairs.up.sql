-- Near photographs are found by two equal pieces of six instead of one of five: hashes that differ in at most four bits have
-- two in common, and of a million at random a search then reads seven rows, where it read six hundred. (Not STRICT: only so
-- does the planner write the function's body into a query, where a call of its own would cost many times as much.)
CREATE FUNCTION assay.phash_pairs(phash bigint) RETURNS integer[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY[
    0 << 22 | ((phash >> 0 & 2047) << 11 | (phash >> 11 & 2047))::int,
    1 << 22 | ((phash >> 0 & 2047) << 11 | (phash >> 22 & 2047))::int,
    2 << 22 | ((phash >> 0 & 2047) << 11 | (phash >> 33 & 2047))::int,
    3 << 22 | ((phash >> 0 & 2047) << 11 | (phash >> 44 & 1023))::int,
    4 << 22 | ((phash >> 0 & 2047) << 11 | (phash >> 54 & 1023))::int,
    5 << 22 | ((phash >> 11 & 2047) << 11 | (phash >> 22 & 2047))::int,
    6 << 22 | ((phash >> 11 & 2047) << 11 | (phash >> 33 & 2047))::int,
    7 << 22 | ((phash >> 11 & 2047) << 11 | (phash >> 44 & 1023))::int,
    8 << 22 | ((phash >> 11 & 2047) << 11 | (phash >> 54 & 1023))::int,
    9 << 22 | ((phash >> 22 & 2047) << 11 | (phash >> 33 & 2047))::int,
    10 << 22 | ((phash >> 22 & 2047) << 11 | (phash >> 44 & 1023))::int,
    11 << 22 | ((phash >> 22 & 2047) << 11 | (phash >> 54 & 1023))::int,
    12 << 22 | ((phash >> 33 & 2047) << 11 | (phash >> 44 & 1023))::int,
    13 << 22 | ((phash >> 33 & 2047) << 11 | (phash >> 54 & 1023))::int,
    14 << 22 | ((phash >> 44 & 1023) << 11 | (phash >> 54 & 1023))::int
];
COMMENT ON FUNCTION assay.phash_pairs IS
    'The pairs of the six pieces (11, 11, 11, 11, 10 and 10 bits) of a perceptual hash, each with its number above its bits.';
CREATE INDEX ix_known_photographs_pairs ON assay.known_photographs
    USING gin (assay.phash_pairs(phash)) WITH (fastupdate = off);
CREATE INDEX ix_reference_images_pairs ON assay.reference_images
    USING gin (assay.phash_pairs(phash)) WITH (fastupdate = off);
DROP INDEX assay.ix_known_photographs_bands;
