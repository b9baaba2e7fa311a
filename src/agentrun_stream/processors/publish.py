"""The record of a run on the compacted topic: its snapshot without steps, verdict, costs and counts, bounded in size.

Must not live here: producing it, or deciding when.
"""

from typing import Any, Final

from agentrun_stream import limits, topics
from agentrun_stream.codec import json_codec
from agentrun_stream.model.opinions import QUARANTINED
from agentrun_stream.model.projection import Projection
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
_COSTS: Final = (
    ("reported", "cost_reported"),
    ("reported_raw", "cost_reported_raw"),
    ("computed", "cost_computed"),
    ("effective", "cost_effective"),
    ("source", "effective_source"),
    ("status", "price_status"),
)
_VERDICT: Final = ("hash", "chain", "signature", "lineage", "log")
_PROOF: Final = ("kid", "signed_rev", "genesis", "run_digest", "claims_differ", "flag")
_CUT_CHARS: Final = 1024
_OWN: Final = (
    *("id", "workspace", "status", "revision", "projection", "closed_by", "verdict", "costs", "counts"),
    *("first_event_at", "last_event_at"),
)
_NEVER_CUT: Final = frozenset({"id", "workspace", "revision", "projection"})


def run_key(workspace: str, run_id: str) -> bytes:
    """The key under which a run is published."""
    return f"{workspace}/{run_id}".encode()


def announcements(projection: Projection, *, again: bool) -> list[tuple[str, Outgoing]]:
    """What is published of a run, as (topic, record), in one transaction.

    In headers is the pair by which a reader puts records in order. A quarantined run goes to a topic of its own, and leaves a
    tombstone on that of the runs. With `again` it may have been told before, be it there or here: then it leaves one there.
    """
    row = projection.row
    order = (("revision", str(row["revision"]).encode()), ("projection", str(row["projection"]).encode()))
    key = run_key(row["workspace"], row["run_id"])
    here, there = topics.RUNS, topics.QUARANTINE
    if row["flag"] == QUARANTINED:
        here, there, again = there, here, True
    told = [(here, Outgoing(key, json_codec.fitted(run_record(projection)), order))]
    return [*told, (there, Outgoing(key, None, order))] if again else told


def run_record(projection: Projection) -> bytes:
    """The published value of a run. At most PUBLISHED_RUN_BYTES_MAX bytes."""
    row = projection.row
    record = {
        **projection.doc,
        "id": row["run_id"],
        "workspace": row["workspace"],
        "status": row["status"],
        "revision": row["revision"],
        "projection": row["projection"],
        "closed_by": row["closed_by"],
        "verdict": _verdict(row),
        "costs": {name: row[column] for name, column in _COSTS},
        "counts": {name: row[name] for name in _COUNTS},
        "first_event_at": row["first_event_at"],
        "last_event_at": row["last_event_at"],
    }
    value = json_codec.dumps(record)
    return value if len(value) <= limits.PUBLISHED_RUN_BYTES_MAX else _cut(record)


def _verdict(row: dict[str, Any]) -> dict[str, Any]:
    told = {"headline": row["verdict"], **{axis: row[f"verdict_{axis}"] for axis in _VERDICT}}
    if row["verdict_reasons"]:
        told["reasons"] = row["verdict_reasons"]
    return told | {name: row[name] for name in _PROOF if row[name]}


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
