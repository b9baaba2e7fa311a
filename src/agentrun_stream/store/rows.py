"""Rows as the store takes them: the columns that are written, and the bytes of one row.

`run_objects` goes in as arrays (hot), every other table as objects. Must not live here: queries, connections, decisions.
"""

from typing import Any, Final

import orjson

from agentrun_stream.model import money
from agentrun_stream.model.run import Accrual, EvalFact, RunState, Snapshot, StepFact, offset_of, row_version

OBJECT_COLUMNS: Final = (
    "workspace",
    "run_id",
    "kind",
    "object_id",
    "type",
    "tool_name",
    "mcp_server",
    "input_preview",
    "output_preview",
    "success",
    "error",
    "started_at",
    "ended_at",
    "duration_ms",
    "tokens_used",
    "metadata",
    "extra",
    "doc",
    "_source",
    "_event_time",
    "_topic",
    "_partition",
    "_offset",
    "_version",
    "_first_appended_at",
    "_appended_at",
    "_ingested_at",
)
STEP_MEMBERS: Final = frozenset(OBJECT_COLUMNS[4:16]) | {"id"}
SNAPSHOT_FACTS: Final = (
    "seen",
    "opened_ms",
    "cost_raw",
    "closed_by",
    "closed_us",
    "time_basis",
    "settled",
    "reopened",
    "corrections",
    "steps_refused",
)
# The store reads a number for a time as seconds. A float of seconds tells microseconds apart, and is written with all six
# digits, until the year 2100.
US: Final = 1_000_000
MS: Final = 1_000
TIME_COLUMNS: Final = {
    "runs": {"started_at": US, "ended_at": US, "created_at": US, "first_event_at": MS, "last_event_at": MS, "projected_at": MS},
    "refused": {"appended_at": MS, "refused_at": MS},
    "batches": {"first_appended_at": MS, "last_appended_at": MS, "written_at": MS},
}
ARRAY_TABLES: Final = {"run_objects": OBJECT_COLUMNS}
_SORTED: Final = orjson.OPT_SORT_KEYS
_NO_MEMBERS: Final = (None,) * 12

dumps = orjson.dumps


class Origin:
    """What all object rows of one batch and partition have in common."""

    __slots__ = ("ingested_ms", "partition", "topic")

    def __init__(self, topic: str, partition: int, ingested_ms: int) -> None:
        self.topic = topic
        self.partition = partition
        self.ingested_ms = ingested_ms


def step_row(
    run: RunState, step: tuple[str, dict[str, Any], tuple[int | None, int | None], StepFact], origin: Origin
) -> bytes:
    """The row of a step, from (id, object, times, fact). The hottest encoder: one list, one `dumps`."""
    step_id, obj, times, fact = step
    get = obj.get
    metadata = get("metadata")
    pos = fact[0]
    return dumps(
        (
            run.workspace,
            run.run_id,
            "step",
            step_id,
            fact[5],
            get("tool_name"),
            get("mcp_server"),
            get("input_preview"),
            get("output_preview"),
            fact[6],
            get("error"),
            None if times[0] is None else times[0] / US,
            None if times[1] is None else times[1] / US,
            get("duration_ms"),
            _tokens(get("tokens_used")),
            None if metadata is None else dumps(metadata, option=_SORTED).decode(),
            None if STEP_MEMBERS.issuperset(obj) else _extra(obj),
            None,
            fact[1],
            fact[2] / US,
            origin.topic,
            origin.partition,
            offset_of(pos),
            row_version(pos),
            fact[3] / MS,
            fact[4] / MS,
            origin.ingested_ms / MS,
        )
    )


def _tokens(value: Any) -> int | None:
    return None if value is None else int(value)


def _extra(obj: dict[str, Any]) -> str:
    return dumps({k: v for k, v in obj.items() if k not in STEP_MEMBERS}, option=_SORTED).decode()


def snapshot_row(run: RunState, origin: Origin) -> bytes:
    """The row of a run's own object: its merged members in `doc`, what the fold must remember in `extra`."""
    snap = run.snap
    assert snap is not None
    facts = {name: getattr(snap, name) for name in SNAPSHOT_FACTS}
    return _object_row(run, "run", "", (dumps(facts, option=_SORTED).decode(), dumps(snap.doc, option=_SORTED).decode(), snap), origin)


def eval_row(run: RunState, eval_id: str, origin: Origin) -> bytes:
    """The row of an eval."""
    fact = run.evals[eval_id]
    return _object_row(run, "eval", eval_id, (None, dumps(fact.doc, option=_SORTED).decode(), fact), origin)


def expired_row(run: RunState, pos: int, origin: Origin) -> bytes:
    """The row that stays of an expired run: its sums."""
    expired = run.expired
    assert expired is not None
    at = expired["at"]
    fact = EvalFact(pos, "", at * 1000, at, at, {})
    return _object_row(run, "expired", "", (None, dumps(expired, option=_SORTED).decode(), fact), origin)


def _object_row(
    run: RunState, kind: str, object_id: str, body: tuple[str | None, str, Snapshot | EvalFact], origin: Origin
) -> bytes:
    extra, doc, fact = body
    return dumps(
        (
            run.workspace,
            run.run_id,
            kind,
            object_id,
            *_NO_MEMBERS,
            extra,
            doc,
            fact.source,
            fact.time_us / US,
            origin.topic,
            origin.partition,
            offset_of(fact.pos),
            row_version(fact.pos),
            fact.first_append_ms / MS,
            fact.append_ms / MS,
            origin.ingested_ms / MS,
        )
    )


def accrual_row(run: RunState, accrual: Accrual, place: tuple[int, int], origin: Origin) -> bytes:
    """The ledger's row of one event and object; `place` is (offset, append time in ms)."""
    offset, append_ms = place
    cost = accrual[12]
    return dumps(
        {
            "minute": append_ms // 60_000 * 60,
            "topic": origin.topic,
            "partition": origin.partition,
            "offset": offset,
            "object_id": accrual[0],
            "workspace": run.workspace,
            "run_id": run.run_id,
            "basis": accrual[1],
            "agent_id": accrual[2],
            "model": accrual[3],
            "provider": accrual[4],
            "runtime": accrual[5],
            "trigger": accrual[6],
            "input_tokens": accrual[7],
            "output_tokens": accrual[8],
            "cache_read_tokens": accrual[9],
            "cache_write_tokens": accrual[10],
            "total_tokens": accrual[11],
            "cost_reported": None if cost is None else money.text(cost),
            "appended_at": append_ms / MS,
            "_version": 0,
        }
    )


def row(table: str, values: dict[str, Any]) -> bytes:
    """The row of any other table, by column name; its times are integers of us or ms, as TIME_COLUMNS says."""
    times = TIME_COLUMNS.get(table)
    if times:
        values = values | {n: values[n] / unit for n, unit in times.items() if values.get(n) is not None}
    return dumps(values)
