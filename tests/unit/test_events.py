"""The event builders: valid by default, everything can be overridden, the same call gives the same bytes."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from agentrun_stream.codec.schemas import Kind, is_valid
from agentrun_stream.testing import events

BUILDERS: dict[Kind, Callable[..., bytes]] = {
    "run": events.run_event,
    "step": events.step_event,
    "eval": events.eval_event,
    "patch": events.patch_event,
    "lease": events.lease_event,
    "expire": events.expire_event,
}


def parsed(value: bytes) -> dict[str, Any]:
    event: dict[str, Any] = orjson.loads(value)
    return event


@pytest.mark.parametrize("kind", BUILDERS)
def test_defaults_are_valid_compact_and_keyed_by_the_run(kind: Kind) -> None:
    value = BUILDERS[kind]("run-7")
    event = parsed(value)
    assert is_valid(kind, event["data"])
    assert event["type"] == f"agentrun.{kind}.v1"
    assert event["specversion"] == "1.0"
    assert events.key_of(value) == b"run-7"
    assert orjson.dumps(event) == value
    assert BUILDERS[kind]("run-7") == value


def test_members_and_envelope_can_be_overridden_added_and_left_out() -> None:
    envelope = {"source": "/x", "workspaceid": "acme", "datacontenttype": events.OMIT}
    value = events.run_event("r", envelope=envelope, status="failed", error="no", agent_id=events.OMIT, id="other")
    event = parsed(value)
    assert (event["source"], event["workspaceid"], "datacontenttype" in event) == ("/x", "acme", False)
    assert (event["data"]["status"], event["data"]["error"], event["data"]["id"]) == ("failed", "no", "other")
    assert "agent_id" not in event["data"]
    assert event["subject"] == "r"


def test_an_open_run_has_no_end_and_the_time_is_that_of_the_object() -> None:
    started = parsed(events.run_event(status="running"))
    assert "ended_at" not in started["data"]
    assert started["time"] == events.STARTED_AT
    assert parsed(events.run_event())["time"] == events.ENDED_AT
    assert parsed(events.step_event(ended_at="2026-02-02T00:00:00Z"))["time"] == "2026-02-02T00:00:00Z"


def test_event_ids_differ_by_what_the_event_says() -> None:
    values = [
        events.run_event(),
        events.run_event(status="running"),
        events.step_event(),
        events.step_event("run-1", "s"),
    ]
    values += [events.eval_event(), events.eval_event(metadata={"scorer": "other"}), events.patch_event(tags=["a"])]
    assert len({parsed(value)["id"] for value in values}) == len(values)


def test_an_eval_can_fail() -> None:
    assert parsed(events.eval_event(passed=False, score=12.5))["data"]["pass"] is False
