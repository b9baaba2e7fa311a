"""What may keep a topic from taking records, told apart from a broker that is away; and clients that never make topics.

An idempotent producer tries for ever where a topic is gone or has too few replicas, so whoever waits for it must look.
Must not live here: sending (kafka.py, bulk.py).
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from agentrun_stream.errors import TopicError

LOOK_S: Final = 2.0
_APPLY: Final = "`agentrun topics apply` makes it and sets its limits"
_WHY: Final[tuple[tuple[tuple[type[KafkaError], ...], str, str], ...]] = (
    ((UnknownTopicOrPartitionError, InvalidTopicError), "does not exist", f"Make it: {_APPLY}."),
    (
        (MessageSizeTooLargeError, RecordListTooLargeError),
        "does not take a record of this size",
        f"Raise its max.message.bytes: {_APPLY}.",
    ),
    (
        (TopicAuthorizationFailedError, PolicyViolationError),
        "may not be written by this user",
        "Give the user of AGENTRUN_KAFKA__USERNAME the right to write to it.",
    ),
    (
        (NotEnoughReplicasError, NotEnoughReplicasAfterAppendError),
        "has too few replicas in sync to be written",
        "Bring its brokers back, or lower its min.insync.replicas.",
    ),
)


def topic_error(error: BaseException, topic: str) -> TopicError | None:
    """Our error where it is the topic that does not take a record; None where it is the broker."""
    for kinds, what, next_step in _WHY:
        if isinstance(error, kinds):
            return TopicError(f"The topic {topic} {what} ({type(error).__name__}).", next_step)
    return None


def never_create(producer: AIOKafkaProducer) -> AIOKafkaProducer:
    """Let a producer ask for all topics and none by name: a broker makes the ones that are named and missing."""
    client: Any = producer.client
    update = client._metadata_update  # noqa: SLF001  there is no public switch for it

    async def of_all(cluster: Any, _topics: object) -> Any:
        return await update(cluster, None)

    client._metadata_update = of_all  # noqa: SLF001
    return producer


async def partitions_now(producer: AIOKafkaProducer, topic: str) -> int:
    """How many partitions a topic has at this moment. Raises TopicError where there is none."""
    found = (await producer.client.fetch_all_metadata()).partitions_for_topic(topic)
    if not found:
        error = topic_error(UnknownTopicOrPartitionError(), topic)
        assert error is not None
        raise error
    return len(found)


async def delivered(producer: AIOKafkaProducer, topic: str, work: Coroutine[Any, Any, None], patience_s: float) -> None:
    """Wait for acknowledgements as long as the topic exists. Raises TopicError where it vanished, or never answers."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    until = loop.time() + patience_s
    try:
        while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
            await partitions_now(producer, topic)
            if loop.time() > until:
                raise TopicError(
                    f"The topic {topic} has not acknowledged anything for {patience_s:g} s, though the broker answers.",
                    "See its replicas and the broker's log: `agentrun topics show`.",
                )
        task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def drop(producer: AIOKafkaProducer) -> None:
    """End a producer without waiting for what it could not deliver."""
    await producer._sender.close()  # noqa: SLF001  else `stop` would wait for it for ever
    await producer.stop()
