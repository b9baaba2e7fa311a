"""Every bound of the system, with its unit last in its name. Relations are asserted on import.

Limits that decide a refusal are constants of the wire contract and never settings.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# The wire contract: what decides a refusal.
VALUE_BYTES_MAX: Final = 1 * MIB
OBJECT_DEPTH_MAX: Final = 64
STEPS_PER_RUN_MAX: Final = 100_000
FUTURE_MS_MAX: Final = 3_600_000
EARLIEST_TIME_S: Final = 1_577_836_800  # 2020-01-01T00:00:00Z
INT64_MAX: Final = 2**63 - 1
SAFE_INTEGER_MAX: Final = 2**53 - 1
SIGNED_STEPS_MAX: Final = 10_000
SIGNED_LINEAGE_MAX: Final = 256
SIGNED_PARENTS_MAX: Final = 16
CLAIMS_WHOLE_MAX: Final = 16  # of a run; what is signed besides is kept by its names, its bytes are evidence
TOKENS_MAX: Final = 10**12  # of one count; the schemas say the same
LEASE_IDLE_MS_MIN: Final = 60_000
LEASE_AGE_MS_MIN: Final = 3_600_000
EXPIRE_HORIZON_MS_MIN: Final = 86_400_000

# Kafka.
EVENTS_MESSAGE_BYTES_MAX: Final = 4 * MIB
RUNS_MESSAGE_BYTES_MAX: Final = 1 * MIB
DEAD_LETTER_MESSAGE_BYTES_MAX: Final = 6 * MIB
PUBLISHED_RUN_BYTES_MAX: Final = 256 * KIB
CLIENT_REQUEST_BYTES_MAX: Final = 6 * MIB
FETCH_PARTITION_BYTES_MAX: Final = 8 * MIB
RUNS_COMPACTION_LAG_MS_MIN: Final = 86_400_000

# Versions of rows: topic epoch, partition offset, maintenance counter.
EPOCH_BITS: Final = 8
OFFSET_BITS: Final = 48
MAINTENANCE_BITS: Final = 8

# The worker.
ANCESTORS_MAX: Final = 256  # of one run, walked by run ids
REPLAY_ATTEMPTS_MAX: Final = 5
LOOKUP_IDS_MAX: Final = 2_000
LOOKUP_PARAMETER_BYTES_MAX: Final = 100 * KIB  # ClickHouse takes form fields up to 128 KiB
MONEY_SCALE_DIGITS: Final = 12

assert VALUE_BYTES_MAX < EVENTS_MESSAGE_BYTES_MAX < DEAD_LETTER_MESSAGE_BYTES_MAX, "a dead letter must hold any event"
assert CLIENT_REQUEST_BYTES_MAX >= DEAD_LETTER_MESSAGE_BYTES_MAX, "the client must be able to send a dead letter"
assert FETCH_PARTITION_BYTES_MAX >= EVENTS_MESSAGE_BYTES_MAX, "one record must fit in a fetch"
assert PUBLISHED_RUN_BYTES_MAX < RUNS_MESSAGE_BYTES_MAX, "a published run must fit in its topic"
assert EPOCH_BITS + OFFSET_BITS + MAINTENANCE_BITS == 64, "a version is 64 bits"
