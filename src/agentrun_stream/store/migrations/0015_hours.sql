-- Sums by hour, so that a month of a large fleet answers at once: the minutes' sums added up by the same passes.

-- Made by store/windows.py from `cost_windows`; read `cost_by_hour` instead. As there, of an hour only the rows of its highest
-- `_version` count, a row with `rows = 0` says that nothing is there, and the one without a workspace that the hour was summed.
CREATE TABLE IF NOT EXISTS cost_hours
(
    ledger Enum8('accrued' = 1, 'settled' = 2),
    hour DateTime('UTC'),
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
    cost_computed Nullable(Decimal(38, 12)),
    cost_effective Nullable(Decimal(38, 12)),
    rows UInt64,
    refreshed_at DateTime64(3, 'UTC'),
    _version UInt128
)
ENGINE = ReplacingMergeTree(_version)
PARTITION BY toYYYYMM(hour)
ORDER BY (ledger, hour, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_bytes_for_wide_part = 268435456;

-- The minutes' sums are to be made anew, and the hours' with them: what progress vouches for, both hold.
TRUNCATE TABLE window_progress;

-- An hour with a touched minute comes from its minutes, any other from cost_hours. As with minutes, what is touched is decided
-- once per query.
CREATE OR REPLACE VIEW cost_by_hour AS
WITH
    (SELECT groupUniqArray(toStartOfHour(minute)) FROM window_fresh_accrued) AS fresh_accrued,
    (SELECT groupUniqArray(toStartOfHour(minute)) FROM window_fresh_settled) AS fresh_settled,
    arrayFlatten(arrayMap(h -> arrayMap(i -> h + i * 60, range(60)), fresh_accrued)) AS minutes_accrued,
    arrayFlatten(arrayMap(h -> arrayMap(i -> h + i * 60, range(60)), fresh_settled)) AS minutes_settled
SELECT ledger, hour, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis, runs, unpriced, timeouts,
    steps, tool_calls, failed_tool_calls, corrections, duration_ms, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, total_tokens, cost_reported, cost_computed, cost_effective, rows
FROM
(
    SELECT ledger, toStartOfHour(m.minute) AS hour, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis,
        sum(m.runs) AS runs, sum(m.unpriced) AS unpriced, sum(m.timeouts) AS timeouts, sum(m.steps) AS steps,
        sum(m.tool_calls) AS tool_calls, sum(m.failed_tool_calls) AS failed_tool_calls, sum(m.corrections) AS corrections,
        sum(m.duration_ms) AS duration_ms, sum(m.input_tokens) AS input_tokens, sum(m.output_tokens) AS output_tokens,
        sum(m.cache_read_tokens) AS cache_read_tokens, sum(m.cache_write_tokens) AS cache_write_tokens,
        sum(m.total_tokens) AS total_tokens, sum(m.cost_reported) AS cost_reported,
        sum(m.cost_computed) AS cost_computed, sum(m.cost_effective) AS cost_effective, sum(m.rows) AS rows
    FROM cost_by_minute AS m
    WHERE (ledger = 'accrued' AND minute IN (SELECT arrayJoin(minutes_accrued)))
        OR (ledger = 'settled' AND minute IN (SELECT arrayJoin(minutes_settled)))
    GROUP BY ledger, hour, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis
    UNION ALL
    SELECT * EXCEPT (refreshed_at, _version, newest)
    FROM (SELECT *, max(_version) OVER (PARTITION BY ledger, hour) AS newest FROM cost_hours FINAL)
    WHERE _version = newest AND rows > 0
        AND NOT (ledger = 'accrued' AND hour IN (SELECT arrayJoin(fresh_accrued)))
        AND NOT (ledger = 'settled' AND hour IN (SELECT arrayJoin(fresh_settled)))
);

CREATE OR REPLACE VIEW cost_by_day AS
SELECT ledger, toStartOfDay(h.hour) AS day, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis,
    sum(h.runs) AS runs, sum(h.unpriced) AS unpriced, sum(h.timeouts) AS timeouts, sum(h.steps) AS steps,
    sum(h.tool_calls) AS tool_calls, sum(h.failed_tool_calls) AS failed_tool_calls, sum(h.corrections) AS corrections,
    sum(h.duration_ms) AS duration_ms, sum(h.input_tokens) AS input_tokens, sum(h.output_tokens) AS output_tokens,
    sum(h.cache_read_tokens) AS cache_read_tokens, sum(h.cache_write_tokens) AS cache_write_tokens,
    sum(h.total_tokens) AS total_tokens, sum(h.cost_reported) AS cost_reported,
    sum(h.cost_computed) AS cost_computed, sum(h.cost_effective) AS cost_effective, sum(h.rows) AS rows
FROM cost_by_hour AS h
GROUP BY ledger, day, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis;
