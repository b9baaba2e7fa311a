"""Reading state back: runs by key, the journal, what stands in `refused`.

Answers are whole or an error. Must not live here: reports for people (queries.py), decisions.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson
from clickhouse_connect.driver.client import Client

from agentrun_stream import limits
from agentrun_stream.codec.cloudevents import time_s
from agentrun_stream.model import ledger
from agentrun_stream.model.run import EvalFact, RunState, Snapshot, StepFact
from agentrun_stream.ports import Part, RunKey
from agentrun_stream.store.client import fetch
from agentrun_stream.store.rows import SNAPSHOT_FACTS
from agentrun_stream.store.sql import LOOKUP_SETTINGS, literal

_PARAMETER_BYTES: Final = 4  # quotes and comma; every character may need an escape

# Not FINAL, which reads whole granules of every part to merge them (six times the cost for random ids): older versions of an
# object come before the newest, and are overwritten as the state is put together.
_OBJECTS: Final = """
SELECT workspace, run_id, kind, object_id, type, success, tokens_used,
    if(kind = 'step', metadata, NULL), if(kind = 'run', extra, NULL), doc,
    _source, toUnixTimestamp64Micro(_event_time), _version,
    toUnixTimestamp64Milli(_first_appended_at), toUnixTimestamp64Milli(_appended_at)
FROM run_objects
WHERE workspace = {workspace:String} AND run_id IN {ids:Array(String)}
ORDER BY _version
"""

_JOURNAL: Final = """
SELECT min(first), minIf(reach, first > reach), max(last)
FROM
(
    SELECT first, last,
        max(last) OVER (ORDER BY first, last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before,
        if(row_number() OVER (ORDER BY first, last) = 1, first, before) AS reach
    FROM (SELECT DISTINCT first, last FROM batches WHERE topic = {topic} AND partition = {partition})
)
HAVING count() > 0
"""

_REFUSED: Final = """
SELECT offset, reason, pointer, keyword FROM refused FINAL
WHERE topic = {topic} AND partition = {partition} AND offset >= {offset}
"""

_SET_ASIDE: Final = """
SELECT offset FROM refused FINAL
WHERE topic = {topic} AND partition = {partition} AND reason = 'sink_rejected'
ORDER BY offset
"""


def load_runs(client: Client, keys: Sequence[RunKey]) -> dict[RunKey, RunState]:
    """The states of these runs, at most LOOKUP_IDS_MAX of them; unknown ones are left out."""
    found: dict[RunKey, RunState] = {}
    for workspace, ids in pieces(keys):
        for row in rows_of(client, _OBJECTS, {"workspace": workspace, "ids": ids}):
            state = found.get((workspace, row[1]))
            if state is None:
                state = found[workspace, row[1]] = RunState(workspace, row[1])
            add_object(state, row)
    return found


def pieces(keys: Sequence[RunKey]) -> Iterator[tuple[str, list[str]]]:
    """The keys as (workspace, run ids), in pieces that fit into one parameter."""
    by_workspace: dict[str, list[str]] = {}
    for workspace, run_id in keys:
        by_workspace.setdefault(workspace, []).append(run_id)
    for workspace, ids in by_workspace.items():
        for piece in _batched(ids):
            yield workspace, piece


def _batched(ids: Sequence[str]) -> Iterator[list[str]]:
    """The ids in pieces that fit into one parameter."""
    piece: list[str] = []
    size = 0
    for run_id in ids:
        length = 2 * len(run_id.encode()) + _PARAMETER_BYTES
        if piece and size + length > limits.LOOKUP_PARAMETER_BYTES_MAX:
            yield piece
            piece, size = [], 0
        size += length
        piece.append(run_id)
    if piece:
        yield piece


def rows_of(client: Client, sql: str, parameters: dict[str, Any] | None = None) -> Iterator[list[Any]]:
    """The rows of a query, as lists."""
    for line in fetch(client, sql, LOOKUP_SETTINGS, parameters=parameters).splitlines():
        yield orjson.loads(line)


def add_object(state: RunState, row: Sequence[Any]) -> None:
    """Put one stored object, as `_OBJECTS` selects it, back into the state of its run, over any older version of it."""
    (
        _,
        _,
        kind,
        object_id,
        step_type,
        success,
        tokens_used,
        metadata,
        extra,
        doc,
        source,
        time,
        version,
        first,
        append,
    ) = row
    pos, time = version >> limits.MAINTENANCE_BITS, time / 1_000_000
    state.pos = max(state.pos, pos)
    if state.expired is not None:
        return  # all there is of it
    if kind == "step":
        usage = ledger.step_usage(None if metadata is None else orjson.loads(metadata), tokens_used)
        fact = StepFact(pos, source, time, first, append, step_type, success, usage)
        state.steps[object_id] = fact
    elif kind == "run":
        state.snap = _snapshot(orjson.loads(doc), orjson.loads(extra), (pos, source, time, first, append))
    elif kind == "eval":
        state.evals[object_id] = EvalFact(pos, source, time, first, append, orjson.loads(doc))
    elif kind == "expired":
        state.expired = orjson.loads(doc)
        state.snap, state.steps, state.evals = None, {}, {}


def _snapshot(doc: dict[str, Any], facts: dict[str, Any], place: tuple[int, str, float, int, int]) -> Snapshot:
    pos, source, time, first, append = place
    kept = {name: facts[name] for name in SNAPSHOT_FACTS if name in facts}
    kept["settled"] = tuple(kept.get("settled", ()))
    snap = Snapshot(doc, pos, source, time, first, append, **kept)
    snap.started_s = time_s(doc.get("started_at"))
    snap.ended_s = time_s(doc.get("ended_at"))
    return snap


def journal_end(client: Client, part: Part) -> tuple[int, int] | None:
    """(first, end) of the journal of a partition, where `end` is where its coverage first has a gap."""
    sql = _JOURNAL.format(topic=literal(part.topic), partition=part.partition)
    for first, gap, last in rows_of(client, sql):
        return first, gap or last
    return None


def refused_from(client: Client, part: Part, offset: int) -> dict[int, tuple[str, str, str]]:
    """What stands in `refused` for a partition from an offset on: (reason, pointer, keyword) by offset."""
    sql = _REFUSED.format(topic=literal(part.topic), partition=part.partition, offset=offset)
    return {row[0]: (row[1], row[2], row[3]) for row in rows_of(client, sql)}


def set_aside(client: Client, part: Part) -> list[int]:
    """The offsets of a partition that an operator set aside, ascending."""
    sql = _SET_ASIDE.format(topic=literal(part.topic), partition=part.partition)
    return [row[0] for row in rows_of(client, sql)]
