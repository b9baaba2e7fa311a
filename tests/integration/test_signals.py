"""The failure signal on the real stack: a function of the log alone, whoever computed it and whatever died meanwhile."""

import asyncio
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.errors import StoreError
from agentrun_stream.processors.signals.failures import FailureRule, Process, baseline_of, evalue
from agentrun_stream.processors.signals.rules import Rules
from agentrun_stream.runtime.signals.failures import refresh_failures
from agentrun_stream.store.signals import ClickHouseSignals
from agentrun_stream.testing.events import patch_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, read_all, soon

pytestmark = pytest.mark.stack

QUICK = {"AGENTRUN_SIGNALS__EVERY_S": "0.1"}
TERMINAL = ("completed", "failed", "timeout", "cancelled")
AGENTS = ("steady", "failing", "moving", "small")


def at(second: int) -> dict[str, object]:
    return {"time": f"2026-01-02T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"}


def told(name: str, second: float, members: dict[str, object]) -> tuple[float, bytes]:
    return second, run_event(name, envelope=at(int(second * 10)), **members)


def log(runs: int, seed: int) -> list[bytes]:
    """Runs that close in another order than they began: corrected, told again, opened again, moved to another agent."""
    chance = random.Random(seed)
    events: list[tuple[float, bytes]] = []
    for i in range(runs):
        agent = "small" if i % 50 == 0 else chance.choice(AGENTS[:3])
        rate = {"steady": 0.05, "failing": 0.4, "moving": 0.1, "small": 1.0}[agent]
        status = "failed" if chance.random() < rate else chance.choice(["completed"] * 8 + ["cancelled", "timeout"])
        version: dict[str, object] = {"git_commit": f"c{i * 3 // runs}", "provenance": {"config_hash": f"h{i % 2}"}}
        name, end = f"r{i}", i + chance.random() * 30

        same: dict[str, object] = {"agent_id": agent, **version}
        events += [
            told(name, i, same | {"status": "running"}),
            (i + 0.1, step_event(name, "s1")),
            told(name, end, same | {"status": status}),
        ]
        events += [(end + 5, step_event(name, "s2"))]
        if i % 7 == 0:  # corrected, sometimes to another agent or version
            other = same | ({"agent_id": "steady"} if i % 3 == 0 else {"git_commit": "c9"} if i % 3 == 1 else {})
            events.append(told(name, end + 9, other | {"status": chance.choice(TERMINAL)}))
        if i % 11 == 0:
            events.append((end + 12, patch_event(name, outcome="failed", envelope=at(int((end + 12) * 10)))))
        if i % 13 == 0:
            events.append(told(name, end + 0.2, same | {"status": status}))
    return [event for _, event in sorted(events, key=lambda e: e[0])]


def slow_model(made: Lane) -> dict[str, Any]:
    """What must come out, from the log: an agent's versions with their current processes, in the order of the log."""
    runs: dict[str, dict[str, Any]] = {}
    for record in asyncio.run(read_all(made.stack.kafka, made.topic)):
        event = orjson.loads(record.value)
        if event["type"] in {"agentrun.run.v1", "agentrun.patch.v1"}:
            run, place = runs.setdefault(event["subject"], {}), (record.timestamp, record.partition, record.offset)
            if run.get("status") in TERMINAL and event["data"].get("status") == "running":
                continue
            run |= {k: v for k, v in event["data"].items() if k in {"agent_id", "status", "git_commit"}}
            run["config_hash"] = event["data"].get("provenance", run).get("config_hash", run.get("config_hash"))
            run["place"] = place
    found: dict[str, Any] = {}
    for agent in {run["agent_id"] for run in runs.values()}:
        mine = sorted((r for r in runs.values() if r["agent_id"] == agent), key=lambda r: r["place"])
        counted = [r for r in mine if r["status"] in {"completed", "failed", "timeout"}]
        baseline, _ = baseline_of(FailureRule(), [r["status"] for r in counted])
        versions = {}
        for version in {(r["git_commit"], r["config_hash"]) for r in counted[-20:]}:
            process = Process().after([r["status"] for r in counted if (r["git_commit"], r["config_hash"]) == version])
            versions[version] = (process.state(), evalue(process, FailureRule(), baseline))
        cancelled = sum(r["status"] == "cancelled" for r in mine)
        found[agent] = (baseline, cancelled, versions, max((e for _, e in versions.values()), default=0.0))
    return found


def stored(made: Lane) -> dict[str, Any]:
    """The same, as the store has it."""
    found = {}
    for row in made.rows("SELECT agent_id, value, state FROM signals_latest WHERE signal = 'failures'"):
        state = orjson.loads(row["state"])
        versions = {
            (v["git_commit"], v["config_hash"]): ({k: v[k] for k in ("stretch", "runs", "by_status")}, v["evalue"])
            for v in state["versions"]
        }
        found[row["agent_id"]] = (state["baseline"], state["cancelled"], versions, row["value"])
    return found


def wait_for(made: Lane, expected: dict[str, Any]) -> None:
    """Until the signals are what they must be; the difference stands in the failure."""
    try:
        soon(lambda: stored(made) == expected, 90)
    except AssertionError:
        assert stored(made) == expected


async def zombies(made: Lane) -> None:
    """Passes of four who all believe that they own partition 0, while workers are at it."""
    stores = [ClickHouseSignals(made.store) for _ in range(4)]
    for _ in range(3):
        await asyncio.gather(*(refresh_failures(store, Rules(), {}, 1_700_000_000_000) for store in stores))


def closed(made: Lane) -> int:
    return int(made.one("SELECT count() AS n FROM closings")["n"])


async def begun_anew(made: Lane, step: str) -> None:
    """A store restored without the signals' tables; the first pass dies before a step is done, another one comes after it."""
    for table in ("signal_progress", "closings", "signals"):
        made.execute(f"TRUNCATE TABLE {table}")
    dying: Any = ClickHouseSignals(made.store)

    async def die(*_: object) -> None:
        raise StoreError(step)

    setattr(dying, step, die)
    with pytest.raises(StoreError):
        await refresh_failures(dying, Rules(), {}, 1_700_000_000_000)
    await refresh_failures(ClickHouseSignals(made.store), Rules(), {}, 1_700_000_000_000)


@pytest.mark.slow
def test_the_same_evalues_for_one_worker_for_three_and_after_kills(agentrun_stack: Stack, tmp_path: Path) -> None:
    """One log, read thrice: by one worker, by three, and by one that is killed again and again. Equal to the last bit."""
    events, seen = log(600, seed=5), []
    expected: dict[str, Any] = {}
    for name, count in (("signals_one", 1), ("signals_three", 3), ("signals_killed", 1)):
        own = {"AGENTRUN_WORKER__INSTANCE_ID": name} if count == 1 else {}
        quick = {**QUICK, "AGENTRUN_WORKER__BATCH_RECORDS_MAX": "100", **own}
        with lane(agentrun_stack, tmp_path, name, "signals.v1", **quick) as made:
            if not expected:
                for start in range(0, len(events), 40):  # append times differ
                    made.produce(events[start : start + 40])
                expected = slow_model(made)
            made.start(count)
            if name == "signals_killed":
                for runs in (0, 200):
                    soon(lambda runs=runs: closed(made) > runs, what="some more runs")  # type: ignore[misc]
                    made.kill()
                    made.restart()
            if count == 3:
                asyncio.run(zombies(made))
            made.wait()
            wait_for(made, expected)
            seen.append(made.rows("SELECT agent_id, value, level, state FROM signals_latest ORDER BY agent_id"))
            made.assert_exact()
            if name == "signals_killed":
                made.stop()
                for step in ("take_in", "histories", "write", "record"):
                    asyncio.run(begun_anew(made, step))
                    assert stored(made) == expected, step
    assert seen[0] == seen[1] == seen[2]
    assert set(expected) == set(AGENTS)
    assert expected["small"][3] >= 100 > expected["steady"][3]
