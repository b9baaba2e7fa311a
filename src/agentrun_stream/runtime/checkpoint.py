"""One checkpoint: a batch written in the order of `pipeline.PHASES`. A failure at any point: nothing later happens.

Must not live here: folding, or what happens to a partition whose checkpoint failed (worker.py).
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from agentrun_stream import topics
from agentrun_stream.errors import DeadLetterError, FencedError, StoreRejectedError, TopicError, UnavailableError
from agentrun_stream.pipeline import PHASES, Phase
from agentrun_stream.ports import Clock, Part, Publisher, Source, Store
from agentrun_stream.runtime.batch import Batch, PartBatch
from agentrun_stream.runtime.retry import Abandoned, Waiting, insist
from agentrun_stream.store import rows
from agentrun_stream.telemetry.metrics import Metrics

Say = Callable[[str, float, UnavailableError | None], None]


class Checkpointer:
    """Writes batches, one at a time."""

    def __init__(self, store: Store, publisher: Publisher, source: Source, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._publisher = publisher
        self._source = source
        self._clock = clock
        self._metrics = metrics
        self.worker = "worker"
        self.say: Say = lambda _what, _wait, _error: None

    async def write(self, batch: Batch) -> None:
        """Write a batch. Raises Abandoned where a partition of it moved away, StoppedError where it can't be written."""
        for phase in PHASES:
            self._ours(batch)
            before = self._clock.monotonic_s()
            await self._DO[phase.name](self, batch, phase)
            self._metrics.checkpoint_seconds.observe(self._clock.monotonic_s() - before, phase=phase.name)

    def _ours(self, batch: Batch) -> None:
        """Work of an older assignment is dropped before each write."""
        if any(p.assigned.lost for p in batch.parts.values()):
            raise Abandoned

    def _keeps(self, batch: Batch) -> Callable[[], bool]:
        return lambda: not any(p.assigned.lost for p in batch.parts.values())

    async def _tables(self, batch: Batch, phase: Phase) -> None:
        await together(self._insert(batch, table, batch.rows[table]) for table in phase.tables if batch.rows.get(table))

    async def _insert(self, batch: Batch, table: str, encoded: Sequence[bytes]) -> None:
        async def once() -> None:
            before, outcome = self._clock.monotonic_s(), "retried"
            try:
                await self._store.insert(table, encoded)
                outcome = "ok"
            except StoreRejectedError:
                outcome = "rejected"
                raise
            finally:
                spent = self._clock.monotonic_s() - before
                self._metrics.insert_seconds.observe(spent, table=table, outcome=outcome)

        await insist(self._clock, once, self._waits("store"), self._keeps(batch))
        self._metrics.rows_inserted.inc(batch.counts.get(table, len(encoded)), table=table)

    def _waits(self, what: str) -> Waiting:
        return lambda seconds, error: self.say(what, seconds, error)

    async def _publish(self, batch: Batch, _phase: Phase) -> None:
        parts = batch.parts.values()
        work = [self._runs(batch, p) for p in parts if p.runs]
        dead = [d for p in parts for d in p.dead]
        if dead:
            work.append(self._dead_letters(batch, dead))
        work.extend(self._misplaced(batch, p) for p in parts if p.misplaced)
        await together(work)
        # Whoever asks for these again finds them by their rows: a row before its record would hide that none was sent.
        await together(self._insert(batch, table, encoded) for table, encoded in batch.judged.items())

    async def _runs(self, batch: Batch, part: PartBatch) -> None:
        """One transaction, tried once: after a failure the partition is opened, and so fenced, anew."""
        self._ours(batch)
        try:
            await self._publisher.publish(part.assigned.part, part.runs)
        except FencedError:
            part.assigned.lost = True
            raise

    async def _dead_letters(self, batch: Batch, dead: Sequence[Any]) -> None:
        async def once() -> None:
            try:
                await self._publisher.send(topics.DEAD_LETTERS, dead)
            except TopicError as error:
                raise DeadLetterError(
                    f"{len(dead)} refused records can't be kept: {error.message} None of them is dropped.",
                    f"{error.next_step} The worker goes on by itself.",
                ) from None

        await insist(self._clock, once, self._waits("dead_letters"), self._keeps(batch))
        self._metrics.dead_letters.inc(len(dead))

    async def _misplaced(self, batch: Batch, part: PartBatch) -> None:
        async def once() -> None:
            await self._publisher.send(part.assigned.part.topic, part.misplaced)

        await insist(self._clock, once, self._waits("broker"), self._keeps(batch))

    async def _journal(self, batch: Batch, _phase: Phase) -> None:
        encoded = journal_rows(batch, self.worker, self._clock.now_ms())
        if encoded:
            await self._insert(batch, "batches", encoded)

    async def _commit(self, batch: Batch, _phase: Phase) -> None:
        offsets: dict[Part, int] = {part: e.last for part, e in batch.parts.items() if e.last > e.first}
        if not offsets:
            return

        async def once() -> None:
            await self._source.commit(offsets)

        await insist(self._clock, once, self._waits("broker"), self._keeps(batch))

    _DO: Final[dict[str, Callable[["Checkpointer", Batch, Phase], Coroutine[Any, Any, None]]]] = {
        "facts": _tables,
        "objects": _tables,
        "projections": _tables,
        "publish": _publish,
        "journal": _journal,
        "commit": _commit,
    }


def journal_rows(batch: Batch, worker: str, now_ms: int) -> list[bytes]:
    """The rows of `batches` that vouch for a batch."""
    return [
        rows.row(
            {
                "topic": part.topic,
                "partition": part.partition,
                "first": entry.first,
                "last": entry.last,
                "worker": worker,
                "first_appended_at": entry.first_append_ms / rows.MS,
                "last_appended_at": entry.last_append_ms / rows.MS,
                "written_at": now_ms / rows.MS,
            },
        )
        for part, entry in batch.parts.items()
        if entry.last > entry.first  # else it only shows again what was folded before
    ]


async def together(work: Any) -> None:
    """Run all side by side and wait for all of them, also when one fails: a write must not outlive its phase."""
    results = await asyncio.gather(*work, return_exceptions=True)
    failures = [r for r in results if isinstance(r, BaseException)]
    for kind in (StoreRejectedError, FencedError, DeadLetterError, Abandoned):
        for failure in failures:
            if isinstance(failure, kind):
                raise failure
    if failures:
        raise failures[0]
