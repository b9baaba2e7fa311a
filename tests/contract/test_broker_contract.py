"""What every broker promises the loop: one suite, on the twin in memory and on Kafka."""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from agentrun_stream.errors import FencedError, UnavailableError
from agentrun_stream.ports import LogBounds, Outgoing, Part, Source
from contract.stages import KafkaStage, Listener, MemoryStage, Stage, polled, settled

Play = Callable[[Callable[[Stage], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.stack)])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scenario on the stage of this side."""
    bootstrap = request.getfixturevalue("bootstrap") if request.param == "kafka" else ""

    def played(scenario: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
        stage: Stage = KafkaStage(bootstrap) if bootstrap else MemoryStage()
        try:
            asyncio.run(scenario(stage))
        finally:
            gc.collect()  # a fenced client leaves a future nobody asks; it is told of here, not in the midst of a report

    return played


def some(count: int, prefix: str = "v") -> list[Outgoing]:
    return [Outgoing(b"k", f"{prefix}{i}".encode()) for i in range(count)]


async def opened(stage: Stage, topic: str, *, starts: bool = True) -> tuple[Source, Listener]:
    source = stage.source(topic)
    listener = Listener(source, starts=starts)
    await source.open(listener)
    await settled((source, listener), parts=await partitions(stage, topic))
    return source, listener


async def partitions(stage: Stage, topic: str) -> int:
    publisher = stage.publisher()
    count = await publisher.partitions(topic)
    await publisher.close()
    return count


def values(records: Sequence[Any]) -> list[bytes]:
    return [record.value for record in records]


def test_records_come_in_offset_order_with_append_times(play: Play) -> None:
    """Key, value and headers as they were sent; the broker's times never fall."""

    async def scenario(stage: Stage) -> None:
        topic = await stage.topic()
        sent = [Outgoing(b"k", b"v", (("a", b"\x00\xff"),)), Outgoing(None, b""), Outgoing(b"", None), *some(20)]
        await stage.produce(topic, sent)
        source, _ = await opened(stage, topic)
        found = (await polled(source, 23))[Part(topic, 0)]
        assert [(r.key, r.value, tuple(r.headers)) for r in found] == [(s.key, s.value, tuple(s.headers)) for s in sent]
        assert [r.offset for r in found] == list(range(23))
        times = [r.timestamp for r in found]
        assert times == sorted(times)
        assert times[0] > 1_600_000_000_000
        await source.close()

    play(scenario)


def test_nothing_of_a_partition_comes_before_it_is_started(play: Play) -> None:
    """Nor while it is paused; from where it is started again, nothing is left out."""

    async def scenario(stage: Stage) -> None:
        topic = await stage.topic()
        part = Part(topic, 0)
        await stage.produce(topic, some(5))
        source, _ = await opened(stage, topic, starts=False)
        assert await polled(source, 1, tries=5) == {}
        source.start(part, 2)
        assert values((await polled(source, 3))[part]) == [b"v2", b"v3", b"v4"]
        source.pause(part)
        await stage.produce(topic, some(2, "w"))
        assert await polled(source, 1, tries=5) == {}
        source.start(part, 4)
        assert values((await polled(source, 3))[part]) == [b"v4", b"w0", b"w1"]
        await source.close()

    play(scenario)


def test_a_poll_takes_no_more_than_it_was_asked_for(play: Play) -> None:
    """And the rest comes next: none is skipped."""

    async def scenario(stage: Stage) -> None:
        topic = await stage.topic()
        await stage.produce(topic, some(10))
        source, _ = await opened(stage, topic)
        found: list[bytes] = []
        while len(found) < 10:
            taken = (await source.poll(100, 3)).get(Part(topic, 0), [])
            assert len(taken) <= 3
            found += values(taken)
            assert source.position(Part(topic, 0)) == len(found)
        assert found == [f"v{i}".encode() for i in range(10)]
        await source.close()

    play(scenario)


def test_aborted_records_are_never_delivered_and_position_covers_control_records(play: Play) -> None:
    """The position after everything polled is the end of the log, with markers of transactions at its end too."""

    async def scenario(stage: Stage) -> None:
        topic = await stage.topic()
        part = Part(topic, 0)
        await stage.produce(topic, some(2))
        await stage.produce(topic, some(3, "aborted"), end="abort")
        await stage.produce(topic, some(1, "w"), end="commit")
        source, _ = await opened(stage, topic)
        found = (await polled(source, 3))[part]
        assert [r.value for r in found] == [b"v0", b"v1", b"w0"]
        assert [r.offset for r in found[:2]] == [0, 1]
        await polled(source, 1, tries=5)
        # A client may drop what it had not sent yet when it aborts, so the log's own end says how much there is.
        before = (await source.bounds(part)).end
        assert source.position(part) == source.end(part) == before > found[-1].offset + 1
        await stage.produce(topic, some(2, "gone"), end="abort")
        after = (await source.bounds(part)).end
        assert after > before
        for _ in range(50):
            assert await source.poll(100, 10) == {}
            if source.position(part) == after:
                break
        assert source.position(part) == after
        await source.close()

    play(scenario)


def test_bounds_are_the_log_and_the_groups_commit(play: Play) -> None:
    """A group that never committed has None, which is not 0."""

    async def scenario(stage: Stage) -> None:
        topic = await stage.topic()
        part = Part(topic, 0)
        await stage.produce(topic, some(5))
        source, _ = await opened(stage, topic)
        assert await source.bounds(part) == LogBounds(0, 5, None)
        await source.commit({part: 3})
        assert await source.bounds(part) == LogBounds(0, 5, 3)
        await stage.truncate(part, 2)
        assert await source.bounds(part) == LogBounds(2, 5, 3)
        await source.close()
        again, _ = await opened(stage, topic)
        assert values((await polled(again, 2))[part]) == [b"v3", b"v4"]
        await again.close()

    play(scenario)


def test_what_is_not_ours_has_no_position(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        topic = await stage.topic()
        source, _ = await opened(stage, topic)
        assert source.position(Part("elsewhere", 0)) is None
        assert source.end(Part(topic, 7)) is None
        await source.close()

    play(scenario)


def test_partitions_are_given_back_before_another_member_gets_them(play: Play) -> None:
    """A second member takes over its share; when it leaves, all come back."""

    async def scenario(stage: Stage) -> None:
        topic = await stage.topic(4)
        everything = {Part(topic, i) for i in range(4)}
        first = await opened(stage, topic)
        assert first[1].parts == everything
        source = stage.source(topic)
        second = (source, Listener(source))
        await source.open(second[1])
        await settled(first, second, parts=4)
        assert first[1].revoked[-1] == everything
        assert first[1].parts | second[1].parts == everything
        assert len(first[1].parts) == 2
        await second[0].close()
        await settled(first, parts=4)
        await first[0].close()

    play(scenario)


def test_a_commit_after_the_group_moved_on_is_refused_and_no_error(play: Play) -> None:
    """The resume point is the store's journal; the newer owner's commit stays."""

    async def scenario(stage: Stage) -> None:
        topic = await stage.topic()
        part = Part(topic, 0)
        await stage.produce(topic, some(5))
        first = await opened(stage, topic)
        await first[0].commit({part: 1})
        await first[0].close()
        second = await opened(stage, topic)
        await second[0].commit({part: 4})
        await second[0].commit({Part(topic, 3): 7})
        if isinstance(stage, MemoryStage):  # a stopped client of Kafka's can't even ask
            await first[0].commit({part: 2})
        assert (await second[0].bounds(part)).committed == 4
        await second[0].close()

    play(scenario)


def test_keep_alive_takes_nothing(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        topic = await stage.topic()
        await stage.produce(topic, some(5))
        source, _ = await opened(stage, topic)
        before = source.position(Part(topic, 0))
        for _ in range(5):
            await source.keep_alive()
        assert source.position(Part(topic, 0)) == before
        assert len((await polled(source, 5))[Part(topic, 0)]) == 5
        await source.close()

    play(scenario)


def test_a_transaction_is_published_whole(play: Play) -> None:
    """Every record of it, in order, with keys and headers."""

    async def scenario(stage: Stage) -> None:
        runs = await stage.topic()
        publisher, part = stage.publisher("whole"), Part("in", 0)
        await publisher.fence(part)
        await publisher.publish(part, {runs: [Outgoing(b"a", b"1", (("h", b"x"),)), Outgoing(b"a", b"2")]})
        await publisher.publish(part, {runs: [Outgoing(b"b", b"3")]})
        await publisher.close()
        assert await stage.read(runs) == [(b"a", b"1", (("h", b"x"),)), (b"a", b"2", ()), (b"b", b"3", ())]

    play(scenario)


def test_an_older_publisher_is_fenced(play: Play) -> None:
    """After `fence` returned, nothing of an older publisher of the same group and partition gets in; others go on."""

    async def scenario(stage: Stage) -> None:
        runs = await stage.topic()
        old, new, part, other = stage.publisher("fence"), stage.publisher("fence"), Part("in", 1), Part("in", 2)
        await old.fence(part)
        await old.fence(other)
        await old.publish(part, {runs: some(1, "before")})
        await new.fence(part)
        with pytest.raises(FencedError):
            await old.publish(part, {runs: some(1, "zombie")})
        await new.publish(part, {runs: some(1, "new")})
        await old.publish(other, {runs: some(1, "other")})
        await old.fence(part)
        await old.publish(part, {runs: some(1, "again")})
        await old.close()
        await new.close()
        assert values_of(await stage.read(runs)) == [b"before0", b"new0", b"other0", b"again0"]

    play(scenario)


def test_a_fenced_publisher_stays_fenced(play: Play) -> None:
    """However often it tries: the loop may retry."""

    async def scenario(stage: Stage) -> None:
        runs = await stage.topic()
        old, new, part = stage.publisher("stays"), stage.publisher("stays"), Part("in", 1)
        await old.fence(part)
        await new.fence(part)
        try:
            for _ in range(3):
                with pytest.raises(FencedError):
                    await old.publish(part, {runs: some(1, "zombie")})
        finally:
            await old.close()
            await new.close()

    play(scenario)


def test_who_never_fenced_or_released_may_not_publish(play: Play) -> None:
    async def scenario(stage: Stage) -> None:
        runs = await stage.topic()
        publisher, part = stage.publisher("none"), Part("in", 0)
        with pytest.raises(FencedError):
            await publisher.publish(part, {runs: some(1)})
        await publisher.fence(part)
        await publisher.release(part)
        with pytest.raises(FencedError):
            await publisher.publish(part, {runs: some(1)})
        await publisher.close()
        assert await stage.read(runs) == []

    play(scenario)


def test_send_returns_with_every_record_acknowledged(play: Play) -> None:
    """Untouched: no key, empty value, null value, and the partition it is told."""

    async def scenario(stage: Stage) -> None:
        topic = await stage.topic()
        publisher = stage.publisher("send")
        sent = [
            Outgoing(None, b"\xff\x00", partition=0),
            Outgoing(b"k", b"", (("h", b""),)),
            Outgoing(b"", None),
            *some(500),
        ]
        await publisher.send(topic, sent)
        assert await stage.read(topic) == [(r.key, r.value, tuple(r.headers)) for r in sent]
        await publisher.close()

    play(scenario)


def test_a_key_alone_decides_the_partition_by_murmur2(play: Play) -> None:
    """Vectors of Kafka's own partitioner, for four partitions."""

    async def scenario(stage: Stage) -> None:
        topic = await stage.topic(4)
        publisher = stage.publisher("murmur")
        keys = [b"21", b"foobar", b"a-little-bit-long-string", b"abc"]
        await publisher.send(topic, [Outgoing(key, b"v") for key in keys])
        source, _ = await opened(stage, topic)
        found = {r.key: part.partition for part, records in (await polled(source, 4)).items() for r in records}
        hashes = (-973932308, -790332482, -985981536, 479470107)
        assert found == {key: (h & 0x7FFFFFFF) % 4 for key, h in zip(keys, hashes, strict=True)}
        await publisher.close()
        await source.close()

    play(scenario)


def test_a_topic_that_is_not_there_is_unavailable(play: Play) -> None:
    """Never made by accident."""

    async def scenario(stage: Stage) -> None:
        publisher = stage.publisher("nowhere")
        with pytest.raises(UnavailableError):
            await publisher.send("no-such-topic", some(1))
        await publisher.close()

    play(scenario)


def values_of(read: Sequence[tuple[bytes | None, bytes | None, Any]]) -> list[bytes | None]:
    return [value for _, value, _ in read]
