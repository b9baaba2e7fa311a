"""What the loop tells about itself: counters, gauges, and why it waits. Stages never count; the loop counts outcomes here.

Must not live here: decisions.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from structlog.typing import FilteringBoundLogger

from agentrun_stream.errors import UnavailableError
from agentrun_stream.ports import Clock, Part, Source
from agentrun_stream.processors.fold import LATE, REPEATED, STALE
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.batch import ALREADY, REHOMED, Batch
from agentrun_stream.runtime.cache import Cache
from agentrun_stream.telemetry.logs import clean
from agentrun_stream.telemetry.metrics import Metrics

_LAG_EVERY_S: Final = 1.0
_TELL_EVERY_S: Final = 60.0
_SOURCES_MAX: Final = 1_000


class Report:
    """The worker's voice."""

    def __init__(self, metrics: Metrics, clock: Clock, log: FilteringBoundLogger) -> None:
        self.clock = clock
        self.log = log
        self._metrics = metrics
        self._waits: dict[str, UnavailableError] = {}
        self._last_lag = -_LAG_EVERY_S
        self._misplaced: dict[str, float] = {}

    @property
    def waiting(self) -> bool:
        """Whether the worker waits for somebody to answer again."""
        return bool(self._waits)

    def say(self, what: str, wait_s: float, error: UnavailableError | None) -> None:
        """Hear of a wait for the store, the broker or the dead letters, and of its end (`error` None)."""
        if error is None:
            if self._waits.pop(what, None) is not None:
                self.log.info("goes on", after=what)
                self._metrics.store_backoff_seconds.set(0)
            return
        if what not in self._waits:
            self.log.warning("waits", for_=what, why=error.message, next=error.next_step)
        self._waits[what] = error
        self._metrics.store_backoff_seconds.set(wait_s)

    def problems(self) -> list[str]:
        """Why the worker waits."""
        return [f"waiting for the {what}: {error.message} {error.next_step}" for what, error in self._waits.items()]

    def stored(self, batch: Batch) -> None:
        """A batch is in the store and committed."""
        metrics, now = self._metrics, self.clock.now_ms()
        for part, entry in batch.parts.items():
            metrics.records_consumed.inc(entry.records, topic=part.topic, partition=part.partition)
        for reason, count in batch.reasons.items():
            metrics.records_refused.inc(count, reason=reason)
        for attribute, count in _with_metrics(batch.outcomes):
            if count:
                getattr(metrics, attribute).inc(count)
        for (status, outcome), count in batch.ended.items():
            metrics.runs_ended.inc(count, status=status, outcome=outcome)
        for (axis, result), count in batch.verdicts.items():
            metrics.verification_results.inc(count, axis=axis, result=result)
        for source, count in batch.misplaced_by.items():
            self._name_misplaced(clean(source), count)
        for first_ms, last_ms, count in batch.ages:
            # The batch's records lie between two append times: half of them at each end is near enough for a histogram.
            metrics.event_age_at_store_seconds.observe(max(0, now - first_ms) / 1000, count // 2)
            metrics.event_age_at_store_seconds.observe(max(0, now - last_ms) / 1000, count - count // 2)
        for detected_ms in batch.detected_ms:
            metrics.lease_detection_seconds.observe(detected_ms / 1000)
        metrics.cache_hits.inc(batch.hits)

    def _name_misplaced(self, source: str, count: int) -> None:
        """Say which producer uses another partitioner or no key; once a minute each, for a bounded number of them."""
        now = self.clock.monotonic_s()
        told = self._misplaced.get(source)
        if (told is None and len(self._misplaced) >= _SOURCES_MAX) or (told is not None and now - told < _TELL_EVERY_S):
            return
        self._misplaced[source] = now
        self.log.warning(
            "misplaced records were produced again where they belong",
            source=source or "unknown",
            records=count,
            next="Let this producer use the run id as key and murmur2 as partitioner.",
        )

    def looked_up(self, ids: int, seconds: float) -> None:
        """A look-up of this many runs took this long."""
        self._metrics.lookup_ids.inc(ids)
        self._metrics.lookup_seconds.observe(seconds)

    def cache(self, caches: Iterable[Cache]) -> None:
        """How full the cache is."""
        held = list(caches)
        self._metrics.cache_runs.set(sum(len(c.runs) for c in held))
        self._metrics.cache_bytes.set(sum(c.bytes for c in held))

    def lag(self, parts: Mapping[Part, Assigned], source: Source) -> None:
        """How far behind the log's end each partition is; at most once a second."""
        now = self.clock.monotonic_s()
        if now - self._last_lag < _LAG_EVERY_S:
            return
        self._last_lag = now
        for part, assigned in parts.items():
            end = source.end(part)
            if end is None:
                continue
            behind = max(0, end - assigned.acknowledged)
            age = (
                max(0, self.clock.now_ms() - assigned.acknowledged_ms) / 1000
                if behind and assigned.acknowledged_ms
                else 0
            )
            self._metrics.lag_records.set(behind, topic=part.topic, partition=part.partition)
            self._metrics.lag_seconds.set(age, topic=part.topic, partition=part.partition)

    def started(self, part: Part) -> None:
        """A partition works again."""
        self._metrics.partition_stopped.remove(topic=part.topic, partition=part.partition)

    def stopped(self, part: Part, reason: str) -> None:
        """A partition stands still."""
        self._metrics.partition_stopped.set(1, topic=part.topic, partition=part.partition, reason=reason)

    def forget(self, part: Part) -> None:
        """A partition is somebody else's."""
        for gauge in (self._metrics.lag_records, self._metrics.lag_seconds, self._metrics.partition_stopped):
            gauge.remove(topic=part.topic, partition=part.partition)

    def rebalanced(self) -> None:
        """The group moved partitions."""
        self._metrics.rebalances.inc()

    def abandoned(self) -> None:
        """A batch was given up; it is folded again."""
        self._metrics.checkpoints_abandoned.inc()


def _with_metrics(outcomes: dict[str, int]) -> Iterable[tuple[str, int]]:
    """The outcomes that have a metric of their own: its attribute, and how many."""
    yield "records_repeated", outcomes.get(REPEATED, 0) + outcomes.get(ALREADY, 0)
    yield "records_late", outcomes.get(LATE, 0)
    yield "records_stale", outcomes.get(STALE, 0)
    yield "records_rehomed", outcomes.get(REHOMED, 0)
