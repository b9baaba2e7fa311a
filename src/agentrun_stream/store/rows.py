"""Rows as the store takes them: the columns that are written, and the bytes of one row.

Hot tables go in as arrays, every other table as objects. Must not live here: queries, connections, decisions.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from agentrun_stream import limits
from agentrun_stream.codec.arsig import step_body
from agentrun_stream.codec.fast import DURATION_MS, ENDED_AT, METADATA, STARTED_AT, STEP_MEMBERS, TOKENS_USED, Body
from agentrun_stream.model import money
from agentrun_stream.model.chain import Link
from agentrun_stream.model.event import Event, Times
from agentrun_stream.model.facts import pack
from agentrun_stream.model.run import (
    Accrual,
    ClaimFact,
    EvalFact,
    MarkFact,
    RunState,
    Snapshot,
    StepFact,
    offset_of,
    row_version,
)
from agentrun_stream.ports import Record

OBJECT_COLUMNS: Final = (
    "workspace",
    "run_id",
    "kind",
    "object_id",
    *STEP_MEMBERS[1:],
    "extra",
    "doc",
    "chain",
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
_KNOWN: Final = frozenset(STEP_MEMBERS)
_AS_THEY_ARE: Final = ("type", "tool_name", "mcp_server", "input_preview", "output_preview", "success", "error")
SNAPSHOT_FACTS: Final = (
    "seen",
    "opened_ms",
    "cost_raw",
    "closed_by",
    "closed_s",
    "time_basis",
    "settled",
    "reopened",
    "corrections",
    "steps_refused",
    "due_ms",
)
# The store reads a number for a time as seconds; a float of them tells milliseconds and microseconds apart.
MS: Final = 1_000
ACCRUAL_COLUMNS: Final = (
    "minute",
    "topic",
    "partition",
    "offset",
    "object_id",
    "workspace",
    "run_id",
    "basis",
    "agent_id",
    "model",
    "provider",
    "runtime",
    "trigger",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "total_tokens",
    "cost_reported",
    "appended_at",
    "_version",
)
ARRAY_TABLES: Final = {"run_objects": OBJECT_COLUMNS, "accruals": ACCRUAL_COLUMNS}
_OFFSET_MASK: Final = (1 << limits.OFFSET_BITS) - 1
_SORTED: Final = orjson.OPT_SORT_KEYS
_NO_MEMBERS: Final = (None,) * len(STEP_MEMBERS[1:])

_Stamped = Snapshot | EvalFact | ClaimFact | MarkFact

dumps = orjson.dumps


class Origin:
    """What all object rows of one batch and partition have in common."""

    __slots__ = ("ingested_s", "partition", "topic")

    def __init__(self, topic: str, partition: int, ingested_ms: int) -> None:
        self.topic = topic
        self.partition = partition
        self.ingested_s = ingested_ms / MS


def step_row(run: RunState, step: tuple[str, dict[str, Any], Times, StepFact], origin: Origin) -> bytes:
    """The row of a step, from (id, object, times, fact)."""
    step_id, obj, times, fact = step
    body = (step_id, *map(obj.get, STEP_MEMBERS[1:]))
    metadata = None if body[METADATA] is None else dumps(body[METADATA], option=_SORTED).decode()
    extra = None if _KNOWN.issuperset(obj) else _extra(obj)
    return plain_step_row(run, body, (times, metadata, extra), fact, origin)


def plain_step_row(
    run: RunState, body: Body, apart: tuple[Times, str | None, str | None], fact: StepFact, origin: Origin
) -> bytes:
    """The row of a step from its members in the order of the schema. One tuple, one `dumps`.

    `apart` are its times, its metadata as canonical JSON, its unknown members as canonical JSON.
    """
    times, metadata, extra = apart
    pos, tokens, link = fact[0], body[TOKENS_USED], fact[8]
    return dumps(
        (
            run.workspace,
            run.run_id,
            "step",
            *body[:STARTED_AT],
            times[0],
            times[1],
            body[DURATION_MS],
            None if tokens is None else int(tokens),
            metadata,
            extra,
            None,
            None if link is None and not fact[9] else _chain(link, fact[9], body),
            fact[1],
            fact[2],
            origin.topic,
            origin.partition,
            pos & _OFFSET_MASK,
            pos << limits.MAINTENANCE_BITS,
            fact[3] / MS,
            fact[4] / MS,
            origin.ingested_s,
        )
    )


def _chain(link: Link | None, origin: str, body: Body) -> str:
    """A step's place in the chain, and the claim that it came by, as one column that most steps do without.

    With the texts of its times, which the store keeps as instants, the row holds all that the digest is of (`stored_body`). To
    keep the canonical bytes beside it as well would make a signed step cost half as much again to store (measured).
    """
    seq, prev, digest = (None, None, None) if link is None else link
    told: dict[str, Any] = {"seq": seq, "prev": prev, "digest": digest, "origin": origin}
    if link is not None:
        told["times"] = (body[STARTED_AT], body[ENDED_AT])
    return dumps(told).decode()


def stored_body(step: Mapping[str, Any]) -> bytes:
    """The canonical bytes of a chained step, made from the columns of its row."""
    started, ended = orjson.loads(step["chain"])["times"]
    extra = {} if step["extra"] is None else orjson.loads(step["extra"])
    metadata = None if step["metadata"] is None else orjson.loads(step["metadata"])
    members = {name: step[name] for name in _AS_THEY_ARE} | {"id": step["object_id"], "metadata": metadata}
    counts = {name: None if step[name] is None else int(step[name]) for name in ("duration_ms", "tokens_used")}
    return step_body(extra | members | counts | {"started_at": started, "ended_at": ended})


def _extra(obj: dict[str, Any]) -> str:
    return dumps({k: v for k, v in obj.items() if k not in _KNOWN}, option=_SORTED).decode()


def snapshot_row(run: RunState, origin: Origin) -> bytes:
    """The row of a run's own object: its merged members in `doc`, what the fold must remember in `extra`."""
    snap = run.snap
    assert snap is not None
    facts = {name: getattr(snap, name) for name in SNAPSHOT_FACTS}
    if snap.proof is not None:
        facts["proof"] = pack(snap.proof)
    return _object_row(
        run, "run", "", (dumps(facts, option=_SORTED).decode(), dumps(snap.doc, option=_SORTED).decode(), snap), origin
    )


def eval_row(run: RunState, eval_id: str, origin: Origin) -> bytes:
    """The row of an eval."""
    fact = run.evals[eval_id]
    return _object_row(run, "eval", eval_id, (None, dumps(fact.doc, option=_SORTED).decode(), fact), origin)


def claim_row(run: RunState, key: str, origin: Origin) -> bytes:
    """The row of a claim: the run as it was signed in `doc`; one that is not kept whole has its names in `extra` alone."""
    claim = run.claims[key]
    told = {"at": claim.at, "fork": claim.fork, "cost_raw": claim.cost_raw, "facts": pack(claim.facts)}
    doc = None if claim.doc is None else claim.doc.decode()
    return _object_row(run, "claim", key, (dumps(told, option=_SORTED).decode(), doc, claim), origin)


def mark_row(run: RunState, step_id: str, origin: Origin) -> bytes:
    """The row of what other versions of a step left behind."""
    fact = run.marks[step_id]
    return _object_row(run, "mark", step_id, (None, dumps(fact.seen._asdict(), option=_SORTED).decode(), fact), origin)


def evidence_row(event: Event, record: Record, place: tuple[str, int, int]) -> dict[str, Any]:
    """The bytes of a signed event as they arrived; `place` is (topic, partition, position)."""
    topic, partition, pos = place
    assert record.value is not None
    return {
        "workspace": event.workspace,
        "run_id": event.run_id,
        "version": row_version(pos),
        "topic": topic,
        "partition": partition,
        "offset": record.offset,
        "appended_at": record.timestamp / MS,
        "raw": record.value.decode(),
    }


def expired_row(run: RunState, pos: int, origin: Origin) -> bytes:
    """The row that stays of an expired run: its sums."""
    expired = run.expired
    assert expired is not None
    at = expired["at"]
    fact = EvalFact(pos, "", at / MS, expired["first"], at, {})  # a log that begins later is told from it
    return _object_row(run, "expired", "", (None, dumps(expired, option=_SORTED).decode(), fact), origin)


def _object_row(
    run: RunState, kind: str, object_id: str, body: tuple[str | None, str | None, _Stamped], origin: Origin
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
            None,
            fact.source,
            fact.time_s,
            origin.topic,
            origin.partition,
            offset_of(fact.pos),
            row_version(fact.pos),
            fact.first_append_ms / MS,
            fact.append_ms / MS,
            origin.ingested_s,
        )
    )


def accrual_row(run: RunState, accrual: Accrual, place: tuple[int, int, int], origin: Origin) -> bytes:
    """The ledger's row of one event and object; `place` is (offset, append time in ms, version)."""
    offset, append_ms, version = place
    return dumps(
        (
            append_ms // 60_000 * 60,
            origin.topic,
            origin.partition,
            offset,
            accrual[0],
            run.workspace,
            run.run_id,
            *accrual[1:12],
            None if accrual[12] is None else money.text(accrual[12]),
            append_ms / MS,
            version,
        )
    )


def row(values: dict[str, Any]) -> bytes:
    """The row of any other table, by column name. What is unknown is left out: the store reads that as NULL, and faster."""
    return dumps({name: value for name, value in values.items() if value is not None})
