"""Budgets, velocity, loops and burn rates on the real stack: rows, gauges, a compacted topic, by each workspace's rules."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream import topics
from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, read_all, soon

pytestmark = pytest.mark.stack

QUICK = {"AGENTRUN_SIGNALS__EVERY_S": "0.1"}
AIRLINE = Path(__file__).resolve().parents[3] / "shared/data/tau-airline/airline.events.jsonl"
RULES = """
[defaults.velocity]
floor = 100
[workspaces.strict.failures]
baseline = 0.02
[workspaces.strict.velocity]
floor = 10
five_minutes = 5
hour = 20
[[workspaces.strict.burn]]
budget = 0.1
threshold = 4
short_minutes = 5
long_minutes = 60
[workspaces.lax.failures]
baseline = 0.8
[workspaces.lax.loops]
times = 5
"""
COUNTED_IN = (("agent-1", "velocity", "hour"), ("", "budget_month", "spent"))
BUDGETS = """
[workspaces.strict]
month = 1
[workspaces.strict.agents.agent-1]
day = 1000
[workspaces.lax]
month = "1000"
"""


def signals(made: Lane, *names: str) -> dict[tuple[str, str, str], tuple[str, Any]]:
    """(workspace, agent, signal) -> (level, state) of what is not void."""
    rows = made.rows("SELECT workspace, agent_id, signal, level, state FROM signals_latest WHERE state != '{}'")
    found = {(r["workspace"], r["agent_id"], r["signal"]): (r["level"], orjson.loads(r["state"])) for r in rows}
    return {key: value for key, value in found.items() if not names or key[2] in names}


def published(made: Lane) -> dict[bytes, dict[str, Any] | None]:
    """The last record of each budget on the compacted topic."""
    records = asyncio.run(read_all(made.stack.kafka, topics.BUDGETS))
    return {r.key: None if r.value is None else orjson.loads(r.value) for r in records}


def all_counted(made: Lane, workspace: str) -> bool:
    """Whether a pass saw all the work of a workspace."""
    found = {key: state for key, (_, state) in signals(made, "failures", "velocity", "budget_month").items()}
    runs = sum(v["runs"] for v in found.get((workspace, "agent-1", "failures"), {}).get("versions", ()))
    spent = [found.get((workspace, agent, signal), {}).get(name) for agent, signal, name in COUNTED_IN]
    return runs == 12 and spent == ["42.75", "42.75"]


def work(workspace: str, ended: datetime) -> list[bytes]:
    """Six runs that failed and six that did not, one that repeats itself, one that is running and dear."""
    told: dict[str, Any] = {"envelope": {"workspaceid": workspace}}
    end: dict[str, Any] = {"started_at": ended.isoformat(), "ended_at": ended.isoformat()}
    events = []
    for i in range(12):
        status, cost = "failed" if i % 2 else "completed", {} if i == 3 else {"cost_usd": 0.25}
        events.append(run_event(f"{workspace}-{i}", status=status, cost=cost, **end, **told))
    same: dict[str, Any] = {"tool_name": "read", "input_preview": "the same", **told}
    events += [step_event(f"{workspace}-loop", f"s{i}", **same) for i in range(4)]
    events.append(run_event(f"{workspace}-loop", status="running", started_at=end["started_at"], **told))
    dear: dict[str, Any] = {"status": "running", "started_at": end["started_at"], "cost": {"cost_usd": 40}}
    return [*events, run_event(f"{workspace}-dear", **dear, **told)]


def assert_shown(made: Lane, found: dict[tuple[str, str, str], Any]) -> None:
    """`agentrun signals` tells the rows as they stand: in JSON whole, in the table in words, by workspace and level."""
    said = orjson.loads(made.agentrun("signals", "-o", "json").out)
    assert said["refreshed"] is True
    told = {(row["workspace"], row["agent_id"], row["signal"]): row["state"] for row in said["signals"]}
    fast = {"five_minutes", "hour"}  # minutes pass
    assert told.keys() == found.keys()
    assert all(
        told[key] == found[key] for key in found if not fast & found[key].keys() and "projected" not in found[key]
    )
    shown = made.agentrun("signals", "--workspace", "strict", "--level", "over")
    assert shown.code == 0, shown
    for words in (
        "baseline 2.0% (configured); 6 of 12 runs failed, 95 % between",
        "a run may cost $10.00; over it: strict-dear at $40.00",
        "strict-loop calls read 4 times",
        "$42.75 of $1.00 spent",
        "1 runs without a price",
    ):
        assert words in shown.out, shown.out
    assert "lax" not in shown.out
    assert "No signal matches." in made.agentrun("signals", "--agent", "nobody").out


@pytest.fixture
def made(agentrun_stack: Stack, tmp_path: Path) -> Iterator[Lane]:
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "budgets.toml").write_text(BUDGETS)
    files = {f"AGENTRUN_SIGNALS__{name.upper()}": str(tmp_path / f"{name}.toml") for name in ("rules", "budgets")}
    own = {**QUICK, **files, "AGENTRUN_WORKER__INSTANCE_ID": "present"}
    with lane(agentrun_stack, tmp_path, "present", **own) as made:
        yield made


def test_workspaces_are_held_against_their_own_rules(made: Lane, tmp_path: Path) -> None:
    """The same work in two workspaces: what is an alarm in one is none in the other, in table, gauges and topic alike."""
    now = datetime.now(UTC)
    made.produce([event for name in ("strict", "lax") for event in work(name, now - timedelta(minutes=2))])
    assert "has not run yet" in made.agentrun("signals").out
    made.start()
    made.wait()
    levels = {
        ("strict", "agent-1", "failures"): "over",
        ("lax", "agent-1", "failures"): "ok",
        ("strict", "agent-1", "velocity"): "over",
        ("lax", "agent-1", "velocity"): "ok",
        ("strict", "agent-1", "loops"): "over",
        ("strict", "agent-1", "burn"): "over",
        ("strict", "", "budget_month"): "over",
        ("strict", "agent-1", "budget_day"): "ok",
        ("lax", "", "budget_month"): "ok",
    }
    soon(lambda: all_counted(made, "strict") and all_counted(made, "lax"), timeout_s=90, what="a pass over everything")
    soon(lambda: {k: level for k, (level, _) in signals(made).items()} == levels, what="the signals")
    found = {key: state for key, (_, state) in signals(made).items()}
    assert found["strict", "agent-1", "velocity"] == {
        "five_minutes": "42.75",
        "hour": "42.75",
        "fast": True,
        "run_limit": "10",
        "runaways": [{"run_id": "strict-dear", "cost": "40"}],
        "unpriced_runs": 0,
    }
    assert found["strict", "agent-1", "loops"] == {"runs": [{"run_id": "strict-loop", "tool": "read", "times": 4}]}
    (rule,) = found["strict", "agent-1", "burn"]["rules"]
    assert rule == {"threshold": "4", "rate": "5.0000", "short_s": 300, "long_s": 3600}
    state = found["strict", "agent-1", "failures"]
    assert (state["baseline"], state["basis"], state["versions"][0]["failed"]) == (0.02, "configured", 6)

    budget = {"period": "month", "limit": "1", "spent": "42.75", "level": "over", "unpriced_runs": 1}
    told = published(made)
    record = told[b"month/strict"]
    assert record is not None
    assert budget.items() <= record.items()
    assert (record["workspace"], record["agent_id"]) == ("strict", None)
    assert datetime.fromisoformat(record["starts"]) <= now < datetime.fromisoformat(record["ends"])
    assert (told[b"day/strict/agent-1"] or {})["spent"] == "42.75"

    assert made.metric("failure_evalue", workspace="strict", agent_id="agent-1") > 100
    assert_shown(made, found)
    assert 0 < made.metric("failure_evalue", workspace="lax") < 1
    assert made.metric("spend_hour_usd", workspace="lax") == 42.75
    assert made.metric("looping_runs") == 1
    assert made.metric("burn_rate", workspace="strict") == 1.25
    assert made.metric("budget_used", workspace="strict", period="month") == 42.75
    assert made.metric("signals_suppressed") == 0
    assert made.metric("signal_refresh_seconds_count") > 0

    under_other_rules(made, tmp_path)


def under_other_rules(made: Lane, folder: Path) -> None:
    """A restart with other files judges everybody anew, ends budgets that are gone, and shows no more series than it may."""
    made.stop()
    (folder / "rules.toml").write_text("[defaults.failures]\nbaseline = 0.9\n[defaults.velocity]\nfloor = 41\n")
    (folder / "budgets.toml").write_text("[workspaces.lax]\nmonth = 10")
    made.start(AGENTRUN_SIGNALS__SERIES_MAX="1")
    after = {
        ("strict", "agent-1", "failures"): "ok",
        ("lax", "agent-1", "failures"): "ok",
        ("strict", "agent-1", "velocity"): "ok",
        ("lax", "agent-1", "velocity"): "ok",
        ("strict", "agent-1", "loops"): "over",
        ("lax", "agent-1", "loops"): "over",
        ("lax", "", "budget_month"): "over",
    }
    soon(
        lambda: {k: level for k, (level, _) in signals(made).items()} == after,
        timeout_s=90,
        what="the signals under other rules",
    )
    told = published(made)
    assert told[b"month/strict"] is told[b"day/strict/agent-1"] is None
    assert (told[b"month/lax"] or {})["limit"] == "10"
    soon(lambda: made.metric("signals_suppressed", signal="failures") == 1, what="the gauge")
    scrape = made.get("/metrics")[1].splitlines()
    assert len([line for line in scrape if line.startswith("agentrun_failure_evalue{")]) == 1


def test_recorded_runs_that_loop_did_not_succeed(agentrun_stack: Stack, tmp_path: Path) -> None:
    """200 recorded runs of an airline's agent: seven repeat a call with the same preview, and not one of them succeeded."""
    if not AIRLINE.is_file():
        pytest.skip("the recorded runs are not beside the checkout (../shared/data)")
    with lane(agentrun_stack, tmp_path, "airline", **QUICK) as made:
        made.produce(AIRLINE.read_bytes().splitlines())
        made.start()
        made.wait()
        soon(lambda: sum(len(state["runs"]) for _, state in signals(made, "loops").values()) == 7, 90, "the loops")
        flagged = [run for _, state in signals(made, "loops").values() for run in state["runs"]]
        names = ", ".join(f"'{run['run_id']}'" for run in flagged)
        ended = made.rows(f"SELECT outcome, count() AS n FROM runs_latest WHERE id IN ({names}) GROUP BY outcome")
        assert ended == [{"outcome": "failed", "n": 7}]
        assert max(run["times"] for run in flagged) == 7
        assert made.rows("SELECT count() AS n FROM runs_latest WHERE outcome = 'success'")[0]["n"] > 50


def test_a_worker_with_a_wrong_rule_does_not_start(agentrun_stack: Stack, tmp_path: Path) -> None:
    """An alarm that can never fire is told before it is trusted."""
    file = tmp_path / "rules.toml"
    file.write_text("[[defaults.burn]]\nbudget=0.1\nthreshold=14.4\nshort_minutes=5\nlong_minutes=60")
    with lane(agentrun_stack, tmp_path, "wrong_rule", AGENTRUN_SIGNALS__RULES=str(file)) as made:
        told = made.agentrun("work")
        assert told.code == 3
        assert "rules.toml.defaults.burn[0]: a burn rate of 14.4 can't be reached" in told.err


def stretch(made: Lane) -> tuple[Any, ...]:
    """Of the only agent: its stretch, the runs in that by status, and where its baseline is from."""
    ((_, state),) = signals(made, "failures").values()
    (version,) = state["versions"]
    return version["stretch"], version["runs"], version["by_status"], state["basis"]


def test_spent_is_exact_and_a_process_starts_anew(agentrun_stack: Stack, tmp_path: Path) -> None:
    """1,100 times a tenth of a millionth is what it is, to the last digit. After 1,000 runs only the others count."""
    file = tmp_path / "budgets.toml"
    file.write_text("[workspaces.default]\nday = 0.00011")
    with lane(agentrun_stack, tmp_path, "spent", **QUICK, AGENTRUN_SIGNALS__BUDGETS=str(file)) as made:
        made.produce([run_event(f"r{i}", cost={"cost_usd": 0.0000001}) for i in range(1100)])
        made.start()
        made.wait()
        soon(
            lambda: [s["spent"] for _, s in signals(made, "budget_day").values()] == ["0.00011"],
            timeout_s=90,
            what="the whole amount",
        )
        ((level, state),) = signals(made, "budget_day").values()
        assert (level, Decimal(state["spent"]) == Decimal(state["limit"])) == ("warn", True)
        soon(lambda: stretch(made) == (1, 100, {"completed": 100}, "learned"), 90, "the second stretch")
