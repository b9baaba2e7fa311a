"""The commands against a running stack: what they show and refuse; nothing from a record steers a terminal."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from agentrun_stream import topics
from agentrun_stream.cli.app import app
from agentrun_stream.store.embedded import EmbeddedStore
from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.fleet import FleetShares, FleetTotals, demo_fleet
from agentrun_stream.testing.stack import Stack

pytestmark = pytest.mark.stack

HOSTILE = "evil\x1b[31m\x07\u202e[bold]x[/bold]\x9b2J"
CANARY = "canary-4711-payload"


@pytest.fixture(scope="module")
def fleet(agentrun_stack: Stack) -> FleetTotals:
    """A small fleet, stored."""
    totals = FleetTotals()
    agentrun_stack.publish(demo_fleet(80, 5, datetime.now(UTC), totals, FleetShares(bad=0.05)))
    agentrun_stack.wait()
    return totals


def call(stack: Stack, *words: str, **more: str) -> Result:
    done = CliRunner().invoke(app, list(words), env={**stack.environment, **more})
    assert "Traceback" not in done.output
    assert not [c for c in done.output if not c.isprintable() and c != "\n"], "something may steer the terminal"
    return done  # type: ignore[return-value]


def answer(stack: Stack, *words: str, code: int = 0) -> Any:
    done = call(stack, *words, "-o", "json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_wait_says_that_everything_is_stored(agentrun_stack: Stack, fleet: FleetTotals) -> None:
    found = answer(agentrun_stack, "wait", "--timeout", "30")
    assert found["stored"] is True
    assert found["offsets"] >= fleet.records


def test_runs_are_filtered_and_newest_first(agentrun_stack: Stack, fleet: FleetTotals) -> None:
    agent, runs = fleet.runs_by_agent.most_common(1)[0]
    found = answer(agentrun_stack, "runs", "--agent", agent, "--limit", "1000")
    assert len(found) == runs
    assert {row["agent_id"] for row in found} == {agent}
    starts = [row["started_at"] for row in found]
    assert starts == sorted(starts, reverse=True)
    failed = answer(agentrun_stack, "runs", "--status", "failed", "--agent", agent, "--limit", "1000")
    assert {row["status"] for row in failed} <= {"failed"}
    assert answer(agentrun_stack, "runs", "--since", "2h", "--agent", agent, "--limit", "1000") == found
    assert answer(agentrun_stack, "runs", "--since", "1s", "--agent", agent) == []
    assert answer(agentrun_stack, "runs", "--workspace", "nobody's") == []
    assert "No run matches." in call(agentrun_stack, "runs", "--agent", "x' OR '1'='1").stdout
    shown = call(agentrun_stack, "runs", "--agent", agent)
    assert found[0]["id"] in shown.stdout


def test_show_draws_a_waterfall(agentrun_stack: Stack, fleet: FleetTotals) -> None:
    run = next(row for row in answer(agentrun_stack, "runs", "--status", "completed") if row["steps"] > 1)
    found = answer(agentrun_stack, "show", run["id"])
    assert found["id"] == run["id"]
    assert len(found["steps"]) == run["steps"] == found["step_count"]
    shown = call(agentrun_stack, "show", run["id"]).stdout
    assert "█" in shown
    assert found["steps"][0]["id"] in shown
    missing = call(agentrun_stack, "show", "no-such-run")
    assert missing.exit_code == 2
    assert "no-such-run" in missing.stderr


def test_an_unknown_cost_is_not_shown_as_zero(agentrun_stack: Stack) -> None:
    agentrun_stack.publish([run_event("free", agent_id="costless")])
    agentrun_stack.wait()
    assert answer(agentrun_stack, "runs", "--agent", "costless")[0]["cost_reported"] is None
    assert "$" not in call(agentrun_stack, "runs", "--agent", "costless").stdout
    assert "not reported" in call(agentrun_stack, "show", "free").stdout


def test_text_from_records_can_not_steer_the_terminal(agentrun_stack: Stack) -> None:
    """`call` looks at every output; the text itself is still there."""
    agentrun_stack.publish(
        [
            run_event("hostile", agent_id=HOSTILE, error=HOSTILE, status="failed", model=HOSTILE),
            step_event("hostile", HOSTILE, tool_name=HOSTILE, success=False, error=HOSTILE),
            (HOSTILE.encode(), b"{"),
        ]
    )
    agentrun_stack.wait()
    for words in (
        ["runs", "--limit", "1000"],
        ["show", "hostile"],
        ["dlq", "list", "--limit", "1000"],
        ["query", "SELECT agent_id, error FROM runs_latest WHERE run_id = 'hostile'"],
        ["query", "SELECT agent_id, error FROM runs_latest WHERE run_id = 'hostile'", "-o", "csv"],
        ["query", "SELECT agent_id, error FROM runs_latest WHERE run_id = 'hostile'", "-o", "json"],
    ):
        done = call(agentrun_stack, *words)
        assert done.exit_code == 0, done.output
    assert "evil" in call(agentrun_stack, "show", "hostile").stdout


def test_query_prints_tables_json_and_csv(agentrun_stack: Stack, fleet: FleetTotals) -> None:
    sql = "SELECT 1 AS a, 'x' AS b, toDecimal64('0.1', 12) AS c, NULL AS d;"
    assert answer(agentrun_stack, "query", sql) == [{"a": 1, "b": "x", "c": "0.1", "d": None}]
    assert call(agentrun_stack, "query", sql, "-o", "csv").stdout == "a,b,c,d\n1,x,0.1,\n"
    assert call(agentrun_stack, "query", sql).stdout.split() == ["a", "b", "c", "d", "1", "x", "0.1", "-"]
    assert answer(agentrun_stack, "query", "SELECT 1 AS a WHERE 0") == []


@pytest.mark.parametrize(
    ("sql", "words"),
    [("SELECT nope", "Code: 47"), ("SELEC 1", "Code: 62"), ("", "no statement"), ("SELECT * FROM no_such", "Code: 60")],
)
def test_wrong_sql_gives_the_stores_own_words(agentrun_stack: Stack, sql: str, words: str) -> None:
    done = call(agentrun_stack, "query", sql)
    assert done.exit_code == 2
    assert words in done.stderr


def test_dead_letters_are_listed_without_their_payload(agentrun_stack: Stack, fleet: FleetTotals) -> None:
    agentrun_stack.publish([(b"canary-run", json.dumps({"what": CANARY}).encode())])
    agentrun_stack.wait()
    found = answer(agentrun_stack, "dlq", "list", "--limit", "1000")
    mine = next(row for row in found if row["key"] == "canary-run")
    assert (mine["reason"], mine["attempt"]) == ("unknown_type", 1)
    for words in (["list", "--limit", "1000"], ["list", "-o", "json"], ["show", mine["place"]], ["replay"]):
        done = call(agentrun_stack, "dlq", *words)
        assert done.exit_code == 0, done.output
        assert CANARY not in done.output
    assert CANARY in call(agentrun_stack, "dlq", "show", mine["place"], "--payload").stdout
    assert answer(agentrun_stack, "dlq", "show", mine["place"])["place"] == mine["place"]
    schema = answer(agentrun_stack, "dlq", "list", "--reason", "schema", "--limit", "1000")
    assert {row["reason"] for row in schema} == {"schema"}
    assert call(agentrun_stack, "dlq", "list", "--reason", "nonsense").exit_code == 2
    assert call(agentrun_stack, "dlq", "show", "agentrun.events.v1:0:999999").exit_code == 2


def test_a_replay_is_a_dry_run_unless_told_and_counts_the_attempt(agentrun_stack: Stack) -> None:
    agentrun_stack.publish([(b"replayed", b'{"again": 1}')])
    agentrun_stack.wait()
    first = next(row for row in answer(agentrun_stack, "dlq", "list") if row["key"] == "replayed")
    dry = answer(agentrun_stack, "dlq", "replay", "--place", first["place"])
    assert (dry["dry_run"], dry["chosen"], dry["acknowledged"]) == (True, 1, 0)
    done = answer(agentrun_stack, "dlq", "replay", "--place", first["place"], "--yes")
    assert (done["dry_run"], done["acknowledged"]) == (False, 1)
    agentrun_stack.wait()
    attempts = [row["attempt"] for row in answer(agentrun_stack, "dlq", "list") if row["key"] == "replayed"]
    assert attempts == [2, 1]


def test_refuse_writes_the_row_and_a_zero_in_the_ledger(agentrun_stack: Stack) -> None:
    """It is for a stopped partition; here the rows are looked at, on an event that costs nothing."""
    usage = {"usage": {"model": "m", "input_tokens": 5}}
    agentrun_stack.publish([step_event("set-aside", "s1", metadata=usage)])
    agentrun_stack.wait()
    row = agentrun_stack.query("SELECT topic, partition, offset FROM steps_latest WHERE run_id = 'set-aside'")[0]
    place = f"{row['topic']}:{row['partition']}:{row['offset']}"
    assert call(agentrun_stack, "refuse", place, "--reason", "x").exit_code == 2, "nobody confirmed it"
    assert call(agentrun_stack, "refuse", place, "--reason", "\x1b[0m", "--yes").exit_code == 2
    assert call(agentrun_stack, "refuse", f"{topics.EVENTS}:0:99999999", "--reason", "x", "--yes").exit_code == 2
    assert call(agentrun_stack, "refuse", f"{topics.RUNS}:0:0", "--reason", "x", "--yes").exit_code == 2
    found = answer(agentrun_stack, "refuse", place, "--reason", f"too wide {HOSTILE}", "--yes")
    assert found["reason"] == "sink_rejected"
    assert len(found["text"]) <= 60
    where = f"WHERE topic = '{row['topic']}' AND partition = {row['partition']} AND offset = {row['offset']}"
    refused = agentrun_stack.query(f"SELECT reason, keyword FROM refused FINAL {where}")
    assert [r["reason"] for r in refused] == ["sink_rejected"]
    ledger = agentrun_stack.query(
        f"SELECT object_id, input_tokens, _version FROM accruals FINAL {where} ORDER BY object_id"
    )
    assert [(r["object_id"], r["input_tokens"]) for r in ledger] == [("", None), ("s1", None)]
    assert all(r["_version"] > 0 for r in ledger)
    assert call(agentrun_stack, "refuse", place, "--reason", "again", "--yes").exit_code == 2


def test_topics_are_shown_and_a_partition_count_is_not_changed(agentrun_stack: Stack) -> None:
    assert {row["topic"]: row["state"] for row in answer(agentrun_stack, "topics", "show")} == {
        topic.name: "ok" for topic in topics.TOPICS
    }
    assert {row["action"] for row in answer(agentrun_stack, "topics", "apply")} == {"unchanged"}
    refused = call(agentrun_stack, "topics", "apply", "--partitions", "7")
    assert refused.exit_code == 3
    assert "--partitions 4" in refused.stderr


def test_migrate_again_changes_nothing(agentrun_stack: Stack) -> None:
    assert answer(agentrun_stack, "migrate")["applied"] == []


def test_status_and_doctor_find_nothing_wrong(agentrun_stack: Stack, fleet: FleetTotals) -> None:
    urls = [word for url in agentrun_stack.metrics for word in ("--metrics", url)]
    seen = answer(agentrun_stack, "status", *urls)
    assert seen["problems"] == []
    assert [worker["state"] for worker in seen["workers"]] == ["ready"] * len(agentrun_stack.metrics)
    assert {part["records"] for part in seen["lag"]} == {0}
    assert seen["totals"]["runs"] >= fleet.runs
    assert seen["freshness"]["p50_s"] >= 0
    assert call(agentrun_stack, "status", *urls).exit_code == 0
    checks = answer(agentrun_stack, "doctor", *urls)
    assert {check["verdict"] for check in checks} <= {"ok", "warn"}
    assert {"broker", "store", "tables", "clock of the store", "lag"} <= {check["name"] for check in checks}


def test_a_worker_that_is_gone_is_a_problem(agentrun_stack: Stack) -> None:
    seen = answer(agentrun_stack, "status", "--metrics", "http://127.0.0.1:1", code=1)
    assert seen["workers"][0]["state"] == "down"
    assert answer(agentrun_stack, "doctor", "--metrics", "http://127.0.0.1:1", code=1)


def test_a_killed_worker_comes_back_and_nothing_is_lost(agentrun_stack: Stack) -> None:
    agentrun_stack.kill_worker()
    agentrun_stack.publish([run_event(f"after-{i}", agent_id="after") for i in range(30)])
    behind = call(agentrun_stack, "wait", "--timeout", "1")
    assert behind.exit_code == 4
    assert "to go" in behind.stderr
    agentrun_stack.restart_worker()
    agentrun_stack.wait()
    assert len(answer(agentrun_stack, "runs", "--agent", "after", "--limit", "100")) == 30


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """A store with a password."""
    secret = tmp_path / "secret"
    secret.write_text("right")
    with EmbeddedStore(tmp_path / "store", user="me", password_file=secret) as store:
        yield store.url


def test_a_wrong_password_is_told(agentrun_stack: Stack, guarded: str) -> None:
    env = {"AGENTRUN_CLICKHOUSE__URL": guarded, "AGENTRUN_CLICKHOUSE__USER": "me"}
    begun = time.monotonic()
    wrong = call(agentrun_stack, "migrate", **env, AGENTRUN_CLICKHOUSE__PASSWORD="wrong")
    assert wrong.exit_code == 3, wrong.output
    assert "AGENTRUN_CLICKHOUSE__PASSWORD" in wrong.stderr
    assert "wrong" not in wrong.stderr.replace("wrong login", "")
    assert time.monotonic() - begun < 20
    assert call(agentrun_stack, "migrate", **env, AGENTRUN_CLICKHOUSE__PASSWORD="right").exit_code == 0
    assert call(agentrun_stack, "runs", **env, AGENTRUN_CLICKHOUSE__PASSWORD="right").exit_code == 0


def test_without_tables_the_next_step_is_migrate(agentrun_stack: Stack) -> None:
    done = call(agentrun_stack, "runs", AGENTRUN_CLICKHOUSE__DATABASE="not_there")
    assert done.exit_code == 3
    assert "agentrun migrate" in done.stderr
