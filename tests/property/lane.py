"""One partition from its log to its tables, on the twins, batch by batch: cuts, evictions and crashes are chosen outside.

Must not live here: the loop (the simulation drives the real one), expectations.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

from prometheus_client import CollectorRegistry

from agentrun_stream import topics
from agentrun_stream.broker.memory import MemoryBroker, MemoryPublisher, MemoryRecord, MemorySource
from agentrun_stream.codec.cloudevents import Route
from agentrun_stream.model.opinions import NO_OPINIONS, ORPHAN_AFTER_MS, Opinions
from agentrun_stream.ports import Outgoing, Part
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.batch import Batch
from agentrun_stream.runtime.checkpoint import Checkpointer
from agentrun_stream.runtime.folder import PartFolder
from agentrun_stream.runtime.lookup import Lookups
from agentrun_stream.store.memory import MemoryStore
from agentrun_stream.telemetry.metrics import Metrics
from property.oracle import Logged
from property.stories import record

PART = Part(topics.EVENTS, 0)
METRICS = Metrics(CollectorRegistry())


class CrashError(Exception):
    """The machine is gone."""


class CrashingStore(MemoryStore):
    """Crashes before the insert that `left` counts down to."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None

    async def insert(self, table: str, rows: Sequence[bytes]) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise CrashError
        await super().insert(table, rows)


class StillClock:
    """`ports.Clock` that stands still and lets nobody wait."""

    def now_ms(self) -> int:
        return 1_800_000_000_000

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    def jitter(self) -> float:
        return 0.5


class Lane:
    """A log of made-up events, and the store that they are folded into."""

    def __init__(self, log: Sequence[Logged], chance: Random, opinions: Opinions = NO_OPINIONS) -> None:
        self.store = CrashingStore()
        self.chance = chance
        self.opinions = opinions
        self.log = log
        clock = StillClock()
        self.broker = MemoryBroker(clock.now_ms)
        self.broker.create(topics.RUNS, 1)
        self.broker.create(topics.QUARANTINE, 1)
        self.broker.create(topics.DEAD_LETTERS, 1)
        self.broker.create(topics.EVENTS, 1)
        self.publisher = MemoryPublisher(self.broker, "g")
        source = MemorySource(self.broker, "g", [topics.EVENTS], "m")
        self._checkpointer = Checkpointer(self.store, self.publisher, source, clock, METRICS)
        self._records = [_as_record(event, record(event, chance)) for event in log]

    def run(self, *, crashes: float = 0.3, evict: float = 0.3, most: int = 12) -> None:
        """Fold everything: batches of up to `most` records; the shares say how often a crash or an eviction comes."""
        asyncio.run(self._run(crashes, evict, most))

    def judge(self, opinions: Opinions, *, orphan_after_ms: int = ORPHAN_AFTER_MS) -> None:
        """Show every run again under these opinions, by what its parents show now."""
        self.opinions = opinions
        asyncio.run(self._judge(orphan_after_ms))

    async def _judge(self, orphan_after_ms: int) -> None:
        batch, assigned = Batch(1, StillClock().now_ms()), await self._assigned()
        for _ in range(2):  # what a run says of its parents may change with the claim that they show
            batch = Batch(batch.number + 1, batch.started_ms)
            lookups = Lookups(self.store, StillClock(), _ask, self.opinions, orphan_after_ms)
            folder = PartFolder(batch, assigned, lookups)
            await folder.again([(row["workspace"], row["run_id"]) for row in self.store.rows("runs")])
            await folder.finish()
            await self._checkpointer.write(batch)

    async def _run(self, crashes: float, evict: float, most: int) -> None:
        assigned, number, end = await self._assigned(), 0, len(self.log)
        while assigned.folded < end:
            number += 1
            self.store.left = self.chance.randrange(8) if self.chance.random() < crashes else None
            try:
                await self._batch(assigned, number, min(end, assigned.folded + self.chance.randint(1, most)))
            except CrashError:
                assigned = await self._assigned()
                continue
            if self.chance.random() < evict:
                assigned.cache.trim(0, number)

    async def _assigned(self) -> Assigned:
        await self.publisher.fence(PART)
        assigned = Assigned(PART, 1, Route(), 0, lambda _key: 0, "g")
        assigned.folded = ((await self.store.journal_end(PART)) or (0, 0))[1]
        assigned.refused = await self.store.refused_from(PART, assigned.folded)
        return assigned

    async def _batch(self, assigned: Assigned, number: int, end: int) -> None:
        batch = Batch(number, 1_800_000_000_000)
        folder = PartFolder(batch, assigned, Lookups(self.store, StillClock(), _ask, self.opinions))
        cut = self.chance.randint(assigned.folded, end)
        pieces = [folder.take(self._records[assigned.folded : cut], cut), folder.take(self._records[cut:end], end)]
        for piece in pieces:
            await piece.fold(_at_once)
        await folder.finish()
        await self._checkpointer.write(batch)


async def _ask(question: Callable[[], Awaitable[Any]]) -> Any:
    return await question()


async def _at_once() -> None:
    return None


def _as_record(event: Logged, sent: Outgoing) -> MemoryRecord:
    return MemoryRecord(event.offset, event.append_ms, sent.key, sent.value, sent.headers)
