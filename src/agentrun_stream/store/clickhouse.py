"""The store port over ClickHouse's HTTP interface. Must not live here: SQL (reader.py, writer.py)."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from clickhouse_connect.driver.client import Client

from agentrun_stream import limits
from agentrun_stream.model.lineage import Kin
from agentrun_stream.model.run import RunState
from agentrun_stream.ports import Part, RunKey, Stored
from agentrun_stream.store import lineage, reader, writer
from agentrun_stream.store.client import StoreAddress, connect

T = TypeVar("T")


class ClickHouseStore:
    """`ports.Store`. Connects at the first use, so that a store that is down is an answer of a call, not of a constructor."""

    def __init__(self, address: StoreAddress, lookups: int = 2) -> None:
        self._address = address
        self._lookups = asyncio.Semaphore(lookups)
        self._client: Client | None = None
        self._connecting = asyncio.Lock()

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None:
                self._client = await asyncio.to_thread(connect, self._address)
            return self._client

    async def insert(self, table: str, rows: Sequence[bytes]) -> None:
        """See `ports.Store.insert`."""
        await asyncio.to_thread(writer.insert, await self._connected(), table, rows)

    async def load_runs(self, keys: Sequence[RunKey]) -> dict[RunKey, RunState]:
        """See `ports.Store.load_runs`."""
        return await self._look_up(reader.load_runs, keys)

    async def kin(self, keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        """See `ports.Store.kin`."""
        return await self._look_up(lineage.kin, keys)

    async def _look_up(
        self, ask: Callable[[Client, Sequence[RunKey]], dict[RunKey, T]], keys: Sequence[RunKey]
    ) -> dict[RunKey, T]:
        client = await self._connected()

        async def some(start: int) -> dict[RunKey, T]:
            async with self._lookups:
                return await asyncio.to_thread(ask, client, keys[start : start + limits.LOOKUP_IDS_MAX])

        found: dict[RunKey, T] = {}
        for answer in await asyncio.gather(*(some(at) for at in range(0, len(keys), limits.LOOKUP_IDS_MAX))):
            found |= answer
        return found

    async def projected(self, keys: Sequence[RunKey]) -> dict[RunKey, Stored]:
        """See `ports.Store.projected`."""
        return await self._look_up(reader.projected, keys)

    async def evidence(self, run: RunKey, version: int) -> bytes | None:
        """See `ports.Store.evidence`."""
        return await asyncio.to_thread(reader.evidence, await self._connected(), run, version)

    async def journal_end(self, part: Part) -> tuple[int, int] | None:
        """See `ports.Store.journal_end`."""
        return await asyncio.to_thread(reader.journal_end, await self._connected(), part)

    async def refused_from(self, part: Part, offset: int) -> dict[int, tuple[str, str, str]]:
        """See `ports.Store.refused_from`."""
        return await asyncio.to_thread(reader.refused_from, await self._connected(), part, offset)

    async def set_aside(self, part: Part) -> Sequence[int]:
        """See `ports.Store.set_aside`."""
        return await asyncio.to_thread(reader.set_aside, await self._connected(), part)
