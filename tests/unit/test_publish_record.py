"""The record of a run on the compacted topic: it always fits, and says what was left out."""

import orjson
import pytest

from agentrun_stream import limits
from agentrun_stream.model.run import RunState, Snapshot
from agentrun_stream.processors.project import project
from agentrun_stream.processors.publish import run_record


def published(unknown: dict[str, object]) -> bytes:
    doc = {"id": "r", "agent_id": "a", "status": "completed", "cost": {}, **unknown}
    run = RunState("default", "r", pos=5)
    run.snap = Snapshot(doc, 5, "/s", 1.0, 1, 1, 1, seen=True, closed_by="runtime", closed_s=60.0, settled=(60,))
    shown = project(run, "t", 0)
    assert shown is not None
    return run_record(shown)


def test_what_fits_is_whole() -> None:
    assert "truncated" not in orjson.loads(published({"note": "x" * 1000}))


def test_the_longest_member_is_cut_and_named() -> None:
    value = orjson.loads(published({"long": "x" * limits.PUBLISHED_RUN_BYTES_MAX, "short": "kept"}))
    assert value["truncated"] == ["long"]
    assert value["long"] == "x" * 1024
    assert value["short"] == "kept"


@pytest.mark.parametrize("members", [2_500, 5_000, 20_000])
def test_many_members_with_long_names_fit_too(members: int) -> None:
    """And quickly: their number must not be squared. The counts stay."""
    record = published({f"{i:06d}{'n' * 112}": i for i in range(members)})
    assert len(record) <= limits.PUBLISHED_RUN_BYTES_MAX
    value = orjson.loads(record)
    assert value["truncated"]
    assert value["counts"]["steps"] == 0
    assert value["verdict"]["headline"]
