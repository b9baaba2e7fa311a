"""All that the store holds of one run, as a dossier: evidence, objects, the row that people read, and the keys in force.

Must not live here: what it proves (runtime/recheck/).
"""

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import orjson
from clickhouse_connect.driver.client import Client

from agentrun_stream.errors import AgentrunError
from agentrun_stream.model.dossier import Dossier, Evidence, Keys, Row, Snapshot, StoredClaim, StoredStep
from agentrun_stream.model.projection import PRICED_COLUMNS
from agentrun_stream.store import trust
from agentrun_stream.store.queries import ask
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.rows import stored_body

# Members of a step that are columns; times in microseconds.
STEP_COLUMNS: Final = (
    *("type", "tool_name", "mcp_server", "input_preview", "output_preview", "success", "error"),
    *("started_at", "ended_at", "duration_ms", "tokens_used", "metadata", "extra"),
)
_TIMES: Final = ("started_at", "ended_at")
_THE_RUN: Final = "workspace = {workspace:String} AND run_id = {run_id:String}"
_WORKSPACES: Final = """
SELECT DISTINCT workspace FROM runs WHERE run_id = {run_id:String}
UNION DISTINCT SELECT DISTINCT workspace FROM evidence WHERE run_id = {run_id:String}
"""
_EVIDENCE: Final = f"""
SELECT version, topic, partition, offset, toUnixTimestamp64Milli(appended_at), hex(raw)
FROM evidence FINAL WHERE {_THE_RUN} ORDER BY version
"""
_OBJECTS: Final = f"""
SELECT toString(kind), object_id, doc, chain, if(kind = 'step', NULL, extra), _source,
    toUnixTimestamp64Milli(_first_appended_at), toUnixTimestamp64Milli(_appended_at),
    {", ".join(f"toUnixTimestamp64Micro({name})" if name in _TIMES else name for name in STEP_COLUMNS)}
FROM run_objects FINAL WHERE {_THE_RUN} ORDER BY kind, _version, object_id
"""
# Prices are opinions that no byte of the run bears out.
_ROW: Final = (
    f"SELECT * EXCEPT (_version, {', '.join(PRICED_COLUMNS)}) FROM runs FINAL "
    "WHERE workspace = {workspace:String} AND run_id = {run_id:String}"
)
_AT: Final = 8  # where the columns of a step begin


def workspaces_of(client: Client, run_id: str) -> list[str]:
    """The workspaces in which there is a run of this id."""
    return sorted(row[0] for row in rows_of(client, _WORKSPACES, {"run_id": run_id}))


def dossier_of(client: Client, workspace: str, run_id: str) -> Dossier | None:
    """What the store holds of a run; None where it holds nothing. Raises AgentrunError for a run past retention."""
    given = {"workspace": workspace, "run_id": run_id}
    evidence = tuple(
        Evidence(version, topic, partition, offset, appended_ms, bytes.fromhex(raw).decode(errors="replace"))
        for version, topic, partition, offset, appended_ms, raw in rows_of(client, _EVIDENCE, given)
    )
    objects = list(rows_of(client, _OBJECTS, given))
    kinds = {row[0] for row in objects}
    if "expired" in kinds:
        raise AgentrunError(
            "The run is past retention: its evidence is gone, and what stays is the verdict as it was last made.",
            "See `agentrun show`.",
        )
    row = _row(client, given)
    if not evidence and not objects and row is None:
        return None
    return Dossier(
        workspace,
        run_id,
        evidence,
        next((_snapshot(one) for one in objects if one[0] == "run"), None),
        tuple(_claim(one) for one in objects if one[0] == "claim"),
        tuple(_step(one) for one in objects if one[0] == "step"),
        {one[1]: orjson.loads(one[2]) for one in objects if one[0] == "mark"},
        {one[1]: one[5] for one in objects if one[0] == "eval"},
        row,
        keys_in_force(client, workspace),
    )


def keys_in_force(client: Client, workspace: str) -> Keys:
    """The registry that workers judge this workspace by; one without keys where none is in force."""
    version = next((found for found in trust.in_force(client) if found.workspace == workspace), None)
    if version is None:
        return Keys()
    return Keys(version.version, version.digest, orjson.loads(trust.content_of(client, version)))


def _row(client: Client, given: dict[str, Any]) -> Row | None:
    for row in ask(client, _ROW, given):
        return {name: str(value) if isinstance(value, Decimal) else value for name, value in row.items()}
    return None


def _snapshot(row: Sequence[Any]) -> Snapshot:
    return Snapshot(orjson.loads(row[2]), orjson.loads(row[4]), row[5], row[6], row[7])


def _claim(row: Sequence[Any]) -> StoredClaim:
    told = orjson.loads(row[4])
    digest = None if row[2] is None else hashlib.sha256(row[2].encode()).hexdigest()
    return StoredClaim(row[1], row[6], told["fork"], digest)


def _step(row: Sequence[Any]) -> StoredStep:
    columns = dict(zip(STEP_COLUMNS, row[_AT:], strict=True))
    chain = None if row[3] is None else orjson.loads(row[3])
    body = _body(columns | {"object_id": row[1], "chain": row[3]}, chain)
    place = None if chain is None else {name: member for name, member in chain.items() if name != "times"}
    return StoredStep(row[1], body, place, columns)


def _body(step: Row, chain: Row | None) -> str | None:
    """The canonical bytes of a chained step; None where somebody left nothing to make them of."""
    if chain is None or chain.get("digest") is None:
        return None
    try:
        return stored_body(step).decode()
    except (KeyError, TypeError, ValueError):
        return None
