-- What people read: nobody has to know about FINAL, versions or flattened members.

CREATE TABLE IF NOT EXISTS runs_by_start
(
    workspace String,
    started_at DateTime64(6, 'UTC'),
    run_id String,
    agent_id Nullable(String),
    status Nullable(String),
    _version UInt128
)
ENGINE = ReplacingMergeTree(_version)
ORDER BY (workspace, started_at, run_id);

CREATE MATERIALIZED VIEW IF NOT EXISTS runs_by_start_feed TO runs_by_start AS
SELECT workspace, coalesce(started_at, toDateTime64(first_event_at, 6, 'UTC')) AS started_at, run_id, agent_id, status, _version
FROM runs;

CREATE VIEW IF NOT EXISTS steps_latest AS
SELECT workspace, run_id, object_id AS id, type, tool_name, mcp_server, input_preview, output_preview, success, error,
    started_at, ended_at, duration_ms, tokens_used, metadata, extra,
    JSONExtract(ifNull(chain, ''), 'seq', 'Nullable(UInt64)') AS seq,
    JSONExtract(ifNull(chain, ''), 'prev', 'Nullable(String)') AS prev,
    JSONExtract(ifNull(chain, ''), 'digest', 'Nullable(String)') AS digest,
    nullIf(JSONExtractString(ifNull(metadata, ''), 'usage', 'provider'), '') AS usage_provider,
    nullIf(JSONExtractString(ifNull(metadata, ''), 'usage', 'model'), '') AS usage_model,
    JSONExtract(ifNull(metadata, ''), 'usage', 'input_tokens', 'Nullable(UInt64)') AS input_tokens,
    JSONExtract(ifNull(metadata, ''), 'usage', 'output_tokens', 'Nullable(UInt64)') AS output_tokens,
    JSONExtract(ifNull(metadata, ''), 'usage', 'cache_read_tokens', 'Nullable(UInt64)') AS cache_read_tokens,
    JSONExtract(ifNull(metadata, ''), 'usage', 'cache_write_tokens', 'Nullable(UInt64)') AS cache_write_tokens,
    _source AS source, _event_time AS event_time, _topic AS topic, _partition AS partition, _offset AS offset,
    _first_appended_at AS first_appended_at, _appended_at AS appended_at
FROM run_objects FINAL
WHERE kind = 'step';

CREATE VIEW IF NOT EXISTS evals_latest AS
SELECT workspace, run_id, object_id AS id,
    JSONExtract(ifNull(doc, ''), 'task_type', 'Nullable(String)') AS task_type,
    JSONExtract(ifNull(doc, ''), 'eval_layer', 'Nullable(String)') AS eval_layer,
    JSONExtract(ifNull(doc, ''), 'benchmark_id', 'Nullable(String)') AS benchmark_id,
    JSONExtract(ifNull(doc, ''), 'metadata', 'scorer', 'Nullable(String)') AS scorer,
    JSONExtract(ifNull(doc, ''), 'pass', 'Nullable(Bool)') AS pass,
    JSONExtract(ifNull(doc, ''), 'score', 'Nullable(Float64)') AS score,
    JSONExtract(ifNull(doc, ''), 'expected_outcome', 'Nullable(String)') AS expected_outcome,
    JSONExtract(ifNull(doc, ''), 'actual_outcome', 'Nullable(String)') AS actual_outcome,
    JSONExtractRaw(ifNull(doc, ''), 'metrics') AS metrics,
    JSONExtract(ifNull(doc, ''), 'regression_from', 'Nullable(String)') AS regression_from,
    JSONExtract(ifNull(doc, ''), 'detail', 'Nullable(String)') AS detail,
    JSONExtractRaw(ifNull(doc, ''), 'metadata') AS metadata,
    doc, _source AS source, _event_time AS event_time, _offset AS offset, _appended_at AS appended_at
FROM run_objects FINAL
WHERE kind = 'eval';

CREATE VIEW IF NOT EXISTS runs_latest AS
SELECT run_id AS id, * FROM runs FINAL;

CREATE VIEW IF NOT EXISTS runs_open AS
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
