"""Bounded reads of a topic without a group: from offsets to offsets, committed records only.

Must not live here: what the records mean.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from agentrun_stream import limits
from agentrun_stream.broker.kafka import KafkaAddress, unavailable
from agentrun_stream.errors import ConfigError, LostOffsetError
from agentrun_stream.ports import Part, Record

_POLL_MS: Final = 500
_POLL_RECORDS_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class Span:
    """What to read of a partition: from `start` (None: the log start) up to `end`, exclusive (None: the end now)."""

    start: int | None = None
    end: int | None = None


async def read_partition(
    address: KafkaAddress, part: Part, span: Span | None = None
) -> AsyncIterator[Sequence[Record]]:
    """The committed records of one partition, in order, a list at a time."""
    async for _, records in read_topic(address, part.topic, {part.partition: span or Span()}):
        yield records


async def read_topic(
    address: KafkaAddress, topic: str, spans: Mapping[int, Span] | None = None
) -> AsyncIterator[tuple[Part, Sequence[Record]]]:
    """The committed records of a topic's partitions (None: all), in order per partition, a list at a time.

    It ends by position, not by the last record: control records and compacted-away ones at the end are no reason to
    wait. Raises LostOffsetError where the log no longer holds `start`, ConfigError where there is no such topic.
    """
    consumer = AIOKafkaConsumer(
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        max_partition_fetch_bytes=limits.FETCH_PARTITION_BYTES_MAX,
        fetch_max_wait_ms=100,
        **address.common,
    )
    try:
        await consumer.start()
        ends = await _seek(consumer, topic, spans)
        while ends:
            # Only what still has something to give is fetched; getmany of a paused partition would wait for nothing.
            polled = await consumer.getmany(*ends, timeout_ms=_POLL_MS, max_records=_POLL_RECORDS_MAX)
            for tp, records in polled.items():
                kept = [r for r in records if r.offset < ends[tp]] if records[-1].offset >= ends[tp] else records
                if kept:
                    yield Part(tp.topic, tp.partition), kept
            for tp in list(ends):
                if await consumer.position(tp) >= ends[tp]:
                    del ends[tp]
                    consumer.pause(tp)
    except OffsetOutOfRangeError as error:
        raise LostOffsetError(
            f"The log of {topic} no longer holds the offsets that were asked for.",
            "Records past the topic's retention are gone; ask for later ones.",
        ) from error
    except (KafkaError, TimeoutError) as error:
        raise unavailable(error, address, topic) from None
    finally:
        await consumer.stop()


async def offsets_since(address: KafkaAddress, parts: Sequence[Part], since_ms: int | None) -> dict[Part, int]:
    """The first offset appended at or after a time, per partition; the end where nothing was. None: nowhere."""
    if since_ms is None or not parts:
        return {}
    consumer = AIOKafkaConsumer(enable_auto_commit=False, **address.common)
    try:
        await consumer.start()
        wanted = {TopicPartition(*part): since_ms for part in parts}
        found = await consumer.offsets_for_times(wanted)
        ends = await consumer.end_offsets(list(wanted))
    except (KafkaError, TimeoutError) as error:
        raise unavailable(error, address) from None
    finally:
        await consumer.stop()
    return {Part(*tp): found[tp].offset if found.get(tp) else ends[tp] for tp in wanted}


async def _seek(consumer: AIOKafkaConsumer, topic: str, spans: Mapping[int, Span] | None) -> dict[TopicPartition, int]:
    """Take the partitions on, each at its start; return where each ends. Those with nothing to read are left out."""
    # A consumer knows only the topics it asked about; `partitions_for_topic` would be None before that.
    existing = (await consumer._client.fetch_all_metadata()).partitions_for_topic(topic) or set()  # noqa: SLF001
    wanted = spans if spans is not None else {p: Span() for p in sorted(existing)}
    if not existing or not existing.issuperset(wanted):
        gone = f"{topic}:{min(set(wanted) - existing)}" if existing else topic
        raise ConfigError(f"There is no {gone} on this broker.", "See `agentrun topics show`.")
    parts = {TopicPartition(topic, p): span for p, span in wanted.items()}
    consumer.assign(list(parts))
    starts, ends = await consumer.beginning_offsets(list(parts)), await consumer.end_offsets(list(parts))
    found = {}
    for tp, span in parts.items():
        start = starts[tp] if span.start is None else span.start
        end = ends[tp] if span.end is None else min(span.end, ends[tp])
        consumer.seek(tp, start)
        if start < end:
            found[tp] = end
        else:
            consumer.pause(tp)
    return found
