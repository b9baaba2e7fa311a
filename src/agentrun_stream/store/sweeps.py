"""What the sweeper reads and notes, in SQL; and how the objects of expired runs are removed.

Every query reads a bounded piece in the order of a key, or a bounded number of runs by key; none reads a payload column.
Must not live here: when a run is due (runtime/sweep.py, runtime/retention.py).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final, NamedTuple, TypeVar

from clickhouse_connect.driver.client import Client

from agentrun_stream.ports import Part, RunKey
from agentrun_stream.store.client import StoreAddress, connect, execute
from agentrun_stream.store.reader import pieces, rows_of
from agentrun_stream.store.sql import INSERT_SETTINGS, literal

T = TypeVar("T")

WALK_ROWS: Final = 50_000  # of `runs` at a time, in the order of its key


class Touch(NamedTuple):
    """A run, and a minute (seconds since 1970) in which something of it was appended."""

    minute: int
    workspace: str
    run_id: str

    @property
    def key(self) -> RunKey:
        """The run."""
        return self.workspace, self.run_id


BEGINNING: Final = Touch(0, "", "")


class Age(NamedTuple):
    """Of an open run: its newest append time, and when it began or was last reopened. In ms."""

    last_ms: int
    opened_ms: int


class Expired(NamedTuple):
    """A run that expired, and where."""

    offset: int
    workspace: str
    run_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Horizons:
    """How many seconds a closed run is kept after its last change, by workspace and in general; None keeps it for ever."""

    general_s: int | None = None
    by_workspace_s: Mapping[str, int] = field(default_factory=dict)

    def of(self, workspace: str) -> int | None:
        """The horizon of a workspace."""
        return self.by_workspace_s.get(workspace, self.general_s)

    def __bool__(self) -> bool:
        return self.general_s is not None or bool(self.by_workspace_s)


_PART: Final = "topic = {topic:String} AND partition = {partition:UInt32}"
_TOUCHED: Final = f"""
SELECT toUnixTimestamp(minute), workspace, run_id FROM run_activity
WHERE {_PART} AND minute >= toDateTime({{minute:UInt32}}, 'UTC') AND minute < toDateTime({{before:UInt32}}, 'UTC')
    AND (toUnixTimestamp(minute), workspace, run_id) > ({{minute:UInt32}}, {{workspace:String}}, {{run_id:String}})
ORDER BY topic, partition, minute, workspace, run_id LIMIT {{most:UInt32}}
"""
_APPENDED: Final = """
SELECT run_id, toUnixTimestamp64Milli(max(_appended_at)), toUnixTimestamp64Milli(min(_first_appended_at)),
    max(kind = 'expired')
FROM run_objects WHERE workspace = {workspace:String} AND run_id IN {ids:Array(String)} GROUP BY run_id
"""
_CLOSED: Final = """
SELECT run_id, closed_by IS NOT NULL, if(reopened_at IS NULL, 0, toUnixTimestamp64Milli(assumeNotNull(reopened_at)))
FROM runs FINAL WHERE workspace = {workspace:String} AND run_id IN {ids:Array(String)}
"""
_REACHED: Final = f"SELECT toString(walk), reached FROM sweep_progress FINAL WHERE {_PART}"
_REACH: Final = """
INSERT INTO sweep_progress (topic, partition, walk, reached, written_at)
VALUES ({topic}, {partition}, {walk}, {value}, {at})
"""
_CLOSED_RUNS: Final = """
SELECT workspace, run_id, topic = {topic:String} AND partition = {partition:UInt32} AND closed_by IS NOT NULL
    AND expired_at IS NULL, toUnixTimestamp64Milli(last_event_at)
FROM runs FINAL WHERE (workspace, run_id) > ({workspace:String}, {run_id:String})
ORDER BY workspace, run_id LIMIT {most:UInt32}
"""
_EXPIRED: Final = f"""
SELECT offset, workspace, run_id, version, toUnixTimestamp64Milli(stored_at) FROM expired_runs FINAL
WHERE {_PART} AND offset >= {{first:UInt64}} AND offset < {{before:UInt64}}
ORDER BY topic, partition, offset LIMIT {{most:UInt32}}
"""
_REMOVED: Final = {"run_objects": "kind != 'expired' AND _version < {version}", "evidence": "version < {version}"}
# Rows are masked, and go when their part is merged: a rewrite of whole parts for a few runs would cost a day's writes.
_DELETE: Final = {"lightweight_deletes_sync": 2, "max_query_size": 16 * 1024 * 1024}


def touched(client: Client, part: Part, after: Touch, before_s: int, most: int) -> list[Touch]:
    """See `runtime.sweep.Sweeps.touched`."""
    given = {**part._asdict(), **after._asdict(), "before": max(0, before_s), "most": most}
    return [Touch(*row) for row in rows_of(client, _TOUCHED, given)]


def open_ages(client: Client, keys: Sequence[RunKey]) -> dict[RunKey, Age]:
    """See `runtime.sweep.Sweeps.open_ages`."""
    found = {}
    for workspace, ids in pieces(keys):
        given = {"workspace": workspace, "ids": ids}
        closed = {run_id: (is_closed, reopened) for run_id, is_closed, reopened in rows_of(client, _CLOSED, given)}
        for run_id, last, first, expired in rows_of(client, _APPENDED, given):
            is_closed, reopened = closed.get(run_id, (0, 0))
            if not is_closed and not expired:
                found[workspace, run_id] = Age(last, reopened or first)
    return found


def reached(client: Client, part: Part) -> dict[str, int]:
    """See `runtime.sweep.Sweeps.reached`."""
    return dict(rows_of(client, _REACHED, part._asdict()))


def reach(client: Client, part: Part, note: tuple[str, int], now_ms: int) -> None:
    """See `runtime.sweep.Sweeps.reach`."""
    walk, value = note
    given = {"topic": literal(part.topic), "partition": part.partition, "walk": literal(walk), "value": value}
    execute(client, _REACH.format(**given, at=f"{now_ms / 1000:.3f}"), INSERT_SETTINGS)


def past_horizon(
    client: Client, part: Part, after: RunKey, horizons: Horizons, now_ms: int
) -> tuple[list[RunKey], RunKey | None]:
    """See `runtime.retention.Retained.past_horizon`."""
    given: dict[str, Any] = {**part._asdict(), "workspace": after[0], "run_id": after[1], "most": WALK_ROWS}
    rows = list(rows_of(client, _CLOSED_RUNS, given))
    due = []
    for workspace, run_id, is_closed, last in rows:
        horizon = horizons.of(workspace)
        if is_closed and horizon is not None and now_ms - last > horizon * 1000:
            due.append((workspace, run_id))
    return due, (rows[-1][0], rows[-1][1]) if len(rows) == WALK_ROWS else None


def expired(client: Client, part: Part, span: tuple[int, int], stored_before_ms: int, most: int) -> list[Expired]:
    """See `runtime.retention.Retained.expired`."""
    given = {**part._asdict(), "first": span[0], "before": span[1], "most": most}
    # Stored again after a crash, an earlier one may be younger than a later one: none may be passed over.
    old = takewhile(lambda row: row[4] < stored_before_ms, rows_of(client, _EXPIRED, given))
    return [Expired(*row[:4]) for row in old]


def remove(client: Client, runs: Sequence[Expired], tables: Mapping[str, str] | None = None) -> None:
    """Remove what is below the expiry of these runs, as their objects or evidence; done again it changes nothing.

    `tables` names other tables to remove from than the live ones, by the live one's name.
    """
    if not runs:
        return
    keys = ", ".join(f"({literal(r.workspace)}, {literal(r.run_id)})" for r in runs)
    # All of one partition, and an expired run takes nothing more: what is below the highest is below its own.
    newest = max(r.version for r in runs)
    for table, rule in _REMOVED.items():
        where = f"(workspace, run_id) IN ({keys}) AND {rule.format(version=newest)}"
        execute(client, f"DELETE FROM {(tables or {}).get(table, table)} WHERE {where}", _DELETE)


class ClickHouseSweeps:
    """`runtime.sweep.Sweeps` and `runtime.retention.Retained`. Connects at the first use."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._client: Client | None = None

    async def touched(self, part: Part, after: Touch, before_s: int, most: int) -> Sequence[Touch]:
        """See `runtime.sweep.Sweeps.touched`."""
        return await self._do(lambda client: touched(client, part, after, before_s, most))

    async def open_ages(self, keys: Sequence[RunKey]) -> Mapping[RunKey, Age]:
        """See `runtime.sweep.Sweeps.open_ages`."""
        return await self._do(lambda client: open_ages(client, keys))

    async def reached(self, part: Part) -> Mapping[str, int]:
        """See `runtime.sweep.Sweeps.reached`."""
        return await self._do(lambda client: reached(client, part))

    async def reach(self, part: Part, walk: str, value: int, now_ms: int) -> None:
        """See `runtime.sweep.Sweeps.reach`."""
        await self._do(lambda client: reach(client, part, (walk, value), now_ms))

    async def past_horizon(
        self, part: Part, after: RunKey, horizons: Horizons, now_ms: int
    ) -> tuple[list[RunKey], RunKey | None]:
        """See `runtime.retention.Retained.past_horizon`."""
        return await self._do(lambda client: past_horizon(client, part, after, horizons, now_ms))

    async def expired(self, part: Part, span: tuple[int, int], stored_before_ms: int, most: int) -> Sequence[Expired]:
        """See `runtime.retention.Retained.expired`."""
        return await self._do(lambda client: expired(client, part, span, stored_before_ms, most))

    async def remove(self, runs: Sequence[Expired]) -> None:
        """See `runtime.retention.Retained.remove`."""
        await self._do(lambda client: remove(client, runs))

    async def _do(self, ask: Callable[[Client], T]) -> T:
        return await asyncio.to_thread(self._ask, ask)

    def _ask(self, ask: Callable[[Client], T]) -> T:
        if self._client is None:
            self._client = connect(self._address)
        return ask(self._client)
