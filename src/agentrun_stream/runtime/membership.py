"""Which partitions are ours: assigned, pending, being probed after a refusal, or stopped.

Must not live here: folding, or writing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from agentrun_stream import topics
from agentrun_stream.codec.cloudevents import Route
from agentrun_stream.errors import (
    AgentrunError,
    DeadLetterError,
    FencedError,
    LackingPricesError,
    RefusedShareError,
    StoppedError,
    StoreRejectedError,
    TopicError,
    UnavailableError,
)
from agentrun_stream.ports import Part, Publisher, Source
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.batch import Batch, PartBatch
from agentrun_stream.runtime.cache import Cache
from agentrun_stream.runtime.report import Report
from agentrun_stream.runtime.resume import Opener
from agentrun_stream.runtime.retry import Abandoned, impatient

REOPEN_S: Final = 10.0
_REVOKE_WAIT_S: Final = 60.0
_OPEN_WAIT_S: Final = 1.0
_PROBE_DIVISOR: Final = 16
_REASONS: Final[tuple[tuple[type[StoppedError], str], ...]] = (
    (StoreRejectedError, "store_rejected"),
    (FencedError, "fenced"),
    (DeadLetterError, "dead_letters"),
    (RefusedShareError, "refused_share"),
    (LackingPricesError, "lacking_prices"),
    (StoppedError, "lost_offset"),
)


async def _nothing() -> None:
    """There is nothing to prepare."""


class Membership:
    """`ports.GroupListener`, and the book of partitions that the loop works by."""

    def __init__(
        self,
        source: Source,
        publisher: Publisher,
        opener: Opener,
        report: Report,
        route: Callable[[str], Route],
    ) -> None:
        self.parts: dict[Part, Assigned] = {}
        self.writing: asyncio.Task[None] | None = None
        self.prepare: Callable[[], Awaitable[None]] = _nothing
        self._source = source
        self._publisher = publisher
        self._opener = opener
        self._report = report
        self._route = route
        self._held: set[Part] = set()
        self._pending: list[Part] = []
        self._parked: dict[Part, tuple[Cache, int]] = {}
        self._stopped: dict[Part, tuple[StoppedError, float]] = {}
        self._suspects: list[tuple[Part, int]] = []
        self._probe_max = 0
        self._numbers = 0
        self._joined = False

    # ---- GroupListener

    async def on_revoked(self, parts: Sequence[Part]) -> None:
        """See `ports.GroupListener.on_revoked`: the checkpoint being written may end, nothing new begins."""
        # First of all, so that an opening that ends meanwhile finds that the partition is not ours any more.
        self._held -= set(parts)
        self._pending = [p for p in self._pending if p not in parts]
        gone = [self.parts.pop(p) for p in parts if p in self.parts]
        if self.writing is not None and gone:
            await asyncio.wait({self.writing}, timeout=_REVOKE_WAIT_S)
        for assigned in gone:
            assigned.lost = True
            if not assigned.folding:
                self._parked[assigned.part] = (assigned.cache, assigned.folded)
        for part in parts:
            await self._publisher.release(part)
            self._stopped.pop(part, None)
            self._report.forget(part)
        self._suspects = []
        if parts:
            self._report.rebalanced()

    async def on_assigned(self, parts: Sequence[Part]) -> None:
        """See `ports.GroupListener.on_assigned`: the loop opens them, so that a store that is down blocks no rebalance."""
        self._joined = True
        self._held |= set(parts)
        self._pending.extend(p for p in parts if p not in self._pending)
        for part in [p for p in self._parked if p not in parts]:
            del self._parked[part]

    # ---- opening

    async def open_pending(self) -> None:
        """Open what is pending and may be tried now."""
        now = self._report.clock.monotonic_s()
        for part, (_, until) in list(self._stopped.items()):
            if until <= now and part not in self._pending:
                self._pending.append(part)
        only = self._suspects[0][0] if self._suspects else None
        for part in list(self._pending):
            if only is not None and part != only:
                continue
            try:
                with impatient(lambda wait, error: self._report.say("store or broker", wait, error)):
                    await self._open(part)
            except UnavailableError as error:
                self._report.say("store or broker", _OPEN_WAIT_S, error)
                await self._report.clock.sleep(_OPEN_WAIT_S)
                return
            except StoppedError as error:
                self.stop(part, error)
        if not self._pending:
            self._report.say("store or broker", 0.0, None)

    async def _open(self, part: Part) -> None:
        await self._look_for_letters(part)
        self._numbers += 1
        assigned = await self._opener.open(part, self._numbers, self._route(part.topic))
        # After the fence, so that the opinions are no older than those under which an owner before us finished anything.
        await self.prepare()
        if part not in self._held:
            return  # revoked meanwhile
        cache, folded = self._parked.pop(part, (None, -1))
        if cache is not None and folded == assigned.folded:
            assigned.cache = cache
            for state in cache.runs.values():
                state.mark = -1
        if part in self._pending:
            self._pending.remove(part)
        self._stopped.pop(part, None)
        self._report.started(part)
        self.parts[part] = assigned
        self._source.start(part, assigned.folded)
        self._report.log.info("partition opened", topic=part.topic, partition=part.partition, offset=assigned.folded)

    async def _look_for_letters(self, part: Part) -> None:
        """Fold nothing again before the dead letters are back: it would be for nothing, and for all partitions."""
        why = self._stopped[part][0] if part in self._stopped else None
        if isinstance(why, DeadLetterError):
            try:
                await self._publisher.partitions(topics.DEAD_LETTERS)
            except TopicError:
                raise why from None

    def give_up(self) -> None:
        """Let everything that waits end: the worker stops, and nobody answers."""
        self._pending, self._suspects = [], []
        for assigned in self.parts.values():
            assigned.lost = True

    def own(self, parts: Iterable[PartBatch]) -> bool:
        """Whether every partition of a batch is still of the assignment that made it."""
        return all(self.parts.get(p.assigned.part) is p.assigned and not p.assigned.lost for p in parts)

    def reset(self) -> None:
        """Drop everything built on what was not written: all partitions are opened again from the journal."""
        self._report.abandoned()
        for part, assigned in self.parts.items():
            assigned.lost = True
            self._source.pause(part)
            self._pending.append(part)
        self.parts = {}

    # ---- failures

    def failed(self, batch: Batch, error: BaseException) -> None:
        """A checkpoint failed. A refused row is searched for partition by partition, in ever smaller batches."""
        if not isinstance(error, AgentrunError | Abandoned):
            raise error
        self.reset()
        if isinstance(error, FencedError):
            for part in [p for p, entry in batch.parts.items() if entry.assigned.part in self._held]:
                self.stop(part, error)
        elif isinstance(error, DeadLetterError):
            for part in [p for p, entry in batch.parts.items() if entry.dead and p in self._held]:
                self.stop(part, error)
        elif isinstance(error, StoreRejectedError):
            self._probe(batch, error)
        elif isinstance(error, AgentrunError) and not isinstance(error, UnavailableError):
            raise error
        self._report.log.warning("checkpoint abandoned", why=type(error).__name__, records=batch.records)

    def _probe(self, batch: Batch, error: StoreRejectedError) -> None:
        ours = [(part, entry) for part, entry in batch.parts.items() if entry.records and part in self._held]
        if not ours:
            return  # whoever has them now finds the row as we did
        if batch.records <= 1:
            part, entry = ours[0]
            where = f"{part.topic}:{part.partition}:{entry.last_offset}"
            stopped = StoreRejectedError(
                f"The store refuses the rows of {where} (code {error.code}). {error.message}",
                f"Mend the store's table, or set the event aside: `agentrun refuse {where} --reason ...`. "
                "The worker goes on by itself.",
                code=error.code,
            )
            self.stop(part, stopped)
            return
        self._probe_max = max(1, batch.records // _PROBE_DIVISOR)
        if not self._suspects:
            self._suspects = [(part, entry.last) for part, entry in ours]

    def passed(self, batch: Batch) -> None:
        """A checkpoint was written: a suspect that is past its refused range is cleared."""
        if self._suspects:
            part, end = self._suspects[0]
            assigned = self.parts.get(part)
            if part in batch.parts and assigned is not None and assigned.acknowledged >= end:
                self._suspects.pop(0)
                self.reset() if self._suspects else None

    def batch_max(self, most: int) -> int:
        """How many records the next batch may hold."""
        return self._probe_max if self._suspects else most

    def stop(self, part: Part, error: StoppedError) -> None:
        """Let a partition stand still; it is tried again later."""
        reason = next(name for kind, name in _REASONS if isinstance(error, kind))
        if part not in self._stopped:
            self._report.log.error(
                "partition stopped",
                topic=part.topic,
                partition=part.partition,
                why=error.message,
                next=error.next_step,
            )
        self._pending = [p for p in self._pending if p != part]
        self._suspects = [s for s in self._suspects if s[0] != part]  # nobody else waits for what stands still
        self._stopped[part] = (error, self._report.clock.monotonic_s() + REOPEN_S)
        self._report.stopped(part, reason)

    def problems(self) -> list[str]:
        """Why this member is not ready."""
        found = [] if self._joined else ["not yet a member of the group"]
        return found + [
            f"{part.topic}:{part.partition} stopped: {error.message} {error.next_step}"
            for part, (error, _) in self._stopped.items()
        ]
