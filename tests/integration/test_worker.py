"""A worker at work: what it stores, publishes and tells, reached by topic, SQL and HTTP."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream import limits
from agentrun_stream.testing.events import eval_event, patch_event, run_event, step_event
from agentrun_stream.testing.fleet import FleetShares, demo_fleet
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Sent, lane, last_published, soon

pytestmark = pytest.mark.stack

CANARY = "canary-51b7"
LATER = "2026-01-02T12:00:00Z"
# Everything but the worker's own clock, and how often it looked at a run again.
DIGESTS = {
    "run_objects": "* EXCEPT (_ingested_at)",
    "runs": "* EXCEPT (projected_at, projection, _version)",
    "settlements": "* EXCEPT (_version)",
    "accruals": "*",
    "refused": "* EXCEPT (refused_at)",
}


@pytest.fixture(scope="module")
def made(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    with lane(agentrun_stack, tmp_path_factory.mktemp("worker"), "worker") as made:
        made.start()
        yield made
        made.assert_exact()


def digests(made: Lane) -> dict[str, Any]:
    """Every table in one number, whatever the order of its rows."""
    found = {}
    for table, columns in DIGESTS.items():
        row = made.one(f"SELECT count() AS n, groupBitXor(cityHash64(tuple({columns}))) AS digest FROM {table} FINAL")
        found[table] = (row["n"], row["digest"])
    return found


def fleet(runs: int, seed: int) -> list[Sent]:
    """Runs of many kinds, repeats, late steps, corrections and bad records among them."""
    shares = FleetShares(bad=0.02, repeated=0.05, late=0.2, corrected=0.1)
    records = demo_fleet(runs, seed, datetime.now(UTC), shares=shares)
    return [Sent(record.value, record.key, record.headers) for record in records]


def test_a_cache_changes_nothing_but_speed(agentrun_stack: Stack, tmp_path: Path) -> None:
    """The same log with no cache, with 1 GB and with a tiny one, in batches of other sizes: equal tables."""
    found: list[dict[str, Any]] = []
    topic, seen = "cached.v1", {"AGENTRUN_WORKER__DLQ_STOP_RATIO": "1"}
    for cache, batch in ((0, 700), (2**30, 20_000), (100_000, 300)):
        with lane(agentrun_stack, tmp_path, f"cache_{cache}", topic, **seen) as made:
            if not found:
                made.produce(fleet(250, seed=11))
            made.start(AGENTRUN_WORKER__CACHE_BYTES=str(cache), AGENTRUN_WORKER__BATCH_RECORDS_MAX=str(batch))
            made.wait(120)
            made.wait_judged()
            found.append(digests(made))
            if cache == 0:
                assert made.metric("cache_runs") == 0
                made.assert_exact()
    assert found[0] == found[1] == found[2]
    assert all(n > 0 for n, _ in found[0].values())


def test_the_quick_start_object_is_stored(made: Lane) -> None:
    """The protocol's own example, bare, as a runtime's first two lines of code send it."""
    run = {
        "id": "quick-start",
        "agent_id": "my-agent",
        "status": "completed",
        "started_at": "2026-01-01T12:00:00Z",
        "steps": [],
        "cost": {"input_tokens": 1200, "output_tokens": 300, "cost_usd": 0.0042},
        "provenance": {"run_hash": "..."},
    }
    made.produce([Sent(orjson.dumps(run), b"quick-start")])
    made.wait()
    row = made.run_row("quick-start")
    assert (row["verdict_hash"], row["verdict"], row["verdict_reasons"]) == (
        "mismatch",
        "mismatch",
        ["run_hash_mismatch"],
    )
    assert (row["verdict_chain"], row["verdict_signature"], row["verdict_lineage"]) == ("absent", "unsigned", "root")
    assert (row["input_tokens"], row["output_tokens"], row["total_tokens"]) == (1200, 300, None)
    assert (row["agent_id"], row["status"], row["cost_reported_raw"]) == ("my-agent", "completed", "0.0042")


@pytest.mark.parametrize(
    ("digits", "amount"),
    [
        ("0.1234567890123", "0.123456789012"),
        ("0.0000000000005", "0.000000000000"),  # half to even
        ("0.0000000000015", "0.000000000002"),
        ("0.10", "0.100000000000"),
        ("999999999999.123456789012", "999999999999.123456789012"),
        ("1e-3", "0.001000000000"),
        ("0.1000000000000000055511151231257827", "0.100000000000"),
        ("7", "7.000000000000"),
        ("0", "0.000000000000"),
        ("-0.0", "0.000000000000"),  # not below zero, and so nothing to refuse
        ("null", None),
        ("", None),
    ],
)
def test_cost_is_kept_as_its_digits_were_sent(made: Lane, digits: str, amount: str | None) -> None:
    """Never through a binary float; unknown is NULL and never 0."""
    run_id = f"cost-{digits}"
    cost = b'{"cost_usd":%s}' % digits.encode() if digits else b"{}"
    made.produce([Sent(run_event(run_id, cost={"cost_usd": 9}).replace(b'{"cost_usd":9}', cost), run_id.encode())])
    made.wait()
    row = made.one(
        f"SELECT cost_reported_raw AS raw, toString(cost_reported) AS amount FROM runs_latest WHERE id = '{run_id}'"
    )
    assert row["raw"] == (None if amount is None else digits)
    assert amount is None or Decimal(row["amount"]) == Decimal(amount)
    booked = made.rows(f"SELECT toString(cost_reported) AS amount FROM accruals FINAL WHERE run_id = '{run_id}'")
    assert [Decimal(b["amount"]) for b in booked] == ([] if amount is None else [Decimal(amount)])


def test_what_is_published_equals_the_table(made: Lane) -> None:
    """When a run closes and on each later revision, with its order pair in record and headers; open runs are not told."""
    usage = {"input_tokens": 5, "output_tokens": 6, "cost_usd": 0.125}
    made.produce([run_event("told", status="running", metadata={"n": 1}), step_event("told", "a")])
    made.wait()
    assert last_published(made.stack, "default/told") is None
    for events in ([run_event("told", cost=usage)], [step_event("told", "b", success=False)], [eval_event("told")]):
        made.produce(events)
        made.wait()
        published_as_stored(made, "told")
    made.produce([patch_event("told", outcome="failed", metadata={"m": 2}, envelope={"time": LATER})])
    made.wait()
    value = published_as_stored(made, "told")
    assert (value["outcome"], value["metadata"]) == ("failed", {"n": 1, "m": 2})
    assert "steps" not in value


def published_as_stored(made: Lane, run_id: str) -> dict[str, Any]:
    row = made.run_row(run_id)
    last = last_published(made.stack, f"default/{run_id}")
    assert last is not None
    value, headers = last
    order = (row["revision"], row["projection"])
    assert (value["revision"], value["projection"]) == order
    assert headers == {"revision": str(order[0]).encode(), "projection": str(order[1]).encode()}
    for name in ("id", "workspace", "status", "agent_id", "closed_by", "started_at"):
        assert name == "started_at" or value[name] == row[name]
    counts = {name: row[name] for name in value["counts"]}
    assert value["counts"] == counts
    assert value["verdict"]["headline"] == row["verdict"]
    assert value["verdict"]["hash"] == row["verdict_hash"]
    reported = value["costs"]["reported"]
    assert (reported is None) == (row["cost_reported"] is None)
    assert reported is None or row["cost_reported"] == type(row["cost_reported"])(reported)
    return value


def test_a_run_too_long_to_publish_is_cut(made: Lane) -> None:
    """At most 256 KiB, the longest members first, and `truncated` names them; the table keeps everything."""
    long, longer = "x" * 200_000, {"log": "y" * 300_000}
    made.produce([run_event("long", error=long, metadata=longer, tags=["kept"])])
    made.wait()
    last = last_published(made.stack, "default/long")
    assert last is not None
    value = last[0]
    assert len(orjson.dumps(value)) <= limits.PUBLISHED_RUN_BYTES_MAX
    assert value["truncated"] == ["metadata"]
    assert (value["metadata"], value["error"], value["tags"], value["id"]) == (None, long, ["kept"], "long")
    assert len(made.run_row("long")["metadata"]) > 300_000


def test_a_canary_in_what_is_accepted_leaks_nowhere(made: Lane) -> None:
    """Previews, errors and metadata go to their tables, and to no log line, metric or HTTP answer."""
    texts: dict[str, Any] = {"error": CANARY, "metadata": {"note": CANARY}}
    step = step_event("secret", input_preview=CANARY, output_preview=CANARY, success=False, **texts)
    records = [run_event("secret", status="running", **texts), step, eval_event("secret", detail=CANARY)]
    made.produce([*records, run_event("secret", status="failed", **texts), run_event("secret", status="running")])
    made.produce([Sent(step, b"secret", (), 0), Sent(step, b"secret", (), 1)])  # rehomed, one of them at least
    made.wait()
    assert made.one(f"SELECT count() AS n FROM steps_latest WHERE input_preview = '{CANARY}'")["n"] == 1
    for path in ("/metrics", "/readyz", "/healthz", f"/{CANARY}"):
        assert CANARY not in made.get(path)[1]
    assert CANARY not in made.log()


def test_a_new_group_starts_at_the_log_start(agentrun_stack: Stack, tmp_path: Path) -> None:
    """Whatever was published before the first worker came is stored."""
    with lane(agentrun_stack, tmp_path, "first_group") as made:
        made.produce([run_event(f"early-{n}") for n in range(50)])
        made.start()
        made.wait()
        assert made.one("SELECT count() AS n FROM runs_latest")["n"] == 50
        made.stop()
        # Another group on the same tables reads everything again, and nothing changes.
        before = digests(made)
        made.start(AGENTRUN_WORKER__GROUP="second_group")
        soon(lambda: made.metric("records_consumed_total") == 50, what="the second group")
        assert digests(made) == before


def test_promtool_finds_nothing_to_say(made: Lane) -> None:
    """A scrape of a worker after traffic, good and bad."""
    promtool = shutil.which("promtool")
    if promtool is None:
        reason = "promtool is not installed (Debian package prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    made.produce([run_event("scraped"), Sent(b"bad", b"scraped"), Sent(run_event("scraped-2"), None)])
    made.wait()
    scrape = made.get("/metrics")[1]
    checked = subprocess.run([promtool, "check", "metrics"], input=scrape, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    for name in ("records_consumed_total", "rows_inserted_total", "insert_seconds_bucket", "lag_records", "build_info"):
        assert f"agentrun_{name}" in scrape
