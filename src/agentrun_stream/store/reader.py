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
from agentrun_stream.model.chain import Link, Seen
from agentrun_stream.model.facts import unpack
from agentrun_stream.model.projection import OPINION_COLUMNS, PRICED_AMOUNTS
from agentrun_stream.model.run import ClaimFact, EvalFact, MarkFact, RunState, Snapshot, StepFact
from agentrun_stream.ports import Part, RunKey, Stored
from agentrun_stream.processors.verify import links_inside
from agentrun_stream.store.client import fetch
from agentrun_stream.store.rows import SNAPSHOT_FACTS
from agentrun_stream.store.sql import LOOKUP_SETTINGS, literal

_PARAMETER_BYTES: Final = 4  # quotes and comma; every character may need an escape

# Not FINAL, which reads whole granules of every part to merge them (six times the cost for random ids): older versions of an
# object come before the newest, and are overwritten as the state is put together.
_OBJECTS: Final = """
SELECT workspace, run_id, kind, object_id, type, success, tokens_used,
    if(kind = 'step', metadata, NULL), if(kind IN ('run', 'claim'), extra, NULL), if(kind = 'step', NULL, doc), chain,
    _source, toUnixTimestamp64Micro(_event_time), _version,
    toUnixTimestamp64Milli(_first_appended_at), toUnixTimestamp64Milli(_appended_at)
FROM run_objects
WHERE workspace = {workspace:String} AND run_id IN {ids:Array(String)}
ORDER BY _version
"""

# As above: the newest row of each run is found by the reader. Amounts come as they were written.
_SHOWN: Final = ", ".join(f"toDecimalString({n}, 12)" if n in PRICED_AMOUNTS else n for n in OPINION_COLUMNS)
_PROJECTED: Final = f"""
SELECT run_id, toString(_version), {_SHOWN} FROM runs
WHERE workspace = {{workspace:String}} AND run_id IN {{ids:Array(String)}}
"""
_EVIDENCE: Final = """
SELECT hex(raw) FROM evidence
WHERE workspace = {workspace:String} AND run_id = {run_id:String} AND version = {version:UInt64} LIMIT 1
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
        for piece in batched(ids):
            yield workspace, piece


def batched(ids: Sequence[str]) -> Iterator[list[str]]:
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
        chain,
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
        link, origin = (None, "") if chain is None else _chained(orjson.loads(chain))
        state.steps[object_id] = StepFact(pos, source, time, first, append, step_type, success, usage, link, origin)
    elif kind == "run":
        state.snap = _snapshot(orjson.loads(doc), orjson.loads(extra), (pos, source, time, first, append))
    elif kind == "eval":
        state.evals[object_id] = EvalFact(pos, source, time, first, append, orjson.loads(doc))
    elif kind == "claim":
        claim = _claim(doc, orjson.loads(extra), (pos, source, time, first, append))
        state.claims = {**state.claims, object_id: claim}
    elif kind == "mark":
        seen = Seen(**orjson.loads(doc))
        state.marks = {**state.marks, object_id: MarkFact(pos, source, time, first, append, seen)}
    elif kind == "expired":
        state.expired = orjson.loads(doc)
        state.forget()


def _chained(chain: dict[str, Any]) -> tuple[Link | None, str]:
    digest = chain["digest"]
    return (None if digest is None else Link(chain["seq"], chain["prev"], digest)), chain["origin"]


def _claim(doc: str | None, told: dict[str, Any], stamp: tuple[int, str, float, int, int]) -> ClaimFact:
    """A claim; the links of the steps inside are read from the run as it was signed."""
    facts = unpack(told["facts"])
    if doc is not None:
        facts.links = links_inside(orjson.loads(doc))
    body = None if doc is None else doc.encode()
    return ClaimFact(*stamp, told["at"], told["fork"], body, told["cost_raw"], facts)


def _snapshot(doc: dict[str, Any], facts: dict[str, Any], place: tuple[int, str, float, int, int]) -> Snapshot:
    pos, source, time, first, append = place
    kept: dict[str, Any] = {name: facts[name] for name in SNAPSHOT_FACTS if name in facts}
    kept["settled"] = tuple(kept.get("settled", ()))
    if "proof" in facts:
        kept["proof"] = unpack(facts["proof"])
    snap = Snapshot(doc, pos, source, time, first, append, **kept)
    snap.started_s = time_s(doc.get("started_at"))
    snap.ended_s = time_s(doc.get("ended_at"))
    return snap


def projected(client: Client, keys: Sequence[RunKey]) -> dict[RunKey, Stored]:
    """What stands in `runs` of these runs."""
    found: dict[RunKey, Stored] = {}
    for workspace, ids in pieces(keys):
        for run_id, version, *values in rows_of(client, _PROJECTED, {"workspace": workspace, "ids": ids}):
            key = (workspace, run_id)
            if key not in found or found[key].version < int(version):
                found[key] = Stored(int(version), dict(zip(OPINION_COLUMNS, values, strict=True)))
    return found


def evidence(client: Client, run: RunKey, version: int) -> bytes | None:
    """The bytes of a signed event as they arrived."""
    given = {"workspace": run[0], "run_id": run[1], "version": version}
    for (raw,) in rows_of(client, _EVIDENCE, given):
        return bytes.fromhex(raw)
    return None


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
