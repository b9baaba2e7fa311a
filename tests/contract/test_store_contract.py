"""What every store promises the loop: one suite, on the twin in memory and on ClickHouse's engine."""

import asyncio
import itertools
from typing import Any

import orjson
import pytest

from agentrun_stream.errors import StoreRejectedError
from agentrun_stream.model import ledger
from agentrun_stream.model.run import EvalFact, RunState, Snapshot, StepFact, position
from agentrun_stream.ports import Part, RunKey, Store
from agentrun_stream.store import rows
from agentrun_stream.store.clickhouse import ClickHouseStore
from agentrun_stream.store.client import StoreAddress, connect
from agentrun_stream.store.memory import RULES, MemoryStore
from agentrun_stream.store.reader import rows_of

ORIGIN = rows.Origin("events", 0, 1_767_268_801_000)
APPEND_MS = 1_767_268_800_123
NASTY = (
    "plain",
    "it's",
    '"quoted"',
    "back\\slash \\' \\x00",
    "nul \x00 bell \x07 esc \x1b del \x7f",
    "line\nbreak\r\n\ttab",
    "grüße 漢字 🙂 \u2028",
    "{keys} %s ${x} -- /* */ ;",
    "(" * 20,
    " edges ",
    "x" * 600,
)
_numbers = itertools.count()


@pytest.fixture(params=["memory", pytest.param("clickhouse", marks=pytest.mark.stack)])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return ClickHouseStore(request.getfixturevalue("store_address"))


@pytest.fixture
def part() -> Part:
    """A partition that no other test writes to: the real store is shared."""
    return Part(f"contract-{next(_numbers)}", 3)


@pytest.fixture
def workspace() -> str:
    return f"w{next(_numbers)}"


def step_fact(offset: int, obj: dict[str, Any], time_s: float = 1_767_268_800.123457) -> StepFact:
    usage = ledger.step_usage(obj.get("metadata"), obj.get("tokens_used"))
    return StepFact(
        position(1, offset), "src'", time_s, APPEND_MS - 1, APPEND_MS, obj["type"], obj.get("success"), usage
    )


def step_row(run: RunState, step_id: str, offset: int, **members: Any) -> bytes:
    obj = {"id": step_id, "type": "tool_call", **members}
    run.steps[step_id] = step_fact(offset, obj)
    run.pos = max(run.pos, position(1, offset))
    return rows.step_row(run, (step_id, obj, (None, None), run.steps[step_id]), ORIGIN)


def load(store: Store, *keys: RunKey) -> dict[RunKey, RunState]:
    return asyncio.run(store.load_runs(keys))


def full_run(workspace: str, run_id: str, object_id: str) -> tuple[RunState, list[bytes]]:
    """A run with every kind of object, and their rows."""
    run = RunState(workspace, run_id)
    usage = {"provider": "p", "model": object_id, "input_tokens": 10**12, "output_tokens": 0}
    encoded = [step_row(run, object_id, 7, success=False, tokens_used=3, metadata={"usage": usage, object_id: [1.5]})]
    encoded.append(step_row(run, object_id + "2", 8, success=True, input_preview=object_id, unknown={"a": object_id}))
    doc = {"id": run_id, "started_at": "2026-01-01T12:00:00.000001Z", "tags": [object_id], "cost": {"input_tokens": 5}}
    run.snap = Snapshot(doc, position(1, 9), object_id, -0.5, APPEND_MS, APPEND_MS + 1, APPEND_MS + 2, seen=True)
    run.snap.started_s = 1_767_268_800.000001
    run.snap.cost_raw, run.snap.closed_by, run.snap.closed_s = "1E-7", "lease", 1_767_268_800.25
    run.snap.settled, run.snap.reopened, run.snap.steps_refused = (60, 120), 2, 1
    judged = {"pass": True, "score": 99.5, "metadata": {"scorer": object_id}}
    run.evals[object_id] = EvalFact(position(1, 10), "s", 0.000001, APPEND_MS, APPEND_MS, judged)
    run.pos = position(1, 10)
    return run, [*encoded, rows.snapshot_row(run, ORIGIN), rows.eval_row(run, object_id, ORIGIN)]


@pytest.mark.parametrize("nasty", NASTY)
def test_a_run_comes_back_exactly_as_it_was_put_in(store: Store, workspace: str, nasty: str) -> None:
    """Every kind of object, whatever characters its ids and members hold, and its times to the microsecond."""
    run, encoded = full_run(workspace, nasty, nasty + "/object")
    asyncio.run(store.insert("run_objects", encoded))
    assert load(store, (workspace, nasty)) == {(workspace, nasty): run}


@pytest.mark.parametrize("expired_first", [False, True])
def test_of_an_expired_run_its_sums_are_all_there_is(store: Store, workspace: str, *, expired_first: bool) -> None:
    """Whether its other objects are removed already, came after it, or are still there."""
    run, encoded = full_run(workspace, "r", "object")
    run.expired, run.pos = {"at": APPEND_MS, "first": APPEND_MS, "steps": 2, "cost_reported": "1E-7"}, position(1, 11)
    last = [rows.expired_row(run, run.pos, ORIGIN)]
    for some in (last, encoded) if expired_first else (encoded, last):
        asyncio.run(store.insert("run_objects", some))
    assert load(store, (workspace, "r")) == {(workspace, "r"): RunState(workspace, "r", run.pos, expired=run.expired)}


def test_unknown_runs_are_left_out(store: Store, workspace: str) -> None:
    """Neither a longer nor a shorter id, nor the same id in another workspace, nor the empty one is found."""
    run = RunState(workspace, "known")
    asyncio.run(store.insert("run_objects", [step_row(run, "s", 1)]))
    near = [
        (workspace, "know"),
        (workspace, "known "),
        (workspace, "KNOWN"),
        (workspace + "x", "known"),
        (workspace, ""),
    ]
    assert load(store, *near) == {}
    assert load(store) == {}
    assert load(store, *near, (workspace, "known"), (workspace, "known")) == {(workspace, "known"): run}


def test_more_runs_than_one_query_takes_are_found(store: Store, workspace: str) -> None:
    keys = [(workspace, f"run-{i}") for i in range(4_100)]
    runs = {key: RunState(*key) for key in keys[::2]}
    asyncio.run(store.insert("run_objects", [step_row(run, "s", i) for i, run in enumerate(runs.values())]))
    assert load(store, *keys) == runs


def test_the_higher_version_wins_whatever_came_last(store: Store, workspace: str) -> None:
    """A zombie's late write of an older state changes nothing."""
    run, old = RunState(workspace, "r"), RunState(workspace, "r")
    asyncio.run(store.insert("run_objects", [step_row(run, "s", 20, tokens_used=2)]))
    asyncio.run(store.insert("run_objects", [step_row(old, "s", 19, tokens_used=1)]))
    assert load(store, (workspace, "r")) == {(workspace, "r"): run}


def test_the_topic_epoch_stands_above_the_offset(store: Store, workspace: str) -> None:
    run = RunState(workspace, "r", position(2, 1))
    row = step_row(run, "s", 10**9)
    obj = {"id": "s", "type": "message"}
    newer = step_fact(0, obj)._replace(pos=position(2, 1))
    asyncio.run(store.insert("run_objects", [rows.step_row(run, ("s", obj, (None, None), newer), ORIGIN)]))
    asyncio.run(store.insert("run_objects", [row]))
    assert load(store, (workspace, "r"))[workspace, "r"].steps["s"] == newer


def test_within_one_insert_the_higher_version_wins(store: Store, workspace: str) -> None:
    """A batch writes a row for each event of a step."""
    run, old = RunState(workspace, "r"), RunState(workspace, "r")
    new_row, old_row = step_row(run, "s", 20), step_row(old, "s", 19, tokens_used=1)
    asyncio.run(store.insert("run_objects", [new_row, old_row]))
    assert load(store, (workspace, "r")) == {(workspace, "r"): run}


def test_one_element_may_hold_many_lines(store: Store, workspace: str) -> None:
    run = RunState(workspace, "r")
    lines = [step_row(run, f"s{i}", i) for i in range(3)]
    asyncio.run(store.insert("run_objects", [b"\n".join(lines[:2]), lines[2]]))
    assert load(store, (workspace, "r")) == {(workspace, "r"): run}


def test_a_repeated_insert_changes_nothing(store: Store, workspace: str) -> None:
    run, encoded = full_run(workspace, "r", "o")
    for _ in range(3):
        asyncio.run(store.insert("run_objects", encoded))
    assert load(store, (workspace, "r")) == {(workspace, "r"): run}


@pytest.mark.parametrize("table", ["run_objects", "batches", "refused", "runs", "nowhere"])
def test_what_is_no_row_of_the_table_is_refused_for_good(store: Store, table: str) -> None:
    """StoreRejectedError, which is not tried again."""
    for row in (b'{"nothing":1}', b"[1,2]", b"no json"):
        with pytest.raises(StoreRejectedError):
            asyncio.run(store.insert(table, [row]))


def test_a_refused_insert_leaves_nothing(store: Store, workspace: str) -> None:
    """An insert is atomic: the good rows beside the bad one are not kept."""
    run = RunState(workspace, "r")
    with pytest.raises(StoreRejectedError):
        asyncio.run(store.insert("run_objects", [step_row(run, "s", 1), b'["too","short"]']))
    assert load(store, (workspace, "r")) == {}


def journal(part: Part, first: int, last: int) -> bytes:
    times = dict.fromkeys(("first_appended_at", "last_appended_at", "written_at"), 1_767_268_800.5)
    return rows.row({**part._asdict(), "first": first, "last": last, "worker": "w", **times})


@pytest.mark.parametrize(
    ("covered", "expected"),
    [
        ([], None),
        ([(0, 5)], (0, 5)),
        ([(7, 9)], (7, 9)),
        ([(0, 5), (5, 9)], (0, 9)),
        ([(5, 9), (0, 5)], (0, 9)),
        ([(0, 5), (0, 5), (5, 9), (5, 9)], (0, 9)),
        ([(0, 5), (3, 9)], (0, 9)),
        ([(0, 9), (3, 5), (9, 12)], (0, 12)),
        ([(0, 9), (0, 3), (3, 5)], (0, 9)),
        ([(0, 5), (6, 9)], (0, 5)),
        ([(0, 5), (6, 9), (9, 20)], (0, 5)),
        ([(0, 9), (2, 4), (10, 20)], (0, 9)),
        ([(0, 1), (3, 4), (1, 3), (6, 7)], (0, 4)),
        ([(4, 5), (0, 1)], (0, 1)),
        ([(2, 10), (0, 4), (12, 13)], (0, 10)),
    ],
)
def test_the_journal_ends_where_its_coverage_first_has_a_gap(
    store: Store, part: Part, covered: list[tuple[int, int]], expected: tuple[int, int] | None
) -> None:
    """Overlaps and repeats, in any order of writing, cover what they cover together."""
    for first, last in covered:
        asyncio.run(store.insert("batches", [journal(part, first, last), journal(Part(part.topic, 9), 0, 100)]))
    assert asyncio.run(store.journal_end(part)) == expected


def refused(part: Part, offset: int, reason: str, version: int = 0) -> bytes:
    told = {"workspace": None, "reason": reason, "pointer": "/a'\\\n\"", "keyword": "k", "size": 1, "attempt": 1}
    return rows.row(
        {**part._asdict(), "offset": offset, **told, "appended_at": 1, "refused_at": 2, "_version": version}
    )


def test_refused_from_tells_what_stands_from_an_offset_on(store: Store, part: Part) -> None:
    """Of this partition only; the higher version of an offset."""
    encoded = [refused(part, offset, "schema") for offset in (3, 4, 2**40)]
    asyncio.run(store.insert("refused", [*encoded, refused(Part(part.topic, 4), 5, "malformed")]))
    asyncio.run(store.insert("refused", [refused(part, 4, "sink_rejected", 1)]))
    asyncio.run(store.insert("refused", [refused(part, 4, "schema")]))
    said = ("/a'\\\n\"", "k")
    expected = {4: ("sink_rejected", *said), 2**40: ("schema", *said)}
    assert asyncio.run(store.refused_from(part, 4)) == expected
    assert asyncio.run(store.refused_from(part, 2**40 + 1)) == {}


@pytest.mark.stack
def test_the_twin_knows_the_tables_keys(store_address: StoreAddress) -> None:
    """Its table of rules says what the migrations say."""
    client = connect(store_address)
    found = rows_of(client, "SELECT name, sorting_key FROM system.tables WHERE database = currentDatabase()")
    keys = {name: tuple(key.split(", ")) for name, key in found if name in RULES}
    assert keys == {name: rule.key for name, rule in RULES.items()}


def test_what_an_operator_set_aside_is_known(store: Store, part: Part) -> None:
    """In order, of this partition alone; what was refused for other reasons is not among it."""
    told = {"pointer": "", "keyword": "", "size": 1, "attempt": 1, "appended_at": 1, "refused_at": 1, "_version": 1}
    other = {**part._asdict(), "partition": part.partition + 1}
    places = [(part._asdict(), 7, "sink_rejected"), (part._asdict(), 3, "sink_rejected"), (part._asdict(), 5, "schema")]
    for place, offset, reason in [*places, (other, 4, "sink_rejected")]:
        asyncio.run(store.insert("refused", [orjson.dumps({**place, "offset": offset, "reason": reason} | told)]))
    assert list(asyncio.run(store.set_aside(part))) == [3, 7]
