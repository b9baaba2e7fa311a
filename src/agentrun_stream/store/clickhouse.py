"""The store port over ClickHouse's HTTP interface. Must not live here: SQL (reader.py, writer.py)."""

import asyncio
from collections.abc import Sequence

from clickhouse_connect.driver.client import Client

from agentrun_stream.model.run import RunState
from agentrun_stream.ports import Part, RunKey
from agentrun_stream.store import reader, writer
from agentrun_stream.store.client import StoreAddress, connect


class ClickHouseStore:
    """`ports.Store`. Connects at the first use, so that a store that is down is an answer of a call, not of a constructor."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._client: Client | None = None
        self._connecting = asyncio.Lock()

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None:
                self._client = await asyncio.to_thread(connect, self._address)
            return self._client

    async def insert(self, table: str, rows: Sequence[bytes]) -> None:
        """See `ports.Store.insert`."""
        await writer.insert_async(await self._connected(), table, rows)

    async def load_runs(self, keys: Sequence[RunKey]) -> dict[RunKey, RunState]:
        """See `ports.Store.load_runs`."""
        return await reader.load_runs_async(await self._connected(), keys)

    async def journal_end(self, part: Part) -> tuple[int, int] | None:
        """See `ports.Store.journal_end`."""
        return await asyncio.to_thread(reader.journal_end, await self._connected(), part)

    async def refused_from(self, part: Part, offset: int) -> dict[int, tuple[str, str, str]]:
        """See `ports.Store.refused_from`."""
        return await asyncio.to_thread(reader.refused_from, await self._connected(), part, offset)
