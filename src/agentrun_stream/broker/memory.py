"""The broker's twin in memory: logs with append times, groups with generations, publishers that fence each other.

`MemoryBroker` is the broker, `MemorySource` and `MemoryPublisher` are its clients, the sides of `ports.Source` and
`ports.Publisher`. Nothing here waits: a poll that finds nothing returns at once. Must not live here: what records mean.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentrun_stream.broker.kafka import partition_of
from agentrun_stream.errors import FencedError, LostOffsetError, TopicError
from agentrun_stream.ports import GroupListener, LogBounds, Outgoing, Part, Record

_NEXT: Final = "Make the topic first: `MemoryBroker.create`."


@dataclass(slots=True)
class MemoryRecord:
    """`ports.Record`."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(slots=True)
class _Log:
    """One partition. None stands at an offset that no reader sees: a control record, or what was aborted."""

    entries: list[MemoryRecord | None] = field(default_factory=list)
    start: int = 0


@dataclass(slots=True)
class _Group:
    """One group. A member that the group waits for is in `members` and not in `joined`."""

    members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    joined: set[str] = field(default_factory=set)
    generation: int = 0
    shares: dict[str, list[Part]] = field(default_factory=dict)
    committed: dict[Part, int] = field(default_factory=dict)


class MemoryBroker:
    """Topics, groups and transactions of one broker. `now_ms` gives the append times."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._topics: dict[str, list[_Log]] = {}
        self._groups: dict[str, _Group] = {}
        self._epochs: dict[str, int] = {}

    def now_ms(self) -> int:
        """The broker's time of day, which append times are made of."""
        return self._now_ms()

    # ---- topics

    def create(self, topic: str, partitions: int) -> None:
        """Make a topic."""
        self._topics[topic] = [_Log() for _ in range(partitions)]

    def count(self, topic: str) -> int:
        """How many partitions a topic has. Raises TopicError for an unknown one, as a broker would."""
        if topic not in self._topics:
            raise TopicError(f"The topic {topic} does not exist.", _NEXT)
        return len(self._topics[topic])

    def append(self, topic: str, records: Iterable[Outgoing], *, control: bool = False, abort: bool = False) -> None:
        """Append records at the present time. With `control`, each partition gets a transaction's marker after them.

        Those of an aborted transaction keep their offsets and are never read.
        """
        count, touched = self.count(topic), []
        for record in records:
            partition = record.partition
            if partition is None:
                partition = 0 if record.key is None else partition_of(record.key, count)
            log = self._topics[topic][partition]
            entry = MemoryRecord(len(log.entries), self._now_ms(), record.key, record.value, tuple(record.headers))
            log.entries.append(None if abort else entry)
            if log not in touched:
                touched.append(log)
        for log in touched if control or abort else ():
            log.entries.append(None)

    def records(self, topic: str, partition: int | None = None) -> list[MemoryRecord]:
        """What a reader of committed records finds in a topic, partition by partition."""
        logs = self._topics[topic] if partition is None else [self._topics[topic][partition]]
        return [entry for log in logs for entry in log.entries[log.start :] if entry is not None]

    def last_by_key(self, topic: str) -> dict[bytes, MemoryRecord]:
        """What compaction would leave of a topic."""
        return {record.key: record for record in self.records(topic) if record.key is not None}

    def truncate(self, part: Part, start: int) -> None:
        """Let retention take everything below `start`."""
        log = self.log(part)
        log.start = max(log.start, min(start, len(log.entries)))

    def log(self, part: Part) -> _Log:
        """The log of a partition."""
        return self._topics[part.topic][part.partition]

    # ---- groups

    def group(self, name: str) -> _Group:
        """A group, made where it is missing."""
        return self._groups.setdefault(name, _Group())

    def join(self, group: str, member: str, topics: tuple[str, ...]) -> None:
        """Add a member; the group then waits until every member has joined again."""
        found = self.group(group)
        found.members[member] = topics
        found.joined.clear()

    def leave(self, group: str, member: str) -> None:
        """Remove a member: it left, or the broker takes it for dead. What it still does, it does as a zombie."""
        found = self.group(group)
        if found.members.pop(member, None) is not None:
            found.joined.clear()

    def rebalance(self, group: str, first: str | None = None) -> None:
        """Let every member join again. `first` names the one that then comes first when partitions are dealt."""
        found = self.group(group)
        found.joined.clear()
        if first in found.members:
            found.members = {first: found.members[first], **found.members}

    def arrive(self, group: str, member: str) -> None:
        """A member has given its partitions back. The last one to arrive starts a new generation."""
        found = self.group(group)
        found.joined.add(member)
        if found.joined >= found.members.keys():
            found.generation += 1
            found.shares = self._dealt(found)

    def _dealt(self, group: _Group) -> dict[str, list[Part]]:
        shares: dict[str, list[Part]] = {member: [] for member in group.members}
        for topic in dict.fromkeys(t for topics in group.members.values() for t in topics):
            takers = [member for member, topics in group.members.items() if topic in topics]
            for partition in range(self.count(topic)):
                shares[takers[partition % len(takers)]].append(Part(topic, partition))
        return shares

    # ---- transactions

    def fence(self, name: str) -> int:
        """Begin a new epoch of a transactional id; every older one is fenced."""
        self._epochs[name] = self._epochs.get(name, 0) + 1
        return self._epochs[name]

    def is_current(self, name: str, epoch: int) -> bool:
        """Whether nobody fenced this epoch."""
        return self._epochs.get(name) == epoch


@dataclass(slots=True)
class _Place:
    """Where a member reads in a partition; paused until it is told where to start."""

    offset: int = 0
    paused: bool = True


class MemorySource:
    """`ports.Source`. The group moves partitions inside `poll` and `keep_alive`, or when `meet` is called by hand."""

    def __init__(self, broker: MemoryBroker, group: str, topics: Sequence[str], member: str) -> None:
        self.member = member
        self._broker = broker
        self._group = group
        self._topics = tuple(topics)
        self._listener: GroupListener | None = None
        self._places: dict[Part, _Place] = {}
        self._generation = -1
        self._meeting = False

    async def open(self, listener: GroupListener) -> None:
        """See `ports.Source.open`."""
        self._listener = listener
        self._broker.join(self._group, self.member, self._topics)

    async def meet(self) -> None:
        """Do what the group asks of this member now: give partitions back, join, take new ones on."""
        if self._listener is None or self._meeting:
            return
        self._meeting = True
        try:
            await self._give_back(self._listener)
            await self._take_on(self._listener)
        finally:
            self._meeting = False

    async def _give_back(self, listener: GroupListener) -> None:
        group = self._broker.group(self._group)
        if self.member not in group.members:  # taken for dead: come back as a new member
            self._broker.join(self._group, self.member, self._topics)
        if self.member in group.joined:
            return
        await listener.on_revoked(list(self._places))
        self._places = {}
        self._broker.arrive(self._group, self.member)

    async def _take_on(self, listener: GroupListener) -> None:
        group = self._broker.group(self._group)
        settled = group.joined >= group.members.keys()
        if settled and self.member in group.members and self._generation != group.generation:
            self._generation = group.generation
            share = group.shares[self.member]
            self._places = {part: _Place() for part in share}
            await listener.on_assigned(share)

    async def poll(
        self,
        wait_ms: int,  # noqa: ARG002 - nothing here waits
        records_max: int,
    ) -> Mapping[Part, Sequence[Record]]:
        """See `ports.Source.poll`."""
        await self.meet()
        found: dict[Part, Sequence[Record]] = {}
        for part, place in self._places.items():
            if not place.paused:
                taken = self._take(part, place, records_max)
                records_max -= len(taken)
                if taken:
                    found[part] = taken
        return found

    def _take(self, part: Part, place: _Place, most: int) -> list[MemoryRecord]:
        log, taken = self._broker.log(part), list[MemoryRecord]()
        if place.offset < log.start:
            raise LostOffsetError(f"{part.topic}:{part.partition} starts at {log.start}, not at {place.offset}.")
        entries = log.entries
        while place.offset < len(entries):
            entry = entries[place.offset]
            if entry is not None:
                if len(taken) >= most:
                    break
                taken.append(entry)
            place.offset += 1
        return taken

    async def keep_alive(self) -> None:
        """See `ports.Source.keep_alive`."""
        await self.meet()

    def position(self, part: Part) -> int | None:
        """See `ports.Source.position`."""
        place = self._places.get(part)
        return None if place is None else place.offset

    def end(self, part: Part) -> int | None:
        """See `ports.Source.end`."""
        return len(self._broker.log(part).entries) if part in self._places else None

    async def bounds(self, part: Part) -> LogBounds:
        """See `ports.Source.bounds`."""
        log = self._broker.log(part)
        return LogBounds(log.start, len(log.entries), self._broker.group(self._group).committed.get(part))

    def start(self, part: Part, offset: int) -> None:
        """See `ports.Source.start`. Nothing happens where the partition is not ours any more."""
        place = self._places.get(part)
        if place is not None:
            place.offset, place.paused = offset, False

    def pause(self, part: Part) -> None:
        """See `ports.Source.pause`."""
        place = self._places.get(part)
        if place is not None:
            place.paused = True

    async def commit(self, offsets: Mapping[Part, int]) -> None:
        """See `ports.Source.commit`."""
        group = self._broker.group(self._group)
        if (
            self.member in group.members
            and self._generation == group.generation
            and offsets.keys() <= self._places.keys()
        ):
            group.committed.update(offsets)

    async def close(self) -> None:
        """See `ports.Source.close`."""
        self._listener, self._places = None, {}
        self._broker.leave(self._group, self.member)


class MemoryPublisher:
    """`ports.Publisher`. With `control`, each transaction leaves its marker on the log, as the real broker's do."""

    def __init__(self, broker: MemoryBroker, group: str, *, control: bool = False) -> None:
        self._broker = broker
        self._group = group
        self._control = control
        self._epochs: dict[Part, int] = {}

    async def fence(self, part: Part) -> None:
        """See `ports.Publisher.fence`."""
        self._epochs[part] = self._broker.fence(self._name(part))

    async def publish(self, part: Part, records: Mapping[str, Sequence[Outgoing]]) -> None:
        """See `ports.Publisher.publish`."""
        epoch = self._epochs.get(part)
        if epoch is None or not self._broker.is_current(self._name(part), epoch):
            raise FencedError(f"Another worker publishes for {part.topic}:{part.partition} now.")
        for topic, some in records.items():
            self._broker.append(topic, some, control=self._control)

    async def send(self, topic: str, records: Sequence[Outgoing]) -> None:
        """See `ports.Publisher.send`."""
        self._broker.append(topic, records)

    async def partitions(self, topic: str) -> int:
        """See `ports.Publisher.partitions`."""
        return self._broker.count(topic)

    async def release(self, part: Part) -> None:
        """See `ports.Publisher.release`."""
        self._epochs.pop(part, None)

    async def close(self) -> None:
        """See `ports.Publisher.close`."""
        self._epochs.clear()

    def _name(self, part: Part) -> str:
        return f"{self._group}-{part.topic}-{part.partition}"
