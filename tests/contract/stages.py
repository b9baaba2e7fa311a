"""Where the broker's contract is played: a small stage over the twin and one over Kafka. Must not live here: promises."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agentrun_stream.broker.kafka import GroupOptions, KafkaAddress, KafkaPublisher, KafkaSource
from agentrun_stream.broker.memory import MemoryBroker, MemoryPublisher, MemorySource
from agentrun_stream.ports import Outgoing, Part, Publisher, Record, Source

_numbers = itertools.count()
Read = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]


class Stage(Protocol):
    """One broker, and clients for it."""

    async def topic(self, partitions: int = 1) -> str: ...

    async def produce(self, topic: str, records: Sequence[Outgoing], *, end: str = "") -> None:
        """Append; `end` "commit" or "abort" makes it one transaction that ends so."""
        ...

    async def truncate(self, part: Part, start: int) -> None: ...

    async def read(self, topic: str) -> list[Read]:
        """Every committed record of the topic's partition 0."""
        ...

    def source(self, topic: str, group: str = "g", member: str | None = None) -> Source: ...

    def publisher(self, group: str = "g") -> Publisher: ...


class MemoryStage:
    """The twin. Its clock moves one millisecond at every look."""

    def __init__(self) -> None:
        ticks = itertools.count(1_767_268_800_000)
        self.broker = MemoryBroker(lambda: next(ticks))

    async def topic(self, partitions: int = 1) -> str:
        name = f"t{next(_numbers)}"
        self.broker.create(name, partitions)
        return name

    async def produce(self, topic: str, records: Sequence[Outgoing], *, end: str = "") -> None:
        self.broker.append(topic, records, control=end == "commit", abort=end == "abort")

    async def truncate(self, part: Part, start: int) -> None:
        self.broker.truncate(part, start)

    async def read(self, topic: str) -> list[Read]:
        return [(r.key, r.value, tuple(r.headers)) for r in self.broker.records(topic, 0)]

    def source(self, topic: str, group: str = "g", member: str | None = None) -> Source:
        return MemorySource(self.broker, group, [topic], member or f"m{next(_numbers)}")

    def publisher(self, group: str = "g") -> Publisher:
        return MemoryPublisher(self.broker, group, control=True)


class KafkaStage:
    """The real broker."""

    def __init__(self, bootstrap: str) -> None:
        self.address = KafkaAddress(bootstrap)

    async def topic(self, partitions: int = 1) -> str:
        name = f"t{next(_numbers)}"
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address.bootstrap)
        await admin.start()
        config = {"message.timestamp.type": "LogAppendTime"}
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
        await admin.close()
        return name

    async def produce(self, topic: str, records: Sequence[Outgoing], *, end: str = "") -> None:
        name = f"tx{next(_numbers)}" if end else None
        producer = AIOKafkaProducer(
            bootstrap_servers=self.address.bootstrap, transactional_id=name, enable_idempotence=True
        )
        await producer.start()
        if end:
            await producer.begin_transaction()
        for r in records:
            headers = list(r.headers)
            await producer.send_and_wait(topic, r.value, key=r.key, partition=r.partition or 0, headers=headers)
        if end == "commit":
            await producer.commit_transaction()
        elif end == "abort":
            await producer.abort_transaction()
        await producer.stop()

    async def truncate(self, part: Part, start: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address.bootstrap)
        await admin.start()
        from aiokafka.admin import RecordsToDelete  # noqa: PLC0415 - only here

        await admin.delete_records({TopicPartition(*part): RecordsToDelete(before_offset=start)})
        await admin.close()

    async def read(self, topic: str) -> list[Read]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.address.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        await consumer.start()
        tp = TopicPartition(topic, 0)
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        found: list[Read] = []
        while await consumer.position(tp) < end:
            records = (await consumer.getmany(timeout_ms=200)).get(tp, [])
            found.extend((r.key, r.value, tuple(r.headers)) for r in records)
        await consumer.stop()
        return found

    def source(self, topic: str, group: str = "g", member: str | None = None) -> Source:
        options = GroupOptions(f"{group}-{topic}", [topic], session_timeout_ms=6_000, rebalance_timeout_ms=10_000)
        return KafkaSource(self.address, options, structlog.get_logger())

    def publisher(self, group: str = "g") -> Publisher:
        return KafkaPublisher(replace(self.address, request_timeout_ms=3_000), group)


class Listener:
    """A member that starts what it is given at the group's commit, as long as `starts` is true."""

    def __init__(self, source: Source, *, starts: bool = True) -> None:
        self.source = source
        self.starts = starts
        self.parts: set[Part] = set()
        self.assigned = 0
        self.revoked: list[set[Part]] = []

    async def on_revoked(self, parts: Sequence[Part]) -> None:
        self.revoked.append(set(parts))
        self.parts -= set(parts)

    async def on_assigned(self, parts: Sequence[Part]) -> None:
        self.assigned += 1
        self.parts |= set(parts)
        for part in parts if self.starts else ():
            bounds = await self.source.bounds(part)
            self.source.start(part, bounds.start if bounds.committed is None else bounds.committed)


async def polled(source: Source, wanted: int, tries: int = 100) -> dict[Part, list[Record]]:
    """Poll until that many records came, or no more do."""
    found: dict[Part, list[Record]] = {}
    for _ in range(tries):
        if sum(map(len, found.values())) >= wanted:
            return found
        for part, records in (await source.poll(100, 1_000)).items():
            found.setdefault(part, []).extend(records)
        await asyncio.sleep(0)
    return found


async def settled(*members: tuple[Source, Listener], parts: int) -> None:
    """Let the members meet until they share all the partitions between them."""
    for _ in range(400):
        if sum(len(listener.parts) for _, listener in members) == parts and all(m.assigned for _, m in members):
            return
        await asyncio.gather(*(source.keep_alive() for source, _ in members))
        await asyncio.sleep(0.0 if isinstance(members[0][0], MemorySource) else 0.05)
    raise AssertionError([listener.parts for _, listener in members])
