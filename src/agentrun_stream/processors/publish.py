"""The record of a run on the compacted topic: its snapshot without steps, verdict, costs and counts, bounded in size.

Must not live here: producing it, or deciding when.
"""

from typing import Any, Final

from agentrun_stream import limits
from agentrun_stream.codec import json_codec
from agentrun_stream.model.run import RunState
from agentrun_stream.ports import Outgoing

_COUNTS: Final = (
    "steps",
    "tool_calls",
    "failed_tool_calls",
    "failed_steps",
    "evals",
    "evals_passed",
    "steps_refused",
    "reopened",
    "corrections",
)
_VERDICT: Final = ("hash", "chain", "signature", "lineage", "log")
_CUT_CHARS: Final = 1024
_OWN: Final = (
    *("id", "workspace", "status", "revision", "projection", "closed_by", "verdict", "costs", "counts"),
    *("first_event_at", "last_event_at"),
)
_NEVER_CUT: Final = frozenset({"id", "workspace", "revision", "projection"})


def run_key(workspace: str, run_id: str) -> bytes:
    """The key under which a run is published."""
    return f"{workspace}/{run_id}".encode()


def announcement(state: RunState, row: dict[str, Any]) -> Outgoing:
    """What is published of a run: its key, its value, and in headers the pair by which a reader puts values in order."""
    order = (("revision", str(row["revision"]).encode()), ("projection", str(row["projection"]).encode()))
    return Outgoing(run_key(state.workspace, state.run_id), json_codec.fitted(run_record(state, row)), order)


def run_record(state: RunState, row: dict[str, Any]) -> bytes:
    """The published value of a run; `row` is its projection. At most PUBLISHED_RUN_BYTES_MAX bytes."""
    doc = state.snap.doc if state.snap is not None else {}
    if state.expired is not None:
        doc = state.expired["snap"]["doc"]
    record = {
        **doc,
        "id": state.run_id,
        "workspace": state.workspace,
        "status": row["status"],
        "revision": row["revision"],
        "projection": row["projection"],
        "closed_by": row["closed_by"],
        "verdict": {"headline": row["verdict"], **{axis: row[f"verdict_{axis}"] for axis in _VERDICT}},
        "costs": {"reported": row["cost_reported"], "reported_raw": row["cost_reported_raw"]},
        "counts": {name: row[name] for name in _COUNTS},
        "first_event_at": row["first_event_at"],
        "last_event_at": row["last_event_at"],
    }
    value = json_codec.dumps(record)
    return value if len(value) <= limits.PUBLISHED_RUN_BYTES_MAX else _cut(record)


def _cut(record: dict[str, Any]) -> bytes:
    """Cut the longest members, the longest first, until the record fits; `truncated` names them.

    Where the names alone are too long, what the pipeline says of the run is all that stays, and `truncated` is `*`.
    """
    own = {name: record[name] for name in _OWN}
    sizes = {k: len(json_codec.dumps(v)) for k, v in record.items() if k not in _NEVER_CUT}
    size = len(json_codec.dumps(record | {"truncated": []}))
    truncated: list[str] = []
    for name in sorted(sizes, key=lambda k: (-sizes[k], k)):
        value = record[name]
        record[name] = value[:_CUT_CHARS] if isinstance(value, str) else None
        truncated.append(name)
        size += len(json_codec.dumps(record[name])) - sizes[name] + len(json_codec.dumps(name)) + 1
        if size <= limits.PUBLISHED_RUN_BYTES_MAX:
            return json_codec.dumps(record | {"truncated": sorted(truncated)})
    return json_codec.dumps(own | {"truncated": ["*"]})
