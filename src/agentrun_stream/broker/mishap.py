"""What goes wrong on a broker by somebody's hand: a topic removed, a log cut off at its start. For fault tests alone.

Must not live here: anything that a running system calls.
"""

from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from agentrun_stream.broker.kafka import KafkaAddress, unavailable
from agentrun_stream.ports import Part


async def remove_topic(address: KafkaAddress, name: str) -> None:
    """Remove a topic with everything on it."""
    await _with_admin(address, lambda client: client.delete_topics([name]))


async def cut_log(address: KafkaAddress, part: Part, before: int) -> None:
    """Delete the records of a partition before an offset, as retention does."""
    wanted = {TopicPartition(*part): RecordsToDelete(before_offset=before)}
    await _with_admin(address, lambda client: client.delete_records(wanted))


async def _with_admin(address: KafkaAddress, work: Any) -> None:
    client = AIOKafkaAdminClient(**address.common)
    try:
        await client.start()
        await work(client)
    except KafkaError as error:
        raise unavailable(error, address) from None
    finally:
        await client.close()
