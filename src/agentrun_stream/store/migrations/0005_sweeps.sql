-- What the sweeper reads and remembers: which runs appended when, how far it came, what expired.

-- One row per run and minute in which something of it was appended, so that silent runs are found by reading a few minutes in
-- the order of the key, however many runs there are. A run that nobody looked at for so long after it was stored is not closed by
-- a lease any more.
CREATE TABLE IF NOT EXISTS run_activity
(
    topic String,
    partition UInt32,
    minute DateTime('UTC'),
    workspace String,
    run_id String,
    stored_at DateTime('UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(stored_at)
ORDER BY (topic, partition, minute, workspace, run_id)
TTL stored_at + INTERVAL 100 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS run_activity_feed TO run_activity AS
SELECT DISTINCT _topic AS topic, _partition AS partition, toStartOfMinute(_appended_at) AS minute, workspace, run_id,
    toDateTime(_ingested_at, 'UTC') AS stored_at
FROM run_objects WHERE kind != 'expired';

INSERT INTO run_activity (topic, partition, minute, workspace, run_id, stored_at)
SELECT _topic, _partition, toStartOfMinute(_appended_at) AS minute, workspace, run_id, toDateTime(max(_ingested_at), 'UTC')
FROM run_objects WHERE kind != 'expired' GROUP BY _topic, _partition, minute, workspace, run_id;

-- How far each walk of a partition's sweeper came: a minute, or for `removed` an offset. A restore must empty this table; an
-- empty one costs a walk from the beginning and never a wrong answer.
CREATE TABLE IF NOT EXISTS sweep_progress
(
    topic String,
    partition UInt32,
    walk Enum8('idle' = 1, 'age' = 2, 'removed' = 3),
    reached UInt64,
    written_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (topic, partition, walk)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The expired runs in the order of the log. Their other objects below `version` are removed by the partition's owner.
CREATE TABLE IF NOT EXISTS expired_runs
(
    topic String,
    partition UInt32,
    offset UInt64,
    workspace String,
    run_id String,
    version UInt64,
    stored_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(stored_at)
ORDER BY (topic, partition, offset, workspace, run_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS expired_runs_feed TO expired_runs AS
SELECT _topic AS topic, _partition AS partition, _offset AS offset, workspace, run_id, _version AS version,
    _ingested_at AS stored_at
FROM run_objects WHERE kind = 'expired';

INSERT INTO expired_runs (topic, partition, offset, workspace, run_id, version, stored_at)
SELECT _topic, _partition, _offset, workspace, run_id, _version, _ingested_at FROM run_objects WHERE kind = 'expired';

-- When a run was last reopened; how long after it was due a lease closed it; when it expired (then its objects are gone).
ALTER TABLE runs ADD COLUMN IF NOT EXISTS reopened_at Nullable(DateTime64(3, 'UTC')) AFTER reopened;

ALTER TABLE runs ADD COLUMN IF NOT EXISTS detected_after_ms Nullable(UInt64) AFTER reopened_at;

ALTER TABLE runs ADD COLUMN IF NOT EXISTS expired_at Nullable(DateTime64(3, 'UTC')) AFTER detected_after_ms;

CREATE OR REPLACE VIEW runs_latest AS
SELECT run_id AS id, * FROM runs FINAL;
