-- Which settings of the policy a partition's owner has followed: every closed run is flagged as they say. A restore must empty this
-- table; an empty one costs one more walk along all runs and never a wrong answer.
CREATE TABLE IF NOT EXISTS policy_progress
(
    topic String,
    partition UInt32,
    ordinal UInt64,
    policy String,
    done_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(done_at)
ORDER BY (topic, partition, ordinal, policy)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
