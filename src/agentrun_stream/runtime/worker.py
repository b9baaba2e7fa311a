"""The worker: polls, folds the next batch while the last one is written, and never writes two at a time.

Must not live here: what events mean (processors/), how a batch is made (batch.py) or written (checkpoint.py).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from structlog.typing import FilteringBoundLogger

from agentrun_stream.codec.cloudevents import NO_ROUTE, Route
from agentrun_stream.model.opinions import NO_OPINIONS, ORPHAN_AFTER_MS, Opinions
from agentrun_stream.ports import Clock, Publisher, Source, Store
from agentrun_stream.runtime.assigned import NO_LIMIT, RefusedLimit
from agentrun_stream.runtime.batch import Batch
from agentrun_stream.runtime.checkpoint import Checkpointer
from agentrun_stream.runtime.gather import Gatherer, GatherRules
from agentrun_stream.runtime.membership import Membership
from agentrun_stream.runtime.report import Report
from agentrun_stream.runtime.resume import Opener, PartitionOf
from agentrun_stream.telemetry.metrics import Metrics

KEEP_ALIVE_S: Final = 1.0
STOP_PATIENCE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker is told. Sizes in bytes, times in ms."""

    name: str
    group: str = "agentrun"
    topic_epoch: int = 0
    batch_records_max: int = 40_000
    batch_wait_ms: int = 200
    cache_bytes: int = 256 * 1024 * 1024
    routes: Mapping[str, Route] | None = None
    default_route: Route = NO_ROUTE
    refused_limit: RefusedLimit = NO_LIMIT
    resume: bool = False
    opinions: Opinions = NO_OPINIONS
    orphan_after_ms: int = ORPHAN_AFTER_MS

    def route(self, topic: str) -> Route:
        """What the settings say of a topic."""
        return (self.routes or {}).get(topic, self.default_route)


@dataclass(frozen=True, slots=True)
class World:
    """What the worker asks of the world."""

    source: Source
    publisher: Publisher
    store: Store
    clock: Clock
    metrics: Metrics
    partition_of: PartitionOf
    log: FilteringBoundLogger


class Worker:
    """One member of the group. `run()` until `stop()`; `problems()` says why it is not ready."""

    def __init__(self, world: World, options: WorkerOptions) -> None:
        self._world = world
        self._options = options
        self._clock = world.clock
        self._report = Report(world.metrics, world.clock, world.log)
        self._checkpointer = Checkpointer(world.store, world.publisher, world.source, world.clock, world.metrics)
        self._checkpointer.worker = options.name
        self._checkpointer.say = self._report.say
        opener = Opener(
            world.source,
            world.publisher,
            world.store,
            world.metrics,
            world.partition_of,
            options.group,
            options.topic_epoch,
            world.log,
            options.refused_limit,
            options.resume,
        )
        self.members = Membership(world.source, world.publisher, opener, self._report, options.route)
        self._writing: tuple[asyncio.Task[None], Batch] | None = None
        self._batches = 0
        self._batch_max = options.batch_records_max
        rules = GatherRules(options.batch_wait_ms, options.opinions, options.orphan_after_ms)
        self._gatherer = Gatherer(world.source, world.store, self.members, self._report, rules)
        self._stopping = asyncio.Event()

    @property
    def source(self) -> Source:
        """The log, for who asks how far it goes."""
        return self._world.source

    def stop(self) -> None:
        """Finish the batch at hand, leave the group, and let `run` return."""
        self._stopping.set()

    def problems(self) -> list[str]:
        """Why this worker is not ready; empty when it is. Says what to do, and never a value of a record."""
        return [*self.members.problems(), *self._report.problems()]

    async def run(self) -> None:
        """Work until `stop`. Raises UnavailableError where the broker can't be reached at the start."""
        await self._world.source.open(self.members)
        alive = asyncio.ensure_future(self._stay_alive())
        patience = asyncio.ensure_future(self._lose_patience())
        try:
            while not self._stopping.is_set():
                await self._cycle()
            await self._written()
        finally:
            alive.cancel()
            patience.cancel()
            if self._writing is not None:
                self._writing[0].cancel()
            await self._world.source.close()
            await self._world.publisher.close()

    async def _stay_alive(self) -> None:
        """While the store makes us wait, the group must not take us for dead."""
        while True:
            await self._clock.sleep(KEEP_ALIVE_S)
            if self._report.waiting:
                await self._world.source.keep_alive()

    async def _lose_patience(self) -> None:
        """A stop waits for the batch at hand, but not for ever: what was not written is folded again by the next owner."""
        await self._stopping.wait()
        await self._clock.sleep(STOP_PATIENCE_S)
        self.members.give_up()

    async def _cycle(self) -> None:
        started = self._clock.monotonic_s()
        await self.members.open_pending()
        self._batches += 1
        batch = await self._gatherer.batch(self._batches, self._batch_max, self._busy)
        if await self._written() and batch is not None and self.members.own(batch.parts.values()):
            task = asyncio.ensure_future(self._checkpointer.write(batch))
            self.members.writing = task
            self._writing = (task, batch)
        elif batch is not None:
            self.members.reset()
        self._report.lag(self.members.parts, self._world.source)
        if self._gatherer.trickle:
            # Let it gather, so that the store gets a few parts a second and not fifty.
            spent = self._clock.monotonic_s() - started
            await self._clock.sleep(max(0.0, self._options.batch_wait_ms / 1000 - spent))

    def _busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None and not self._writing[0].done() and not self._stopping.is_set()

    async def _written(self) -> bool:
        """Wait for the checkpoint being written. False where it failed: then everything is folded again from the journal."""
        if self._writing is None:
            return True
        task, batch = self._writing
        await asyncio.wait({task})
        self._writing = self.members.writing = None
        error = task.exception()
        if error is None:
            self._acknowledge(batch)
            return True
        self.members.failed(batch, error)
        self._batch_max = self.members.batch_max(self._options.batch_records_max)
        return False

    def _acknowledge(self, batch: Batch) -> None:
        for part in batch.parts.values():
            part.assigned.acknowledged = part.last
            part.assigned.again_written += part.again
            part.assigned.acknowledged_ms = part.last_append_ms
            part.assigned.cache.trim(self._options.cache_bytes // max(1, len(self.members.parts)), batch.number)
        self.members.passed(batch)
        self._batch_max = self.members.batch_max(self._options.batch_records_max)
        self._report.stored(batch)
        self._report.cache(a.cache for a in self.members.parts.values())
