-- Windows: sums that the refresher keeps (store/windows.py), and views that always show the exact present.

-- Block numbers that the sums contain, neighbours joined. What was recorded in the last ten seconds does not count yet: a query
-- takes the snapshots of its tables one after the other, and must never believe a record of sums that its own snapshot of
-- cost_windows lacks. Rows that do not count are read from the ledger, so this costs time and never truth.
CREATE VIEW IF NOT EXISTS window_seen AS
SELECT source, partition_id, min(f) AS first, max(l) AS last
FROM
(
    SELECT source, partition_id, f, l,
        sum(apart) OVER (PARTITION BY source, partition_id ORDER BY f, l ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS island
    FROM
    (
        SELECT source, partition_id, first AS f, last AS l,
            first > 1 + max(last) OVER (
                PARTITION BY source, partition_id ORDER BY first, last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS apart
        FROM window_progress
        WHERE epoch = (SELECT max(epoch) FROM window_progress) AND refreshed_at < now64(3) - INTERVAL 10 SECOND AND source != ''
    )
)
GROUP BY source, partition_id, island;

-- Minutes with a row that the sums may lack. Parts are told by the numbers in their own names (partition_first_last_level), not
-- by a list from system.parts: a merge between reading the list and reading the table would hide the rows.
CREATE VIEW IF NOT EXISTS window_fresh_accrued AS
WITH
(
    SELECT mapFromArrays(groupArray(partition_id), groupArray(intervals))
    FROM (SELECT partition_id, groupArray((first, last)) AS intervals FROM window_seen WHERE source = 'accruals' GROUP BY partition_id)
) AS seen
SELECT DISTINCT minute
FROM accruals
WHERE NOT arrayExists(
        i -> i.1 <= toUInt64(splitByChar('_', _part)[2]) AND i.2 >= toUInt64(splitByChar('_', _part)[3]), seen[_partition_id])
    AND NOT arrayExists(i -> _block_number BETWEEN i.1 AND i.2, seen[_partition_id]);

CREATE VIEW IF NOT EXISTS window_fresh_settled AS
WITH
(
    SELECT mapFromArrays(groupArray(partition_id), groupArray(intervals))
    FROM (SELECT partition_id, groupArray((first, last)) AS intervals FROM window_seen WHERE source = 'settlements' GROUP BY partition_id)
) AS seen
SELECT DISTINCT minute
FROM settlements
WHERE NOT arrayExists(
        i -> i.1 <= toUInt64(splitByChar('_', _part)[2]) AND i.2 >= toUInt64(splitByChar('_', _part)[3]), seen[_partition_id])
    AND NOT arrayExists(i -> _block_number BETWEEN i.1 AND i.2, seen[_partition_id]);

-- The sums of a ledger, straight from its rows. A sum of NULLs alone is NULL: unknown is never zero.
CREATE VIEW IF NOT EXISTS window_sums_accrued AS
SELECT CAST('accrued' AS Enum8('accrued' = 1, 'settled' = 2)) AS ledger, minute, workspace,
    ifNull(r.agent_id, '') AS agent_id, ifNull(r.model, '') AS model, ifNull(r.provider, '') AS provider,
    ifNull(r.runtime, '') AS runtime, ifNull(r.trigger, '') AS trigger,
    CAST('' AS LowCardinality(String)) AS status, CAST('' AS LowCardinality(String)) AS outcome,
    CAST(toString(r.basis) AS LowCardinality(String)) AS basis,
    toUInt64(0) AS runs, toUInt64(0) AS unpriced, toUInt64(0) AS timeouts, toUInt64(0) AS steps, toUInt64(0) AS tool_calls,
    toUInt64(0) AS failed_tool_calls, toUInt64(0) AS corrections, CAST(NULL AS Nullable(Int64)) AS duration_ms,
    sum(r.input_tokens) AS input_tokens, sum(r.output_tokens) AS output_tokens, sum(r.cache_read_tokens) AS cache_read_tokens,
    sum(r.cache_write_tokens) AS cache_write_tokens, sum(r.total_tokens) AS total_tokens, sum(r.cost_reported) AS cost_reported,
    count() AS rows
FROM accruals AS r FINAL
GROUP BY minute, workspace, ifNull(r.agent_id, ''), ifNull(r.model, ''), ifNull(r.provider, ''), ifNull(r.runtime, ''),
    ifNull(r.trigger, ''), CAST(toString(r.basis) AS LowCardinality(String));

-- A row with `runs = 0` says that its run left this minute: it counts as a change, and adds nothing.
CREATE VIEW IF NOT EXISTS window_sums_settled AS
SELECT CAST('settled' AS Enum8('accrued' = 1, 'settled' = 2)) AS ledger, minute, workspace,
    ifNull(r.agent_id, '') AS agent_id, ifNull(r.model, '') AS model, ifNull(r.provider, '') AS provider,
    ifNull(r.runtime, '') AS runtime, ifNull(r.trigger, '') AS trigger, ifNull(r.status, '') AS status,
    ifNull(r.outcome, '') AS outcome, CAST('' AS LowCardinality(String)) AS basis,
    sum(r.runs) AS runs, sum(r.unpriced) AS unpriced, sumIf(r.runs, r.closed_by = 'lease') AS timeouts, sum(r.steps) AS steps,
    sum(r.tool_calls) AS tool_calls, sum(r.failed_tool_calls) AS failed_tool_calls, sum(r.corrections) AS corrections,
    sum(r.duration_ms) AS duration_ms, sum(r.input_tokens) AS input_tokens, sum(r.output_tokens) AS output_tokens,
    sum(r.cache_read_tokens) AS cache_read_tokens, sum(r.cache_write_tokens) AS cache_write_tokens,
    sum(r.total_tokens) AS total_tokens, sum(r.cost_reported) AS cost_reported, count() AS rows
FROM settlements AS r FINAL
WHERE r.runs > 0
GROUP BY minute, workspace, ifNull(r.agent_id, ''), ifNull(r.model, ''), ifNull(r.provider, ''), ifNull(r.runtime, ''),
    ifNull(r.trigger, ''), ifNull(r.status, ''), ifNull(r.outcome, '');

-- A touched minute comes whole from its ledger, any other from cost_windows. What is touched is decided once per query (a
-- scalar), else a minute could come from both or from neither. `basis` is a dimension of the accrued ledger: a reader sums
-- `step` for runs that have it, else `run`, and so counts nothing twice.
CREATE VIEW IF NOT EXISTS cost_by_minute AS
WITH
    (SELECT groupUniqArray(minute) FROM window_fresh_accrued) AS fresh_accrued,
    (SELECT groupUniqArray(minute) FROM window_fresh_settled) AS fresh_settled
SELECT ledger, minute, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis, runs, unpriced, timeouts,
    steps, tool_calls, failed_tool_calls, corrections, duration_ms, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, total_tokens, cost_reported, rows
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

CREATE VIEW IF NOT EXISTS cost_by_hour AS
SELECT ledger, toStartOfHour(m.minute) AS hour, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis,
    sum(m.runs) AS runs, sum(m.unpriced) AS unpriced, sum(m.timeouts) AS timeouts, sum(m.steps) AS steps,
    sum(m.tool_calls) AS tool_calls, sum(m.failed_tool_calls) AS failed_tool_calls, sum(m.corrections) AS corrections,
    sum(m.duration_ms) AS duration_ms, sum(m.input_tokens) AS input_tokens, sum(m.output_tokens) AS output_tokens,
    sum(m.cache_read_tokens) AS cache_read_tokens, sum(m.cache_write_tokens) AS cache_write_tokens,
    sum(m.total_tokens) AS total_tokens, sum(m.cost_reported) AS cost_reported, sum(m.rows) AS rows
FROM cost_by_minute AS m
GROUP BY ledger, hour, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis;

CREATE VIEW IF NOT EXISTS cost_by_day AS
SELECT ledger, toStartOfDay(m.minute) AS day, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis,
    sum(m.runs) AS runs, sum(m.unpriced) AS unpriced, sum(m.timeouts) AS timeouts, sum(m.steps) AS steps,
    sum(m.tool_calls) AS tool_calls, sum(m.failed_tool_calls) AS failed_tool_calls, sum(m.corrections) AS corrections,
    sum(m.duration_ms) AS duration_ms, sum(m.input_tokens) AS input_tokens, sum(m.output_tokens) AS output_tokens,
    sum(m.cache_read_tokens) AS cache_read_tokens, sum(m.cache_write_tokens) AS cache_write_tokens,
    sum(m.total_tokens) AS total_tokens, sum(m.cost_reported) AS cost_reported, sum(m.rows) AS rows
FROM cost_by_minute AS m
GROUP BY ledger, day, workspace, agent_id, model, provider, runtime, trigger, status, outcome, basis;
