"""The replay: folds the log again into a shadow store, by the worker's own folder, rows and order of writes.

It is no member of the group, commits nothing and publishes nothing. Must not live here: comparing or exchanging tables
(store/shadow.py).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentrun_stream.codec.cloudevents import Route
from agentrun_stream.errors import UnavailableError
from agentrun_stream.model.opinions import NO_OPINIONS, Opinions
from agentrun_stream.pipeline import PHASES
from agentrun_stream.ports import Clock, Part, Record, Store
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.batch import Batch, PartBatch
from agentrun_stream.runtime.checkpoint import journal_rows, together
from agentrun_stream.runtime.folder import PartFolder
from agentrun_stream.runtime.lookup import Lookups
from agentrun_stream.runtime.resume import PartitionOf
from agentrun_stream.runtime.retry import insist

WORKER: Final = "replay"


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What decides how records are read, the same as a worker's, and how much may be kept in memory."""

    route: Callable[[str], Route]
    epoch: int
    group: str
    partition_of: PartitionOf
    cache_bytes: int
    opinions: Opinions = NO_OPINIONS


@dataclass(frozen=True, slots=True)
class Stretch:
    """What of a partition is replayed: from the log start up to `end`, exclusive."""

    part: Part
    start: int
    end: int
    partitions: int


class Replay:
    """Replays one partition after the other. `waits` hears of a store that does not answer; `told` of records done."""

    def __init__(self, store: Store, clock: Clock, options: ReplayOptions) -> None:
        self._store = store
        self._clock = clock
        self._options = options
        self._number = 0
        self.records = 0
        self.first_ms: dict[Part, int] = {}
        self.waits: Callable[[float, UnavailableError | None], None] = lambda _seconds, _error: None
        self.told: Callable[[], None] = lambda: None

    async def partition(self, stretch: Stretch, log: AsyncIterator[Sequence[Record]]) -> None:
        """Fold one partition. The next batch is folded while one is written, as a worker does it."""
        options, part = self._options, stretch.part

        def home_of(key: bytes) -> int:
            return options.partition_of(key, stretch.partitions)

        assigned = Assigned(part, 1, options.route(part.topic), options.epoch, home_of, options.group)
        assigned.folded = assigned.acknowledged = stretch.start
        assigned.refused = await self._store.refused_from(part, stretch.start)
        assigned.set_aside = await self._store.set_aside(part)
        lookups = Lookups(self._store, self._clock, self._ask, options.opinions)
        writing: asyncio.Future[None] | None = None
        try:
            async for records in log:
                self.first_ms.setdefault(part, records[0].timestamp)
                batch = self._batch()
                folder = PartFolder(batch, assigned, lookups)
                await folder.take(records, records[-1].offset + 1).fold(self._breathe)
                await folder.finish()
                assigned.again.clear()  # parents are looked up by whoever owns the partition
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(self._write(batch, assigned))
            if writing is not None:
                await writing
        finally:
            if writing is not None:
                writing.cancel()
        if assigned.folded < stretch.end:  # control records, or records of aborted transactions
            batch, at = self._batch(), assigned.acknowledged_ms
            batch.parts[part] = PartBatch(assigned, assigned.folded, stretch.end, at, at)
            await self._write(batch, assigned)

    def _batch(self) -> Batch:
        self._number += 1
        return Batch(self._number, self._clock.now_ms())

    async def _ask(self, question: Callable[[], Awaitable[Any]]) -> Any:
        return await insist(self._clock, question, self.waits, lambda: True)

    async def _breathe(self) -> None:
        await self._clock.sleep(0)

    async def _write(self, batch: Batch, assigned: Assigned) -> None:
        """The tables and the journal, in a checkpoint's order. Misplaced records stand on the log where they belong."""
        batch.rows["batches"] = journal_rows(batch, WORKER, self._clock.now_ms())
        for phase in PHASES:
            await together(self._insert(t, batch.rows[t]) for t in phase.tables if batch.rows.get(t))
        entry = batch.parts[assigned.part]
        assigned.acknowledged, assigned.acknowledged_ms = entry.last, entry.last_append_ms
        assigned.cache.trim(self._options.cache_bytes, batch.number)
        self.records += entry.records
        self.told()

    async def _insert(self, table: str, encoded: Sequence[bytes]) -> None:
        await insist(self._clock, lambda: self._store.insert(table, encoded), self.waits, lambda: True)
