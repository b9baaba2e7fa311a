"""Taking a partition on: fence older publishers, find where to go on, read what was refused beyond it.

The resume point is the contiguous end of the partition's journal in the store, never beyond the group's commit. Must not
live here: the loop.
"""

from collections.abc import Callable
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from agentrun_stream.codec.cloudevents import Route
from agentrun_stream.errors import LostOffsetError
from agentrun_stream.ports import LogBounds, Part, Publisher, Source, Store
from agentrun_stream.runtime.assigned import NO_LIMIT, Assigned, RefusedLimit
from agentrun_stream.telemetry.metrics import Metrics

PartitionOf = Callable[[bytes, int], int]


@dataclass(frozen=True, slots=True)
class Resume:
    """Where to go on, and whether that is behind what the group had committed."""

    offset: int
    rewound: bool


def resume_point(part: Part, bounds: LogBounds, journal: tuple[int, int] | None) -> Resume:
    """Where a partition goes on. Raises LostOffsetError where the log no longer holds what the store still needs."""
    if journal is None:
        known = bounds.start if bounds.committed is None else 0
    else:
        first, end = journal
        # A journal that begins above the log start vouches for nothing below it.
        known = end if first <= bounds.start or first == 0 else bounds.start
    offset = known if bounds.committed is None else min(known, bounds.committed)
    if bounds.committed is None and journal is not None:
        offset = bounds.start  # a group without a commit reads the log from its start; the guard knows what is folded
    if offset < bounds.start:
        raise LostOffsetError(
            f"{part.topic}:{part.partition}: the store needs offset {offset}, but the log starts at {bounds.start}.",
            "Records in between are gone from the log: restore a newer backup of the store, or accept the loss with "
            "a new group (AGENTRUN_WORKER__GROUP), which begins at the log start.",
        )
    return Resume(offset, bounds.committed is not None and offset < bounds.committed)


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens partitions for one worker."""

    source: Source
    publisher: Publisher
    store: Store
    metrics: Metrics
    partition_of: PartitionOf
    group: str
    epoch: int
    log: FilteringBoundLogger
    limit: RefusedLimit = NO_LIMIT
    resume: bool = False

    async def open(self, part: Part, number: int, route: Route) -> Assigned:
        """Become the publisher of a partition and find its resume point. The caller starts the source there.

        Raises UnavailableError (try again) or LostOffsetError (it stays stopped).
        """
        await self.publisher.fence(part)
        count = await self.publisher.partitions(part.topic)
        bounds = await self.source.bounds(part)
        resume = resume_point(part, bounds, await self.store.journal_end(part))
        if resume.rewound:
            self.metrics.rewinds.inc()
            self.log.warning(
                "rewound",
                topic=part.topic,
                partition=part.partition,
                offset=resume.offset,
                committed=bounds.committed,
                why="the store is behind the group's commit",
            )
        assigned = Assigned(part, number, route, self.epoch, lambda key: self.partition_of(key, count), self.group)
        assigned.folded = assigned.acknowledged = resume.offset
        assigned.limit, assigned.resume_below = self.limit, bounds.end if self.resume else 0
        assigned.refused = await self.store.refused_from(part, resume.offset)
        assigned.set_aside = await self.store.set_aside(part)
        assigned.caution_below = bounds.end if assigned.set_aside else 0
        return assigned
