"""Dead letters that can't be written: the partition stops, says why, and goes on by itself; nothing is lost."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from agentrun_stream import topics
from agentrun_stream.broker import admin, embedded
from agentrun_stream.broker.kafka import KafkaAddress, KafkaPublisher
from agentrun_stream.errors import TopicError
from agentrun_stream.ports import Outgoing
from agentrun_stream.supervisor import local_environment
from agentrun_stream.testing import stack as stacks
from agentrun_stream.testing.events import run_event
from agentrun_stream.testing.stack import Stack
from integration.harness import Lane, Place, Sent, lane, run_on, soon, with_admin

pytestmark = pytest.mark.stack

DLQ = topics.DEAD_LETTERS


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own: the dead letters of the shared one are everybody's."""
    if stacks.missing("embedded"):
        pytest.skip(stacks.missing("embedded"))
    stack = stacks.start("embedded", tmp_path_factory.mktemp("dead-letters"), 0)
    yield stack
    stack.stop()


def bad_on(partition: int, name: str, size: int = 0) -> Sent:
    run_id = run_on(partition, name)
    return Sent(b'{"no": "run"' + b" " * size + b"}", run_id.encode())


async def exists(kafka: KafkaAddress) -> bool:
    shown = await admin.show_topics(kafka)
    return next(t.partitions for t in shown if t.name == DLQ) is not None


def apply(made: Lane) -> None:
    told = made.agentrun("topics", "apply")
    assert told.code == 0, told


def assert_stopped(made: Lane, partition: int, *words: str) -> None:
    """Readiness, metric and log say which partition stands still, why, and what to do; the others go on."""
    where = f"{made.topic}:{partition} stopped"
    reasons = soon(lambda: [r for r in made.reasons() if where in r], what="the stop")
    assert len(reasons) == 1
    for word in (DLQ, "agentrun topics apply", *words):
        assert word in reasons[0]
        assert word in made.log()
    assert made.get("/readyz")[0] == 503
    assert made.metric("partition_stopped", partition=partition, reason="dead_letters") == 1
    others = [run_on(p, f"{made.name}-other") for p in range(4) if p != partition]
    made.produce([run_event(name) for name in others])
    soon(lambda: made.one(f"SELECT count() AS n FROM runs_latest WHERE id LIKE '{made.name}-other%'")["n"] == 3)
    assert made.metric("partition_stopped") == 1


def assert_goes_on(made: Lane, after: str, places: list[Place]) -> None:
    """By itself, and with every dead letter."""
    made.wait()
    soon(lambda: made.get("/readyz")[0] == 200, what="readiness")
    assert made.metric("partition_stopped") == 0
    assert made.run_row(after)["status"] == "completed"
    for place in places:
        assert made.letter_of(place).said["attempt"] == "1"
    made.assert_exact()


def test_a_missing_topic_stops_the_partition_until_it_is_there(own: Stack, tmp_path: Path) -> None:
    """Deleted while the worker runs, and made again."""
    after = run_on(1, "after-missing")
    with lane(own, tmp_path, "missing") as made:
        made.start()
        asyncio.run(with_admin(own.kafka, lambda client: client.delete_topics([DLQ])))
        places = made.produce([bad_on(1, "missing"), bad_on(1, "missing-too")])
        made.produce([run_event(after)])
        assert_stopped(made, 1, "does not exist")
        assert not asyncio.run(exists(made.kafka))
        apply(made)
        assert_goes_on(made, after, places)


def test_a_topic_too_small_stops_the_partition_until_it_is_not(own: Stack, tmp_path: Path) -> None:
    """A record larger than the dead letters take is not cut and not dropped."""

    async def shrink(client: AIOKafkaAdminClient) -> None:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, DLQ, {"max.message.bytes": "2000"})])

    after = run_on(2, "after-full")
    with lane(own, tmp_path, "full") as made:
        apply(made)
        made.start()
        asyncio.run(with_admin(own.kafka, shrink))
        (large,) = made.produce([bad_on(2, "large", 300_000)._replace(value=os.urandom(300_000))])
        made.produce([run_event(after)])
        assert_stopped(made, 2, "max.message.bytes")
        apply(made)
        assert_goes_on(made, after, [large])
        assert len(made.letter_of(large).value or b"") == 300_000


@pytest.mark.slow
def test_too_many_refused_records_stop_until_an_operator_resumes(own: Stack, tmp_path: Path) -> None:
    """Nothing of them is in the dead letters before; `work --resume` lets what is on the log pass, and only that."""
    after, later = run_on(3, "after-share"), run_on(3, "later-share")
    settings = {"AGENTRUN_WORKER__DLQ_STOP_RATIO": "0.5", "AGENTRUN_WORKER__DLQ_STOP_WINDOW": "20"}
    with lane(own, tmp_path, "share", **settings) as made:
        apply(made)
        made.start()
        places = made.produce([bad_on(3, f"share-{n}") for n in range(15)])
        made.produce([run_event(after)])
        reason = soon(made.reasons, what="the stop")[0]
        assert "agentrun work --resume" in reason
        assert made.metric("partition_stopped", partition=3, reason="refused_share") == 1
        assert made.letters() == []
        made.stop()
        with resumed(made):
            made.wait()
            assert sorted(x.said["offset"] for x in made.letters()) == sorted(str(p.offset) for p in places)
            assert made.run_row(after)["status"] == "completed"
            made.produce([bad_on(3, f"again-{n}") for n in range(15)])
            made.produce([run_event(later)])
            soon(lambda: "partition stopped" in (tmp_path / "resumed.log").read_text(), what="the second stop")
        assert len(made.letters()) == len(places)
        with resumed(made):
            made.wait()
        assert len(made.letters()) == 2 * len(places)
        made.assert_exact()


class resumed:  # noqa: N801 - reads as what it does
    """`agentrun work --resume` beside the block."""

    def __init__(self, made: Lane) -> None:
        mine = local_environment(made.stack.kafka, made.stack.clickhouse, made.environment)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")}
        self._log = (made.folder.parent / "resumed.log").open("w")
        command = [sys.executable, "-m", "agentrun_stream.cli", "work", "--resume"]
        self._child = subprocess.Popen(command, env={**kept, **mine}, stdout=self._log, stderr=self._log)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._child.send_signal(signal.SIGTERM)
        assert self._child.wait(30) == 0
        self._log.close()


@pytest.mark.slow
def test_a_broker_that_makes_topics_is_not_made_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the broker would make a topic that a client names, a missing one still is missing, and nobody makes it."""
    monkeypatch.setitem(embedded._CONFIG, "auto.create.topics.enable", "true")
    with embedded.EmbeddedBroker(tmp_path / "broker") as broker:
        kafka = KafkaAddress(broker.bootstrap)

        async def send() -> None:
            publisher = KafkaPublisher(kafka, "group")
            try:
                for _ in range(2):
                    with pytest.raises(TopicError, match=f"{DLQ} does not exist"):
                        await publisher.send(DLQ, [Outgoing(b"k", b"v")])
                assert not await exists(kafka)
            finally:
                await publisher.close()

        asyncio.run(send())
