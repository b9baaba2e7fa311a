"""Runs that other people recorded: published, repeated, killed in the middle, the tables hold what was counted."""

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream.supervisor import local_environment
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, lane

pytestmark = pytest.mark.stack

DATA = Path(__file__).resolve().parents[3] / "shared/data"
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "total_tokens")


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    file = DATA / "expected.json"
    if not file.is_file():
        reason = "the recorded runs are not beside the checkout (../shared/data)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    found: dict[str, Any] = orjson.loads(file.read_bytes())
    for name, told in found["files"].items():
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == told["sha256"], name
    return found


@pytest.fixture
def recorded(
    agentrun_stack: Stack, tmp_path: Path, expected: dict[str, Any], request: pytest.FixtureRequest
) -> Iterator[Lane]:
    name = f"recorded_{request.node.name.removeprefix('test_')}"[:40]
    # A worker of the same name takes its partitions back at once, so that the test needn't wait for the group.
    with lane(agentrun_stack, tmp_path, name, AGENTRUN_WORKER__INSTANCE_ID=name) as made:
        yield made


def runs_of_files(expected: dict[str, Any]) -> dict[str, list[str]]:
    """The run ids in each file; a few of the recorded sets could share one, so this is looked up, not assumed."""
    found = {}
    for name in expected["files"]:
        lines = (DATA / name).read_bytes().splitlines()
        found[name] = sorted({orjson.loads(line)["subject"] for line in lines})
    return found


def counts(made: Lane, column: str, where: str, table: str) -> dict[str, int]:
    sql = f"SELECT ifNull({column}, 'none') AS name, count() AS n FROM {table} WHERE {where} GROUP BY name"
    return {row["name"]: row["n"] for row in made.rows(sql)}


def usage(made: Lane, where: str) -> dict[str, dict[str, int]]:
    sums = ", ".join(f"sum({n}) AS {n}" for n in TOKENS[:4])
    sql = f"SELECT usage_model, {sums}, count() AS model_calls FROM steps_latest WHERE {where} AND usage_model IS NOT NULL"
    rows = made.rows(f"{sql} GROUP BY usage_model")
    return {row.pop("usage_model"): {k: v for k, v in row.items() if v is not None} for row in rows}


def totals(made: Lane, where: str) -> dict[str, Any]:
    """What `expected.json` says of a file, asked of the tables. `where` picks the runs by `run_id`."""
    sums = ", ".join(f"sum({n}) AS sum_{n}" for n in TOKENS)
    runs = made.one(
        f"SELECT count() AS runs, {sums}, sum(evals) AS evals, sum(evals_passed) AS evals_passed, sum(steps) AS steps, "
        f"countIf({' OR '.join(f'{n} IS NOT NULL' for n in TOKENS)}) AS with_tokens FROM runs_latest WHERE {where}"
    )
    steps = made.one(
        f"SELECT count() AS steps, countIf(success = false) AS failed_steps FROM steps_latest WHERE {where}"
    )
    evals = made.one(f"SELECT count() AS n, countIf(pass) AS passed FROM evals_latest WHERE {where}")
    assert (evals["n"], evals["passed"]) == (runs["evals"] or 0, runs["evals_passed"] or 0)
    assert runs["steps"] == steps["steps"]
    return {
        "runs": runs["runs"],
        **steps,
        "steps_by_type": counts(made, "toNullable(toString(type))", where, "steps_latest"),
        "tokens": {name: runs[f"sum_{name}"] for name in TOKENS},
        "runs_with_tokens": runs["with_tokens"],
        "usage_by_model": usage(made, where),
        "runs_by_status": counts(made, "toNullable(toString(status))", where, "runs_latest"),
        "runs_by_outcome": counts(made, "outcome", where, "runs_latest"),
        "evals": evals["n"],
        "evals_passed": evals["passed"],
    }


def assert_totals(made: Lane, expected: dict[str, Any]) -> None:
    """Of everything, and of every file by itself."""
    beside = {"events", "bytes", "sha256"}
    assert totals(made, "1") == {k: v for k, v in expected["total"].items() if k not in beside}
    for name, ids in runs_of_files(expected).items():
        where = f"run_id IN ({', '.join(repr(i) for i in ids)})"
        assert totals(made, where) == {k: v for k, v in expected["files"][name].items() if k not in beside}, name


def files(expected: dict[str, Any]) -> list[str]:
    return [str(DATA / name) for name in expected["files"]]


def test_tables_hold_exactly_what_was_counted(recorded: Lane, expected: dict[str, Any]) -> None:
    """Published once, and once more all of it: the same totals, the same rows, residual 0."""
    recorded.start()
    for _ in range(2):
        told = recorded.agentrun("publish", str(DATA / "**/*.events.jsonl"), "--topic", recorded.topic, "-o", "json")
        assert told.code == 0, told
        assert orjson.loads(told.out)["acknowledged"] == expected["total"]["events"]
        assert recorded.agentrun("wait", "--timeout", "60").code == 0
        assert_totals(recorded, expected)
    refused = recorded.rows("SELECT reason, pointer, keyword FROM refused FINAL")
    assert refused == []
    told = recorded.agentrun("audit")
    assert told.code == 0, told.out
    assert "residual 0" in told.out


def test_unknown_amounts_stay_unknown(recorded: Lane, expected: dict[str, Any]) -> None:
    """No source of these runs recorded a cost, and most no tokens: NULL everywhere, never 0."""
    recorded.start()
    told = recorded.agentrun("publish", *files(expected), "--topic", recorded.topic)
    assert told.code == 0, told
    recorded.wait()
    row = recorded.one(
        "SELECT countIf(cost_reported IS NOT NULL OR cost_reported_raw IS NOT NULL) AS priced, "
        "countIf(input_tokens IS NULL) AS silent FROM runs_latest"
    )
    assert row == {"priced": 0, "silent": expected["total"]["runs"] - expected["total"]["runs_with_tokens"]}
    settled = recorded.one(
        "SELECT sum(cost_reported) AS cost, sum(runs) AS runs, sum(unpriced) AS unpriced FROM cost_by_day"
    )
    assert settled["cost"] is None
    silent = recorded.one("SELECT count() AS n FROM runs_latest WHERE price_status = 'no_usage'")["n"]
    assert settled["unpriced"] == silent == expected["files"]["tau-airline/airline.events.jsonl"]["runs"]
    # A subagent whose parent never comes, and a run that pauses for hours, are runs like any other.
    assert recorded.one("SELECT count() AS n FROM runs_latest WHERE closed_by != 'runtime'")["n"] == 0


def test_a_worker_killed_in_the_middle_changes_nothing(recorded: Lane, expected: dict[str, Any]) -> None:
    """kill -9, again and again, while everything is published twice: the totals are those of one clean pass."""
    seed = random.Random(7)
    # Small batches, so that there is a middle to be killed in.
    recorded.start(AGENTRUN_WORKER__BATCH_RECORDS_MAX="200", AGENTRUN_WORKER__BATCH_WAIT_MS="20")
    environment = local_environment(recorded.stack.kafka, recorded.stack.clickhouse, recorded.environment)
    command = [sys.executable, "-m", "agentrun_stream.cli", "publish", *files(expected), *files(expected)]
    publisher = subprocess.Popen(
        [*command, "--topic", recorded.topic, "--rate", "1200"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
    )
    kills = 0
    while publisher.poll() is None or kills < 3:
        time.sleep(seed.uniform(0.6, 2.0))
        recorded.kill()
        recorded.restart()
        kills += 1
    assert publisher.wait() == 0
    recorded.wait(120)
    assert kills >= 3
    assert_totals(recorded, expected)
    recorded.assert_exact()
