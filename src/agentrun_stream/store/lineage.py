"""Who descends from whom, in SQL: ancestors by key, and the children that are to be looked at again.

Every query reads a bounded piece in the order of a key, or a bounded number of runs by key.
Must not live here: what a lineage is worth (processors/lineage.py), when to look (runtime/lineage.py).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from clickhouse_connect.driver.client import Client

from agentrun_stream.model.lineage import PENDING, Kin
from agentrun_stream.ports import Part, RunKey
from agentrun_stream.store.reader import pieces, rows_of
from agentrun_stream.store.sweeps import ClickHouseSweeps

CHANGES_PIECE: Final = 500_000  # of the log of changes, by one query: each reads the keys of the partition's edges


class Edge(NamedTuple):
    """A child and its parent; `minute` (seconds since 1970) is that of the parent's change, where one is spoken of."""

    minute: int
    workspace: str
    parent: str
    run_id: str

    @property
    def key(self) -> RunKey:
        """The child."""
        return self.workspace, self.run_id

    @property
    def parent_key(self) -> RunKey:
        """The parent."""
        return self.workspace, self.parent


Page = tuple[list[Edge], Edge | None]  # what was found, and where to go on; None: that was the end
FIRST: Final = Edge(0, "", "", "")
_END: Final = ((1 << 32) - 1, "", "")

# A digest of all that children look at: while it stays, they need not look again. The feed of `run_changes` makes the same.
_DIGEST: Final = """toString(cityHash64(closed_by IS NOT NULL, expired_at IS NOT NULL, verdict_lineage,
    ifNull(run_hash, ''), lineage, if(verdict_signature = 'trusted', ifNull(genesis, ''), ''), ifNull(parent_run_id, '')))"""
# In tuples, because argMax passes over a NULL. Not FINAL, see reader.py.
_KIN: Final = f"""
SELECT run_id, argMax((closed_by IS NOT NULL, run_hash, lineage, if(verdict_signature = 'trusted', genesis, NULL),
    parent_run_id, verdict_lineage), _version), argMax({_DIGEST}, _version), argMax(expired_at IS NOT NULL, _version)
FROM runs WHERE workspace = {{workspace:String}} AND run_id IN {{ids:Array(String)}} GROUP BY run_id
"""
_SEEN: Final = """
SELECT run_id, argMax((parents, parents_seen), _version)
FROM runs WHERE workspace = {workspace:String} AND run_id IN {ids:Array(String)} GROUP BY run_id
"""
_PART: Final = "topic = {topic:String} AND partition = {partition:UInt32}"
_EDGES: Final = f"""
SELECT 0, workspace, parent, run_id FROM run_edges FINAL
WHERE {_PART} AND workspace >= {{workspace:String}} AND (workspace > {{workspace:String}} OR parent >= {{parent:String}})
    AND (workspace, parent, run_id) > ({{workspace:String}}, {{parent:String}}, {{run_id:String}}) AND %s
ORDER BY topic, partition, workspace, parent, run_id LIMIT {{most:UInt32}}
"""
_WAITING: Final = _EDGES % f"axis = '{PENDING}' AND since < fromUnixTimestamp64Milli({{before:Int64}}, 'UTC')"
_NOT_WAITING: Final = _EDGES % f"axis != '{PENDING}'"
_ANY: Final = f"SELECT 1 FROM run_edges WHERE {_PART} LIMIT 1"
_CHANGE: Final = "SELECT toUnixTimestamp(minute) FROM run_changes ORDER BY minute %s LIMIT 1"
_FROM: Final = """minute >= toDateTime({minute:UInt32}, 'UTC')
    AND (toUnixTimestamp(minute), workspace, run_id) >= ({minute:UInt32}, {workspace:String}, {parent:String})"""
_PIECE: Final = f"""{_FROM} AND minute <= toDateTime({{to_minute:UInt32}}, 'UTC')
    AND (toUnixTimestamp(minute), workspace, run_id) < ({{to_minute:UInt32}}, {{to_workspace:String}}, {{to_parent:String}})"""
_PIECE_END: Final = f"""
SELECT toUnixTimestamp(minute), workspace, run_id FROM run_changes WHERE {_FROM}
ORDER BY minute, workspace, run_id LIMIT 1 OFFSET {{piece:UInt32}}
"""
_BEHIND: Final = f"""
SELECT at, workspace, parent, run_id
FROM
(
    SELECT workspace, parent, run_id, argMax(seen, _version) AS looked_at FROM run_edges
    WHERE {_PART} AND (workspace, parent) IN (SELECT workspace, run_id FROM run_changes WHERE {_PIECE})
    GROUP BY workspace, parent, run_id
) AS edges
INNER JOIN
(
    SELECT toUnixTimestamp(minute) AS at, workspace, run_id AS parent, argMax(kin, _version) AS now FROM run_changes
    WHERE {_PIECE} GROUP BY at, workspace, parent
) AS changed USING (workspace, parent)
WHERE looked_at != now
    AND (at, workspace, parent, run_id) > ({{minute:UInt32}}, {{workspace:String}}, {{parent:String}}, {{run_id:String}})
ORDER BY at, workspace, parent, run_id LIMIT {{most:UInt32}}
"""


def kin(client: Client, keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
    """What the rows of these runs say of their lineage; unknown ones are left out."""
    found = {}
    for workspace, (run_id, row, version, expired) in _by_key(client, _KIN, keys):
        closed, run_hash, lineage, genesis, parent, axis = row
        found[workspace, run_id] = Kin(
            run_id, bool(closed), run_hash, tuple(lineage), genesis, parent, axis, version, expired=bool(expired)
        )
    return found


def _by_key(client: Client, sql: str, keys: Sequence[RunKey]) -> Iterator[tuple[str, list[Any]]]:
    for workspace, ids in pieces(list(dict.fromkeys(keys))):
        for row in rows_of(client, sql, {"workspace": workspace, "ids": ids}):
            yield workspace, row


def waiting(client: Client, part: Part, after: Edge, before_ms: int, most: int) -> Page:
    """See `runtime.lineage.Lineages.waiting`."""
    edges = _edges(client, _WAITING, {**part._asdict(), **after._asdict(), "before": before_ms, "most": most})
    rows = kin(client, [edge.key for edge in edges])
    found = [edge for edge in edges if edge.key in rows and rows[edge.key].axis == PENDING]
    return found, edges[-1] if len(edges) == most else None


def outdated(client: Client, part: Part, after: Edge, most: int) -> Page:
    """See `runtime.lineage.Lineages.outdated`."""
    edges = _edges(client, _NOT_WAITING, {**part._asdict(), **after._asdict(), "most": most})
    return _outdated(client, edges), edges[-1] if len(edges) == most else None


def changes(client: Client) -> tuple[int, int]:
    """See `runtime.lineage.Lineages.changes`."""
    oldest, newest = (next((row[0] for row in rows_of(client, _CHANGE % order)), 0) for order in ("ASC", "DESC"))
    return oldest, newest


def changed(client: Client, part: Part, after: Edge, most: int, piece: int = CHANGES_PIECE) -> Page:
    """See `runtime.lineage.Lineages.changed`."""
    given = {**part._asdict(), **after._asdict(), "most": most}
    if not any(rows_of(client, _ANY, part._asdict())):
        return [], None
    to = next((tuple(row) for row in rows_of(client, _PIECE_END, given | {"piece": piece})), None)
    bounds = dict(zip(("to_minute", "to_workspace", "to_parent"), to or _END, strict=True))
    edges = _edges(client, _BEHIND, given | bounds)
    following = edges[-1] if len(edges) == most else None if to is None else Edge(to[0], to[1], to[2], "")
    return _outdated(client, edges), following


def _edges(client: Client, sql: str, given: dict[str, Any]) -> list[Edge]:
    return [Edge(*row) for row in rows_of(client, sql, given)]


def _outdated(client: Client, edges: Sequence[Edge]) -> list[Edge]:
    """Those of these edges whose child looked at another version of its parent than there is now."""
    now = kin(client, [edge.parent_key for edge in edges])
    seen: dict[RunKey, dict[str, str]] = {}
    for workspace, (run_id, (parents, versions)) in _by_key(client, _SEEN, [edge.key for edge in edges]):
        seen[workspace, run_id] = dict(zip(parents, versions, strict=False))
    found = []
    for edge in edges:
        looked_at, there = seen.get(edge.key, {}).get(edge.parent), now.get(edge.parent_key)
        if looked_at is not None and looked_at != (there.version if there is not None else ""):
            found.append(edge)
    return found


class ClickHouseLineages(ClickHouseSweeps):
    """`runtime.lineage.Lineages`. Connects at the first use."""

    async def waiting(self, part: Part, after: Edge, before_ms: int, most: int) -> Page:
        """See `runtime.lineage.Lineages.waiting`."""
        return await self._do(lambda client: waiting(client, part, after, before_ms, most))

    async def outdated(self, part: Part, after: Edge, most: int) -> Page:
        """See `runtime.lineage.Lineages.outdated`."""
        return await self._do(lambda client: outdated(client, part, after, most))

    async def changes(self) -> tuple[int, int]:
        """See `runtime.lineage.Lineages.changes`."""
        return await self._do(changes)

    async def changed(self, part: Part, after: Edge, most: int) -> Page:
        """See `runtime.lineage.Lineages.changed`."""
        return await self._do(lambda client: changed(client, part, after, most))
