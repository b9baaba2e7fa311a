-- Who descends from whom, and whose row changed lately: how children whose parent arrived or was corrected are found.

-- One row per child and parent, as the child's row in `runs` has it: its lineage axis, a digest of what was looked at of the
-- parent's row, and since when it may be waited for. An edge that a correction took away stays; `runs` says which ones are true.
-- In the order of partitions, because the owner of one reads only the edges of its own children.
CREATE TABLE IF NOT EXISTS run_edges
(
    topic String,
    partition UInt32,
    workspace String,
    parent String,
    run_id String,
    axis String,
    seen String,
    since DateTime64(3, 'UTC'),
    _version UInt128
)
ENGINE = ReplacingMergeTree(_version)
ORDER BY (topic, partition, workspace, parent, run_id)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456;

CREATE MATERIALIZED VIEW IF NOT EXISTS run_edges_feed TO run_edges AS
SELECT topic, partition, workspace, parent, run_id, verdict_lineage AS axis, seen, judged_at AS since, _version
FROM runs ARRAY JOIN parents AS parent, arrayResize(parents_seen, length(parents), '') AS seen;

INSERT INTO run_edges (topic, partition, workspace, parent, run_id, axis, seen, since, _version)
SELECT topic, partition, workspace, parent, run_id, verdict_lineage, seen, judged_at, _version
FROM runs FINAL ARRAY JOIN parents AS parent, arrayResize(parents_seen, length(parents), '') AS seen;

-- The runs projected lately, by the minute of the store's own clock: a worker's would put a slow insert where nobody looks any
-- more. Whoever was away for longer than this is kept looks at every edge of the partition instead.
CREATE TABLE IF NOT EXISTS run_changes
(
    minute DateTime('UTC'),
    workspace String,
    run_id String,
    kin String,
    _version UInt128
)
ENGINE = ReplacingMergeTree(_version)
PARTITION BY toDate(minute)
ORDER BY (minute, workspace, run_id)
TTL minute + INTERVAL 2 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS run_changes_feed TO run_changes AS
SELECT toStartOfMinute(now('UTC')) AS minute, workspace, run_id,
    toString(cityHash64(closed_by IS NOT NULL, expired_at IS NOT NULL, verdict_lineage, ifNull(run_hash, ''), lineage,
        if(verdict_signature = 'trusted', ifNull(genesis, ''), ''), ifNull(parent_run_id, ''))) AS kin, _version
FROM runs;

ALTER TABLE sweep_progress MODIFY COLUMN walk Enum8('idle' = 1, 'age' = 2, 'removed' = 3, 'lineage' = 4);
