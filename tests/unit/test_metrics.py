"""Metrics: the catalogue and the class agree, label sets are bounded, and the exposition is as Prometheus wants it."""

import shutil
import subprocess

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from agentrun_stream.telemetry.catalogue import CATALOGUE, WORKSPACES_MAX
from agentrun_stream.telemetry.metrics import CounterSeries, GaugeSeries, HistogramSeries, Metrics


@pytest.fixture(name="registry")
def _registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(name="metrics")
def _metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry, ["agentrun.events.v1", "team.events"])


def _fill(metrics: Metrics) -> None:
    """Every series once, with the first value of each label."""
    for metric in CATALOGUE:
        labels: dict[str, object] = {label.name: (*label.values, "0")[0] for label in metric.labels}
        series = getattr(metrics, metric.attribute)
        if isinstance(series, CounterSeries):
            series.inc(**labels)
        elif isinstance(series, GaugeSeries):
            series.set(1, **labels)
        else:
            series.observe(0.2, **labels)


def test_the_class_has_one_attribute_for_each_row() -> None:
    """Typed attributes and the catalogue say the same."""
    kinds = {"counter": CounterSeries, "gauge": GaugeSeries, "histogram": HistogramSeries}
    assert Metrics.__annotations__ == {metric.attribute: kinds[metric.type] for metric in CATALOGUE}


def test_rows_are_complete_and_counters_end_in_total() -> None:
    """Type, unit, meaning; buckets rise and belong to histograms alone."""
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)
    for metric in CATALOGUE:
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert metric.meaning.endswith("."), metric.name
        assert metric.unit, metric.name
        assert bool(metric.buckets) == (metric.type == "histogram"), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name


def test_a_scrape_shows_the_catalogue_and_nothing_else(registry: CollectorRegistry, metrics: Metrics) -> None:
    """No undocumented series, such as `_created`."""
    _fill(metrics)
    text = generate_latest(registry).decode()
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert shown == {metric.exposed for metric in CATALOGUE}


def test_an_unknown_label_value_is_counted_as_other(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Whatever a record says, it can't grow the set of series."""
    for value in ("nonsense", "x" * 5_000, "schema\n"):
        metrics.records_refused.inc(reason=value)
    metrics.records_refused.inc(2, reason="schema")
    assert registry.get_sample_value("agentrun_records_refused_total", {"reason": "other"}) == 3
    assert registry.get_sample_value("agentrun_records_refused_total", {"reason": "schema"}) == 2


def test_topics_and_partitions_are_bounded(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Topics are the configured ones, partitions numbers below the bound."""
    for topic, partition in (("team.events", 1023), ("strange", 5_000), ("strange", -1), ("strange", "²")):
        metrics.records_consumed.inc(topic=topic, partition=partition)
    name = "agentrun_records_consumed_total"
    assert registry.get_sample_value(name, {"topic": "team.events", "partition": "1023"}) == 1
    assert registry.get_sample_value(name, {"topic": "other", "partition": "other"}) == 3


def test_names_that_nobody_knows_beforehand_are_bounded_in_number(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    """The first ones are shown, the others together."""
    for number in range(WORKSPACES_MAX + 50):
        metrics.trust_version.set(number, workspace=f"w{number}")
    name = "agentrun_trust_version"
    assert registry.get_sample_value(name, {"workspace": f"w{WORKSPACES_MAX - 1}"}) == WORKSPACES_MAX - 1
    assert registry.get_sample_value(name, {"workspace": f"w{WORKSPACES_MAX}"}) is None
    assert registry.get_sample_value(name, {"workspace": "other"}) == WORKSPACES_MAX + 49


def test_wrong_labels_are_a_programming_error(metrics: Metrics) -> None:
    """A forgotten label must not make a second series."""
    with pytest.raises(TypeError, match="records_refused_total"):
        metrics.records_refused.inc()
    with pytest.raises(ValueError, match="only grows"):
        metrics.rewinds.inc(-1)


def test_a_gauge_forgets_a_partition_that_moved_away(registry: CollectorRegistry, metrics: Metrics) -> None:
    """The lag of a partition that somebody else owns must not stand still here."""
    for partition in (0, 1):
        metrics.lag_records.set(5, topic="team.events", partition=partition)
    metrics.lag_records.remove(topic="team.events", partition=0)
    name = "agentrun_lag_records"
    assert registry.get_sample_value(name, {"topic": "team.events", "partition": "0"}) is None
    assert registry.get_sample_value(name, {"topic": "team.events", "partition": "1"}) == 5


def test_a_histogram_takes_many_equal_observations(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Buckets are cumulative, an edge belongs to its bucket, and sum and count follow `times`."""
    metrics.event_age_at_store_seconds.observe(0.1, times=3)
    metrics.event_age_at_store_seconds.observe(1e9, times=2)
    name = "agentrun_event_age_at_store_seconds"
    assert registry.get_sample_value(f"{name}_bucket", {"le": "0.05"}) == 0
    assert registry.get_sample_value(f"{name}_bucket", {"le": "0.1"}) == 3
    assert registry.get_sample_value(f"{name}_bucket", {"le": "86400.0"}) == 3
    assert registry.get_sample_value(f"{name}_bucket", {"le": "+Inf"}) == 5
    assert registry.get_sample_value(f"{name}_count") == 5
    assert registry.get_sample_value(f"{name}_sum") == pytest.approx(2e9 + 0.3)


def test_two_workers_in_one_process_do_not_share(metrics: Metrics) -> None:
    """The registry is handed in; nothing is global."""
    other = CollectorRegistry()
    Metrics(other)
    metrics.rewinds.inc()
    assert other.get_sample_value("agentrun_rewinds_total") == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not installed")
def test_promtool_has_nothing_to_say(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Names, units and help texts follow Prometheus' own rules, filled and empty."""
    empty = generate_latest(registry)
    _fill(metrics)
    for scrape in (empty, generate_latest(registry)):
        done = subprocess.run(["promtool", "check", "metrics"], input=scrape, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_an_open_gauge_shows_what_it_was_given_last_and_nothing_else(
    registry: CollectorRegistry, metrics: Metrics
) -> None:
    """Names as they are stored; an agent that dropped out of the highest is gone."""
    agents = [{"workspace": "w", "agent_id": name} for name in ("inspect/task", 'odd "name"\n')]
    metrics.failure_evalue.replace([(3.0, agents[0]), (120.0, agents[1])])
    name = "agentrun_failure_evalue"
    assert registry.get_sample_value(name, agents[0]) == 3
    assert b'agent_id="odd \\"name\\"\\n"' in generate_latest(registry)
    metrics.failure_evalue.replace([(5.0, agents[1])])
    assert registry.get_sample_value(name, agents[0]) is None
    assert registry.get_sample_value(name, agents[1]) == 5
