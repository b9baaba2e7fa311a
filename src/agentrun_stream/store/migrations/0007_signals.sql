-- Signals: what the detectors found (processors/signals/), and the closed runs in the order that the failure process needs.

-- Closed runs by agent, kept by the refresher (store/closings.py): one row per run and agent, with the run's own object as it
-- stands now: status and version of the agent, and the place of the event that last changed it. `status` '' says that the run is
-- not closed (any more), or belongs to another agent by now; such a row counts for nothing. A higher `_version` wins.
CREATE TABLE IF NOT EXISTS closings
(
    workspace LowCardinality(String),
    agent_id String,
    run_id String,
    git_commit LowCardinality(String),
    config_hash LowCardinality(String),
    status LowCardinality(String),
    appended_at DateTime64(3, 'UTC'),
    topic LowCardinality(String),
    partition UInt32,
    offset UInt64,
    _version UInt64,
    INDEX by_run run_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = ReplacingMergeTree(_version)
ORDER BY (workspace, agent_id, run_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456;

-- Which block numbers of settlements the closings contain, as in window_progress. A restore must empty this table; an empty one
-- costs a new pass over the settlements and never a wrong answer.
CREATE TABLE IF NOT EXISTS signal_progress
(
    epoch UInt64,
    source String,
    partition_id String,
    first UInt64,
    last UInt64,
    refreshed_at DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (epoch, source, partition_id, first, last);

-- What each detector says of each agent now; agent '' stands for all agents of a workspace. `state` is what it says it from.
CREATE TABLE IF NOT EXISTS signals
(
    workspace String,
    agent_id String,
    signal LowCardinality(String),
    value Float64,
    level LowCardinality(String),
    state String,
    refreshed_at DateTime64(3, 'UTC'),
    _version UInt64
)
ENGINE = ReplacingMergeTree(_version)
ORDER BY (workspace, agent_id, signal)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE VIEW IF NOT EXISTS signals_latest AS
SELECT workspace, agent_id, signal, value, level, state, refreshed_at FROM signals FINAL;
