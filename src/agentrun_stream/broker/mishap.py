"""What goes wrong on a broker by somebody's hand: a topic removed, a log cut off at its start. For fault tests alone.

Must not live here: anything that a running system calls.
"""

from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from agentrun_stream.broker.admin import session
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.ports import Part


async def remove_topic(address: KafkaAddress, name: str) -> None:
    """Remove a topic with everything on it."""
    async with session(address) as client:
        await client.delete_topics([name])


async def cut_log(address: KafkaAddress, part: Part, before: int) -> None:
    """Delete the records of a partition before an offset, as retention does."""
    wanted = {TopicPartition(*part): RecordsToDelete(before_offset=before)}
    async with session(address) as client:
        await client.delete_records(wanted)
