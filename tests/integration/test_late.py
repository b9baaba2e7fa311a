"""Late and repeated data on the real stack: each changes exactly what the wire contract says, and the run is told again or not.

One row of the table per case: what came first (days ago), what came then, which columns of the run changed and how, and
whether the compacted topic tells of it. Every column that a case does not name is as it was.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from agentrun_stream import topics
from agentrun_stream.testing.events import eval_event, patch_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, read_all
from integration.past import appended_long_ago

pytestmark = pytest.mark.stack

WEEK_S = 7 * 86_400
USAGE = {"usage": {"model": "m", "input_tokens": 3, "output_tokens": 4}}
MOVES = frozenset({"revision", "last_event_at", "projected_at", "judged_at"})  # with every change of a closed run


@dataclass(frozen=True)
class Case:
    """`then` comes a week after `first`. `told`: how the compacted topic hears of it."""

    name: str
    first: list[bytes]
    then: list[bytes]
    changes: dict[str, Any] = field(default_factory=dict)
    told: bool = True
    minutes: dict[str, int] = field(default_factory=dict)


def batch(name: str) -> list[bytes]:
    return [
        run_event(name, status="running"),
        step_event(name, "s1", metadata=USAGE),
        step_event(name, "s2", success=False),
        eval_event(name, envelope={"time": "2026-01-01T12:00:02Z"}),
        run_event(name, cost={"cost_usd": 0.5}, outcome="success"),
    ]


def at(time: str) -> dict[str, object]:
    return {"time": f"2026-01-01T{time}Z"}


NOON = "2026-01-01T12:00:00Z"
ONE_MORE = {"steps": 3, "tool_calls": 3, "step_input_tokens": 6, "step_output_tokens": 8}
ONE_MORE |= {"input_uncached": 6, "output": 8}
NO_PRICE = {  # of a model that no book knows
    "price_status": "unknown_model",
    "price_basis": "steps",
    "price_as_of": "2026-01-01T12:00:01.000000Z",
    "token_convention": "either",
    "convention_evidence": "no_cache",
    "input_uncached": 9,
    "cache_read": 0,
    "cache_write_5m": 0,
    "cache_write_1h": 0,
    "output": 12,
}
CASES = [
    Case(
        "step-a-week-later",
        batch("step-a-week-later"),
        [step_event("step-a-week-later", "s3", metadata=USAGE)],
        ONE_MORE,
    ),
    Case(
        "run-before-its-steps",
        [run_event("run-before-its-steps", cost={"cost_usd": 0.5})],
        [step_event("run-before-its-steps", f"s{n}", metadata=USAGE) for n in range(3)],
        {
            "verdict_reasons": ["steps_uncovered"],
            "steps": 3,
            "tool_calls": 3,
            "step_input_tokens": 9,
            "step_output_tokens": 12,
            **NO_PRICE,
        },
    ),
    Case("same-batch-twice", batch("same-batch-twice"), batch("same-batch-twice")),
    Case(
        "corrected-end",
        batch("corrected-end"),
        [
            run_event(
                "corrected-end",
                status="failed",
                outcome="failed",
                ended_at="2026-01-01T12:05:30Z",
                cost={"cost_usd": 0.75},
            )
        ],
        {
            "status": "failed",
            "outcome": "failed",
            "ended_at": "2026-01-01T12:05:30.000000Z",
            "corrections": 1,
            "cost_reported": "0.75",
            "cost_reported_raw": "0.75",
            "cost_effective": "0.75",
        },
        minutes={NOON: 0, "2026-01-01T12:05:00Z": 1},
    ),
    Case(
        "stale-running",
        batch("stale-running"),
        [run_event("stale-running", status="running", model="x", envelope=at("13:00:00"))],
        told=False,
    ),
    Case(
        "old-step-of-the-same-source",
        batch("old-step-of-the-same-source"),
        [step_event("old-step-of-the-same-source", "s1", success=False, envelope=at("11:59:59"))],
        told=False,
    ),
    Case(
        "old-snapshot-of-the-same-source",
        batch("old-snapshot-of-the-same-source"),
        [run_event("old-snapshot-of-the-same-source", outcome="failed", envelope=at("12:00:00"))],
        told=False,
    ),
    Case(
        "old-step-of-another-source",
        batch("old-step-of-another-source"),
        [step_event("old-step-of-another-source", "s2", envelope=at("11:00:00") | {"source": "/other"})],
        {"failed_steps": 0, "failed_tool_calls": 0},
    ),
    Case(
        "eval-afterwards",
        batch("eval-afterwards"),
        [eval_event("eval-afterwards", passed=False, score=1, metadata={"scorer": "judge"})],
        {"evals": 2, "eval": {"pass": False, "score": 1, "metadata": {"scorer": "judge"}}},
    ),
    Case(
        "patched-cost",
        batch("patched-cost"),
        [patch_event("patched-cost", cost={"total_tokens": 9}, envelope=at("12:01:00"))],
        {"total_tokens": 9, "corrections": 1},
    ),
    Case(
        "step-of-an-open-run",
        [run_event("step-of-an-open-run", status="running")],
        [step_event("step-of-an-open-run", "s1")],
        told=False,
        minutes={},
    ),
]


@dataclass
class Told:
    """The rows and the topic's records of every run, before and after."""

    lane: Lane
    rows: dict[str, dict[str, Any]]
    records: dict[str, list[dict[str, Any]]]


def look(made: Lane) -> Told:
    rows = {row["id"]: row for row in made.rows("SELECT * EXCEPT (_version) FROM runs_latest")}
    records: dict[str, list[dict[str, Any]]] = {}
    for record in asyncio.run(read_all(made.stack.kafka, topics.RUNS)):
        value = orjson.loads(record.value)
        if value.get("id") in rows:  # others publish there too
            records.setdefault(value["id"], []).append(value)
    return Told(made, rows, records)


@pytest.fixture(scope="module")
def told(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Told, Told]]:
    # Nobody is closed for being silent here: an open run is to stay open for a week.
    quiet = {"AGENTRUN_LEASES__IDLE_TIMEOUT_S": "31536000", "AGENTRUN_LEASES__MAX_AGE_S": "31536000"}
    with lane(agentrun_stack, tmp_path_factory.mktemp("late"), "late", **quiet) as made:
        appended_long_ago(made, WEEK_S, [event for case in CASES for event in case.first])
        made.start()
        made.wait()
        before = look(made)
        made.produce([event for case in CASES for event in case.then])
        made.wait()
        yield before, look(made)


def plain(row: dict[str, Any]) -> dict[str, Any]:
    money = {"cost_reported", "cost_effective"}
    shown = {k: str(v) if k in money and v is not None else v for k, v in row.items() if k not in MOVES}
    return shown | {"eval": None if row["eval"] is None else orjson.loads(row["eval"])}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_comes_late_changes_what_it_says_and_nothing_else(told: tuple[Told, Told], case: Case) -> None:
    """Column by column; and the topic hears of it with a higher revision, or not at all."""
    before, after = told
    old, new = before.rows[case.name], after.rows[case.name]
    assert plain(new) == plain(old) | case.changes
    old_records, new_records = before.records.get(case.name, []), after.records.get(case.name, [])
    assert new_records[: len(old_records)] == old_records
    if case.told:
        assert len(new_records) > len(old_records) > 0
        assert new["revision"] > old["revision"]
        assert [r["revision"] for r in new_records] == sorted(r["revision"] for r in new_records)
        assert new_records[-1]["revision"] == new["revision"] > old_records[-1]["revision"]
        assert new["last_event_at"] > old["last_event_at"]
    else:
        assert new_records == old_records
        assert new["revision"] == old["revision"]
    minutes = {
        row["minute"]: row["runs"]
        for row in after.lane.rows(f"SELECT minute, runs FROM settlements FINAL WHERE run_id = '{case.name}'")
    }
    assert minutes == (case.minutes or ({NOON: 1} if old["closed_by"] else {}))


def test_every_kind_of_it_is_counted_and_the_audit_finds_nothing(told: tuple[Told, Told]) -> None:
    """Late, stale and repeated records each under their own metric; the ledger's sum is what the runs state."""
    made = told[1].lane
    assert made.metric("records_late_total") == 2 + 1  # of the batch told twice, its first snapshot too
    assert made.metric("records_stale_total") == 1
    assert made.metric("records_repeated_total") == 3
    ledger = made.one("SELECT sum(cost_reported) AS cost FROM accruals FINAL")
    assert ledger["cost"] == made.one("SELECT sum(cost_reported) AS cost FROM runs_latest")["cost"]
    made.assert_exact()
