-- The tables of the pipeline. A higher version of a key wins everywhere; writing a row again changes nothing.
-- No LowCardinality but in the sums: building dictionaries costs an insert 2-3 us a row, and LZ4 folds repeats as well.
-- Parts below 256 MiB keep all columns in one file: an insert of 20 k objects and its merges cost half of what they do with a
-- file (and an fsync) a column, and a look-up reads few rows anyway.
-- Statements end with a semicolon at the end of a line. Migrations are additive and never edited once released.

CREATE TABLE IF NOT EXISTS run_objects
(
    workspace String,
    run_id String,
    kind Enum8('run' = 1, 'step' = 2, 'eval' = 3, 'claim' = 4, 'expired' = 5),
    object_id String,
    type Nullable(String),
    tool_name Nullable(String),
    mcp_server Nullable(String),
    input_preview Nullable(String),
    output_preview Nullable(String),
    success Nullable(Bool),
    error Nullable(String),
    started_at Nullable(DateTime64(6, 'UTC')),
    ended_at Nullable(DateTime64(6, 'UTC')),
    duration_ms Nullable(Float64),
    tokens_used Nullable(UInt64),
    metadata Nullable(String),
    extra Nullable(String),
    doc Nullable(String),
    _source String,
    _event_time DateTime64(6, 'UTC'),
    _topic String,
    _partition UInt32,
    _offset UInt64,
    _version UInt64,
    _first_appended_at DateTime64(3, 'UTC'),
    _appended_at DateTime64(3, 'UTC'),
    _ingested_at DateTime64(3, 'UTC'),
    _sum UInt64 DEFAULT cityHash64(tuple(
        workspace, run_id, kind, object_id, type, tool_name, mcp_server, input_preview, output_preview, success, error,
        started_at, ended_at, duration_ms, tokens_used, metadata, extra, doc, _source, _event_time, _topic, _partition,
        _offset, _version, _first_appended_at, _appended_at))
)
ENGINE = ReplacingMergeTree(_version)
PARTITION BY toYYYYMM(_ingested_at)
ORDER BY (workspace, run_id, kind, object_id)
SETTINGS index_granularity = 1024, fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456;

CREATE TABLE IF NOT EXISTS runs
(
    workspace String,
    run_id String,
    agent_id Nullable(String),
    agent_name Nullable(String),
    model Nullable(String),
    provider Nullable(String),
    runtime Nullable(String),
    runtime_version Nullable(String),
    trigger Nullable(String),
    parent_run_id Nullable(String),
    task_id Nullable(String),
    status Nullable(String),
    outcome Nullable(String),
    started_at Nullable(DateTime64(6, 'UTC')),
    ended_at Nullable(DateTime64(6, 'UTC')),
    duration_ms Nullable(Float64),
    tools_available Array(String),
    error Nullable(String),
    git_branch Nullable(String),
    git_commit Nullable(String),
    workspace_id Nullable(String),
    tags Array(String),
    metadata Nullable(String),
    eval Nullable(String),
    extra Nullable(String),
    input_tokens Nullable(UInt64),
    output_tokens Nullable(UInt64),
    cache_read_tokens Nullable(UInt64),
    cache_write_tokens Nullable(UInt64),
    total_tokens Nullable(UInt64),
    cost_reported_raw Nullable(String),
    cost_reported Nullable(Decimal(38, 12)),
    cost_model Nullable(String),
    cost_metadata Nullable(String),
    run_hash Nullable(String),
    parent_run_hash Nullable(String),
    lineage Array(String),
    model_version Nullable(String),
    config_hash Nullable(String),
    provenance_runtime Nullable(String),
    signed_by Nullable(String),
    signature Nullable(String),
    created_at Nullable(DateTime64(6, 'UTC')),
    provenance_metadata Nullable(String),
    verdict String,
    verdict_hash String,
    verdict_chain String,
    verdict_signature String,
    verdict_lineage String,
    verdict_log String,
    verdict_reasons Array(String),
    run_digest Nullable(String),
    genesis Nullable(String),
    kid Nullable(String),
    signed_rev Nullable(UInt64),
    verifier String,
    trust_version UInt64,
    judged_at DateTime64(3, 'UTC'),
    raw_sha256 Nullable(String),
    claims UInt32,
    claims_differ Array(String),
    parents Array(String),
    parents_seen Array(String),
    flag String,
    steps Nullable(UInt64),
    tool_calls Nullable(UInt64),
    failed_tool_calls Nullable(UInt64),
    failed_steps Nullable(UInt64),
    step_input_tokens Nullable(UInt64),
    step_output_tokens Nullable(UInt64),
    step_cache_read_tokens Nullable(UInt64),
    step_cache_write_tokens Nullable(UInt64),
    evals UInt32,
    evals_passed UInt32,
    steps_refused UInt64,
    closed_by Nullable(String),
    reopened UInt32,
    corrections UInt32,
    first_event_at DateTime64(3, 'UTC'),
    last_event_at DateTime64(3, 'UTC'),
    revision UInt64,
    `projection` UInt64,
    topic String,
    partition UInt32,
    projected_at DateTime64(3, 'UTC'),
    _version UInt128
)
ENGINE = ReplacingMergeTree(_version)
ORDER BY (workspace, run_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456;

CREATE TABLE IF NOT EXISTS accruals
(
    minute DateTime('UTC'),
    topic String,
    partition UInt32,
    offset UInt64,
    object_id String,
    workspace String,
    run_id String,
    basis Enum8('step' = 1, 'run' = 2),
    agent_id Nullable(String),
    model Nullable(String),
    provider Nullable(String),
    runtime Nullable(String),
    trigger Nullable(String),
    input_tokens Nullable(Int64),
    output_tokens Nullable(Int64),
    cache_read_tokens Nullable(Int64),
    cache_write_tokens Nullable(Int64),
    total_tokens Nullable(Int64),
    cost_reported Nullable(Decimal(38, 12)),
    appended_at DateTime64(3, 'UTC'),
    _version UInt64
)
ENGINE = ReplacingMergeTree(_version)
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, topic, partition, offset, object_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456, enable_block_number_column = 1;

CREATE TABLE IF NOT EXISTS settlements
(
    minute DateTime('UTC'),
    workspace String,
    run_id String,
    agent_id Nullable(String),
    model Nullable(String),
    provider Nullable(String),
    runtime Nullable(String),
    trigger Nullable(String),
    status Nullable(String),
    outcome Nullable(String),
    closed_by Nullable(String),
    time_basis Nullable(String),
    runs UInt8,
    unpriced UInt8,
    steps UInt64,
    tool_calls UInt64,
    failed_tool_calls UInt64,
    corrections UInt64,
    duration_ms Nullable(Int64),
    input_tokens Nullable(Int64),
    output_tokens Nullable(Int64),
    cache_read_tokens Nullable(Int64),
    cache_write_tokens Nullable(Int64),
    total_tokens Nullable(Int64),
    cost_reported Nullable(Decimal(38, 12)),
    revision UInt64,
    _version UInt128
)
ENGINE = ReplacingMergeTree(_version)
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, workspace, run_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456, enable_block_number_column = 1;

-- Sums of accruals and settlements by minute and dimensions, made by store/windows.py; read `cost_by_minute` instead.
-- A dimension that is NULL in the ledger is '' here; a sum of unknowns is NULL. Of a minute only the rows of its highest
-- `_version` count; a row with `rows = 0` says that there is nothing (any more) under its dimensions, and the one without a
-- workspace only that the minute was summed. `window_progress` vouches for these rows, so they must be as durable.
CREATE TABLE IF NOT EXISTS cost_windows
(
    ledger Enum8('accrued' = 1, 'settled' = 2),
    minute DateTime('UTC'),
    workspace LowCardinality(String),
    agent_id LowCardinality(String),
    model LowCardinality(String),
    provider LowCardinality(String),
    runtime LowCardinality(String),
    trigger LowCardinality(String),
    status LowCardinality(String),
    outcome LowCardinality(String),
    basis LowCardinality(String),
    runs UInt64,
    unpriced UInt64,
    timeouts UInt64,
    steps UInt64,
    tool_calls UInt64,
    failed_tool_calls UInt64,
    corrections UInt64,
    duration_ms Nullable(Int64),
    input_tokens Nullable(Int64),
    output_tokens Nullable(Int64),
    cache_read_tokens Nullable(Int64),
    cache_write_tokens Nullable(Int64),
    total_tokens Nullable(Int64),
    cost_reported Nullable(Decimal(38, 12)),
    rows UInt64,
    refreshed_at DateTime64(3, 'UTC'),
    _version UInt64
)
ENGINE = ReplacingMergeTree(_version)
PARTITION BY toYYYYMM(minute)
ORDER BY (ledger, minute, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456;

-- Which block numbers of accruals and settlements the sums contain, per ClickHouse partition. Only rows of the highest epoch
-- count. A restore must empty this table; an empty one costs a new pass over the ledgers and never a wrong answer.
CREATE TABLE IF NOT EXISTS window_progress
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

CREATE TABLE IF NOT EXISTS evidence
(
    workspace String,
    run_id String,
    version UInt64,
    topic String,
    partition UInt32,
    offset UInt64,
    appended_at DateTime64(3, 'UTC'),
    raw String
)
ENGINE = ReplacingMergeTree
ORDER BY (workspace, run_id, version)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456;

CREATE TABLE IF NOT EXISTS refused
(
    topic String,
    partition UInt32,
    offset UInt64,
    workspace Nullable(String),
    reason String,
    pointer String,
    keyword String,
    size UInt32,
    attempt UInt16,
    appended_at DateTime64(3, 'UTC'),
    refused_at DateTime64(3, 'UTC'),
    _version UInt64
)
ENGINE = ReplacingMergeTree(_version)
ORDER BY (topic, partition, offset)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456;

CREATE TABLE IF NOT EXISTS batches
(
    topic String,
    partition UInt32,
    first UInt64,
    last UInt64,
    worker String,
    first_appended_at DateTime64(3, 'UTC'),
    last_appended_at DateTime64(3, 'UTC'),
    written_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (topic, partition, first, last)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456;

CREATE TABLE IF NOT EXISTS worker_settings
(
    ordinal UInt64,
    name String,
    value String,
    stored_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (ordinal, name);
