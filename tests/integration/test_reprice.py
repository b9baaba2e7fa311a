"""`agentrun reprice` on the real stack: foreseen, done by the owners whatever is killed, reported, and equal to a replay."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.supervisor import local_environment
from agentrun_stream.testing.events import run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane, last_published, soon
from integration.past import appended_long_ago

pytestmark = pytest.mark.stack

QUICK = {"AGENTRUN_LEASES__SWEEP_EVERY_S": "0.2"}
GRACE = {"AGENTRUN_CLICKHOUSE__INSERT_TIMEOUT_S": "5"}  # the workers' alone: an owner before may not write for longer
SONNET = {"provider": "anthropic", "model": "claude-sonnet-4-5-20250929"}  # 3 dollars per million input tokens
BEGINNING = "2020-01-01"
USAGE = {**SONNET, "input_tokens": 1_000_000, "output_tokens": 0}


def price_file(folder: Path, name: str, models: Mapping[str, str]) -> Path:
    """A price file with a rate for each of these models."""
    file = folder / f"{name}.toml"
    kinds = {model: "list" if model.startswith("list-") else "contract" for model in models}
    rows = (
        f'[[price]]\nmodel = "{model}"\nkind = "{kinds[model]}"\ninput = {rate}\noutput = {rate}\n'
        for model, rate in models.items()
    )
    file.write_text("".join(rows))
    return file


def run_of(run_id: str, model: str, **members: Any) -> bytes:
    """A finished run of one million input tokens."""
    return run_event(run_id, model=model, cost={"input_tokens": 1_000_000, "output_tokens": 0}, **members)


def put_in_force(made: Lane, file: Path) -> None:
    """And wait until the workers have taken it up."""
    told = made.agentrun("prices", "apply", "--prices", str(file), "-o", "json")
    digest = orjson.loads(told.out)["price_book"][:12]
    soon(lambda: digest in made.log(), what="the new book")


def reprice(made: Lane, *flags: str) -> dict[str, Any]:
    told = made.agentrun("reprice", *flags, "-o", "json")
    assert told.code == 0, told
    found: dict[str, Any] = orjson.loads(told.out)
    return found


def replay_differs(made: Lane, into: str) -> list[str]:
    """The tables that a replay makes otherwise."""
    told = made.agentrun("replay", "--into", into, "-o", "json")
    assert told.code in (0, 1), told
    return [table["table"] for table in orjson.loads(told.out)["tables"] if not table["equal"]]


def amounts(sums: Mapping[str, Any]) -> tuple[Decimal, Decimal, int, int]:
    known = Decimal(sums["before"]), Decimal(sums["after"])
    return *known, sums["unknown_before"], sums["unknown_after"]


BEFORE = 42 * 5 + 5 * 3 + 1 + Decimal("0.00005")
AFTER = 42 * 7 + 5 * 3 + 2 + Decimal("0.00007")


def assert_report(report: Mapping[str, Any]) -> None:
    """Sums by hand: 42 runs by house-a, 5 that stay, one each way, and ten tokens of the one that reports."""
    assert (report["runs"], report["changed"]) == (51, 45)
    assert (report["newly_priced"], report["no_longer_priced"]) == (1, 1)
    assert amounts(report["computed"]) == (BEFORE, AFTER, 2, 2)
    reported = Decimal("0.5")  # counts before a price that is not the own one, and stays
    assert amounts(report["effective"])[:2] == (
        BEFORE - Decimal("0.00005") + reported,
        AFTER - Decimal("0.00007") + reported,
    )
    [of_a] = [row for row in report["by_model"] if row["model"] == "house-a"]
    assert (of_a["runs"], of_a["changed"]) == (41, 41)  # one names its model in a step alone


def test_stored_runs_are_priced_again_and_a_replay_is_equal_again(agentrun_stack: Stack, tmp_path: Path) -> None:
    """The dry run says what then happens; rows, settlements, windows and topic follow; who costs the same keeps its row."""
    first = price_file(tmp_path, "first", {"house-a": "5", "house-gone": "1", "list-b": "5"})
    second = price_file(tmp_path, "second", {"house-a": "7", "house-new": "2", "list-b": "7"})
    with lane(agentrun_stack, tmp_path, "reprice_whole", **QUICK) as made:
        made.start(1, **GRACE, AGENTRUN_PRICES__FILE=str(first))
        made.produce(
            [
                *(run_of(f"a{n}", "house-a") for n in range(40)),
                *(run_of(f"same{n}", SONNET["model"], provider="anthropic") for n in range(5)),
                run_of("new", "house-new"),
                run_of("gone", "house-gone"),
                run_of("open", "house-a", status="running"),
                step_event("steps", "s", type="message", metadata={"usage": USAGE | {"model": "house-a"}}),
                run_event("steps"),
                run_event("reported", model="list-b", cost={"input_tokens": 10, "output_tokens": 0, "cost_usd": 0.5}),
                run_event("silent"),
            ]
        )
        made.wait()
        put_in_force(made, second)
        kept = made.rows("SELECT * FROM runs_latest WHERE id LIKE 'same%' OR id = 'silent' ORDER BY id")
        assert replay_differs(made, "reprice_whole_before") == ["runs", "settlements", "cost_by_minute"]
        foreseen = reprice(made, "--since", BEGINNING)
        assert made.run_row("a0")["cost_computed"] == 5  # a dry run writes nothing
        assert made.one("SELECT count() AS n FROM reprices") == {"n": 0}

        done = reprice(made, "--since", BEGINNING, "--yes")
        for report in (foreseen, done):
            assert_report(report)
        assert {k: v for k, v in done.items() if k not in {"dry_run", "request"}} == {
            k: v for k, v in foreseen.items() if k not in {"dry_run", "request"}
        }
        assert made.rows("SELECT * FROM runs_latest WHERE id LIKE 'same%' OR id = 'silent' ORDER BY id") == kept
        row = made.run_row("a0")
        assert (row["cost_computed"], row["projection"]) == (7, 1)
        published = last_published(agentrun_stack, "default/a0")
        assert published is not None
        assert Decimal(published[0]["costs"]["computed"]) == 7
        made.refresh_windows()
        day = made.one("SELECT sum(cost_computed) AS cost FROM cost_by_day WHERE ledger = 'settled'")
        assert day["cost"] == AFTER - 7  # but for the open one
        made.assert_exact("--deep")
        assert replay_differs(made, "reprice_whole_after") == []
        again = reprice(made, "--request", done["request"])
        assert again == done
        nothing = reprice(made, "--since", BEGINNING, "--yes")
        assert (nothing["runs"], nothing["changed"]) == (6, 0)
        assert made.run_row("a0")["projection"] == 1


def test_only_what_is_wanted_is_priced_again(agentrun_stack: Stack, tmp_path: Path) -> None:
    """By time of the end, and by workspace; what is beside that stays as it is. What expired stays too, and is counted."""
    horizon = {"AGENTRUN_RETENTION__HORIZON_DAYS": "1"}
    with lane(agentrun_stack, tmp_path, "reprice_some", **QUICK, **horizon) as made:
        appended_long_ago(made, 2 * 86_400, [run_of("expired", "house-a", ended_at="2026-01-05T00:00:00Z")])
        made.start(1, **GRACE, AGENTRUN_PRICES__FILE=str(price_file(tmp_path, "one", {"house-a": "5"})))
        times = {"started_at": "2026-01-01T10:00:00Z"}
        made.produce(
            [
                run_of("old", "house-a", **times, ended_at="2026-01-01T11:00:00Z"),
                run_of("edge", "house-a", **times, ended_at="2026-01-02T00:00:00Z"),
                run_of("long", "house-a", **times, ended_at="2026-01-03T11:00:00Z"),
                run_of("alive", "house-a", **times, status="running"),
            ]
        )
        made.wait()
        soon(
            lambda: made.one("SELECT count() AS n FROM runs_latest WHERE expired_at IS NOT NULL")["n"], 60, "the expiry"
        )
        put_in_force(made, price_file(tmp_path, "two", {"house-a": "7"}))
        told = made.agentrun("reprice")
        assert (told.code, "--since" in told.err) == (2, True)
        assert reprice(made, "--since", "2026-01-02", "--workspace", "nobody", "--yes")["runs"] == 0
        report = reprice(made, "--since", "2026-01-02", "--yes")
        assert (report["runs"], report["changed"], report["expired"]) == (3, 3, 1)
        shown = made.agentrun("reprice", "--request", report["request"])
        assert "1 expired runs keep the prices that they have." in shown.out
        costs = {row["id"]: row["cost_computed"] for row in made.rows("SELECT id, cost_computed FROM runs_latest")}
        assert costs == {"old": 5, "edge": 7, "long": 7, "alive": 7, "expired": 5}
        made.assert_exact("--deep")


def command(made: Lane, *words: str) -> subprocess.Popen[str]:
    """A command in a process of its own, told of this lane by its environment."""
    mine = local_environment(made.stack.kafka, made.stack.clickhouse, made.environment)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")}
    line = [sys.executable, "-m", "agentrun_stream.cli", *words]
    return subprocess.Popen(line, env=kept | mine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_it_goes_on_whoever_is_killed_or_stops_waiting(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Ctrl-C, a worker lost in the middle, a rebalance: every run is priced again, once, and the report is whole."""
    count = 3_000
    with lane(agentrun_stack, tmp_path, "reprice_killed", **QUICK) as made:
        made.start(2, **GRACE, AGENTRUN_PRICES__FILE=str(price_file(tmp_path, "one", {"house-a": "5"})))
        made.produce(run_of(f"r{n}", "house-a") for n in range(count))
        made.wait()
        put_in_force(made, price_file(tmp_path, "two", {"house-a": "7"}))
        waiting = command(made, "reprice", "--since", BEGINNING, "--yes")
        try:
            done = "SELECT count() AS n FROM runs_latest WHERE cost_computed = 7"
            soon(lambda: made.one(done)["n"] > 0, 60, what="the first runs")
            made.kill(0)
            waiting.send_signal(signal.SIGINT)
            _, said = waiting.communicate(timeout=60)
        finally:
            waiting.kill()
        assert waiting.returncode == 130, said
        found = re.search(r"The workers go on with it: see `agentrun reprice --request (\w+)`", said)
        assert found, said
        report = reprice(made, "--request", found[1])
        assert (report["runs"], report["changed"], report["moved_on"]) == (count, count, 0)
        assert amounts(report["computed"]) == (Decimal(5 * count), Decimal(7 * count), 0, 0)
        made.restart(0)
        rows = "SELECT cost_computed, projection, count() AS n FROM runs_latest GROUP BY ALL"
        assert made.rows(rows) == [{"cost_computed": 7, "projection": 1, "n": count}]
        made.assert_exact("--deep")
        assert replay_differs(made, "reprice_killed_replayed") == []
