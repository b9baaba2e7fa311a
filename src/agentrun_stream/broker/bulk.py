"""Many records to one topic, fast: prepared batches, idempotent, acks=all, murmur2, lz4; counts what was acknowledged.

Must not live here: where the records come from, or what is in them.
"""

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from agentrun_stream import limits
from agentrun_stream.broker.delivery import never_create
from agentrun_stream.broker.kafka import KafkaAddress, partition_of, unavailable
from agentrun_stream.errors import ConfigError, UnavailableError

_BATCH_BYTES: Final = 512 * limits.KIB
_KEYS_REMEMBERED: Final = 100_000  # hashing a key costs ten times what appending a record does
_STALL_S: Final = 60.0  # without one acknowledgement; the client itself would go on for ever
# What a record may have besides its value: key, headers, and the batch's own head.
ENVELOPE_BYTES_MAX: Final = 64 * limits.KIB


class BulkProducer:
    """An async context manager. Records of one key keep their order; `acknowledged` counts those the broker has.

    Memory stays small: `send` waits while the broker has not taken the batch before, per partition.
    """

    def __init__(self, address: KafkaAddress, topic: str) -> None:
        self._address = address
        self._topic = topic
        self._producer: AIOKafkaProducer
        self._open: dict[int, tuple[Any, int]] = {}
        self._waiting: set[asyncio.Future[Any]] = set()
        self._failed: BaseException | None = None
        self._count = 0
        self._turn = 0
        self._home = lru_cache(_KEYS_REMEMBERED)(lambda key: partition_of(key, self._count))
        self.acknowledged = 0

    async def __aenter__(self) -> Self:
        producer = AIOKafkaProducer(  # here, as it wants a running loop
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            max_request_size=limits.CLIENT_REQUEST_BYTES_MAX,
            **self._address.common,
        )
        self._producer = never_create(producer)
        try:
            await self._producer.start()
            # Not `partitions_for`, which waits forty seconds for a topic that is not there.
            known = await self._producer.client.fetch_all_metadata()
            self._count = len(known.partitions_for_topic(self._topic) or ())
        except (KafkaError, TimeoutError) as error:
            await self._stop()
            raise unavailable(error, self._address, self._topic) from None
        if not self._count:
            await self._stop()
            raise ConfigError(f"There is no topic {self._topic} on this broker.", "Run `agentrun topics apply`.")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            await self._stop()

    async def send(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> None:
        """Take one record; it is acknowledged later. Raises UnavailableError once one before it was not."""
        if partition is None:
            if key is None:
                self._turn += 1
                partition = self._turn % self._count
            else:
                partition = self._home(key)
        fields = {"key": key, "value": value, "timestamp": None, "headers": list(headers)}
        batch, records = self._open.get(partition) or (self._producer.create_batch(), 0)
        if batch.append(**fields) is None:  # full; an empty one takes any
            await self._dispatch(partition, batch, records)
            batch, records = self._producer.create_batch(), 0
            batch.append(**fields)
        self._open[partition] = (batch, records + 1)

    async def flush(self) -> None:
        """Return when everything sent is acknowledged."""
        for partition, (batch, records) in list(self._open.items()):
            await self._dispatch(partition, batch, records)
        self._open.clear()
        while self._waiting:
            settled, _ = await asyncio.wait(self._waiting, timeout=_STALL_S, return_when=asyncio.FIRST_COMPLETED)
            if not settled:
                raise self._unavailable(TimeoutError())
        self._raise_failed()

    async def _dispatch(self, partition: int, batch: Any, records: int) -> None:
        self._raise_failed()
        try:
            async with asyncio.timeout(_STALL_S):
                future = await self._producer.send_batch(batch, self._topic, partition=partition)
        except (KafkaError, TimeoutError) as error:
            raise self._unavailable(error) from None
        self._waiting.add(future)

        def done(settled: asyncio.Future[Any]) -> None:
            self._waiting.discard(settled)
            if settled.cancelled() or settled.exception() is not None:
                self._failed = self._failed or (None if settled.cancelled() else settled.exception()) or TimeoutError()
            else:
                self.acknowledged += records

        future.add_done_callback(done)

    def _raise_failed(self) -> None:
        if self._failed is not None:
            raise self._unavailable(self._failed) from None

    def _unavailable(self, error: BaseException) -> UnavailableError:
        base = unavailable(Exception() if not isinstance(error, Exception) else error, self._address, self._topic)
        return UnavailableError(
            f"{base.message} {self.acknowledged} records were acknowledged before.",
            f"{base.next_step} Publishing everything again is safe: repeats change nothing.",
        )

    async def _stop(self) -> None:
        try:
            async with asyncio.timeout(10):
                await self._producer.stop()
        except (KafkaError, TimeoutError):
            pass  # what was not acknowledged was counted as such
