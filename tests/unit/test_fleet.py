"""The seeded loads: the same seed gives the same bytes, what should be valid is, the totals are true."""

import collections
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest

from agentrun_stream import limits
from agentrun_stream.codec.canonical import run_hash
from agentrun_stream.codec.cloudevents import Route, decode
from agentrun_stream.codec.schemas import KINDS, is_valid
from agentrun_stream.model.event import Refusal
from agentrun_stream.testing.fleet import FleetShares, FleetTotals, Record, demo_fleet
from agentrun_stream.testing.load import Load, bench_load

NOW = datetime(2026, 11, 22, 16, tzinfo=UTC)
RUNS = 400
CLEAN = FleetShares(bad=0)
LOAD = Load(steps=3000, open_runs=100, seed=1, now=NOW)


def fleet(seed: int = 7, shares: FleetShares | None = None) -> tuple[list[Record], FleetTotals]:
    totals = FleetTotals()
    return list(demo_fleet(RUNS, seed, NOW, totals, shares)), totals


def load(**members: Any) -> list[Record]:
    return list(bench_load(replace(LOAD, **members)))


def good_events(records: list[Record]) -> list[dict[str, Any]]:
    """Return the events that no rule of their own refuses."""
    found = []
    for record in records:
        try:
            event: dict[str, Any] = orjson.loads(record.value)
        except orjson.JSONDecodeError:
            continue
        kind = event["type"].split(".")[1]
        if kind in KINDS and "/bad/" not in event["id"]:
            assert is_valid(kind, event["data"])
            assert event["subject"].encode() == record.key
            found.append(event)
    return found


def last_by_id(events: list[dict[str, Any]], kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Fold in the simplest way: the newest envelope time wins, forged corrections aside."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for event in events:
        if event["type"] == f"agentrun.{kind}.v1" and not event["id"].endswith("/run/forged"):
            key = (event["subject"], event["data"].get("id", ""))
            if key not in newest or event["time"] >= newest[key]["time"]:
                newest[key] = event
    return newest


def test_a_fleet_is_determined_by_its_seed() -> None:
    assert fleet(3)[0] == fleet(3)[0]
    assert fleet(3)[0] != fleet(4)[0]


def test_totals_add_up_to_what_the_records_say() -> None:
    records, totals = fleet()
    events = good_events(records)
    runs = [event["data"] for event in last_by_id(events, "run").values()]
    steps = [event["data"] for event in last_by_id(events, "step").values()]
    assert (totals.records, totals.runs, totals.steps) == (len(records), RUNS, len(steps))
    assert len(records) - len(events) == totals.refused.total()
    assert totals.runs_by_status == collections.Counter(run["status"] for run in runs)
    assert totals.runs_by_outcome == collections.Counter(run.get("outcome") or "none" for run in runs)
    assert totals.runs_by_agent == collections.Counter(run["agent_id"] for run in runs)
    assert totals.steps_by_type == collections.Counter(step["type"] for step in steps)
    assert totals.child_runs == sum("parent_run_id" in run for run in runs)
    judged = {event["subject"]: event["data"] for event in events if event["type"] == "agentrun.eval.v1"}
    assert (totals.evals, totals.evals_passed) == (len(judged), sum(e["pass"] for e in judged.values()))
    assert totals.failed_tool_calls == sum(s["type"] == "tool_call" and not s["success"] for s in steps)
    reported = [Decimal(str(run["cost"]["cost_usd"])) for run in runs if "cost_usd" in run["cost"]]
    assert (totals.runs_with_cost, totals.cost_reported_usd) == (len(reported), sum(reported))
    usages = [step["metadata"]["usage"] for step in steps if "usage" in step.get("metadata", {})]
    assert totals.tokens == {name: sum(usage[name] for usage in usages) for name in totals.tokens}


def test_a_finished_run_costs_what_its_steps_used() -> None:
    events = good_events(fleet(shares=FleetShares(tampered=0))[0])
    used: dict[str, int] = collections.Counter()
    for (run_id, _), event in last_by_id(events, "step").items():
        used[run_id] += event["data"].get("metadata", {}).get("usage", {}).get("output_tokens", 0)
    for (run_id, _), event in last_by_id(events, "run").items():
        if event["data"]["status"] != "running":
            assert event["data"]["cost"].get("output_tokens", 0) == used[run_id]


def test_a_fleet_has_everything_that_a_demo_shows() -> None:
    _, totals = fleet()
    assert set(totals.runs_by_status) == {"completed", "failed", "cancelled", "timeout", "running"}
    assert set(totals.runs_by_outcome) == {"success", "failed", "partial", "abandoned", "none"}
    assert set(totals.steps_by_type) == {"message", "tool_call", "reasoning", "handoff", "error"}
    assert set(totals.runs_by_hash) == {"match", "mismatch", "absent"}
    assert totals.child_runs == totals.steps_by_type["handoff"] == int(RUNS * FleetShares().children)
    assert min(totals.repeats, totals.late_steps, totals.corrections, totals.evals_passed) > 0
    assert {"malformed", "schema", "unknown_type", "key_mismatch"} <= set(totals.refused)
    assert 0.003 < totals.refused.total() / totals.records < 0.03


def test_hashes_and_lineage_follow_the_protocol() -> None:
    records, totals = fleet(shares=CLEAN)
    runs = {run_id: event["data"] for (run_id, _), event in last_by_id(good_events(records), "run").items()}
    verdicts = collections.Counter(
        "absent"
        if (stated := run["provenance"].get("run_hash")) is None
        else "match"
        if stated == run_hash(run)
        else "mismatch"
        for run in runs.values()
    )
    assert verdicts == totals.runs_by_hash
    for run in runs.values():
        if "parent_run_id" in run:
            parent = runs[run["parent_run_id"]]["provenance"]
            assert run["provenance"]["parent_run_hash"] == parent["run_hash"]
            assert run["provenance"]["lineage"] == [*parent.get("lineage", []), parent["run_hash"]]


def test_times_rise_within_the_last_hour_and_runs_interleave() -> None:
    records, _ = fleet(shares=FleetShares(bad=0, repeated=0))
    events = good_events(records)
    times = [datetime.fromisoformat(event["time"]) for event in events]
    assert times == sorted(times)
    assert NOW - timedelta(hours=1) <= times[0]
    assert times[-1] <= NOW
    changes = sum(a["subject"] != b["subject"] for a, b in itertools.pairwise(events))
    assert changes > len(events) / 2


def test_late_steps_come_after_the_end_of_their_run() -> None:
    records, totals = fleet(shares=FleetShares(bad=0, repeated=0, corrected=0))
    ended: set[str] = set()
    late = 0
    for event in good_events(records):
        if event["type"] == "agentrun.step.v1":
            late += event["subject"] in ended
        elif event["data"].get("status") not in {"running", None}:
            ended.add(event["subject"])
    assert late == totals.late_steps > 0


def test_oversize_records_come_only_when_asked_for() -> None:
    assert max(len(record.value) for record in fleet()[0]) < limits.VALUE_BYTES_MAX
    totals = FleetTotals()
    records = list(demo_fleet(100, 1, NOW, totals, FleetShares(bad=0.05, oversize=True)))
    assert totals.refused["oversize"] == sum(len(record.value) > limits.VALUE_BYTES_MAX for record in records) > 0


def test_the_codec_refuses_the_bad_records_for_the_reasons_counted_and_no_others() -> None:
    totals = FleetTotals()
    records = demo_fleet(RUNS, 11, NOW, totals, FleetShares(bad=0.05))
    append_ms = int(NOW.timestamp() * 1000)
    found = [decode(record.value, record.key, record.headers, append_ms, Route()) for record in records]
    assert collections.Counter(event.reason for event in found if isinstance(event, Refusal)) == totals.refused


@pytest.mark.parametrize("runs", [0, 1, 2, 3])
def test_small_fleets_are_complete(runs: int) -> None:
    totals = FleetTotals()
    records = list(demo_fleet(runs, 5, NOW, totals))
    assert (totals.runs, totals.records) == (runs, len(records))


def test_a_load_is_determined_by_its_seed_and_ids_never_meet() -> None:
    first, again, other = load(), load(), load(seed=2)
    assert first == again
    assert {record.key for record in first}.isdisjoint(record.key for record in other)


def test_a_load_is_valid_compact_and_of_the_promised_size() -> None:
    records = load()
    for record in records:
        assert orjson.dumps(orjson.loads(record.value)) == record.value
    assert len(good_events(records)) == len(records)
    steps = [record.value for record in records if b"agentrun.step.v1" in record.value]
    assert len(steps) == 3000
    assert 600 < sum(map(len, steps)) / len(steps) < 800
    assert 0.4 < sum(b'"usage"' in value for value in steps) / len(steps) < 0.6


@pytest.mark.parametrize(
    ("steps", "open_runs", "steps_per_run"), [(3000, 100, 20), (50, 100, 20), (101, 10, 1), (7, 1, 3), (0, 5, 3)]
)
def test_a_load_keeps_its_number_of_runs_open_until_the_steps_run_out(
    steps: int, open_runs: int, steps_per_run: int
) -> None:
    records = load(steps=steps, open_runs=open_runs, steps_per_run=steps_per_run)
    open_now: set[str] = set()
    most = sent = 0
    for event in good_events(records):
        status = event["data"].get("status")
        if status == "running":
            open_now.add(event["subject"])
        elif status == "completed":
            open_now.remove(event["subject"])
        else:
            assert event["subject"] in open_now
            sent += 1
        most = max(most, len(open_now))
    assert (sent, most, open_now) == (steps, min(open_runs, steps), set())


def test_the_sums_of_a_load_are_those_of_its_steps() -> None:
    used: dict[str, int] = collections.Counter()
    for event in good_events(load()):
        used[event["subject"]] += event["data"].get("metadata", {}).get("usage", {}).get("input_tokens", 0)
        if event["data"].get("status") == "completed":
            assert event["data"]["cost"]["input_tokens"] == used[event["subject"]]


def test_shares_of_a_load_are_about_what_was_asked_for() -> None:
    records = load(steps=10_000, bad=0.02, repeated=0.05, late=0.03)
    counts = collections.Counter(record.value for record in records)
    repeats = sum(n - 1 for n in counts.values())
    good = good_events(records)
    ended: set[str] = set()
    late = 0
    for event in {event["id"]: event for event in good}.values():
        late += event["type"] == "agentrun.step.v1" and event["subject"] in ended
        if event["data"].get("status") == "completed":
            ended.add(event["subject"])
    assert 350 < repeats < 650
    assert 200 < late < 400
    assert 130 < len(records) - len(good) < 280
