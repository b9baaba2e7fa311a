"""The audit on what a plain look misses: every column of a step, doubled rows, stale records, skipped ranges, live writers."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentrun_stream import topics
from agentrun_stream.config import load_settings
from agentrun_stream.proof import AuditOptions, run_audit
from agentrun_stream.testing.events import eval_event, patch_event, run_event, step_event
from agentrun_stream.testing.load import Load, bench_load
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Place, Sent, lane, last_published, run_on

pytestmark = pytest.mark.stack

SECRET = "secret-of-the-customer"
RUN = run_on(0, "deep")
OTHER = run_on(1, "deep-other")
# Every column of a step that a mutation can change, and another value for it.
COLUMNS = {
    "type": "'message'",
    "tool_name": "'forged'",
    "mcp_server": "'forged'",
    "input_preview": "'forged'",
    "output_preview": "NULL",
    "success": "false",
    "error": "'forged'",
    "started_at": "started_at + INTERVAL 1 MICROSECOND",
    "ended_at": "NULL",
    "duration_ms": "duration_ms + 1",
    "tokens_used": "tokens_used + 1",
    "metadata": "'{}'",
    "extra": "NULL",
    "doc": "'{}'",
    "_source": "'/forged'",
    "_event_time": "_event_time + INTERVAL 1 SECOND",
    "_offset": "_offset + 1",
    "_first_appended_at": "_first_appended_at - INTERVAL 1 MILLISECOND",
    "_appended_at": "_appended_at + INTERVAL 1 MILLISECOND",
    "_partition": "_partition + 1",
    "_topic": "'elsewhere'",
}


@pytest.fixture(scope="module")
def deep(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """A closed run with a step for each column, an open one, a batch of each of two times."""
    with lane(agentrun_stack, tmp_path_factory.mktemp("deep"), "deep") as made:
        made.start()
        usage = {"usage": {"model": "m", "input_tokens": 5, "output_tokens": 7}}
        members: dict[str, Any] = {"input_preview": SECRET, "output_preview": SECRET, "metadata": usage}
        steps = [step_event(RUN, f"at-{name}", tokens_used=12, more=SECRET, **members) for name in COLUMNS]
        made.produce([*steps, eval_event(RUN), run_event(RUN, cost={"input_tokens": 5, "cost_usd": 0.25})])
        made.wait()
        made.produce([run_event(OTHER, status="running"), step_event(OTHER, "a", metadata=usage)])
        made.wait()
        made.produce([patch_event(OTHER, task_id="t"), step_event(RUN, "late"), Sent(b"not JSON", OTHER.encode())])
        made.wait()
        made.stop()
        yield made


def found_in(made: Lane, *flags: str) -> list[dict[str, Any]]:
    """The differences; there is at least one, and no payload in them."""
    code, found = made.audit(*flags)
    assert (code, found["residual"] > 0) == (1, True)
    assert SECRET not in str(found)
    return list(found["differences"])


def test_both_depths_are_quiet_on_what_was_written(deep: Lane) -> None:
    """Late steps, patches, evals, refused records: all exact, in every column."""
    for flags in ((), ("--deep",)):
        code, found = deep.audit(*flags)
        assert (code, found["residual"], found["differences"], found["notes"]) == (0, 0, [], [])


def test_any_one_column_of_a_step_is_named(deep: Lane) -> None:
    """Also where whoever changed it made the checksum fit: then only the log knows, and --deep asks it."""
    with deep.kept("run_objects"):
        for column, value in COLUMNS.items():
            where = f"run_id = '{RUN}' AND object_id = 'at-{column}'"
            deep.execute(f"ALTER TABLE run_objects UPDATE {column} = {value} WHERE {where}")
        plain = {d["object"].removeprefix("step at-") for d in found_in(deep)}
        assert plain >= COLUMNS.keys()
        columns = [row["name"] for row in deep.rows("DESCRIBE TABLE run_objects")]
        summed = ", ".join(name for name in columns if name not in {"_ingested_at", "_sum"})
        deep.execute(f"ALTER TABLE run_objects UPDATE _sum = cityHash64(tuple({summed})) WHERE run_id = '{RUN}'")
        named = {(d["object"], d["column"]) for d in found_in(deep, "--deep")}
    moved = {"_partition", "_topic"}  # the row is then looked for where it belongs
    assert {(f"step at-{name}", name) for name in COLUMNS.keys() - moved} | {
        (f"step at-{name}", "") for name in moved
    } <= named
    deep.assert_exact("--deep")


def test_a_difference_says_where(deep: Lane) -> None:
    """Topic, partition, offset, workspace, run, table, column, expected, found."""
    with deep.kept("runs"):
        deep.execute(f"ALTER TABLE runs UPDATE cost_reported = 9 WHERE run_id = '{RUN}'")
        [found] = found_in(deep)
    assert (found["topic"], found["partition"], found["workspace"], found["run"]) == ("deep.v1", 0, "default", RUN)
    assert (found["table"], found["column"], found["check"]) == ("runs", "cost_reported", "projections")
    assert (float(found["expected"]), float(found["found"])) == (0.25, 9)
    assert found["offset"] >= len(COLUMNS)


@pytest.mark.parametrize("minute", ["a.minute + INTERVAL 1 MINUTE", "a.minute"])
def test_a_doubled_accrual_is_named(deep: Lane, minute: str) -> None:
    """Under another minute, or another object of the same event."""
    thing = "a.object_id" if minute != "a.minute" else "'doubled'"
    with deep.kept("accruals"):
        where = f"a.run_id = '{RUN}' AND a.object_id = 'at-type'"
        deep.execute(
            f"INSERT INTO accruals SELECT * REPLACE ({minute} AS minute, {thing} AS object_id) FROM accruals AS a WHERE {where}"
        )
        found = [d for d in found_in(deep) if d["check"] == "accruals"]
    assert found
    assert all((d["run"], d["offset"]) == (RUN, 0) for d in found)


def test_a_wrong_window_is_named(deep: Lane) -> None:
    """Any measure of it, not only tokens and cost."""
    deep.refresh_windows()
    with deep.kept("cost_windows"):
        deep.execute("ALTER TABLE cost_windows UPDATE steps = steps + 1 WHERE ledger = 'settled' AND runs > 0")
        [found] = found_in(deep)
    assert (found["table"], found["workspace"]) == ("cost_windows", "default")
    assert "steps 1" in found["found"]
    deep.assert_exact()


def test_a_skipped_range_is_named_by_its_offsets(deep: Lane) -> None:
    """The journal's second batch is gone; the first and the third vouch for theirs."""
    where = "partition = 1 AND first > 0"
    gone = deep.rows(f"SELECT first, last FROM batches FINAL WHERE {where} AND last > first ORDER BY first")[0]
    with deep.kept("batches"):
        deep.execute(f"ALTER TABLE batches DELETE WHERE partition = 1 AND first = {gone['first']}")
        [found] = found_in(deep)
    assert (found["check"], found["topic"], found["partition"]) == ("coverage", "deep.v1", 1)
    assert (found["offset"], found["last"]) == (gone["first"], gone["last"] - 1)


def test_a_stale_record_on_the_compacted_topic_is_named(deep: Lane) -> None:
    """Readers would drop it, but compaction would keep it instead of the newest."""
    right = deep.run_row(RUN)["revision"]
    with published_again(deep, f"default/{RUN}"):
        headers = [("revision", b"3"), ("projection", b"0")]
        deep.produce([Sent(b"{}", f"default/{RUN}".encode(), headers)], topics.RUNS)
        [found] = found_in(deep)
        assert (found["table"], found["run"]) == (topics.RUNS, RUN)
        assert (found["expected"], found["found"]) == (f"revision {right}, projection 0", "revision 3, projection 0")


def test_a_forged_value_on_the_compacted_topic_is_named(deep: Lane) -> None:
    """Its order pair is right, so only --deep sees it."""
    right = str(deep.run_row(RUN)["revision"]).encode()
    with published_again(deep, f"default/{RUN}"):
        headers = [("revision", right), ("projection", b"0")]
        deep.produce([Sent(b'{"status":"failed"}', f"default/{RUN}".encode(), headers)], topics.RUNS)
        deep.assert_exact()
        [found] = found_in(deep, "--deep")
        assert (found["table"], found["run"], found["column"]) == (topics.RUNS, RUN, "value")


@contextmanager
def published_again(made: Lane, key: str) -> Iterator[None]:
    """What was published last under the key is so again."""
    before = last_published(made.stack, key)
    assert before is not None
    yield
    made.produce([Sent(orjson.dumps(before[0]), key.encode(), list(before[1].items()))], topics.RUNS)
    made.assert_exact("--deep")


def test_since_judges_runs_touched_since_and_says_so(agentrun_stack: Stack, tmp_path: Path) -> None:
    """A run touched since is judged from its beginning; what was not touched is let be."""
    old, touched = run_on(0, "old"), run_on(0, "touched")
    with lane(agentrun_stack, tmp_path, "since") as made:
        made.start()
        made.produce([step_event(old, "a"), step_event(touched, "a"), run_event(old)])
        made.wait()
        time.sleep(0.05)
        moment = datetime.now(UTC).isoformat()
        made.produce([run_event(touched), Sent(b"not JSON", old.encode())])
        made.wait()
        made.stop()
        code, found = made.audit("--since", moment)
        assert (code, found["residual"], found["since"]) == (0, 0, moment)
        assert (found["runs"], found["records"]) == (2, 5)  # `old` too: something came under its key
        assert made.audit("--since", datetime.now(UTC).isoformat())[1]["records"] == 0
        made.execute(f"ALTER TABLE run_objects DELETE WHERE run_id = '{touched}' AND object_id = 'a'")
        code, found = made.audit("--since", moment)
        assert (code, found["differences"][0]["run"]) == (1, touched)
        assert made.audit("--since", datetime.now(UTC).isoformat())[0] == 0


def test_the_audit_is_quiet_beside_workers_that_write(agentrun_stack: Stack, tmp_path: Path) -> None:
    """No false difference while two workers fold bad, repeated and late records all the time."""
    with lane(agentrun_stack, tmp_path, "live") as made:
        made.start(2)
        stop = threading.Event()
        producer = threading.Thread(target=_keep_producing, args=(made, stop))
        producer.start()
        try:
            while not made.rows("SELECT 1 FROM runs WHERE closed_by IS NOT NULL LIMIT 1"):
                time.sleep(0.1)
            for flags in ((), ("--deep",), ("--since", "2s")):
                made.assert_exact(*flags)
                time.sleep(0.3)
        finally:
            stop.set()
            producer.join()
        made.wait()
        made.assert_exact("--deep")
        assert made.audit()[1]["records"] > 1_000


def _keep_producing(made: Lane, stop: threading.Event) -> None:
    seed = 0
    while not stop.is_set():
        seed += 1
        load = Load(steps=300, open_runs=40, seed=seed, now=datetime.now(UTC), bad=0.02, repeated=0.05, late=0.05)
        made.produce([Sent(r.value, r.key, tuple(r.headers)) for r in bench_load(load)])
        time.sleep(0.3)


def test_a_long_log_is_audited_some_runs_at_a_time(agentrun_stack: Stack, tmp_path: Path) -> None:
    """With a bound on what is held, each run falls into one slice: the same counts, and the same difference is found."""
    with lane(agentrun_stack, tmp_path, "sliced") as made:
        made.start()
        load = Load(steps=600, open_runs=40, seed=3, now=datetime.now(UTC), bad=0.03, late=0.05)
        made.produce([Sent(r.value, r.key, tuple(r.headers)) for r in bench_load(load)])
        made.wait()
        made.stop()
        settings = load_settings(
            {
                "kafka.bootstrap": agentrun_stack.kafka,
                "clickhouse.url": agentrun_stack.clickhouse,
                "clickhouse.database": made.name,
                "worker.group": made.name,
                "events_topics": [made.topic],
            }
        )
        for deep in (False, True):
            whole, sliced = (
                asyncio.run(run_audit(settings, options=AuditOptions(deep, at_once=at_once))) for at_once in (0, 37)
            )
            assert (whole.total, sliced.total) == (0, 0), sliced.differences[:3]
            counts = [(f.records, f.refused, f.objects, f.runs) for f in (whole, sliced)]
            assert counts[0] == counts[1]
        made.execute("ALTER TABLE refused DELETE WHERE partition = 2")
        made.execute("ALTER TABLE run_objects DELETE WHERE kind = 'step' AND _offset % 10 = 3")
        whole, sliced = (asyncio.run(run_audit(settings, options=AuditOptions(at_once=n))) for n in (0, 37))
        assert whole.total == sliced.total > 2
        assert {d.text for d in whole.differences} == {d.text for d in sliced.differences}


def test_a_place_is_a_place(deep: Lane) -> None:
    """What a person reads is one line with the place first."""
    with deep.kept("refused"):
        deep.execute("ALTER TABLE refused DELETE WHERE 1")
        [found] = found_in(deep)
        told = deep.agentrun("audit").out
    place = Place(found["partition"], found["offset"], 0)
    assert f"records: refused deep.v1:{place.partition}:{place.offset}: expected malformed, found no row" in told
