"""The embedded broker as a real process: Kafka itself, its jars checked, its data kept, nothing left behind."""

import asyncio
import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import ProducerFenced

from agentrun_stream import limits
from agentrun_stream.broker import jars
from agentrun_stream.broker.embedded import EmbeddedBroker
from agentrun_stream.errors import EmbeddedError

pytestmark = pytest.mark.stack


@pytest.fixture(scope="session")
def cache() -> Path:
    """The user's own cache of jars: fetched at the first run of these tests, then used again."""
    folder = jars.default_cache_dir()
    jars.prepare_jars(folder, lambda _: None)
    return folder


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path_factory.mktemp("broker"), cache_dir=cache) as running:
        yield running


@pytest.fixture
def copied_cache(cache: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    shutil.copytree(cache, folder)
    return folder


async def make_topic(bootstrap: str, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    config = {"max.message.bytes": str(limits.DEAD_LETTER_MESSAGE_BYTES_MAX)}
    await admin.create_topics([NewTopic(name, 1, 1, topic_configs=config)])
    await admin.close()


async def read_all(bootstrap: str, name: str) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=limits.FETCH_PARTITION_BYTES_MAX,
    )
    await consumer.start()
    partition = TopicPartition(name, 0)
    consumer.assign([partition])
    end = (await consumer.end_offsets([partition]))[partition]
    values: list[bytes | None] = []
    while await consumer.position(partition) < end:
        values += [record.value for record in (await consumer.getmany(timeout_ms=1000)).get(partition, [])]
    await consumer.stop()
    return values


def test_records_go_in_and_come_out(broker: EmbeddedBroker) -> None:
    """Also the largest dead letter there may be."""

    async def scenario() -> list[bytes | None]:
        await make_topic(broker.bootstrap, "plain")
        size = limits.DEAD_LETTER_MESSAGE_BYTES_MAX - limits.KIB
        async with AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap, max_request_size=limits.CLIENT_REQUEST_BYTES_MAX
        ) as producer:
            await producer.send_and_wait("plain", b"one")
            await producer.send_and_wait("plain", b"x" * size)
        return await read_all(broker.bootstrap, "plain")

    values = asyncio.run(scenario())
    assert values[0] == b"one"
    assert len(values[1] or b"") == limits.DEAD_LETTER_MESSAGE_BYTES_MAX - limits.KIB


def test_transactions_commit_abort_and_fence(broker: EmbeddedBroker) -> None:
    """What is aborted is never read, and a second producer of the same id fences the first."""

    async def scenario() -> list[bytes | None]:
        await make_topic(broker.bootstrap, "exact")
        first = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id="w-0")
        await first.start()
        async with first.transaction():
            await first.send_and_wait("exact", b"kept")
        await first.begin_transaction()
        await first.send_and_wait("exact", b"dropped")
        await first.abort_transaction()
        second = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id="w-0")
        await second.start()
        with pytest.raises(ProducerFenced):
            async with first.transaction():
                await first.send_and_wait("exact", b"zombie")
        await second.stop()
        await first.stop()
        return await read_all(broker.bootstrap, "exact")

    assert asyncio.run(scenario()) == [b"kept"]


def test_topics_are_never_made_by_accident(broker: EmbeddedBroker) -> None:
    """auto.create.topics.enable is off."""

    async def topics() -> list[str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
        await admin.start()
        await admin.describe_topics(["typo"])
        found: list[str] = await admin.list_topics()
        await admin.close()
        return found

    assert "typo" not in asyncio.run(topics())


def test_it_listens_on_loopback_only(broker: EmbeddedBroker) -> None:
    """Every listening socket of the process is on 127.0.0.1."""
    inodes = {str(fd.readlink()) for fd in Path(f"/proc/{broker.pid}/fd").iterdir() if fd.is_symlink()}
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{broker.pid}/net/{name}").read_text().splitlines()[1:]
    ]
    listening = [row[1].rsplit(":", 1)[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
    assert listening
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_a_second_start_on_the_folder_is_refused(broker: EmbeddedBroker, cache: Path) -> None:
    with pytest.raises(EmbeddedError, match="already runs on"):
        EmbeddedBroker(broker.folder, cache_dir=cache).start()


def test_files_are_private(broker: EmbeddedBroker) -> None:
    found = [
        path for path in (broker.folder, *broker.folder.rglob("*")) if path.exists() and path.stat().st_mode & 0o077
    ]
    assert found == []


def test_data_and_port_are_kept_without_a_network(cache: Path, tmp_path: Path) -> None:
    """Stopped and started again, here from an unpacked Kafka folder, the records are still there."""
    home = tmp_path / "kafka"
    home.mkdir()
    (home / "libs").symlink_to(cache)

    async def write(bootstrap: str) -> None:
        await make_topic(bootstrap, "kept")
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            await producer.send_and_wait("kept", b"still here")

    nowhere = tmp_path / "no cache"
    with EmbeddedBroker(tmp_path / "data", cache_dir=nowhere, kafka_home=home) as first:
        bootstrap = first.bootstrap
        asyncio.run(write(bootstrap))
    with EmbeddedBroker(tmp_path / "data", cache_dir=nowhere, kafka_home=home) as again:
        assert again.bootstrap == bootstrap
        assert asyncio.run(read_all(bootstrap, "kept")) == [b"still here"]
    assert not nowhere.exists()


def test_a_folder_that_is_no_kafka_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="no Kafka folder") as caught:
        EmbeddedBroker(tmp_path / "data", kafka_home=tmp_path).start()
    assert "AGENTRUN_KAFKA_HOME" in caught.value.next_step


def test_a_busy_port_is_named(cache: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"Port {port} "):
            EmbeddedBroker(tmp_path, port=port, cache_dir=cache).start()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda jar: os.truncate(jar, 1000), "truncated"),
        (lambda jar: jar.write_bytes(b"\0" * jar.stat().st_size), "wrong SHA-256"),
        (lambda jar: jar.unlink(), "is missing"),
        (lambda jar: (jar.parent / "extra.jar").write_bytes(b""), "not one of Kafka's jars"),
    ],
)
def test_a_jar_that_is_not_as_listed_is_never_run(
    copied_cache: Path, tmp_path: Path, damage: object, words: str
) -> None:
    """Truncated, changed, missing or added: one paragraph that names the file, and what to do."""
    assert callable(damage)
    damage(next(copied_cache.glob("kafka-clients-*.jar")))
    with pytest.raises(EmbeddedError, match=words) as caught:
        EmbeddedBroker(tmp_path / "data", cache_dir=copied_cache).start()
    assert str(copied_cache) in caught.value.message
    assert "run again" in caught.value.next_step


def test_a_full_disk_is_said_so_and_leaves_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched half is not kept."""

    def full(*_: object) -> Iterator[Path]:
        yield from ()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jars, "_resolve", full)
    with pytest.raises(EmbeddedError, match="No space left on device") as caught:
        jars.prepare_jars(tmp_path / "cache" / "kafka", lambda _: None)
    assert "run again" in caught.value.next_step
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wrong_jar_from_the_network_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Everything is checked before it gets into the cache."""

    def fetched(repository: Path, _: object) -> Iterator[Path]:
        shutil.copytree(cache, repository)
        next(repository.glob("kafka_2*.jar")).write_bytes(b"not a jar")
        yield from repository.glob("*.jar")

    monkeypatch.setattr(jars, "_resolve", fetched)
    with pytest.raises(EmbeddedError, match="truncated or not the right file"):
        jars.prepare_jars(tmp_path / "cache" / "kafka", lambda _: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_broker_ends_with_its_parent(cache: Path, tmp_path: Path) -> None:
    """A parent that is killed leaves no broker behind, and the folder free."""
    program = f"""
import pathlib, time
from agentrun_stream.broker.embedded import EmbeddedBroker
broker = EmbeddedBroker(pathlib.Path({str(tmp_path)!r}), cache_dir=pathlib.Path({str(cache)!r}))
broker.start(); broker.wait_ready()
print(broker.pid, flush=True); time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        pass
    else:
        assert select.select([fd], [], [], 30)[0], f"process {pid} lives on"
    with EmbeddedBroker(tmp_path, cache_dir=cache):
        pass
