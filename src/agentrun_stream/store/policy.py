"""How closed runs are flagged, page by page in the order of the key, and which policy was followed on a partition, in SQL.

Must not live here: what a policy says (model/opinions.py), when to look (runtime/policy.py).
"""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from clickhouse_connect.driver.client import Client

from agentrun_stream.ports import Part, RunKey
from agentrun_stream.store.client import StoreAddress, connect
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.rows import MS, row
from agentrun_stream.store.writer import insert

T = TypeVar("T")


class InForce(NamedTuple):
    """The policy of all workspaces as text, and the number of the stored settings that it is part of."""

    ordinal: int
    policy: str


class Flagged(NamedTuple):
    """A closed run as it is shown."""

    key: RunKey
    headline: str
    flag: str


FlaggedPage = tuple[list[Flagged], RunKey | None]  # what was found, and where to go on; None: that was the end
FIRST: Final[RunKey] = ("", "")

_PART: Final = "topic = {topic:String} AND partition = {partition:UInt32}"
_RUNS: Final = f"""
SELECT workspace, run_id, {_PART} AND closed_by IS NOT NULL, verdict, flag
FROM runs FINAL WHERE (workspace, run_id) > ({{workspace:String}}, {{run_id:String}})
ORDER BY workspace, run_id LIMIT {{most:UInt32}}
"""
_FOLLOWED: Final = f"SELECT DISTINCT ordinal, policy FROM policy_progress WHERE {_PART}"


def flagged(client: Client, part: Part, after: RunKey, most: int) -> FlaggedPage:
    """See `runtime.policy.Policies.flagged`."""
    given = {**part._asdict(), "workspace": after[0], "run_id": after[1], "most": most}
    found = list(rows_of(client, _RUNS, given))
    mine = [Flagged((workspace, run_id), *shown) for workspace, run_id, closed, *shown in found if closed]
    return mine, (found[-1][0], found[-1][1]) if len(found) == most else None


def followed(client: Client, part: Part) -> frozenset[InForce]:
    """See `runtime.policy.Policies.followed`."""
    return frozenset(InForce(*found) for found in rows_of(client, _FOLLOWED, part._asdict()))


def note(client: Client, part: Part, policy: InForce, now_ms: int) -> None:
    """See `runtime.policy.Policies.note`."""
    insert(client, "policy_progress", [row({**part._asdict(), **policy._asdict(), "done_at": now_ms / MS})])


class ClickHousePolicies:
    """`runtime.policy.Policies`. Connects at the first use."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._client: Client | None = None

    async def flagged(self, part: Part, after: RunKey, most: int) -> FlaggedPage:
        """See `runtime.policy.Policies.flagged`."""
        return await self._do(lambda client: flagged(client, part, after, most))

    async def followed(self, part: Part) -> frozenset[InForce]:
        """See `runtime.policy.Policies.followed`."""
        return await self._do(lambda client: followed(client, part))

    async def note(self, part: Part, policy: InForce, now_ms: int) -> None:
        """See `runtime.policy.Policies.note`."""
        await self._do(lambda client: note(client, part, policy, now_ms))

    async def _do(self, ask: Callable[[Client], T]) -> T:
        return await asyncio.to_thread(self._ask, ask)

    def _ask(self, ask: Callable[[Client], T]) -> T:
        if self._client is None:
            self._client = connect(self._address)
        return ask(self._client)
