-- The registries of keys that workers trust by, which runs a key signed, and how far a changed registry was followed.

-- Each row is a registry that a worker proposed from a file; the highest version of a workspace is in force for all workers, and
-- of two contents under one version the one stored first, by the store's own clock. `content` is the JWK Set without anything
-- private, `digest` the SHA-256 of the file, `changed` the kids whose entry differs from what was in force before.
CREATE TABLE IF NOT EXISTS trust_versions
(
    workspace String,
    version UInt64,
    digest String,
    content String,
    changed Array(String),
    proposed_by String,
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY (workspace, version, digest)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Which runs hold a claim by which key, so that those that a changed entry concerns are found in the order of the key.
CREATE TABLE IF NOT EXISTS run_keys
(
    workspace String,
    topic String,
    partition UInt32,
    kid String,
    run_id String
)
ENGINE = ReplacingMergeTree
ORDER BY (workspace, topic, partition, kid, run_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS run_keys_feed TO run_keys AS
SELECT DISTINCT workspace, _topic AS topic, _partition AS partition,
    substring(object_id, 1, position(object_id, '.') - 1) AS kid, run_id
FROM run_objects WHERE kind = 'claim';

INSERT INTO run_keys (workspace, topic, partition, kid, run_id)
SELECT DISTINCT workspace, _topic, _partition, substring(object_id, 1, position(object_id, '.') - 1), run_id
FROM run_objects WHERE kind = 'claim';

-- Which versions a partition's owner has followed: every run that they concern is projected under them. A restore must empty this
-- table; an empty one costs one more look at all signed runs and never a wrong answer.
CREATE TABLE IF NOT EXISTS trust_progress
(
    topic String,
    partition UInt32,
    workspace String,
    version UInt64,
    digest String,
    done_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(done_at)
ORDER BY (topic, partition, workspace, version, digest)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
