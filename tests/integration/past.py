"""A log that began some time ago. No test lives here."""

import asyncio
import time
from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from agentrun_stream import limits
from agentrun_stream.broker import admin
from integration.harness import Lane, Place, sent, with_admin


async def _set_time_type(made: Lane, kind: str) -> None:
    async def alter(client: AIOKafkaAdminClient) -> None:
        config = {"message.timestamp.type": kind, "max.message.bytes": str(limits.EVENTS_MESSAGE_BYTES_MAX)}
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, made.topic, config)])

    await with_admin(made.stack.kafka, alter)


def appended_long_ago(made: Lane, seconds: float, events: Iterable[bytes]) -> list[Place]:
    """Events as the broker would have appended them some time ago: append time is its own, so the topic must allow it."""
    asyncio.run(_set_time_type(made, "CreateTime"))
    stamp = time.time_ns() // 1_000_000 - int(seconds * 1000)
    places = made.produce([sent(event)._replace(timestamp=stamp) for event in events])
    asyncio.run(admin.apply_topics(made.kafka, admin.TopicOptions(inputs=(made.topic,))))
    return places
