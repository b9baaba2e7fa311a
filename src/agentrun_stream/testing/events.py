"""Builders of events: one call makes the bytes of one valid record, and every member can be overridden.

`OMIT` leaves a default out. Deterministic: no clock, no randomness. Must not live here: streams of events (`fleet.py`).
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

SOURCE: Final = "/testing"
STARTED_AT: Final = "2026-01-01T12:00:00Z"
ENDED_AT: Final = "2026-01-01T12:00:01Z"
TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "timeout"})


class _Omit:
    """The type of `OMIT`."""

    def __repr__(self) -> str:
        return "OMIT"


OMIT: Final = _Omit()
Envelope = Mapping[str, object] | None


def run_event(run_id: str = "run-1", *, envelope: Envelope = None, **members: object) -> bytes:
    """Build an AgentRun event; by default a completed run without steps."""
    status = members.get("status", "completed")
    data: dict[str, object] = {
        "id": run_id,
        "agent_id": "agent-1",
        "status": status,
        "started_at": STARTED_AT,
        "ended_at": ENDED_AT if status in TERMINAL else OMIT,
        "steps": [],
        "cost": {},
        "provenance": {},
    }
    return cloud_event("run", run_id, f"run/{status}", data | members, envelope)


def step_event(
    run_id: str = "run-1", step_id: str = "step-1", *, envelope: Envelope = None, **members: object
) -> bytes:
    """Build a Step event; by default a successful call of a tool."""
    data: dict[str, object] = {
        "id": step_id,
        "type": "tool_call",
        "tool_name": "search",
        "success": True,
        "started_at": STARTED_AT,
        "ended_at": ENDED_AT,
        "duration_ms": 1000,
    }
    return cloud_event("step", run_id, f"step/{step_id}", data | members, envelope)


def eval_event(run_id: str = "run-1", *, passed: bool = True, envelope: Envelope = None, **members: object) -> bytes:
    """Build an EvalResult event; by default one that passes with 100. `passed` becomes the member `pass`."""
    data: dict[str, object] = {"pass": passed, "score": 100, "metadata": {"scorer": "exact"}}
    merged = data | members
    metadata = merged["metadata"]
    scorer = metadata.get("scorer", "none") if isinstance(metadata, dict) else "none"
    return cloud_event("eval", run_id, f"eval/{scorer}", merged, envelope)


def patch_event(run_id: str = "run-1", *, envelope: Envelope = None, **members: object) -> bytes:
    """Build a patch: the run's id and the members given."""
    return cloud_event("patch", run_id, f"patch/{'+'.join(sorted(members))}", {"id": run_id} | members, envelope)


def lease_event(
    run_id: str = "run-1", idle_timeout: float = 1_800, max_age: float = 86_400, *, envelope: Envelope = None
) -> bytes:
    """Build a lease: the question whether the run was left alone for too long. Seconds."""
    data: dict[str, object] = {"idle_timeout": idle_timeout, "max_age": max_age}
    return cloud_event("lease", run_id, "lease", data, envelope)


def expire_event(run_id: str = "run-1", horizon: float = 30 * 86_400, *, envelope: Envelope = None) -> bytes:
    """Build an expiry: the question whether the run is past retention. Seconds."""
    return cloud_event("expire", run_id, "expire", {"horizon": horizon}, envelope)


def cloud_event(kind: str, run_id: str, suffix: str, data: Mapping[str, object], envelope: Envelope = None) -> bytes:
    """Put an object into a CloudEvents 1.0 envelope, structured mode, compact JSON."""
    time = next((data[k] for k in ("ended_at", "started_at") if isinstance(data.get(k), str)), STARTED_AT)
    head: dict[str, object] = {
        "specversion": "1.0",
        "id": f"{run_id}/{suffix}",
        "source": SOURCE,
        "type": f"agentrun.{kind}.v1",
        "subject": run_id,
        "time": time,
        "datacontenttype": "application/json",
        "data": present(data),
    }
    return orjson.dumps(present(head | dict(envelope or {})))


def key_of(value: bytes) -> bytes:
    """Return the Kafka key of a structured event: its subject, the run id."""
    event: dict[str, Any] = orjson.loads(value)
    return str(event["subject"]).encode()


def present(members: Mapping[str, object]) -> dict[str, Any]:
    """Return the members that are not left out."""
    return {name: value for name, value in members.items() if value is not OMIT}
