"""The topics, one row each: name, key, partitions, retention, limits. `agentrun topics` reads this table and no other."""

from dataclasses import dataclass, field
from typing import Final

from agentrun_stream import limits

EVENTS: Final = "agentrun.events.v1"
RUNS: Final = "agentrun.runs.v1"
QUARANTINE: Final = "agentrun.quarantine.v1"
DEAD_LETTERS: Final = "agentrun.dlq.v1"
REPLAYS: Final = "agentrun.replays.v1"
BUDGETS: Final = "agentrun.budgets.v1"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `config` holds Kafka's own names; `partitions` is the default for a new topic and never changed in place."""

    name: str
    key: str
    meaning: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


_WEEKS_4_MS = str(28 * 86_400_000)

TOPICS: Final = (
    Topic(
        EVENTS,
        "run id",
        "what runtimes report, one object a record",
        4,
        {
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(limits.EVENTS_MESSAGE_BYTES_MAX),
            "retention.ms": _WEEKS_4_MS,
        },
    ),
    Topic(
        RUNS,
        "workspace/run id",
        "assembled runs, compacted; the newest order pair of a key wins",
        4,
        {
            "cleanup.policy": "compact",
            "max.message.bytes": str(limits.RUNS_MESSAGE_BYTES_MAX),
            "min.compaction.lag.ms": str(limits.RUNS_COMPACTION_LAG_MS_MIN),
        },
    ),
    Topic(
        QUARANTINE,
        "workspace/run id",
        "runs that the policy of their workspace keeps from the runs topic, compacted in the same way",
        4,
        {
            "cleanup.policy": "compact",
            "max.message.bytes": str(limits.RUNS_MESSAGE_BYTES_MAX),
            "min.compaction.lag.ms": str(limits.RUNS_COMPACTION_LAG_MS_MIN),
        },
    ),
    Topic(
        DEAD_LETTERS,
        "as received",
        "refused records, untouched, with the reason in headers",
        4,
        {"max.message.bytes": str(limits.DEAD_LETTER_MESSAGE_BYTES_MAX), "retention.ms": str(4 * 28 * 86_400_000)},
    ),
    Topic(
        REPLAYS,
        "topic:partition:offset:attempt",
        "receipts of the dead letters that were published again; kept longer than they",
        4,
        {"retention.ms": str(5 * 28 * 86_400_000)},
    ),
    Topic(
        BUDGETS,
        "period/workspace[/agent]",
        "what is spent of each budget, compacted; for gateways that enforce it",
        4,
        {"cleanup.policy": "compact"},
    ),
)

BY_NAME: Final = {t.name: t for t in TOPICS}
