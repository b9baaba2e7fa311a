-- What runs cost: the price books that were in force, the amounts by the book in force, and their sums.

-- Each row is a book that was put in force; the highest ordinal counts for all workers, and of two under one ordinal the one
-- stored first, by the store's own clock. `content` says what the book can be built from again, `digest` is its SHA-256.
CREATE TABLE IF NOT EXISTS price_books
(
    ordinal UInt64,
    digest String,
    content String,
    proposed_by String,
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY (ordinal, digest)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Opinions, all of them: NULL is unknown, never 0. The counts are exclusive, each token in one of them.
ALTER TABLE runs
    ADD COLUMN IF NOT EXISTS cost_computed Nullable(Decimal(38, 12)) AFTER cost_reported,
    ADD COLUMN IF NOT EXISTS cost_lo Nullable(Decimal(38, 12)) AFTER cost_computed,
    ADD COLUMN IF NOT EXISTS cost_hi Nullable(Decimal(38, 12)) AFTER cost_lo,
    ADD COLUMN IF NOT EXISTS cost_effective Nullable(Decimal(38, 12)) AFTER cost_hi,
    ADD COLUMN IF NOT EXISTS effective_source String AFTER cost_effective,
    ADD COLUMN IF NOT EXISTS price_status String AFTER effective_source,
    ADD COLUMN IF NOT EXISTS price_basis Nullable(String) AFTER price_status,
    ADD COLUMN IF NOT EXISTS token_convention Nullable(String) AFTER price_basis,
    ADD COLUMN IF NOT EXISTS convention_evidence Nullable(String) AFTER token_convention,
    ADD COLUMN IF NOT EXISTS price_book String AFTER convention_evidence,
    ADD COLUMN IF NOT EXISTS price_as_of Nullable(DateTime64(6, 'UTC')) AFTER price_book,
    ADD COLUMN IF NOT EXISTS diff_abs Nullable(Decimal(38, 12)) AFTER price_as_of,
    ADD COLUMN IF NOT EXISTS diff_rel Nullable(Decimal(38, 12)) AFTER diff_abs,
    ADD COLUMN IF NOT EXISTS diff_class Nullable(String) AFTER diff_rel,
    ADD COLUMN IF NOT EXISTS input_uncached Nullable(UInt64) AFTER diff_class,
    ADD COLUMN IF NOT EXISTS cache_read Nullable(UInt64) AFTER input_uncached,
    ADD COLUMN IF NOT EXISTS cache_write_5m Nullable(UInt64) AFTER cache_read,
    ADD COLUMN IF NOT EXISTS cache_write_1h Nullable(UInt64) AFTER cache_write_5m,
    ADD COLUMN IF NOT EXISTS output Nullable(UInt64) AFTER cache_write_1h;

ALTER TABLE settlements
    ADD COLUMN IF NOT EXISTS cost_computed Nullable(Decimal(38, 12)) AFTER cost_reported,
    ADD COLUMN IF NOT EXISTS cost_effective Nullable(Decimal(38, 12)) AFTER cost_computed;

ALTER TABLE cost_windows
    ADD COLUMN IF NOT EXISTS cost_computed Nullable(Decimal(38, 12)) AFTER cost_reported,
    ADD COLUMN IF NOT EXISTS cost_effective Nullable(Decimal(38, 12)) AFTER cost_computed;

-- The sums are to be made anew, with the new columns.
TRUNCATE TABLE window_progress;

-- Accruals are facts, and prices no part of them. Of settlements a sum is the known part; `unpriced` counts the runs whose
-- effective cost is not known.
CREATE OR REPLACE VIEW window_sums_accrued AS
SELECT CAST('accrued' AS Enum8('accrued' = 1, 'settled' = 2)) AS ledger, minute, workspace,
    ifNull(r.agent_id, '') AS agent_id, ifNull(r.model, '') AS model, ifNull(r.provider, '') AS provider,
    ifNull(r.runtime, '') AS runtime, ifNull(r.trigger, '') AS trigger,
    CAST('' AS LowCardinality(String)) AS status, CAST('' AS LowCardinality(String)) AS outcome,
    CAST(toString(r.basis) AS LowCardinality(String)) AS basis,
    toUInt64(0) AS runs, toUInt64(0) AS unpriced, toUInt64(0) AS timeouts, toUInt64(0) AS steps, toUInt64(0) AS tool_calls,
    toUInt64(0) AS failed_tool_calls, toUInt64(0) AS corrections, CAST(NULL AS Nullable(Int64)) AS duration_ms,
    sum(r.input_tokens) AS input_tokens, sum(r.output_tokens) AS output_tokens, sum(r.cache_read_tokens) AS cache_read_tokens,
    sum(r.cache_write_tokens) AS cache_write_tokens, sum(r.total_tokens) AS total_tokens, sum(r.cost_reported) AS cost_reported,
    CAST(NULL AS Nullable(Decimal(38, 12))) AS cost_computed,
    CAST(NULL AS Nullable(Decimal(38, 12))) AS cost_effective,
    count() AS rows
FROM accruals AS r FINAL
GROUP BY minute, workspace, ifNull(r.agent_id, ''), ifNull(r.model, ''), ifNull(r.provider, ''), ifNull(r.runtime, ''),
    ifNull(r.trigger, ''), CAST(toString(r.basis) AS LowCardinality(String));

CREATE OR REPLACE VIEW window_sums_settled AS
SELECT CAST('settled' AS Enum8('accrued' = 1, 'settled' = 2)) AS ledger, minute, workspace,
    ifNull(r.agent_id, '') AS agent_id, ifNull(r.model, '') AS model, ifNull(r.provider, '') AS provider,
    ifNull(r.runtime, '') AS runtime, ifNull(r.trigger, '') AS trigger, ifNull(r.status, '') AS status,
    ifNull(r.outcome, '') AS outcome, CAST('' AS LowCardinality(String)) AS basis,
    sum(r.runs) AS runs, sum(r.unpriced) AS unpriced, sumIf(r.runs, r.closed_by = 'lease') AS timeouts, sum(r.steps) AS steps,
    sum(r.tool_calls) AS tool_calls, sum(r.failed_tool_calls) AS failed_tool_calls, sum(r.corrections) AS corrections,
    sum(r.duration_ms) AS duration_ms, sum(r.input_tokens) AS input_tokens, sum(r.output_tokens) AS output_tokens,
    sum(r.cache_read_tokens) AS cache_read_tokens, sum(r.cache_write_tokens) AS cache_write_tokens,
    sum(r.total_tokens) AS total_tokens, sum(r.cost_reported) AS cost_reported,
    sum(r.cost_computed) AS cost_computed, sum(r.cost_effective) AS cost_effective, count() AS rows
FROM settlements AS r FINAL
WHERE r.runs > 0
GROUP BY minute, workspace, ifNull(r.agent_id, ''), ifNull(r.model, ''), ifNull(r.provider, ''), ifNull(r.runtime, ''),
    ifNull(r.trigger, ''), ifNull(r.status, ''), ifNull(r.outcome, '');

CREATE OR REPLACE VIEW cost_by_minute AS
WITH
    (SELECT groupUniqArray(minute) FROM window_fresh_accrued) AS fresh_accrued,
    (SELECT groupUniqArray(minute) FROM window_fresh_settled) AS fresh_settled
SELECT ledger, minute, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis, runs, unpriced, timeouts,
    steps, tool_calls, failed_tool_calls, corrections, duration_ms, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, total_tokens, cost_reported, cost_computed, cost_effective, rows
FROM
(
    SELECT * FROM window_sums_accrued WHERE minute IN (SELECT arrayJoin(fresh_accrued))
    UNION ALL
    SELECT * FROM window_sums_settled WHERE minute IN (SELECT arrayJoin(fresh_settled))
    UNION ALL
    SELECT * EXCEPT (refreshed_at, _version, newest)
    FROM (SELECT *, max(_version) OVER (PARTITION BY ledger, minute) AS newest FROM cost_windows FINAL)
    WHERE _version = newest AND rows > 0
        AND NOT (ledger = 'accrued' AND minute IN (SELECT arrayJoin(fresh_accrued)))
        AND NOT (ledger = 'settled' AND minute IN (SELECT arrayJoin(fresh_settled)))
);

CREATE OR REPLACE VIEW runs_latest AS
SELECT run_id AS id, * FROM runs FINAL;

CREATE OR REPLACE VIEW runs_open AS
SELECT r.run_id AS id, r.* EXCEPT (steps, tool_calls, failed_tool_calls, failed_steps, step_input_tokens, step_output_tokens,
        step_cache_read_tokens, step_cache_write_tokens, last_event_at),
    ifNull(s.steps, 0) AS steps, ifNull(s.tool_calls, 0) AS tool_calls, ifNull(s.failed_tool_calls, 0) AS failed_tool_calls,
    ifNull(s.failed_steps, 0) AS failed_steps,
    s.step_input_tokens AS step_input_tokens, s.step_output_tokens AS step_output_tokens,
    s.step_cache_read_tokens AS step_cache_read_tokens, s.step_cache_write_tokens AS step_cache_write_tokens,
    greatest(r.last_event_at, ifNull(s.last_event_at, r.last_event_at)) AS last_event_at
FROM (SELECT * FROM runs FINAL WHERE closed_by IS NULL) AS r
LEFT JOIN
(
    SELECT workspace, run_id, count() AS steps, countIf(type = 'tool_call') AS tool_calls,
        countIf(type = 'tool_call' AND success = false) AS failed_tool_calls, countIf(success = false) AS failed_steps,
        sum(input_tokens) AS step_input_tokens, sum(output_tokens) AS step_output_tokens,
        sum(cache_read_tokens) AS step_cache_read_tokens, sum(cache_write_tokens) AS step_cache_write_tokens,
        max(appended_at) AS last_event_at
    FROM steps_latest
    WHERE (workspace, run_id) IN (SELECT workspace, run_id FROM runs FINAL WHERE closed_by IS NULL)
    GROUP BY workspace, run_id
) AS s ON s.workspace = r.workspace AND s.run_id = r.run_id;
