"""How a record may come: in an envelope, in binary mode, bare, without a key, on the wrong partition. Stored once, exactly."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from agentrun_stream.testing.events import eval_event, run_event, step_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Place, Sent, home, lane, last_published, run_on

pytestmark = pytest.mark.stack

SHOWN = (
    "kind, object_id, type, tool_name, success, started_at, ended_at, duration_ms, metadata, doc, _source, _event_time"
)


@pytest.fixture(scope="module")
def made(agentrun_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    with lane(agentrun_stack, tmp_path_factory.mktemp("envelopes"), "envelopes") as made:
        made.start()
        yield made
        made.assert_exact()
        assert made.rows("SELECT * FROM refused") == []


def data_of(event: bytes) -> bytes:
    return orjson.dumps(orjson.loads(event)["data"])


def binary(event: bytes) -> Sent:
    """The same event in the binary mode of CloudEvents' Kafka binding."""
    whole = orjson.loads(event)
    headers = [(f"ce_{k}", str(v).encode()) for k, v in whole.items() if k not in {"data", "datacontenttype"}]
    return Sent(data_of(event), whole["subject"].encode(), [*headers, ("content-type", b"application/json")])


def bare(event: bytes, *, key: bool = True) -> Sent:
    whole = orjson.loads(event)
    return Sent(data_of(event), whole["subject"].encode() if key else None)


def objects(made: Lane, run_id: str, columns: str = SHOWN) -> list[dict[str, Any]]:
    return made.rows(f"SELECT {columns} FROM run_objects FINAL WHERE run_id = '{run_id}' ORDER BY kind, object_id")


def story(run_id: str, **envelope: Any) -> list[bytes]:
    """A whole run in four events."""
    return [
        run_event(run_id, status="running", envelope=envelope),
        step_event(run_id, "a", envelope=envelope),
        eval_event(run_id, envelope=envelope),
        run_event(run_id, cost={"cost_usd": 0.5}, envelope=envelope),
    ]


def test_binary_mode_stores_what_structured_mode_does(made: Lane) -> None:
    """Attributes in headers, the object alone as value: the same rows, source, time and workspace."""
    made.produce(story("structured", workspaceid="acme"))
    made.produce(binary(event) for event in story("binary", workspaceid="acme"))
    made.wait()
    found = objects(made, "binary", f"{SHOWN}, workspace")
    wanted = objects(made, "structured", f"{SHOWN}, workspace")
    for row in wanted:
        row["doc"] = row["doc"] and row["doc"].replace('"structured"', '"binary"')
    assert found == wanted
    assert len(found) == 3
    assert {row["workspace"] for row in found} == {"acme"}


def test_bare_objects_need_no_envelope(made: Lane) -> None:
    """Run, step and eval are told apart by their members; the key is the run id."""
    made.produce(bare(event) for event in story("bare"))
    made.wait()
    row = made.run_row("bare")
    assert (row["workspace"], row["status"], row["steps"], row["evals"]) == ("default", "completed", 1, 1)
    assert [found["_source"] for found in objects(made, "bare")] == ["", "", ""]


def test_a_bare_run_may_come_without_a_key(made: Lane) -> None:
    """On whatever partition the producer chose, its own among them: stored once, where its id belongs."""
    before = made.metric("records_rehomed_total")
    names = [f"keyless-{n}" for n in range(4)]
    for partition, name in enumerate(names):
        made.produce([bare(run_event(name), key=False)._replace(partition=partition)])
    own = run_on(2, "keyless-at-home")
    made.produce([bare(run_event(own), key=False)._replace(partition=2)])
    made.wait()
    for name in [*names, own]:
        (found,) = objects(made, name, "_partition")
        assert found["_partition"] == home(name)
        assert made.run_row(name)["status"] == "completed"
    assert made.metric("records_rehomed_total") - before == len(names) + 1


def test_a_structured_event_may_come_without_a_key(made: Lane) -> None:
    """Its subject says whose it is; also a step's."""
    made.produce([Sent(event, None, partition=1) for event in story("subject-only")])
    made.wait()
    assert len(objects(made, "subject-only")) == 3


def test_records_on_the_wrong_partition_find_home(made: Lane) -> None:
    """A producer with another partitioner: headers and values kept, order kept, each event's effect once."""
    run_id = run_on(3, "misplaced")
    before = made.metric("records_rehomed_total")
    wrong = made.produce([Sent(event, run_id.encode(), [("own", b"kept")], 0) for event in story(run_id)])
    made.produce([binary(event)._replace(partition=1) for event in story(run_on(3, "misplaced-binary"))])
    made.wait()
    assert made.metric("records_rehomed_total") - before == 8
    found = objects(made, run_id, "kind, _partition, _offset")
    assert [(row["kind"], row["_partition"]) for row in found] == [("run", 3), ("step", 3), ("eval", 3)]
    assert made.run_row(run_id)["status"] == "completed"
    assert made.run_row(run_on(3, "misplaced-binary"))["steps"] == 1
    covered(made, wrong)
    published = last_published(made.stack, f"default/{run_id}")
    assert published is not None
    assert published[0]["status"] == "completed"


def covered(made: Lane, places: list[Place]) -> None:
    """The journal vouches for the offsets that were passed on, too."""
    for place in places:
        sql = f"SELECT count() AS n FROM batches WHERE partition = {place.partition} AND topic = '{made.topic}'"
        assert made.one(f"{sql} AND first <= {place.offset} AND last > {place.offset}")["n"] >= 1


def test_rehoming_again_is_harmless(made: Lane) -> None:
    """A producer that keeps both partitioners tells everything twice, in any order; the end is the end."""
    run_id = run_on(0, "twice")
    made.produce([Sent(event, run_id.encode(), (), 2) for event in story(run_id)])
    made.produce(story(run_id))
    made.wait()
    row = made.run_row(run_id)
    assert (row["status"], row["steps"], row["evals"]) == ("completed", 1, 1)
    booked = made.one(f"SELECT sum(cost_reported) AS cost FROM accruals FINAL WHERE run_id = '{run_id}'")
    assert str(booked["cost"]) == "0.5"


def test_of_one_run_in_two_workspaces_neither_sees_the_other(made: Lane) -> None:
    """Identity is workspace and run id."""
    made.produce([*story("shared", workspaceid="one"), *story("shared", workspaceid="two")[:2]])
    made.wait()
    rows = made.rows("SELECT workspace, status FROM runs_latest WHERE id = 'shared' ORDER BY workspace")
    assert rows == [{"workspace": "one", "status": "completed"}, {"workspace": "two", "status": "running"}]
