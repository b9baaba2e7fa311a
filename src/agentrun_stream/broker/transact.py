"""Records to several topics in one transaction: all of them are there, or none, whatever dies in between.

Must not live here: what the records mean.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced

from agentrun_stream import limits
from agentrun_stream.broker.delivery import never_create, partitions_now
from agentrun_stream.broker.kafka import KafkaAddress, unavailable
from agentrun_stream.errors import FencedError
from agentrun_stream.ports import Outgoing

# Of one that is killed in the middle: so long readers of committed records wait for what comes after it.
_OPEN_MS_MAX: Final = 10_000


class Transactions:
    """An async context manager. Of two with one name the later wins, and the earlier can't commit any more."""

    def __init__(self, address: KafkaAddress, name: str, wanted: Sequence[str]) -> None:
        self._address = address
        self._name = name
        self._wanted = wanted
        self._producer: AIOKafkaProducer

    async def __aenter__(self) -> Self:
        producer = AIOKafkaProducer(
            transactional_id=self._name,
            transaction_timeout_ms=_OPEN_MS_MAX,
            acks="all",
            compression_type="lz4",
            max_request_size=limits.CLIENT_REQUEST_BYTES_MAX,
            **self._address.common,
        )
        self._producer = never_create(producer)
        try:
            await self._producer.start()
            for topic in self._wanted:
                await partitions_now(self._producer, topic)
        except KafkaError as error:
            await self._producer.stop()
            raise unavailable(error, self._address) from None
        except BaseException:
            await self._producer.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def commit(self, records: Sequence[tuple[str, Outgoing]]) -> None:
        """Publish these, each to its topic. MUST NOT return before they are committed."""
        try:
            async with self._producer.transaction():
                sent = [
                    await self._producer.send(topic, r.value, r.key, headers=list(r.headers)) for topic, r in records
                ]
                await asyncio.gather(*sent)
        except (ProducerFenced, InvalidProducerEpoch) as error:
            raise FencedError(
                "Another replay has begun meanwhile; this one ends here.",
                "What it had published is known: the other goes on from there.",
            ) from error
        except KafkaError as error:
            raise unavailable(error, self._address) from None
