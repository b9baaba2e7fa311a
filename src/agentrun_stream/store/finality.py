"""How far each partition is stored and how late each workspace lets things come, in SQL; and what audits found.

Must not live here: when to look and what follows from it (runtime/finality.py), states of windows (migrations/0012_finality.sql).
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from clickhouse_connect.driver.client import Client

from agentrun_stream.ports import Part
from agentrun_stream.store.client import StoreAddress, connect
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.rows import MS, row
from agentrun_stream.store.writer import insert

T = TypeVar("T")

GENERAL: Final = ""  # stands for every workspace without a lateness of its own

# The newest rows in the order of the key; that they overlap where something was folded again does not matter.
_JOURNALED: Final = """
SELECT max(last), toUnixTimestamp64Milli(max(last_appended_at))
FROM
(
    SELECT last, last_appended_at FROM batches
    WHERE topic = {topic:String} AND partition = {partition:UInt32} ORDER BY first DESC LIMIT 16
)
HAVING count() > 0
"""
_PASSED: Final = "SELECT topic, partition, toUnixTimestamp64Milli(passed_at) FROM partition_watermarks FINAL"
_LATENESS: Final = "SELECT workspace, lateness_s FROM workspace_lateness FINAL WHERE lateness_s IS NOT NULL"
_NEWEST_AUDIT: Final = """
SELECT toUnixTimestamp64Milli(ended_at), residual, records, runs, deep, toUnixTimestamp64Milli(since), reach
FROM audits ORDER BY ended_at DESC LIMIT 1
"""


class Journaled(NamedTuple):
    """Up to which offset (exclusive), and which append time in ms, the journal vouches for a partition."""

    end: int = 0
    appended_ms: int = 0


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit found; times in ms since 1970. `reach` is up to which offset of each partition it went."""

    ended_ms: int
    residual: int
    records: int
    runs: int
    deep: bool
    since_ms: int | None
    reach: Mapping[str, int]


def journaled(client: Client, part: Part) -> Journaled:
    """How far the journal of a partition goes."""
    return next((Journaled(*found) for found in rows_of(client, _JOURNALED, part._asdict())), Journaled())


def passed(client: Client) -> dict[Part, int]:
    """Up to when each partition is known to be stored, in ms."""
    return {Part(topic, partition): at for topic, partition, at in rows_of(client, _PASSED)}


def note_passed(client: Client, found: Mapping[Part, int], now_ms: int) -> None:
    """Note all partitions at once."""
    rows = [{**part._asdict(), "passed_at": at / MS, "looked_at": now_ms / MS} for part, at in sorted(found.items())]
    insert(client, "partition_watermarks", [row(told) for told in rows])


def latenesses(client: Client) -> dict[str, int]:
    """The lateness in force by workspace, in seconds."""
    return dict(rows_of(client, _LATENESS))


def put_latenesses(client: Client, wanted: Mapping[str, int], now_ms: int) -> None:
    """Let these be in force, and no other; what is in force already is not written again."""
    held = latenesses(client)
    changed = {name: wanted.get(name) for name in wanted.keys() | held.keys() if held.get(name) != wanted.get(name)}
    rows = [{"workspace": name, "lateness_s": s, "written_at": now_ms / MS} for name, s in sorted(changed.items())]
    if rows:
        insert(client, "workspace_lateness", [row(told) for told in rows])


def note_audit(client: Client, found: Audited) -> None:
    """Keep what an audit found."""
    told: dict[str, Any] = {"ended_at": found.ended_ms / MS, "residual": found.residual, "records": found.records}
    told |= {"runs": found.runs, "deep": found.deep, "reach": json.dumps(found.reach, sort_keys=True)}
    since = None if found.since_ms is None else found.since_ms / MS
    insert(client, "audits", [row(told | {"since": since})])


def last_audit(client: Client) -> Audited | None:
    """The newest audit; None where there was none."""
    for ended_ms, residual, records, runs, deep, since_ms, reach in rows_of(client, _NEWEST_AUDIT):
        return Audited(ended_ms, residual, records, runs, deep, since_ms, json.loads(reach))
    return None


class ClickHouseFinality:
    """`runtime.finality.Marks`. Connects at the first use."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._client: Client | None = None

    async def journaled(self, part: Part) -> Journaled:
        """See `runtime.finality.Marks.journaled`."""
        return await self._do(lambda client: journaled(client, part))

    async def passed(self) -> Mapping[Part, int]:
        """See `runtime.finality.Marks.passed`."""
        return await self._do(passed)

    async def note_passed(self, found: Mapping[Part, int], now_ms: int) -> None:
        """See `runtime.finality.Marks.note_passed`."""
        await self._do(lambda client: note_passed(client, found, now_ms))

    async def put_latenesses(self, wanted: Mapping[str, int], now_ms: int) -> None:
        """See `runtime.finality.Marks.put_latenesses`."""
        await self._do(lambda client: put_latenesses(client, wanted, now_ms))

    async def _do(self, ask: Callable[[Client], T]) -> T:
        return await asyncio.to_thread(self._ask, ask)

    def _ask(self, ask: Callable[[Client], T]) -> T:
        if self._client is None:
            self._client = connect(self._address)
        return ask(self._client)
