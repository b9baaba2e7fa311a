-- Pricing stored runs again: what was asked for, what stood before, and how far the owners of partitions are.

-- Each row asks the owner of every partition to project its runs again that had not ended at `since` and are not priced by the
-- book in force, which is that of `ordinal` or a later one. `workspace` '' means all of them.
CREATE TABLE IF NOT EXISTS reprices
(
    id String,
    since DateTime64(6, 'UTC'),
    workspace String,
    ordinal UInt64,
    price_book String,
    requested_by String,
    stored_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY id
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- What the rows of these runs said when it was asked for: the report holds it against what they say now.
CREATE TABLE IF NOT EXISTS reprice_before
(
    id String,
    workspace String,
    run_id String,
    model String,
    expired Bool,
    revision UInt64,
    cost_computed Nullable(Decimal(38, 12)),
    cost_lo Nullable(Decimal(38, 12)),
    cost_hi Nullable(Decimal(38, 12)),
    cost_effective Nullable(Decimal(38, 12)),
    effective_source LowCardinality(String),
    price_status LowCardinality(String),
    token_convention LowCardinality(Nullable(String)),
    convention_evidence LowCardinality(Nullable(String)),
    diff_class LowCardinality(Nullable(String))
)
ENGINE = MergeTree
ORDER BY (id, workspace, run_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Which of them a partition's owner has done. A restore must empty this table; an empty one costs one more look at the runs
-- that are not priced by the book in force, and never a wrong answer.
CREATE TABLE IF NOT EXISTS reprice_progress
(
    topic String,
    partition UInt32,
    id String,
    runs UInt64,
    done_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(done_at)
ORDER BY (topic, partition, id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Where a trusted claim is shown that differs from the merged snapshot: by how much the run settles otherwise than it accrued.
-- NULL elsewhere. Less these, the settlements of a run are its accruals.
ALTER TABLE settlements
    ADD COLUMN IF NOT EXISTS claim_difference Nullable(Decimal(38, 12)) AFTER cost_effective,
    ADD COLUMN IF NOT EXISTS claim_input_tokens Nullable(Int64) AFTER claim_difference,
    ADD COLUMN IF NOT EXISTS claim_output_tokens Nullable(Int64) AFTER claim_input_tokens,
    ADD COLUMN IF NOT EXISTS claim_cache_read_tokens Nullable(Int64) AFTER claim_output_tokens,
    ADD COLUMN IF NOT EXISTS claim_cache_write_tokens Nullable(Int64) AFTER claim_cache_read_tokens,
    ADD COLUMN IF NOT EXISTS claim_total_tokens Nullable(Int64) AFTER claim_cache_write_tokens;
