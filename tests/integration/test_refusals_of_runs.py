"""Refusals that the state of a run or of the store decides: a run too large, one past retention, a row the store won't take."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from agentrun_stream import limits
from agentrun_stream.testing.events import eval_event, expire_event, patch_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Place, Sent, lane, run_on, soon
from integration.past import appended_long_ago

pytestmark = pytest.mark.stack

CANARY = "canary-8c2e"


def refused_rows(made: Lane) -> list[tuple[int, int, str]]:
    rows = made.rows("SELECT partition, offset, reason FROM refused FINAL ORDER BY partition, offset")
    return [(row["partition"], row["offset"], row["reason"]) for row in rows]


def steps(first: int, count: int) -> list[dict[str, Any]]:
    return [{"id": f"s{n}", "type": "message"} for n in range(first, first + count)]


def test_a_run_holds_a_hundred_thousand_steps_and_no_more(agentrun_stack: Stack, tmp_path: Path) -> None:
    """The step beyond is refused, alone or inside a snapshot; the run stays correct and says how many were."""
    run_id, most, chunk = "large-run", limits.STEPS_PER_RUN_MAX, 20_000
    fill = [run_event(run_id, status="running", steps=steps(at, chunk)) for at in range(0, most, chunk)]
    with lane(agentrun_stack, tmp_path, "large") as made:
        made.start()
        made.produce(fill)
        places = made.produce(
            [
                step_event(run_id, "one-more"),
                step_event(run_id, "s7", success=False),  # it is there: replaced as ever
                run_event(run_id, status="running", steps=[*steps(0, 2), *steps(most, 2)]),
            ]
        )
        made.wait(120)
        made.produce([step_event(run_id, "and-more"), run_event(run_id)])
        made.wait()
        row = made.run_row(run_id)
        assert (row["steps"], row["failed_steps"], row["steps_refused"]) == (most, 1, 3)
        assert row["status"] == "completed"
        stored = made.one(f"SELECT count() AS n, uniqExact(id) AS ids FROM steps_latest WHERE run_id = '{run_id}'")
        assert stored == {"n": most, "ids": most}
        assert [reason for *_, reason in refused_rows(made)] == ["run_too_large"] * 3
        letter = made.letter_of(places[2])
        assert letter.said["reason"] == "run_too_large"
        assert orjson.loads(letter.value or b"")["data"]["steps"][-1]["id"] == f"s{most + 1}"
        assert made.metric("records_refused_total", reason="run_too_large") == 3
        made.assert_exact()


def test_a_run_past_retention_takes_nothing_more(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Expiry is checked against append times: too early, too short a horizon or an open run, and it does nothing."""
    gone, young, short, still_open = (run_on(2, f"retained-{n}") for n in ("gone", "young", "short", "open"))
    usage = {"usage": {"model": "m", "input_tokens": 3, "output_tokens": 4}}
    old = [step_event(gone, "a", metadata=usage), eval_event(gone), run_event(gone, cost={"cost_usd": 0.5})]
    with lane(agentrun_stack, tmp_path, "expiry") as made:
        appended_long_ago(made, 3 * 86_400, [*old, run_event(short), run_event(still_open, status="running")])
        made.start()
        made.wait()
        made.produce([run_event(young)])
        made.produce([expire_event(name, 2 * 86_400) for name in (gone, young, still_open)])
        made.produce([expire_event(short, 86_399)])
        late = [step_event(gone, "b"), run_event(gone, outcome="failed"), patch_event(gone, outcome="failed")]
        places = made.produce([*late, expire_event(gone, 2 * 86_400)])
        accepted = [step_event(name, "b") for name in (young, short, still_open)]
        made.produce(accepted)
        made.wait()
        assert refused_rows(made) == [(p.partition, p.offset, "expired") for p in places]
        for place, event in zip(places, late, strict=False):
            letter = made.letter_of(place)
            assert (letter.said["reason"], letter.value) == ("expired", event)
        kept = made.one(f"SELECT doc FROM run_objects FINAL WHERE run_id = '{gone}' AND kind = 'expired'")
        sums = orjson.loads(kept["doc"])
        assert (sums["steps"], sums["evals"], sums["cost_reported"]) == (1, 1, "0.5")
        assert sums["step"] == {"input_tokens": 3, "output_tokens": 4}
        assert made.run_row(gone)["outcome"] is None
        found = made.one("SELECT count() AS n FROM steps_latest WHERE id = 'b'")
        assert found["n"] == len(accepted)
        assert made.metric("records_refused_total", reason="expired") == len(places)
        made.assert_exact()


def stopped(made: Lane, place: Place) -> str:
    """The worker's reason for standing still at this place."""
    where = f"{made.topic}:{place.partition}:{place.offset}"
    reasons = soon(lambda: [r for r in made.reasons() if where in r], what=f"a stop at {where}")
    assert len(reasons) == 1
    return reasons[0]


def test_a_row_that_the_store_refuses_stops_its_partition_alone(agentrun_stack: Stack, tmp_path: Path) -> None:
    """readyz names the record and the next step; `agentrun refuse` sets it aside; nothing else waits or is lost."""
    bad, others = run_on(1, "rejected"), [run_on(p, "accepted") for p in (0, 2, 3)]
    with lane(agentrun_stack, tmp_path, "rejecting") as made:
        made.execute(f"ALTER TABLE run_objects ADD CONSTRAINT fine CHECK ifNull(tool_name, '') != '{CANARY}'")
        made.start()
        forbidden = step_event(
            bad, "x", tool_name=CANARY, metadata={"usage": {"model": "m", "input_tokens": 9, "output_tokens": 1}}
        )
        around = [step_event(bad, f"s{n}") for n in range(40)]
        places = made.produce([*around[:20], forbidden, *around[20:], run_event(bad)])
        made.produce([step_event(name, f"s{n}") for name in others for n in range(20)])
        reason = stopped(made, places[20])
        assert "agentrun refuse" in reason
        assert CANARY not in reason
        assert made.get("/readyz")[0] == 503
        assert made.metric("partition_stopped", partition=1, reason="store_rejected") == 1
        made.produce([run_event(name) for name in others])
        soon(lambda: made.one("SELECT count() AS n FROM runs_latest WHERE steps = 20")["n"] == 3, what="the others")
        place = f"{made.topic}:1:{places[20].offset}"
        assert made.agentrun("refuse", place, "--reason", "not for us").code == 2  # nobody there to say yes
        told = made.agentrun("refuse", place, "--reason", "not for us", "--yes")
        assert told.code == 0, told
        made.wait()
        soon(lambda: not made.reasons(), what="readiness")
        assert made.metric("partition_stopped", partition=1) == 0
        after_refusal(made, bad, places[20], forbidden)
        again = made.agentrun("refuse", place, "--reason", "twice", "--yes")
        assert (again.code, "refused already" in again.err) == (2, True)


def test_rows_that_the_table_refuses_are_an_error_of_the_insert(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Never a success: what the worker takes for stored is stored. Also when rows before them were fine."""
    with lane(agentrun_stack, tmp_path, "sink") as made:
        made.execute("ALTER TABLE run_objects ADD CONSTRAINT fine CHECK run_id != 'bad'")
        for block in (b'{"run_id":"bad"}', b'{"run_id":"good"}\n{"run_id":"bad"}'):
            with pytest.raises(DatabaseError, match="469"):
                made.client.raw_insert("run_objects", insert_block=block, fmt="JSONEachRow")
        with pytest.raises(DatabaseError, match="469"):
            made.client.command("INSERT INTO run_objects (run_id) SETTINGS async_insert = 0 VALUES ('bad')")
        assert made.rows("SELECT run_id FROM run_objects") == []


def after_refusal(made: Lane, bad: str, place: Place, forbidden: bytes) -> None:
    """One record fewer, told everywhere; the ledger has no trace of its amounts."""
    row = made.run_row(bad)
    assert (row["steps"], row["status"]) == (40, "completed")
    letter = made.letter_of(place)
    assert (letter.value, letter.key) == (forbidden, bad.encode())
    assert letter.said["reason"] == "sink_rejected"
    assert letter.said["detail"] == f"not for us {len(forbidden)} bytes"
    kept = made.one("SELECT reason, keyword, toUnixTimestamp64Milli(appended_at) AS at FROM refused FINAL")
    assert kept == {"reason": "sink_rejected", "keyword": "not for us", "at": place.timestamp}
    ledger = made.one(
        "SELECT count() AS n, sum(input_tokens) AS tokens, min(toUnixTimestamp64Milli(appended_at)) AS at "
        f"FROM accruals FINAL WHERE run_id = '{bad}'"
    )
    assert ledger["tokens"] is None
    assert ledger["at"] == place.timestamp
    made.assert_exact()
    for text in (made.log(), made.get("/metrics")[1], str(letter.said)):
        assert CANARY not in text


def test_a_refused_record_is_replayed_when_the_cause_is_gone(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Attempt 2, the first time it was seen, its own headers; a dry run before; what is still wrong comes back."""
    bad, worse = run_on(1, "replayed"), run_on(1, "hopeless")
    wrong = step_event(worse, type="no such type")
    with lane(agentrun_stack, tmp_path, "replaying") as made:
        made.execute("ALTER TABLE run_objects ADD CONSTRAINT fine CHECK ifNull(tool_name, '') != 'forbidden'")
        made.start()
        records = [Sent(step_event(bad, tool_name="forbidden"), bad.encode(), [("own", b"\x00kept")])]
        refused, still = made.produce([*records, Sent(wrong, worse.encode())])
        stopped(made, refused)
        where = [f"{made.topic}:{place.partition}:{place.offset}" for place in (refused, still)]
        assert made.agentrun("refuse", where[0], "--reason", "for now", "--yes").code == 0
        made.wait()
        made.execute("ALTER TABLE run_objects DROP CONSTRAINT fine")
        chosen = ["dlq", "replay", "--place", where[0], "--place", where[1], "-o", "json"]
        told = made.agentrun(*chosen)
        assert orjson.loads(told.out)["dry_run"] is True
        assert (orjson.loads(told.out)["chosen"], orjson.loads(told.out)["acknowledged"]) == (2, 0)
        assert orjson.loads(made.agentrun(*chosen, "--yes").out)["acknowledged"] == 2
        made.wait()
        assert made.one(f"SELECT tool_name FROM steps_latest WHERE run_id = '{bad}'")["tool_name"] == "forbidden"
        first, second, third = made.letters()
        assert [x.said["attempt"] for x in (first, second, third)] == ["1", "1", "2"]
        assert (third.value, third.said["reason"], third.headers) == (wrong, "schema", [])
        assert third.said["first_seen"] == str(still.timestamp)
        assert first.headers == [("own", b"\x00kept")]
        made.assert_exact()
