"""The price books that were put in force: what the store keeps of prices, in SQL.

Must not live here: what a book is (pricing/), when a worker takes another one (runtime/prices.py).
"""

import asyncio
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from clickhouse_connect.driver.client import Client

from agentrun_stream import limits
from agentrun_stream.model.run import RunState
from agentrun_stream.ports import RunKey
from agentrun_stream.pricing.book import PriceBook
from agentrun_stream.store.client import StoreAddress, connect
from agentrun_stream.store.reader import load_runs, rows_of
from agentrun_stream.store.rows import row
from agentrun_stream.store.writer import insert

_IN_FORCE: Final = """
SELECT ordinal, digest, content FROM price_books ORDER BY ordinal DESC, stored_at, digest LIMIT 1
"""
_EVERY: Final = "SELECT DISTINCT digest, content FROM price_books"


_UNPRICED: Final = """
SELECT workspace, run_id FROM runs FINAL
WHERE price_status NOT IN ('ok', 'tier_ambiguous') AND (workspace, run_id) > ({workspace:String}, {run_id:String})
ORDER BY workspace, run_id LIMIT {most:UInt32}
"""


class StoredBook(NamedTuple):
    """A book as it is stored."""

    ordinal: int
    digest: str
    content: str


def in_force(client: Client) -> StoredBook | None:
    """The book in force; None where there never was one."""
    return next((StoredBook(*found) for found in rows_of(client, _IN_FORCE)), None)


def contents(client: Client) -> dict[str, str]:
    """The contents of all books that ever were in force, by digest."""
    return dict(rows_of(client, _EVERY))


def put(client: Client, book: PriceBook, proposed_by: str) -> StoredBook:
    """Put a book in force, unless it is already; return what is in force then."""
    held = in_force(client)
    if held is None or held.digest != book.digest:
        ordinal = 1 if held is None else held.ordinal + 1
        told: dict[str, Any] = {"ordinal": ordinal, "digest": book.digest, "content": book.content}
        insert(client, "price_books", [row(told | {"proposed_by": proposed_by})])
        held = in_force(client)
    assert held is not None
    return held


def unpriced_runs(client: Client) -> Iterator[dict[RunKey, RunState]]:
    """The runs of which some part has no price, some at a time."""
    at = ("", "")
    while True:
        given = {"workspace": at[0], "run_id": at[1], "most": limits.LOOKUP_IDS_MAX}
        keys: list[RunKey] = [(workspace, run_id) for workspace, run_id in rows_of(client, _UNPRICED, given)]
        if not keys:
            return
        yield load_runs(client, keys)
        at = keys[-1]


class ClickHousePrices:
    """`runtime.prices.Prices`. Connects at the first use."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._client: Client | None = None

    async def in_force(self) -> StoredBook | None:
        """See `runtime.prices.Prices.in_force`."""
        return await asyncio.to_thread(lambda: in_force(self._connected()))

    async def put(self, book: PriceBook, proposed_by: str) -> StoredBook:
        """See `runtime.prices.Prices.put`."""
        return await asyncio.to_thread(lambda: put(self._connected(), book, proposed_by))

    def _connected(self) -> Client:
        if self._client is None:
            self._client = connect(self._address)
        return self._client
