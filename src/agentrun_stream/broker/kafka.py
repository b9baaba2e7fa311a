"""Kafka as the loop uses it: one group member that reads, and the producers that write. All through aiokafka.

Must not live here: what records mean, when to commit, topics' settings (topics.py, admin.py).
"""

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    InvalidProducerEpoch,
    KafkaError,
    OffsetOutOfRangeError,
    ProducerFenced,
)
from aiokafka.structs import OffsetAndMetadata
from structlog.typing import FilteringBoundLogger

from agentrun_stream import limits
from agentrun_stream.broker.delivery import delivered, drop, never_create, partitions_now, topic_error
from agentrun_stream.errors import FencedError, LostOffsetError, UnavailableError
from agentrun_stream.ports import GroupListener, LogBounds, Outgoing, Part, Record

_NO_PARTITION: Final = TopicPartition("agentrun-keep-alive", 0)
_BATCH_BYTES: Final = 512 * limits.KIB
_NEXT: Final = "Check that the broker runs and that AGENTRUN_KAFKA__BOOTSTRAP names it: `agentrun doctor`."


@dataclass(frozen=True, slots=True)
class KafkaAddress:
    """Where the broker is and how to log in; `security` are aiokafka's own keyword arguments."""

    bootstrap: str
    client_id: str = "agentrun"
    request_timeout_ms: int = 40_000
    security: Mapping[str, Any] = field(default_factory=dict)

    @property
    def common(self) -> dict[str, Any]:
        """What every client is made with."""
        return {
            "bootstrap_servers": self.bootstrap,
            "client_id": self.client_id,
            "request_timeout_ms": self.request_timeout_ms,
            **self.security,
        }


@dataclass(frozen=True, slots=True)
class GroupOptions:
    """How one worker is a member of its group. Times in ms, sizes in bytes."""

    group: str
    topics: Sequence[str]
    instance_id: str | None = None
    session_timeout_ms: int = 30_000
    rebalance_timeout_ms: int = 120_000
    max_poll_interval_ms: int = 300_000
    fetch_max_bytes: int = 64 * limits.MIB
    fetch_partition_bytes: int = limits.FETCH_PARTITION_BYTES_MAX
    fetch_wait_ms: int = 100


def partition_of(run_id: bytes, partitions: int) -> int:
    """The partition of a key by Kafka's default partitioner, murmur2 of 32 bits with Kafka's seed.

    The client's own goes byte by byte and takes 2.4 times as long; a test holds the two together.
    """
    length = len(run_id)
    words, rest = divmod(length, 4)
    hashed = 0x9747B28C ^ length
    for word in struct.unpack_from(f"<{words}I", run_id):
        mixed = (word * 0x5BD1E995) & 0xFFFFFFFF
        hashed = ((hashed * 0x5BD1E995) & 0xFFFFFFFF) ^ (((mixed ^ (mixed >> 24)) * 0x5BD1E995) & 0xFFFFFFFF)
    if rest:
        hashed ^= int.from_bytes(run_id[words * 4 :], "little")
        hashed = (hashed * 0x5BD1E995) & 0xFFFFFFFF
    hashed = ((hashed ^ (hashed >> 13)) * 0x5BD1E995) & 0xFFFFFFFF
    return ((hashed ^ (hashed >> 15)) & 0x7FFFFFFF) % partitions


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, source: "KafkaSource", listener: GroupListener) -> None:
        self._source = source
        self._listener = listener

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        await self._listener.on_revoked([Part(tp.topic, tp.partition) for tp in revoked])

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        # A position of our own and a pause, before anything can be fetched: the loop starts each when it knows where.
        for tp in assigned:
            self._source.consumer.seek(tp, 0)
        self._source.consumer.pause(*assigned)
        await self._listener.on_assigned([Part(tp.topic, tp.partition) for tp in assigned])


class KafkaSource:
    """`ports.Source`: reads committed records only, never resets an offset by itself."""

    def __init__(self, address: KafkaAddress, options: GroupOptions, log: FilteringBoundLogger) -> None:
        self._options = options
        self._log = log
        self._address = address
        self.consumer = AIOKafkaConsumer(
            group_id=options.group,
            group_instance_id=options.instance_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            session_timeout_ms=options.session_timeout_ms,
            heartbeat_interval_ms=min(3_000, options.session_timeout_ms // 3),
            rebalance_timeout_ms=options.rebalance_timeout_ms,
            max_poll_interval_ms=options.max_poll_interval_ms,
            fetch_max_bytes=options.fetch_max_bytes,
            max_partition_fetch_bytes=options.fetch_partition_bytes,
            fetch_max_wait_ms=options.fetch_wait_ms,
            metadata_max_age_ms=30_000,
            **address.common,
        )

    async def open(self, listener: GroupListener) -> None:
        """See `ports.Source.open`."""
        try:
            await self.consumer.start()
        except KafkaError as error:
            raise unavailable(error, self._address) from None
        self.consumer.subscribe(list(self._options.topics), listener=_Rebalance(self, listener))

    async def poll(self, wait_ms: int, records_max: int) -> Mapping[Part, Sequence[Record]]:
        """See `ports.Source.poll`."""
        try:
            polled = await self.consumer.getmany(timeout_ms=wait_ms, max_records=records_max)
        except OffsetOutOfRangeError:
            raise LostOffsetError("The log no longer holds the offsets that are due.", "") from None
        except KafkaError as error:
            raise unavailable(error, self._address) from None
        return {Part(tp.topic, tp.partition): records for tp, records in polled.items()}

    async def keep_alive(self) -> None:
        """See `ports.Source.keep_alive`: a poll of no partition counts as one for the group's poll interval."""
        await self.consumer.getmany(_NO_PARTITION, timeout_ms=0)

    def position(self, part: Part) -> int | None:
        """See `ports.Source.position`."""
        assignment = self.consumer._subscription.subscription.assignment  # noqa: SLF001  the public call waits
        if assignment is None:
            return None
        state = assignment.state_value(TopicPartition(*part))
        return state.position if state is not None and state.has_valid_position else None

    def end(self, part: Part) -> int | None:
        """See `ports.Source.end`."""
        try:
            found: int | None = self.consumer.last_stable_offset(TopicPartition(*part))
        except (AssertionError, IllegalStateError):
            return None
        return found

    async def bounds(self, part: Part) -> LogBounds:
        """See `ports.Source.bounds`."""
        tp = TopicPartition(*part)
        try:
            start = (await self.consumer.beginning_offsets([tp]))[tp]
            end = (await self.consumer.end_offsets([tp]))[tp]
            committed = await self.consumer.committed(tp)
        except KafkaError as error:
            raise unavailable(error, self._address) from None
        return LogBounds(start, end, committed)

    def start(self, part: Part, offset: int) -> None:
        """See `ports.Source.start`."""
        tp = TopicPartition(*part)
        self.consumer.seek(tp, offset)
        self.consumer.resume(tp)

    def pause(self, part: Part) -> None:
        """See `ports.Source.pause`."""
        self.consumer.pause(TopicPartition(*part))

    async def commit(self, offsets: Mapping[Part, int]) -> None:
        """See `ports.Source.commit`."""
        try:
            await self.consumer.commit({TopicPartition(*p): OffsetAndMetadata(o, "") for p, o in offsets.items()})
        except (CommitFailedError, IllegalStateError) as error:
            self._log.warning(
                "commit refused", why=type(error).__name__, next="nothing to do: the journal in the store decides"
            )
        except KafkaError as error:
            raise unavailable(error, self._address) from None

    async def close(self) -> None:
        """See `ports.Source.close`."""
        await self.consumer.stop()


class KafkaPublisher:
    """`ports.Publisher`: one transactional producer per input partition, one idempotent producer for the rest."""

    def __init__(self, address: KafkaAddress, group: str) -> None:
        self._address = address
        self._group = group
        self._fenced: dict[Part, AIOKafkaProducer] = {}
        self._plain: AIOKafkaProducer | None = None
        self._counts: dict[str, int] = {}
        self.produced: Callable[[], None] = _nothing  # within a transaction, between its records and its end

    async def fence(self, part: Part) -> None:
        """See `ports.Publisher.fence`."""
        await self.release(part)
        name = f"{self._group}-{part.topic}-{part.partition}"
        producer = self._producer(transactional_id=name, linger_ms=0)
        await self._start(producer)
        self._fenced[part] = producer

    async def publish(self, part: Part, records: Mapping[str, Sequence[Outgoing]]) -> None:
        """See `ports.Publisher.publish`."""
        producer = self._fenced.get(part)
        if producer is None:
            raise FencedError(f"No publisher for {part.topic}:{part.partition}.")
        try:
            async with producer.transaction():
                for topic, some in records.items():
                    await self._send_all(producer, topic, some)
                self.produced()
        except (ProducerFenced, InvalidProducerEpoch) as error:
            await self.release(part)  # it stays fenced, however often it is asked
            raise FencedError(f"Another worker publishes for {part.topic}:{part.partition} now.") from error
        except KafkaError as error:
            raise unavailable(error, self._address) from None

    async def send(self, topic: str, records: Sequence[Outgoing]) -> None:
        """See `ports.Publisher.send`."""
        producer = await self._plain_one()
        try:
            self._counts[topic] = await partitions_now(producer, topic)
            patience_s = self._address.request_timeout_ms / 1000
            await delivered(producer, topic, self._send_all(producer, topic, records), patience_s)
        except (KafkaError, UnavailableError) as error:
            # What it still holds may or may not have arrived; a fresh one begins with nothing. A repeat is harmless.
            if self._plain is producer:
                self._plain = None
            await drop(producer)
            raise unavailable(error, self._address, topic) from None

    async def partitions(self, topic: str) -> int:
        """See `ports.Publisher.partitions`."""
        producer = await self._plain_one()
        try:
            self._counts[topic] = await partitions_now(producer, topic)
        except KafkaError as error:
            raise unavailable(error, self._address, topic) from None
        return self._counts[topic]

    async def _plain_one(self) -> AIOKafkaProducer:
        if self._plain is None:
            producer = self._producer(enable_idempotence=True)
            await self._start(producer)
            self._plain = producer
        return self._plain

    async def release(self, part: Part) -> None:
        """See `ports.Publisher.release`."""
        producer = self._fenced.pop(part, None)
        if producer is not None:
            await _stop(producer)

    async def close(self) -> None:
        """See `ports.Publisher.close`."""
        for part in list(self._fenced):
            await self.release(part)
        if self._plain is not None:
            await _stop(self._plain)
            self._plain = None

    def _producer(self, **options: Any) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            acks="all",
            compression_type="lz4",
            max_batch_size=_BATCH_BYTES,
            max_request_size=limits.CLIENT_REQUEST_BYTES_MAX,
            **options,
            **self._address.common,
        )
        return never_create(producer)

    async def _start(self, producer: AIOKafkaProducer) -> None:
        try:
            await producer.start()
        except KafkaError as error:
            await _stop(producer)
            raise unavailable(error, self._address) from None

    async def _send_all(self, producer: AIOKafkaProducer, topic: str, records: Sequence[Outgoing]) -> None:
        """Send by prepared batches: a fifth of the cost of one call a record."""
        count = self._counts.get(topic) or await self.partitions(topic)
        by_partition: dict[int, list[Outgoing]] = {}
        for record in records:
            partition = record.partition
            if partition is None:
                partition = partition_of(record.key, count) if record.key is not None else len(by_partition) % count
            by_partition.setdefault(partition, []).append(record)
        waiting = []
        for partition, group in by_partition.items():
            waiting += await self._batches(producer, topic, partition, group)
        await asyncio.gather(*waiting)

    async def _batches(
        self, producer: AIOKafkaProducer, topic: str, partition: int, records: Sequence[Outgoing]
    ) -> list[asyncio.Future[Any]]:
        futures, batch = [], producer.create_batch()
        for record in records:
            fields = {"key": record.key, "value": record.value, "timestamp": None, "headers": list(record.headers)}
            if batch.append(**fields) is None:  # full; an empty batch takes any record
                futures.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                batch.append(**fields)
        futures.append(await producer.send_batch(batch, topic, partition=partition))
        return futures


def _nothing() -> None:
    return None


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        await producer.stop()
    except KafkaError:
        return  # it is gone either way; what it had not delivered was never counted as written


def unavailable(error: Exception, address: KafkaAddress, topic: str = "") -> UnavailableError:
    """Our error for a broker that does not answer, or a topic that does not take a record."""
    if isinstance(error, UnavailableError):
        return error
    if topic and (found := topic_error(error, topic)) is not None:
        return found
    what = f" for topic {topic}" if topic else ""
    return UnavailableError(
        f"The broker at {address.bootstrap} does not serve{what} now ({type(error).__name__}).", _NEXT
    )
