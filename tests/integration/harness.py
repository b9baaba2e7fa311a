"""What tests of the whole pipeline share: lanes (a topic, a database, a group and workers of their own) on one stack.

No test lives here, and nothing that knows how the pipeline does its work: topic, HTTP, command line and SQL only.
"""

import asyncio
import http.client
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.partitioner import murmur2
from clickhouse_connect.driver.client import Client
from typer.testing import CliRunner

from agentrun_stream import limits, topics
from agentrun_stream.broker import admin
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.childproc import Child, private_folder
from agentrun_stream.cli.app import app
from agentrun_stream.store.client import StoreAddress, connect, execute
from agentrun_stream.store.migrate import migrate
from agentrun_stream.store.queries import ask
from agentrun_stream.store.windows import ClickHouseWindows
from agentrun_stream.supervisor import Workers, local_environment
from agentrun_stream.testing.events import key_of
from agentrun_stream.testing.stack import Stack

PARTITIONS = 4
SYNC = {"mutations_sync": 2, "lightweight_deletes_sync": 2}
DLQ = "agentrun.dlq."
STILL_S = 3  # longer than the pause between two looks at who is to be shown again, as lanes have it

T = TypeVar("T")


class Told(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


class Sent(NamedTuple):
    """A record to produce. `partition` None: where its key belongs. `timestamp` counts on a CreateTime topic only."""

    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None
    timestamp: int | None = None


class Place(NamedTuple):
    """Where a record stands."""

    partition: int
    offset: int
    timestamp: int


class Letter(NamedTuple):
    """A dead letter: the record as it was, and what its headers say."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    said: dict[str, str]


def sent(event: bytes) -> Sent:
    """A structured event under its own key."""
    return Sent(event, key_of(event))


def home(run_id: str, partitions: int = PARTITIONS) -> int:
    """The partition on which a run belongs, by Kafka's default partitioner."""
    return int((murmur2(run_id.encode()) & 0x7FFFFFFF) % partitions)


def run_on(partition: int, prefix: str) -> str:
    """A run id that belongs on this partition."""
    return next(name for i in range(10_000) if home(name := f"{prefix}-{i}") == partition)


def soon(found: Callable[[], T], timeout_s: float = 30.0, what: str = "") -> T:
    """The first truthy answer; the last one stands in the failure."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = found()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what or 'it'} did not happen in {timeout_s:g} s; last seen: {answer!r}"
        time.sleep(0.1)


@dataclass
class Lane:
    """One pipeline of its own on the shared broker and store: a topic, a database, a group, workers."""

    stack: Stack
    folder: Path
    name: str
    topic: str
    settings: Mapping[str, str] = field(default_factory=dict)
    workers: Workers | None = None

    # ---- setting up

    @property
    def environment(self) -> dict[str, str]:
        """What the lane's own processes are told, besides where broker and store are."""
        return {
            "AGENTRUN_EVENTS_TOPICS": json.dumps([self.topic]),
            "AGENTRUN_CLICKHOUSE__DATABASE": self.name,
            "AGENTRUN_WORKER__GROUP": self.name,
            "AGENTRUN_WORKER__SESSION_TIMEOUT_MS": "6000",
            "AGENTRUN_LEASES__SWEEP_EVERY_S": "1",
            **self.settings,
        }

    def set_up(self) -> "Lane":
        """Make topic and tables."""
        asyncio.run(admin.apply_topics(self.kafka, admin.TopicOptions(inputs=(self.topic,))))
        migrate(self.store)
        return self

    @property
    def kafka(self) -> KafkaAddress:
        return KafkaAddress(self.stack.kafka)

    @property
    def store(self) -> StoreAddress:
        return StoreAddress(self.stack.clickhouse, self.name)

    @property
    def client(self) -> Client:
        return connect(self.store)

    def start(self, count: int = 1, **settings: str) -> None:
        """Start workers; they are ready when this returns."""
        self.launch(count, **settings)
        assert self.workers is not None
        self.workers.wait_ready()

    def launch(self, count: int = 1, **settings: str) -> None:
        """Start workers without waiting for them."""
        environment = local_environment(self.stack.kafka, self.stack.clickhouse, {**self.environment, **settings})
        self.workers = Workers(private_folder(self.folder), count, environment)
        self.workers.start()

    def child(self, index: int = 0) -> Child:
        assert self.workers is not None
        child = self.workers.children[index]
        assert child is not None
        return child

    def kill(self, index: int = 0) -> None:
        """As a machine that loses power."""
        os.kill(self.child(index).pid, signal.SIGKILL)
        self.child(index).stop(1)

    def restart(self, index: int = 0) -> None:
        assert self.workers is not None
        self.workers.start_one(index)

    def stop(self) -> None:
        """Stop the workers in order."""
        if self.workers is not None:
            self.workers.stop()
            self.workers = None

    # ---- the log

    def produce(self, records: Iterable[Sent | bytes], topic: str | None = None) -> list[Place]:
        """Produce, acknowledged; returns where each record stands."""
        return asyncio.run(produce(self.stack.kafka, topic or self.topic, records))

    def wait(self, timeout_s: float = 60.0) -> None:
        """Until everything on the lane's topic is stored."""
        asyncio.run(admin.wait_stored(self.kafka, self.name, (self.topic,), timeout_s))

    def wait_judged(self, timeout_s: float = 60.0) -> None:
        """Until every child was held against its parent, and nothing is shown again any more."""
        waiting = """SELECT count() AS n FROM runs_latest ARRAY JOIN parents AS parent, parents_seen AS seen
            WHERE closed_by IS NOT NULL AND seen = '' AND (workspace, parent) IN (SELECT workspace, run_id FROM runs)"""
        rows = "SELECT groupBitXor(cityHash64(workspace, run_id, _version)) AS digest FROM runs_latest"
        soon(lambda: self.one(waiting)["n"] == 0, timeout_s, "the look at the parents")
        seen: list[object] = []

        def still() -> bool:
            time.sleep(1)
            seen.append(self.one(rows)["digest"])
            return len(seen) > STILL_S and len(set(seen[-STILL_S:])) == 1

        soon(still, timeout_s, "an end of showing runs again")

    def letters(self) -> list[Letter]:
        """The dead letters of this lane, in order of the records that they are about."""
        found = []
        for record in asyncio.run(read_all(self.stack.kafka, topics.DEAD_LETTERS)):
            said = {k.removeprefix(DLQ): v.decode() for k, v in record.headers if k.startswith(DLQ)}
            if said["topic"] == self.topic and said["group"] == self.name:
                own = [(k, v) for k, v in record.headers if not k.startswith(DLQ)]
                found.append(Letter(record.key, record.value, own, said))
        return sorted(found, key=lambda letter: (int(letter.said["partition"]), int(letter.said["offset"])))

    def letter_of(self, place: Place) -> Letter:
        """The dead letter about one record; there is exactly one."""
        wanted = (str(place.partition), str(place.offset))
        found = [x for x in self.letters() if (x.said["partition"], x.said["offset"]) == wanted]
        assert len(found) == 1, f"{len(found)} dead letters about {place}"
        return found[0]

    # ---- the store

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return ask(self.client, sql)

    def one(self, sql: str) -> dict[str, Any]:
        found = self.rows(sql)
        assert len(found) == 1, f"{len(found)} rows: {sql}"
        return found[0]

    def run_row(self, run_id: str) -> dict[str, Any]:
        return self.one(f"SELECT * FROM runs_latest WHERE id = '{run_id}'")

    def execute(self, sql: str) -> None:
        execute(self.client, sql, SYNC)

    def refresh_windows(self) -> None:
        """Sum what is new. Readers count on sums that are ten seconds old; make these so."""
        asyncio.run(ClickHouseWindows(self.store).refresh())
        self.execute("ALTER TABLE window_progress UPDATE refreshed_at = refreshed_at - INTERVAL 1 MINUTE WHERE 1")

    @contextmanager
    def kept(self, table: str) -> Iterator[None]:
        """The table is afterwards what it was before."""
        self.execute(f"CREATE TABLE kept AS {table}")
        try:
            self.execute(f"INSERT INTO kept SELECT * FROM {table}")
            try:
                yield
            finally:  # one test that fails is enough
                self.execute(f"TRUNCATE TABLE {table}")
                self.execute(f"INSERT INTO {table} SELECT * FROM kept")
        finally:
            self.execute("DROP TABLE kept")

    # ---- the command line and the worker's endpoint

    def agentrun(self, *words: str) -> Told:
        """A command, told of this lane by its environment."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("AGENTRUN_")}
        mine = local_environment(self.stack.kafka, self.stack.clickhouse, self.environment)
        with patch.dict(os.environ, {**kept, **mine}, clear=True):
            result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        return Told(result.exit_code, result.stdout, result.stderr)

    def audit(self, *flags: str) -> tuple[int, dict[str, Any]]:
        """Exit code and what `agentrun audit -o json` says."""
        told = self.agentrun("audit", *flags, "-o", "json")
        assert told.code in (0, 1), told
        return told.code, orjson.loads(told.out)

    def assert_exact(self, *flags: str) -> None:
        """`agentrun audit` finds no difference."""
        code, found = self.audit(*flags)
        assert (code, found["residual"]) == (0, 0), found["differences"][:5]

    def get(self, path: str, index: int = 0) -> tuple[int, str]:
        """One request to a worker's endpoint."""
        assert self.workers is not None
        return http_get(self.workers.urls[index], path)

    def reasons(self, index: int = 0) -> list[str]:
        """Why a worker says that it is not ready."""
        return list(json.loads(self.get("/readyz", index)[1])["reasons"])

    def metric(self, name: str, index: int = 0, **labels: object) -> float:
        """The sum of a metric's samples with these labels."""
        wanted = [f'{k}="{v}"' for k, v in labels.items()]
        total = 0.0
        for line in self.get("/metrics", index)[1].splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == f"agentrun_{name}" and all(w in sample for w in wanted):
                total += float(value)
        return total

    def log(self) -> str:
        """Everything the lane's workers wrote."""
        return "".join(p.read_text(errors="replace") for p in sorted(self.folder.glob("worker-*.log*")))


@contextmanager
def lane(stack: Stack, folder: Path, name: str, topic: str | None = None, **settings: str) -> Iterator[Lane]:
    """A lane with its topic and tables made; its workers are stopped at the end."""
    made = Lane(stack, folder / name, name, topic or f"{name}.v1", settings).set_up()
    try:
        yield made
    finally:
        made.stop()


def http_get(url: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


async def produce(bootstrap: str, topic: str, records: Iterable[Sent | bytes]) -> list[Place]:
    """Produce with murmur2, acks from all, sizes up to the topic's limit."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        max_request_size=limits.CLIENT_REQUEST_BYTES_MAX,
        compression_type="lz4",
        linger_ms=2,
    )
    await producer.start()
    try:
        waiting: list[Awaitable[Any]] = []
        for record in records:
            value, key, headers, partition, stamp = sent(record) if isinstance(record, bytes) else record
            waiting.append(
                await producer.send(
                    topic, value, key, partition=partition, timestamp_ms=stamp, headers=list(headers) or None
                )
            )
        done = await asyncio.gather(*waiting)
        return [Place(d.partition, d.offset, d.timestamp) for d in done]
    finally:
        await producer.stop()


async def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Every committed record of a topic, in order per partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=limits.FETCH_PARTITION_BYTES_MAX,
    )
    await consumer.start()
    try:
        parts = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        found: list[Any] = []
        while [tp for tp in parts if await consumer.position(tp) < ends[tp]]:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += records
        return found
    finally:
        await consumer.stop()


async def with_admin(bootstrap: str, work: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
    """One piece of work with an admin client."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        return await work(client)
    finally:
        await client.close()


def last_published(stack: Stack, key: str) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """Value and headers of the last record of a key on the compacted topic; None where there is none."""
    found = [r for r in asyncio.run(read_all(stack.kafka, topics.RUNS)) if r.key == key.encode()]
    return (orjson.loads(found[-1].value), dict(found[-1].headers)) if found else None
