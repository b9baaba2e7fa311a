"""The twin in memory of requests to price again: the same answers from the rows of a `MemoryStore`.

Must not live here: which runs get another row.
"""

from collections.abc import Sequence

from agentrun_stream.ports import Part, RunKey
from agentrun_stream.store.memory import MemoryStore, Row
from agentrun_stream.store.reprice import Request, Wanted
from agentrun_stream.store.rows import MS

_MICRO = 1_000_000


class MemoryReprices:
    """`runtime.reprice.Reprices` over a store in memory, which keeps requests and notes too."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def pending(self, part: Part) -> Sequence[Request]:
        """See `runtime.reprice.Reprices.pending`."""
        notes = self._store.rows("reprice_progress")
        done = {row["id"] for row in notes if (row["topic"], row["partition"]) == tuple(part)}
        return [
            Request(r["id"], Wanted(round(r["since"] * _MICRO), r["workspace"]), r["ordinal"], r["price_book"])
            for r in self._store.rows("reprices")
            if r["id"] not in done
        ]

    async def page(self, part: Part, asked: tuple[Wanted, str], after: RunKey, most: int) -> Sequence[RunKey]:
        """See `runtime.reprice.Reprices.page`."""
        found = [
            (row["workspace"], row["run_id"])
            for row in self._store.rows("runs")
            if (row["topic"], row["partition"]) == tuple(part) and _concerns(row, *asked)
        ]
        return sorted(key for key in found if key > after)[:most]

    async def note(self, part: Part, request_id: str, runs: int, now_ms: int) -> None:
        """See `runtime.reprice.Reprices.note`."""
        self._store.note("reprice_progress", {**part._asdict(), "id": request_id, "runs": runs, "done_at": now_ms / MS})


def _concerns(row: Row, wanted: Wanted, price_book: str) -> bool:
    if row.get("expired_at") is not None or row.get("price_book", "") == price_book:
        return False
    if wanted.workspace not in {"", row["workspace"]}:
        return False
    ended = row.get("ended_at") or row.get("last_event_at") or 0
    return row.get("closed_by") is None or round(ended * _MICRO) >= wanted.since_us
