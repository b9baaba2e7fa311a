"""Prometheus objects built from the catalogue, on a registry that is handed in and never the global one.

One attribute per metric; a label value out of its bounds is counted as `other`, so that no record can grow
the set of series. Must not live here: the list of metrics (`catalogue.py`), HTTP (`endpoint.py`).
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from agentrun_stream import __version__, topics
from agentrun_stream.telemetry.catalogue import CATALOGUE, OTHER, Label, Metric

Known = dict[str, frozenset[str]]
Key = tuple[str, ...]


class _Series(Collector):
    """What the three kinds share: label values brought within their bounds, and values under a lock.

    Own collectors, as the client's counters would add a `_created` series each, which can be turned off only globally.
    """

    def __init__(self, metric: Metric, known: Known) -> None:
        self._metric: Final = metric
        self._names: Final = tuple(label.name for label in metric.labels)
        self._known: Final = known
        self._lock: Final = threading.Lock()
        self._met: Final[dict[str, set[str]]] = {}

    def _bounded(self, given: dict[str, object]) -> Key:
        if given.keys() != set(self._names):
            raise TypeError(f"{self._metric.name} has the labels {self._names}, not {tuple(given)}")
        return tuple(self._within(label, str(given[label.name])) for label in self._metric.labels)

    def _within(self, label: Label, value: str) -> str:
        if label.names:
            return value if self._is_met(label, value) else OTHER
        if label.open:
            return value
        if label.most:
            return value if value.isascii() and value.isdigit() and int(value[:9]) < label.most else OTHER
        return value if value in self._known[label.name] or value in label.values else OTHER

    def _is_met(self, label: Label, value: str) -> bool:
        with self._lock:
            met = self._met.setdefault(label.name, set())
            if len(met) < label.names:
                met.add(value)
            return value in met


class CounterSeries(_Series):
    """A number that only grows."""

    def __init__(self, metric: Metric, known: Known) -> None:
        super().__init__(metric, known)
        self._values: dict[Key, float] = {} if self._names else {(): 0.0}

    def inc(self, amount: float = 1, /, **labels: object) -> None:
        """Count `amount` more."""
        if amount < 0:
            raise ValueError(f"{self._metric.name} only grows, not by {amount}")
        key = self._bounded(labels)
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The family as it is now."""
        family = CounterMetricFamily(self._metric.exposed, self._metric.meaning, labels=self._names)
        with self._lock:
            for key, value in sorted(self._values.items()):
                family.add_metric(key, value)
        return [family]


class GaugeSeries(_Series):
    """A number that is what it is now."""

    def __init__(self, metric: Metric, known: Known) -> None:
        super().__init__(metric, known)
        self._values: dict[Key, float] = {} if self._names else {(): 0.0}

    def set(self, value: float, /, **labels: object) -> None:
        """The value is this now."""
        key = self._bounded(labels)
        with self._lock:
            self._values[key] = float(value)

    def replace(self, values: Iterable[tuple[float, Mapping[str, object]]]) -> None:
        """Show these series (value, labels) and no other."""
        shown = {self._bounded(dict(labels)): float(value) for value, labels in values}
        with self._lock:
            self._values = shown

    def remove(self, **labels: object) -> None:
        """Show the series with these labels (some or all) no more, such as the lag of a partition that moved away."""
        wanted = [(self._names.index(name), str(value)) for name, value in labels.items()]
        with self._lock:
            for key in [key for key in self._values if all(key[at] == value for at, value in wanted)]:
                del self._values[key]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The family as it is now."""
        family = GaugeMetricFamily(self._metric.exposed, self._metric.meaning, labels=self._names)
        with self._lock:
            for key, value in sorted(self._values.items()):
                family.add_metric(key, value)
        return [family]


class HistogramSeries(_Series):
    """A distribution. Takes many equal observations at once: one call per event would cost the hot path too much."""

    def __init__(self, metric: Metric, known: Known) -> None:
        super().__init__(metric, known)
        self._counts: dict[Key, list[int]] = {} if self._names else {(): [0] * (len(metric.buckets) + 1)}
        self._sums: dict[Key, float] = {}

    def observe(self, value: float, /, times: int = 1, **labels: object) -> None:
        """`times` observations of `value`."""
        key = self._bounded(labels)
        bucket = bisect_left(self._metric.buckets, value)
        with self._lock:
            counts = self._counts.setdefault(key, [0] * (len(self._metric.buckets) + 1))
            counts[bucket] += times
            self._sums[key] = self._sums.get(key, 0.0) + value * times

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The family as it is now."""
        family = HistogramMetricFamily(self._metric.exposed, self._metric.meaning, labels=self._names)
        edges = (*map(str, self._metric.buckets), "+Inf")
        with self._lock:
            for key, counts in sorted(self._counts.items()):
                below = [float(count) for count in accumulate(counts)]
                family.add_metric(key, list(zip(edges, below, strict=True)), self._sums.get(key, 0.0))
        return [family]


class Metrics:
    """The catalogue, countable. `input_topics` are the values that the label `topic` may take."""

    records_consumed: CounterSeries
    records_refused: CounterSeries
    records_repeated: CounterSeries
    records_late: CounterSeries
    records_stale: CounterSeries
    records_rehomed: CounterSeries
    dead_letters: CounterSeries
    runs_ended: CounterSeries
    verification_results: CounterSeries
    rows_inserted: CounterSeries
    insert_seconds: HistogramSeries
    checkpoint_seconds: HistogramSeries
    event_age_at_store_seconds: HistogramSeries
    lag_records: GaugeSeries
    lag_seconds: GaugeSeries
    cache_runs: GaugeSeries
    cache_bytes: GaugeSeries
    cache_hits: CounterSeries
    lookup_ids: CounterSeries
    lookup_seconds: HistogramSeries
    rebalances: CounterSeries
    rewinds: CounterSeries
    checkpoints_abandoned: CounterSeries
    partition_stopped: GaugeSeries
    store_backoff_seconds: GaugeSeries
    window_refresh_seconds: HistogramSeries
    window_age_seconds: GaugeSeries
    watermark_timestamp_seconds: GaugeSeries
    audit_residual: GaugeSeries
    audit_records: GaugeSeries
    audit_duration_seconds: GaugeSeries
    audit_timestamp_seconds: GaugeSeries
    lease_detection_seconds: HistogramSeries
    leases_asked: CounterSeries
    lineage_again: CounterSeries
    expiries_asked: CounterSeries
    runs_removed: CounterSeries
    sweeps_failed: CounterSeries
    trust_version: GaugeSeries
    runs_rejudged: CounterSeries
    policy_again: CounterSeries
    reprice_again: CounterSeries
    failure_evalue: GaugeSeries
    spend_hour_usd: GaugeSeries
    looping_runs: GaugeSeries
    burn_rate: GaugeSeries
    budget_used: GaugeSeries
    signals_suppressed: GaugeSeries
    signal_refresh_seconds: HistogramSeries
    build_info: GaugeSeries

    def __init__(self, registry: CollectorRegistry, input_topics: Sequence[str] = (topics.EVENTS,)) -> None:
        known: Known = {"topic": frozenset(input_topics), "version": frozenset({__version__})}
        for label in (label for metric in CATALOGUE for label in metric.labels):
            known.setdefault(label.name, frozenset())
        kinds: dict[str, type[CounterSeries | GaugeSeries | HistogramSeries]] = {
            "counter": CounterSeries,
            "gauge": GaugeSeries,
            "histogram": HistogramSeries,
        }
        for metric in CATALOGUE:
            series = kinds[metric.type](metric, known)
            setattr(self, metric.attribute, series)
            registry.register(series)
        self.build_info.set(1, version=__version__)
