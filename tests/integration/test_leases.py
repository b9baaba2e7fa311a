"""Leases on the real stack: silent runs end, and nothing else does. Append times count, so the log begins in the past."""

import asyncio
import time
from datetime import datetime
from pathlib import Path

import orjson
import pytest

from agentrun_stream.testing.events import eval_event, lease_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, home, lane, last_published, read_all, run_on, soon
from integration.past import appended_long_ago

pytestmark = pytest.mark.stack

HOUR_S = 3_600
QUICK = {"AGENTRUN_LEASES__SWEEP_EVERY_S": "0.2"}
RECORDED = (
    Path(__file__).resolve().parents[3] / "shared/data/claude-code/4d5611e5-241a-462a-8d15-5122611a9569.events.jsonl"
)


def leases(made: Lane) -> list[tuple[int, bytes, dict[str, object]]]:
    """(partition, key, event) of every lease on the log."""
    found = []
    for record in asyncio.run(read_all(made.stack.kafka, made.topic)):
        event = orjson.loads(record.value)
        if event["type"] == "agentrun.lease.v1":
            found.append((record.partition, record.key, event))
    return found


def closed_by_lease(made: Lane, *runs: str) -> bool:
    found = made.rows("SELECT id FROM runs_latest WHERE closed_by = 'lease' AND status = 'timeout'")
    return {row["id"] for row in found} >= set(runs)


def test_silent_runs_end_as_timeout_and_no_others(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Silent for an hour, or open for a day: settled, published, told how late. One lease each, where the run is."""
    silent, bare, old, lively, ended = (run_on(i % 4, f"lease-{n}") for i, n in enumerate(("a", "b", "c", "d", "e")))
    with lane(agentrun_stack, tmp_path, "leases", **QUICK) as made:
        appended_long_ago(made, 25 * HOUR_S, [step_event(old, "s1")])
        appended_long_ago(
            made,
            HOUR_S,
            [
                run_event(silent, status="running"),
                step_event(silent, "s1", metadata={"usage": {"input_tokens": 3, "model": "m"}}),
                step_event(bare, "s1"),
                run_event(lively, status="running"),
                run_event(ended),
            ],
        )
        made.produce([step_event(old, "s2"), step_event(lively, "s2")])
        made.start()
        soon(lambda: closed_by_lease(made, silent, bare, old), what="the leases")
        made.wait()
        found = leases(made)
        assert sorted(key.decode() for _, key, _ in found) == sorted((silent, bare, old))
        assert all(partition == home(key.decode()) for partition, key, _ in found)
        assert all(event["data"] == {"idle_timeout": 1800, "max_age": 86400} for *_, event in found)
        for name, due_s in ((silent, HOUR_S - 1800), (bare, HOUR_S - 1800), (old, HOUR_S)):
            row = made.run_row(name)
            assert due_s <= row["detected_after_ms"] / 1000 < due_s + 120, name
            settled = made.one(
                f"SELECT sum(runs) AS n, any(time_basis) AS basis FROM settlements FINAL WHERE run_id = '{name}'"
            )
            assert settled == {"n": 1, "basis": "closing_event"}
            published = last_published(made.stack, f"default/{name}")
            assert published is not None
            assert (published[0]["status"], published[0]["revision"]) == ("timeout", row["revision"])
        assert made.run_row(lively)["closed_by"] is None
        assert made.run_row(ended)["closed_by"] == "runtime"
        assert made.run_row(ended)["detected_after_ms"] is None
        assert made.metric("leases_asked_total") == 3
        assert made.metric("lease_detection_seconds_count") == 3
        assert made.one("SELECT sum(timeouts) AS n FROM cost_by_minute")["n"] == 3
        made.assert_exact()


def test_a_later_event_reopens_and_an_eval_does_not(agentrun_stack: Stack, tmp_path: Path) -> None:
    """A paused agent is not a failed one: a step opens the run again, the runtime's own end overrules the lease."""
    paused, judged, late = (run_on(1, f"reopen-{n}") for n in ("paused", "judged", "late"))
    with lane(agentrun_stack, tmp_path, "reopened", **QUICK) as made:
        appended_long_ago(made, HOUR_S, [run_event(name, status="running") for name in (paused, judged, late)])
        made.start()
        soon(lambda: closed_by_lease(made, paused, judged, late), what="the leases")
        made.produce([step_event(paused, "s2"), eval_event(judged), run_event(late)])
        made.wait()
        row = made.run_row(paused)
        assert (row["status"], row["closed_by"], row["reopened"]) == ("running", None, 1)
        assert row["reopened_at"] is not None
        assert made.run_row(judged)["closed_by"] == "lease"
        assert made.run_row(judged)["evals"] == 1
        assert (made.run_row(late)["status"], made.run_row(late)["closed_by"]) == ("completed", "runtime")
        settled = made.one(f"SELECT sum(runs) AS n FROM settlements FINAL WHERE run_id = '{paused}'")
        assert settled["n"] == 0
        time.sleep(1)  # a few more rounds: who was reopened a moment ago is not silent
        assert made.metric("leases_asked_total") == 3
        made.assert_exact()


def test_a_forged_or_early_lease_does_nothing(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Time alone closes a run: a lease of anybody below the contract's minimum or before its time has no effect."""
    silent, lively = run_on(0, "forged-silent"), run_on(0, "forged-lively")
    with lane(agentrun_stack, tmp_path, "forged", AGENTRUN_LEASES__IDLE_TIMEOUT_S="7200") as made:
        appended_long_ago(made, HOUR_S, [run_event(silent, status="running")])
        made.start()
        made.produce([run_event(lively, status="running")])
        made.produce(
            [lease_event(lively, 60, HOUR_S), lease_event(silent, 59.9, 10), lease_event(silent, 7200, HOUR_S + 60)]
        )
        made.wait()
        for name in (silent, lively):
            assert made.run_row(name)["closed_by"] is None
        made.produce([lease_event(silent, 60, HOUR_S)])
        made.wait()
        assert made.run_row(silent)["closed_by"] == "lease"
        made.assert_exact()


def test_a_backlog_is_never_timed_out(agentrun_stack: Stack, tmp_path: Path) -> None:
    """What is on the log is folded before anything is asked: a run whose next event came in time is never closed between."""
    names = [f"backlog-{n}" for n in range(200)]
    with lane(agentrun_stack, tmp_path, "backlog", AGENTRUN_WORKER__BATCH_RECORDS_MAX="100", **QUICK) as made:
        appended_long_ago(made, 3 * HOUR_S, [run_event(name, status="running") for name in names])
        for ago in range(180, 0, -20):
            appended_long_ago(made, ago * 60, [step_event(name, f"s{ago}") for name in names])
        made.start()
        made.produce([run_event(name) for name in names])
        made.wait(120)
        found = made.one("SELECT count() AS n, sum(reopened) AS again FROM runs_latest WHERE closed_by = 'runtime'")
        assert found == {"n": len(names), "again": 0}
        assert leases(made) == []
        made.assert_exact()


def test_a_recorded_pause_of_251_minutes_ends_completed(agentrun_stack: Stack, tmp_path: Path) -> None:
    """The recorded session, appended with its own pauses: a lease closes it in the pause, and its end stands."""
    if not RECORDED.is_file():
        pytest.skip("the recorded runs are not beside the checkout (../shared/data)")
    events = RECORDED.read_bytes().splitlines()
    times = [event_s(event) for event in events]
    pause = max(range(1, len(times)), key=lambda i: times[i] - times[i - 1])
    assert round((times[pause] - times[pause - 1]) / 60) == 251
    name = orjson.loads(events[0])["subject"]
    with lane(agentrun_stack, tmp_path, "paused_for_hours", **QUICK) as made:
        appended_long_ago(made, 251 * 60, events[:pause])
        made.start()
        soon(lambda: closed_by_lease(made, name), what="the lease")
        made.produce(events[pause:])
        made.wait()
        row = made.run_row(name)
        assert (row["status"], row["closed_by"]) == ("completed", "runtime")
        assert made.one(f"SELECT sum(runs) AS n FROM settlements FINAL WHERE run_id = '{name}'")["n"] == 1
        made.assert_exact()


def event_s(event: bytes) -> float:
    return datetime.fromisoformat(orjson.loads(event)["time"]).timestamp()
