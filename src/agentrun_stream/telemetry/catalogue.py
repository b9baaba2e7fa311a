"""Every metric the package exposes, as data: name, type, unit, labels with their bounds, meaning.

Dashboards, the reference page and the tests read this table. Must not live here: counting (`metrics.py`).
"""

from dataclasses import dataclass
from typing import Final, Literal

from agentrun_stream.model.event import REASONS
from agentrun_stream.model.run import TERMINAL
from agentrun_stream.model.verdict import AXIS_VALUES

PREFIX: Final = "agentrun_"
OTHER: Final = "other"
PARTITIONS_MAX: Final = 1_024
WORKSPACES_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Label:
    """One label and every value it may take; anything else is counted as `other`.

    `values` is the closed list. Empty means: decided when the registry is built (`topic`), a number below `most`, or the
    first `names` different ones that are seen. An `open` label takes what is stored; then whoever sets the gauge bounds the
    number of its series.
    """

    name: str
    values: tuple[str, ...] = ()
    most: int = 0
    names: int = 0
    open: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `name` is without prefix; it is also the attribute of `Metrics`, less `_total`."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def attribute(self) -> str:
        """Name of the attribute of `Metrics` that counts it."""
        return self.name.removesuffix("_total")

    @property
    def exposed(self) -> str:
        """Name on `/metrics`."""
        return PREFIX + self.name


TABLES: Final = (
    "accruals",
    "refused",
    "evidence",
    "run_objects",
    "runs",
    "settlements",
    "cost_windows",
    "window_progress",
    "batches",
    "worker_settings",
)
PHASES: Final = ("facts", "objects", "projections", "publish", "journal", "commit")
OUTCOMES: Final = ("ok", "retried", "rejected")
STATUSES: Final = tuple(sorted(TERMINAL))
RUN_OUTCOMES: Final = ("success", "failed", "partial", "abandoned", "none")
RESULTS: Final = tuple(sorted({result for results in AXIS_VALUES.values() for result in results}))
STOPS: Final = ("store_rejected", "lost_offset", "dead_letters", "refused_share", "lacking_prices", "fenced", "topic")
CHECKS: Final = (
    "coverage",
    "records",
    "digests",
    "projections",
    "settlements",
    "accruals",
    "windows",
    "published",
    "signatures",
    "closings",
    "signals",
)

SIGNALS: Final = ("failures", "velocity", "loops", "burn", "budget_day", "budget_month")
PERIODS: Final = ("day", "month")

_TOPIC = Label("topic")
_PARTITION = Label("partition", most=PARTITIONS_MAX)
_REASON = Label("reason", REASONS)
_AGENT = (Label("workspace", open=True), Label("agent_id", open=True))
_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_AGE_S = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86400.0)

CATALOGUE: Final = (
    Metric(
        "records_consumed_total",
        "counter",
        "records",
        "Records folded or refused, and stored; counted at commit.",
        (_TOPIC, _PARTITION),
    ),
    Metric("records_refused_total", "counter", "records", "Records refused, by reason.", (_REASON,)),
    Metric("records_repeated_total", "counter", "records", "Events that were folded already, or equal what is stored."),
    Metric("records_late_total", "counter", "records", "Events of a source that were older than what it said before."),
    Metric("records_stale_total", "counter", "records", "Snapshots of an ended run that would have opened it again."),
    Metric("records_rehomed_total", "counter", "records", "Records found on a wrong partition and produced again."),
    Metric("dead_letters_total", "counter", "records", "Dead letters that the broker acknowledged."),
    Metric(
        "runs_ended_total",
        "counter",
        "runs",
        "Runs that reached a terminal status, by status and outcome.",
        (Label("status", STATUSES), Label("outcome", RUN_OUTCOMES)),
    ),
    Metric(
        "verification_results_total",
        "counter",
        "runs",
        "Verdicts on closed runs as they were shown, by axis and result; a run that is shown again counts again.",
        (Label("axis", tuple(AXIS_VALUES)), Label("result", RESULTS)),
    ),
    Metric(
        "rows_inserted_total", "counter", "rows", "Rows the store acknowledged, by table.", (Label("table", TABLES),)
    ),
    Metric(
        "insert_seconds",
        "histogram",
        "seconds",
        "Time of one insert, by table and outcome.",
        (Label("table", TABLES), Label("outcome", OUTCOMES)),
        _SHORT_S,
    ),
    Metric(
        "checkpoint_seconds",
        "histogram",
        "seconds",
        "Time of each phase of a checkpoint.",
        (Label("phase", PHASES),),
        _SHORT_S,
    ),
    Metric(
        "event_age_at_store_seconds",
        "histogram",
        "seconds",
        "From the broker's acknowledgement of an event to its effect in the store.",
        (),
        _AGE_S,
    ),
    Metric("lag_records", "gauge", "records", "Records on the log that are not committed yet.", (_TOPIC, _PARTITION)),
    Metric("lag_seconds", "gauge", "seconds", "Age of the oldest record not committed yet.", (_TOPIC, _PARTITION)),
    Metric("cache_runs", "gauge", "runs", "Runs in the cache."),
    Metric("cache_bytes", "gauge", "bytes", "Estimated size of the cache."),
    Metric("cache_hits_total", "counter", "lookups", "Runs of a batch found in the cache."),
    Metric("lookup_ids_total", "counter", "lookups", "Runs of a batch asked from the store."),
    Metric("lookup_seconds", "histogram", "seconds", "Time of one look-up query.", (), _SHORT_S),
    Metric("rebalances_total", "counter", "rebalances", "Times the group moved partitions."),
    Metric("rewinds_total", "counter", "rewinds", "Partitions set back, because the store was behind the commit."),
    Metric("checkpoints_abandoned_total", "counter", "checkpoints", "Checkpoints given up and folded again."),
    Metric(
        "partition_stopped",
        "gauge",
        "partitions",
        "1 while a partition stands still for this reason.",
        (_TOPIC, _PARTITION, Label("reason", STOPS)),
    ),
    Metric("store_backoff_seconds", "gauge", "seconds", "Wait before the store is asked again; 0 while it answers."),
    Metric("window_refresh_seconds", "histogram", "seconds", "Time of one refresh of the cost windows.", (), _SHORT_S),
    Metric("window_age_seconds", "gauge", "seconds", "Since the last finished refresh; on the worker that refreshes."),
    Metric(
        "watermark_timestamp_seconds",
        "gauge",
        "seconds",
        "Append time up to which everything of a partition is stored, as Unix time; on the worker that refreshes.",
        (_TOPIC, _PARTITION),
    ),
    Metric(
        "audit_residual", "gauge", "rows", "Rows that differ in the last audit, by check.", (Label("check", CHECKS),)
    ),
    Metric("audit_records", "gauge", "records", "Records that the last audit folded again."),
    Metric("audit_duration_seconds", "gauge", "seconds", "How long the last audit took."),
    Metric("audit_timestamp_seconds", "gauge", "seconds", "When the last audit ended, as Unix time."),
    Metric(
        "lease_detection_seconds",
        "histogram",
        "seconds",
        "From when a silent run was due to the append time of the lease that closed it.",
        (),
        _AGE_S,
    ),
    Metric("leases_asked_total", "counter", "events", "Leases that the sweeper put on the log."),
    Metric("lineage_again_total", "counter", "runs", "Runs that wait to have their lineage looked at again."),
    Metric("expiries_asked_total", "counter", "events", "Expiries that the sweeper put on the log."),
    Metric("runs_removed_total", "counter", "runs", "Expired runs whose objects were removed."),
    Metric("sweeps_failed_total", "counter", "sweeps", "Turns of the sweeper that failed and are tried again."),
    Metric(
        "trust_version",
        "gauge",
        "version",
        "Version of a workspace's registry that this worker trusts by.",
        (Label("workspace", names=WORKSPACES_MAX),),
    ),
    Metric(
        "runs_rejudged_total",
        "counter",
        "runs",
        "Signed runs given to the loop again, as the entry of their key changed.",
    ),
    Metric(
        "reprice_again_total", "counter", "runs", "Runs given to the loop again, to be priced by the book in force."
    ),
    Metric("policy_again_total", "counter", "runs", "Runs given to the loop again, as the policy changed."),
    Metric(
        "failure_evalue",
        "gauge",
        "e-value",
        "Evidence that an agent fails more often than its baseline; 100 is reached falsely by at most 1 in 100 stretches.",
        _AGENT,
    ),
    Metric("spend_hour_usd", "gauge", "USD", "Known cost that an agent accrued in the last hour.", _AGENT),
    Metric("looping_runs", "gauge", "runs", "Runs of the last minutes that repeat one call with one input.", _AGENT),
    Metric("burn_rate", "gauge", "share", "Burn rate of an agent as a share of the threshold; fires at 1.", _AGENT),
    Metric(
        "budget_used", "gauge", "share", "Known cost as a share of the budget.", (*_AGENT, Label("period", PERIODS))
    ),
    Metric(
        "signals_suppressed",
        "gauge",
        "series",
        "Agents that are not shown, as others have a higher value.",
        (Label("signal", SIGNALS),),
    ),
    Metric("signal_refresh_seconds", "histogram", "seconds", "Time of one pass over all signals.", (), _SHORT_S),
    Metric("build_info", "gauge", "info", "Always 1; the label says which build runs.", (Label("version"),)),
)
