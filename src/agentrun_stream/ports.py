"""What the loop asks of the world: a log to read, a place to publish, a store, a clock.

Each port has a real side (broker/kafka.py, store/) and a twin in memory that passes the same contract suite. Promises stand
where they bind. Must not live here: implementations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from agentrun_stream.model.lineage import Kin
from agentrun_stream.model.run import RunState

RunKey = tuple[str, str]


class Part(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class Record(Protocol):
    """One record of the log. `timestamp` is the broker's append time in ms since 1970."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Outgoing(NamedTuple):
    """One record to publish; `partition` None lets the key decide (murmur2)."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class LogBounds:
    """What the broker knows of a partition: its first offset, its end, and the group's commit (None: never committed)."""

    start: int
    end: int
    committed: int | None


class GroupListener(Protocol):
    """What the source calls when the group moves partitions. Revoked is awaited before another worker may get them."""

    async def on_revoked(self, parts: Sequence[Part]) -> None:
        """Finish or drop the work on these partitions; after it returns they belong to somebody else."""
        ...

    async def on_assigned(self, parts: Sequence[Part]) -> None:
        """Take these partitions on. They stay paused until `Source.start` is called for them."""
        ...


class Source(Protocol):
    """The log, read as one member of a consumer group."""

    async def open(self, listener: GroupListener) -> None:
        """Join the group. MUST NOT deliver anything of a partition before `start` was called for it."""
        ...

    async def poll(self, wait_ms: int, records_max: int) -> Mapping[Part, Sequence[Record]]:
        """Committed records, in offset order per partition; empty after `wait_ms`. MUST NOT skip any record.

        Raises LostOffsetError where the log no longer holds what is due, UnavailableError where the broker is away.
        """
        ...

    async def keep_alive(self) -> None:
        """Stay a member of the group without taking records."""
        ...

    def position(self, part: Part) -> int | None:
        """The offset after everything polled, control records included; None where the partition is not ours."""
        ...

    def end(self, part: Part) -> int | None:
        """The end of the partition as last heard of."""
        ...

    async def bounds(self, part: Part) -> LogBounds:
        """What the broker knows of a partition now."""
        ...

    def start(self, part: Part, offset: int) -> None:
        """Deliver the partition from this offset on."""
        ...

    def pause(self, part: Part) -> None:
        """Deliver nothing more of the partition until `start`."""
        ...

    async def commit(self, offsets: Mapping[Part, int]) -> None:
        """Commit. A refused commit (the group moved on) is not an error: the resume point is the store's journal."""
        ...

    async def close(self) -> None:
        """Leave the group."""
        ...


class Publisher(Protocol):
    """Everything the loop writes to the broker."""

    async def fence(self, part: Part) -> None:
        """Become the only publisher for this input partition. After it returns no older publisher can commit."""
        ...

    async def publish(self, part: Part, records: Mapping[str, Sequence[Outgoing]]) -> None:
        """Publish records, by topic, in one transaction. MUST NOT return before it is committed.

        Raises FencedError when no longer the only one, UnavailableError when it may or may not be committed: then the
        partition has to be fenced again before anything else is published.
        """
        ...

    async def send(self, topic: str, records: Sequence[Outgoing]) -> None:
        """Produce, idempotent, acks=all. MUST NOT return before every record is acknowledged, nor make a missing topic.

        Raises TopicError where the topic is missing or does not take a record, else UnavailableError.
        """
        ...

    async def partitions(self, topic: str) -> int:
        """How many partitions a topic has now. Raises TopicError where there is none."""
        ...

    async def release(self, part: Part) -> None:
        """Stop being the publisher for this input partition."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class Stored(NamedTuple):
    """The row of `runs` of a run: its version, and what opinions decided in it, by column."""

    version: int
    opinions: Mapping[str, Any]


class Store(Protocol):
    """The store as the loop uses it. Errors: StoreError may be tried again, StoreRejectedError may not."""

    async def insert(self, table: str, rows: Sequence[bytes]) -> None:
        """Insert encoded rows, one or more lines in each element, by one insert that makes one part.

        MUST NOT return before it is durable.
        """
        ...

    async def load_runs(self, keys: Sequence[RunKey]) -> dict[RunKey, RunState]:
        """The states of these runs, all of their objects or an error, never a part. Unknown runs are left out."""
        ...

    async def kin(self, keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        """What the rows of these runs say of their lineage, as they are now. Runs without a row are left out."""
        ...

    async def projected(self, keys: Sequence[RunKey]) -> dict[RunKey, Stored]:
        """What stands in `runs` of these runs: versions, and the columns that opinions decide. Unknown runs are left out."""
        ...

    async def evidence(self, run: RunKey, version: int) -> bytes | None:
        """The bytes of a signed event as they arrived; None where they are gone."""
        ...

    async def journal_end(self, part: Part) -> tuple[int, int] | None:
        """(first, end) of the contiguous journal of a partition; None where there is none."""
        ...

    async def refused_from(self, part: Part, offset: int) -> dict[int, tuple[str, str, str]]:
        """(reason, pointer, keyword) of the offsets from `offset` on that stand in `refused`."""
        ...

    async def set_aside(self, part: Part) -> Sequence[int]:
        """The offsets of a partition that an operator set aside, ascending."""
        ...


class Clock(Protocol):
    """Time as the loop sees it."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        ...

    def monotonic_s(self) -> float:
        """Seconds of a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let others run for a while."""
        ...

    def jitter(self) -> float:
        """A number from 0 to 1, different each time."""
        ...
