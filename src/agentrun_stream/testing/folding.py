"""Folding without a store: what tests and benchmarks need of the worker's inside. Must not live here: product code."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from agentrun_stream.codec.cloudevents import Route
from agentrun_stream.model.opinions import NO_OPINIONS, Opinions
from agentrun_stream.ports import Part, Record
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.batch import Batch
from agentrun_stream.runtime.clock import SystemClock
from agentrun_stream.runtime.folder import PartFolder
from agentrun_stream.runtime.lookup import Lookups
from agentrun_stream.store.memory import MemoryStore


def fold_batch(part: Part, records: Sequence[Record], opinions: Opinions = NO_OPINIONS) -> Batch:
    """One batch of records of runs that nobody has seen before, folded, projected under these opinions, and encoded."""
    batch = Batch(1, records[0].timestamp)
    assigned = Assigned(part, 1, Route(), 0, lambda _key: part.partition, "agentrun")

    async def ask(question: Callable[[], Awaitable[Any]]) -> Any:
        return await question()

    async def at_once() -> None:
        return None

    async def fold() -> None:
        folder = PartFolder(batch, assigned, Lookups(MemoryStore(), SystemClock(), ask, opinions))
        await folder.take(records, records[-1].offset + 1).fold(at_once)
        await folder.finish()

    asyncio.run(fold())
    return batch


def encoded_steps(part: Part, records: Sequence[Record]) -> Sequence[bytes]:
    """The rows of `run_objects` that these records make."""
    return b"\n".join(fold_batch(part, records).rows.get("run_objects", [])).splitlines()
