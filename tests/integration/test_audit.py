"""The audit: quiet on what the pipeline wrote, and it names whatever somebody changed by hand, row by row."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from agentrun_stream.supervisor import local_environment
from agentrun_stream.testing.events import eval_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Place, Sent, http_get, lane, run_on, soon

pytestmark = pytest.mark.stack

RUN = run_on(1, "audited")
OPEN = run_on(1, "audited-open")
BAD = b"not JSON"


@dataclass
class Loaded:
    """A lane that holds a small load, and where one of its refused and one of its accepted records stand."""

    lane: Lane
    bad: Place
    accepted: Place


@pytest.fixture(scope="module")
def loaded(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    with lane(agentrun_stack, tmp_path_factory.mktemp("audit"), "audited") as made:
        made.start()
        usage = {"usage": {"model": "m", "input_tokens": 5, "output_tokens": 7}}
        cost = {"input_tokens": 5, "output_tokens": 7, "cost_usd": 0.25}
        records: list[Sent | bytes] = [
            run_event(RUN, status="running"),
            step_event(RUN, "a", metadata=usage),
            step_event(RUN, "b", success=False, error="no"),
            eval_event(RUN),
            run_event(RUN, cost=cost),
            run_event(OPEN, status="running"),
            step_event(OPEN, "c"),
        ]
        places = made.produce([*records, Sent(BAD, RUN.encode())])
        for other in range(4):  # something on every partition
            made.produce([run_event(run_on(other, "audited-other"))])
        made.wait()
        soon(lambda: made.rows("SELECT 1 FROM cost_windows WHERE runs > 0"), what="a refresh of the windows")
        made.stop()  # its last pass over the windows is done; nobody repairs what the tests change
        yield Loaded(made, places[-1], places[1])


def quiet(made: Lane) -> None:
    told = made.agentrun("audit")
    assert told.code == 0, told.out
    assert told.out.rstrip().endswith("residual 0.")


def loud(made: Lane, table: str, *words: str) -> None:
    """The audit exits with 1 and names the row."""
    told = made.agentrun("audit")
    assert told.code == 1, told.out
    assert not told.out.rstrip().endswith("residual 0.")
    named = [line for line in told.out.splitlines() if re.match(rf"\w+: {re.escape(table)}[ .]", line)]
    assert [line for line in named if all(word in line for word in words)], told.out


DELETED = [
    pytest.param(
        "run_objects", f"run_id = '{RUN}' AND kind = 'step' AND object_id = 'a'", (RUN, "step a", "no row"), id="step"
    ),
    pytest.param("run_objects", f"run_id = '{RUN}' AND kind = 'run'", (RUN, " run:", "no row"), id="snapshot"),
    pytest.param("run_objects", f"run_id = '{RUN}' AND kind = 'eval'", (RUN, "eval", "no row"), id="eval"),
    pytest.param("runs", f"run_id = '{RUN}'", (RUN, "no row"), id="run"),
    pytest.param("runs", f"run_id = '{OPEN}'", (OPEN, "no row"), id="open run"),
    pytest.param("settlements", f"run_id = '{RUN}'", (RUN, "no row"), id="settlement"),
    pytest.param(
        "accruals", f"run_id = '{RUN}' AND object_id = 'a'", (RUN, "audited.v1:1:1 ", " a: ", "no row"), id="accrual"
    ),
    pytest.param("refused", "partition = 1", ("audited.v1:1:7", "malformed", "no row"), id="refused"),
    pytest.param("batches", "partition = 1", ("audited.v1:1:0-", "not covered"), id="journal"),
    pytest.param("cost_windows", "runs > 0 AND workspace != ''", ("settled minute",), id="window"),
]


@pytest.mark.parametrize(("table", "where", "words"), DELETED)
def test_one_deleted_row_is_named(loaded: Loaded, table: str, where: str, words: tuple[str, ...]) -> None:
    """Table, run and offset stand in the output; with the row back the audit is quiet."""
    made = loaded.lane
    if table == "cost_windows":
        made.refresh_windows()
    made.execute(f"CREATE TABLE kept AS {table}")
    try:
        made.execute(f"INSERT INTO kept SELECT * FROM {table} WHERE {where}")
        assert made.one("SELECT count() AS n FROM kept")["n"] >= 1
        made.execute(f"ALTER TABLE {table} DELETE WHERE {where}")
        loud(made, table, *words)
        made.execute(f"INSERT INTO {table} SELECT * FROM kept")
    finally:
        made.execute("DROP TABLE kept")
    quiet(made)


def test_a_load_is_exact(loaded: Loaded) -> None:
    """Residual 0, and the counts are those of the load, for people and for programs."""
    quiet(loaded.lane)
    code, found = loaded.lane.audit()
    assert (code, found["residual"], found["differences"]) == (0, 0, [])
    assert set(found["checks"].values()) == {0}
    # Two runs with their three steps and an eval, and one run for each partition.
    assert (found["records"], found["refused"], found["runs"], found["objects"]) == (12, 1, 6, 10)


@pytest.mark.parametrize(
    ("table", "change", "where"),
    [
        ("run_objects", "output_preview = 'forged'", f"run_id = '{RUN}' AND object_id = 'b'"),
        ("run_objects", "success = true", f"run_id = '{RUN}' AND object_id = 'b'"),
        ("run_objects", "doc = replaceOne(doc, '0.25', '0.35')", f"run_id = '{RUN}' AND kind = 'run'"),
        ("runs", "status = 'failed'", f"run_id = '{RUN}'"),
        ("runs", "cost_reported = 9", f"run_id = '{RUN}'"),
        ("settlements", "input_tokens = 6", f"run_id = '{RUN}'"),
        ("accruals", "output_tokens = 8", f"run_id = '{RUN}' AND object_id = 'a'"),
        ("refused", "reason = 'schema'", "partition = 1"),
    ],
)
def test_one_changed_column_is_named(loaded: Loaded, table: str, change: str, where: str) -> None:
    """Not only what is gone: one value that is another."""
    made = loaded.lane
    made.execute(f"CREATE TABLE kept AS {table}")
    try:
        made.execute(f"INSERT INTO kept SELECT * FROM {table} WHERE {where}")
        made.execute(f"ALTER TABLE {table} UPDATE {change} WHERE {where}")
        loud(made, table)
        made.execute(f"ALTER TABLE {table} DELETE WHERE {where}")
        made.execute(f"INSERT INTO {table} SELECT * FROM kept")
    finally:
        made.execute("DROP TABLE kept")
    quiet(made)


def test_an_accepted_record_that_is_called_refused_is_named(loaded: Loaded) -> None:
    """A row in `refused` about an offset whose record was folded."""
    made, place = loaded.lane, loaded.accepted
    made.execute(
        "INSERT INTO refused (topic, partition, offset, reason) "
        f"VALUES ('{made.topic}', {place.partition}, {place.offset}, 'schema')"
    )
    loud(made, "refused", f"{made.topic}:{place.partition}:{place.offset}", "accepted")
    made.execute(f"ALTER TABLE refused DELETE WHERE offset = {place.offset} AND partition = {place.partition}")
    quiet(made)


def test_a_missing_dead_letter_is_named(loaded: Loaded) -> None:
    """An operator's refusal without its dead letter: the record is neither folded nor handed over."""
    made, place = loaded.lane, loaded.accepted
    made.execute(
        "INSERT INTO refused (topic, partition, offset, reason) "
        f"VALUES ('{made.topic}', {place.partition}, {place.offset}, 'sink_rejected')"
    )
    loud(made, "agentrun.dlq.v1", f"{made.topic}:{place.partition}:{place.offset}", "a dead letter")
    made.execute(f"ALTER TABLE refused DELETE WHERE offset = {place.offset} AND partition = {place.partition}")
    quiet(made)


def test_a_row_that_nobody_sent_is_named(loaded: Loaded) -> None:
    """Forged rows are differences too."""
    made = loaded.lane
    made.execute(
        "INSERT INTO run_objects (workspace, run_id, kind, object_id, _topic, _partition) "
        f"VALUES ('default', 'forged', 'step', 'x', '{made.topic}', 1)"
    )
    loud(made, "run_objects", "default/forged", "no row")
    made.execute("ALTER TABLE run_objects DELETE WHERE run_id = 'forged'")
    quiet(made)


def test_watch_exports_the_residual_of_each_check(loaded: Loaded) -> None:
    """By check, with how much was audited, until it is interrupted."""
    made = loaded.lane
    words = [sys.executable, "-m", "agentrun_stream.cli", "audit", "--watch", "1"]
    environment = local_environment(made.stack.kafka, made.stack.clickhouse, made.environment)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENTRUN_")}
    with made.kept("runs"):
        made.execute(f"ALTER TABLE runs UPDATE status = 'failed' WHERE run_id = '{RUN}'")
        with subprocess.Popen(words, env=kept | environment, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stderr is not None
            url = watching.stderr.readline().split()[-1].removesuffix("/metrics.")
            try:
                shown = soon(
                    lambda: "audit_residual{" in (text := http_get(url, "/metrics")[1]) and text, what="an audit"
                )
            finally:
                watching.send_signal(signal.SIGINT)
            watching.stderr.read()
    assert watching.returncode == 130
    assert 'agentrun_audit_residual{check="projections"} 1.0' in str(shown)
    assert 'agentrun_audit_residual{check="accruals"} 0.0' in str(shown)
