-- How final a window is: how far the log is stored, how late a workspace lets things come, what came later; and past audits.

-- The append time of the last event that changed what a run settled with; an eval does not.
ALTER TABLE settlements ADD COLUMN IF NOT EXISTS appended_at DateTime64(3, 'UTC') AFTER revision;

-- Up to which append time everything of a partition is stored. Rows of one look carry one `looked_at`; partitions that the last
-- look did not find count for nothing. A restore must empty this table; until the next look every window is open again.
CREATE TABLE IF NOT EXISTS partition_watermarks
(
    topic String,
    partition UInt32,
    passed_at DateTime64(3, 'UTC'),
    looked_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(looked_at)
ORDER BY (topic, partition)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- How long after a window's end, in append time, what comes is not late yet. Workspace '' stands for those without a row; NULL says
-- that a workspace has none of its own any more.
CREATE TABLE IF NOT EXISTS workspace_lateness
(
    workspace String,
    lateness_s Nullable(UInt32),
    written_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY workspace
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- One row, always: the watermark (NULL where nothing is known of a partition), and the lateness by workspace.
CREATE VIEW IF NOT EXISTS cost_watermark AS
SELECT
    (
        SELECT nullIf(minOrNull(passed_at), toDateTime64(0, 3, 'UTC')) FROM partition_watermarks FINAL
        WHERE looked_at = (SELECT max(looked_at) FROM partition_watermarks)
    ) AS watermark,
    (
        SELECT mapFromArrays(groupArray(workspace), groupArray(assumeNotNull(lateness_s)))
        FROM workspace_lateness FINAL WHERE lateness_s IS NOT NULL
    ) AS lateness,
    if(mapContains(lateness, ''), lateness[''], toUInt32(86400)) AS lateness_general;

-- Settlements as they stand, and whether what stands there came, or changed, when its minute was final already. By append times
-- alone, so whoever stored what when, and how often, changes nothing.
CREATE VIEW IF NOT EXISTS settlements_latest AS
WITH (SELECT lateness FROM cost_watermark) AS own, (SELECT lateness_general FROM cost_watermark) AS general
SELECT s.* EXCEPT (_version), if(mapContains(own, s.workspace), own[s.workspace], general) AS lateness_s,
    s.appended_at > addSeconds(toDateTime64(s.minute, 3, 'UTC'), 60 + lateness_s) AS late
FROM settlements AS s FINAL;

-- The windows of the settled ledger with their state, by minute, hour and day (UTC). `open`: what ended in it may still be on its
-- way; `provisional`: the watermark has passed its end; `final`: the lateness too. What came later is `late_runs`, with
-- `late_amount` as the known part of their cost and `late_unpriced` of them unknown; a run that was corrected late counts whole.
-- `revision` is 0, else the append time in ms of the last that came late; a run that left a window raises it, too.
CREATE VIEW IF NOT EXISTS window_states_by_minute AS
WITH (SELECT watermark FROM cost_watermark) AS mark
SELECT minute, workspace, any(s.lateness_s) AS lateness,
    multiIf(mark IS NULL, 'open', addSeconds(minute, 60 + lateness) <= mark, 'final', addSeconds(minute, 60) <= mark,
        'provisional', 'open') AS state,
    sum(s.runs) AS runs, sum(s.unpriced) AS unpriced,
    sumIf(s.runs, s.late) AS late_runs, sumIf(s.unpriced, s.late) AS late_unpriced,
    sumIf(s.cost_effective, s.late) AS late_amount,
    toUInt64(toUnixTimestamp64Milli(maxIf(s.appended_at, s.late))) AS revision
FROM settlements_latest AS s
GROUP BY minute, workspace;

CREATE VIEW IF NOT EXISTS window_states_by_hour AS
WITH (SELECT watermark FROM cost_watermark) AS mark
SELECT toStartOfHour(m.minute) AS hour, workspace, any(m.lateness) AS lateness,
    multiIf(mark IS NULL, 'open', addSeconds(hour, 3600 + lateness) <= mark, 'final', addSeconds(hour, 3600) <= mark,
        'provisional', 'open') AS state,
    sum(m.runs) AS runs, sum(m.unpriced) AS unpriced, sum(m.late_runs) AS late_runs, sum(m.late_unpriced) AS late_unpriced,
    sum(m.late_amount) AS late_amount, max(m.revision) AS revision
FROM window_states_by_minute AS m
GROUP BY hour, workspace;

CREATE VIEW IF NOT EXISTS window_states_by_day AS
WITH (SELECT watermark FROM cost_watermark) AS mark
SELECT toStartOfDay(m.minute) AS day, workspace, any(m.lateness) AS lateness,
    multiIf(mark IS NULL, 'open', addSeconds(day, 86400 + lateness) <= mark, 'final', addSeconds(day, 86400) <= mark,
        'provisional', 'open') AS state,
    sum(m.runs) AS runs, sum(m.unpriced) AS unpriced, sum(m.late_runs) AS late_runs, sum(m.late_unpriced) AS late_unpriced,
    sum(m.late_amount) AS late_amount, max(m.revision) AS revision
FROM window_states_by_minute AS m
GROUP BY day, workspace;

-- What each audit found. `reach` says up to which offset of each partition it went, as JSON; `since` what it was limited to.
CREATE TABLE IF NOT EXISTS audits
(
    ended_at DateTime64(3, 'UTC'),
    residual UInt64,
    records UInt64,
    runs UInt64,
    deep Bool,
    since Nullable(DateTime64(3, 'UTC')),
    reach String
)
ENGINE = MergeTree
ORDER BY ended_at
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
