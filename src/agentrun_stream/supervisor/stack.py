"""The local stack as one thing: broker, store and workers as child processes, started, watched, restarted, stopped.

Used by `up`, `demo` and the test fixtures. Must not live here: what a worker does, what is printed.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentrun_stream import topics
from agentrun_stream.broker.embedded import EmbeddedBroker
from agentrun_stream.childproc import FolderLock, private_folder, write_private
from agentrun_stream.config import ENDPOINTS_FILE, Endpoints, find_stack
from agentrun_stream.errors import AgentrunError, EmbeddedError
from agentrun_stream.store.embedded import EmbeddedStore
from agentrun_stream.supervisor.workers import Workers, local_environment

POLL_S: Final = 0.2
BACKOFF_S_MIN: Final = 0.5
BACKOFF_S_MAX: Final = 15.0
STEADY_S: Final = 60.0
LEFTOVER_WAIT_S: Final = 15.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to start and where. Ports None: those of the last time on this folder, else free ones.

    `prepare` is called when the folder belongs to this stack alone, before anything is started on it.
    """

    data: Path
    workers: int = 1
    kafka_port: int | None = None
    clickhouse_port: int | None = None
    cache: Path | None = None
    kafka_home: Path | None = None
    database: str = "agentrun"
    inputs: Sequence[str] = (topics.EVENTS,)
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None


class _Backoff:
    """How long to wait before a child is started again: longer each time, and short again once it held."""

    def __init__(self) -> None:
        self.wait_s = 0.0
        self.until = 0.0
        self._since = time.monotonic()

    def due(self) -> bool:
        """Whether the child may be started now; the first call after a death sets the wait."""
        now = time.monotonic()
        if not self.until:
            steady = now - self._since > STEADY_S
            self.wait_s = BACKOFF_S_MIN if steady or not self.wait_s else min(self.wait_s * 2, BACKOFF_S_MAX)
            self.until = now + self.wait_s
        return now >= self.until

    def started(self) -> None:
        """The child was started again."""
        self.until, self._since = 0.0, time.monotonic()


class Supervisor:
    """One local stack. `start()`, then `watch(stop)` or nothing, then `stop()`; not for several threads at a time."""

    def __init__(self, options: StackOptions, say: Say = lambda _text: None) -> None:
        self._options = options
        self._say = say
        self._lock: FolderLock | None = None
        self._backoff: dict[str, _Backoff] = {}
        self._stopping = threading.Event()
        self.broker: EmbeddedBroker | None = None
        self.store: EmbeddedStore | None = None
        self.workers: Workers | None = None
        self.endpoints: Endpoints | None = None

    # ---- start

    def start(self) -> Endpoints:
        """Start everything, and return once everything answers and every worker is ready. Stops it all on a failure.

        Raises EmbeddedError where something can't be started, also for a second stack on the same folder.
        """
        options = self._options
        private_folder(options.data)
        self._lock = self._locked(options.data)
        try:
            (options.data / ENDPOINTS_FILE).unlink(missing_ok=True)
            options.prepare()
            # Before anything is forked: a child between fork and exec holds whatever lock was held at that moment.
            for name in ("kafka", "clickhouse"):
                self._wait_for_leftover(options.data / name)
            kafka, clickhouse = self._both(self._start_broker, self._start_store)
            environment = {"AGENTRUN_CLICKHOUSE__DATABASE": options.database, **options.environment}
            self._say(f"Starting {options.workers} worker{'s' if options.workers != 1 else ''}.")
            self.workers = Workers(options.data, options.workers, local_environment(kafka, clickhouse, environment))
            self.workers.start()
            self.workers.wait_ready()
            self.endpoints = self._write_endpoints(kafka, clickhouse)
        except BaseException:
            self.stop()
            raise
        return self.endpoints

    def _locked(self, data: Path) -> FolderLock:
        try:
            return FolderLock(data, "stack")
        except EmbeddedError:
            running = find_stack(data)
            what = f"(process {running.pid}) " if running else ""
            raise EmbeddedError(
                f"A local stack {what}already runs on {data}.",
                "Use it as it is, stop it with Ctrl-C where it runs, or name another folder with --data.",
            ) from None

    def _both(self, first: Callable[[], str], second: Callable[[], str]) -> tuple[str, str]:
        """Run two starts side by side; both have ended when this returns or raises."""
        with ThreadPoolExecutor(2, thread_name_prefix="start") as pool:
            one, other = pool.submit(first), pool.submit(second)
            return one.result(), other.result()

    def _start_broker(self) -> str:
        options = self._options
        self.broker = self._new_broker(options.kafka_port)
        self._say("Starting the broker.")
        address = self.broker.start()
        if self._stopping.is_set():
            raise EmbeddedError("The start was interrupted.")
        self.broker.wait_ready()
        self._say(f"The broker answers on {address}; setting up its topics.")
        # Imported here: the broker starts meanwhile, and a second counts.
        from agentrun_stream.broker import admin  # noqa: PLC0415
        from agentrun_stream.broker.kafka import KafkaAddress  # noqa: PLC0415

        asyncio.run(admin.apply_topics(KafkaAddress(address), admin.TopicOptions(inputs=self._options.inputs)))
        return address

    def _new_broker(self, port: int | None) -> EmbeddedBroker:
        options = self._options
        return EmbeddedBroker(
            options.data / "kafka",
            port=port,
            cache_dir=options.cache,
            kafka_home=options.kafka_home,
            progress=self._say,
        )

    def _start_store(self) -> str:
        options = self._options
        folder = options.data / "clickhouse"
        self.store = EmbeddedStore(folder, port=options.clickhouse_port)
        self._say("Starting the store.")
        url = self.store.start()
        self.store.wait_ready()
        self._say(f"The store answers on {url}; setting up its tables.")
        from agentrun_stream.store.client import StoreAddress  # noqa: PLC0415 - as above
        from agentrun_stream.store.migrate import migrate  # noqa: PLC0415

        migrate(StoreAddress(url, options.database))
        return url

    def _wait_for_leftover(self, folder: Path) -> None:
        """A stack that was killed may still be writing its last rows; the folder is ours when it is done."""
        started = time.monotonic()
        private_folder(folder)
        while True:
            try:
                FolderLock(folder, folder.name).release()
            except EmbeddedError:
                if time.monotonic() > started + LEFTOVER_WAIT_S:
                    raise
                self._say(f"Waiting for what still writes to {folder}.")
                time.sleep(1.0)
            else:
                return

    def _write_endpoints(self, kafka: str, clickhouse: str) -> Endpoints:
        assert self.workers is not None
        found = Endpoints(kafka, clickhouse, tuple(self.workers.urls), os.getpid())
        path = self._options.data / ENDPOINTS_FILE
        draft = path.with_suffix(".new")
        said = {"kafka": kafka, "clickhouse": clickhouse, "metrics": list(found.metrics), "pid": found.pid}
        write_private(draft, json.dumps(said, indent=1) + "\n")
        draft.replace(path)
        return found

    # ---- watch

    def watch(self, stop: threading.Event) -> None:
        """Restart what dies, until `stop` is set."""
        while not stop.wait(POLL_S):
            self.mend()

    def mend(self) -> None:
        """Start again whatever ended and is due."""
        self._mend_service("broker", self.restart_broker, self.broker)
        self._mend_service("store", self.restart_store, self.store)
        if self.workers is None:
            return
        for index, child in enumerate(self.workers.children):
            if child is not None and not child.alive:
                name = f"worker {index}"
                backoff = self._backoff.setdefault(name, _Backoff())
                first = not backoff.until
                if backoff.due():
                    self.workers.start_one(index)
                    backoff.started()
                    self._say(f"Worker {index} runs again.")
                elif first:
                    self._say(
                        f"Worker {index} ended (exit code {child.exit_code}); it starts again in {backoff.wait_s:g} s. "
                        f"{child.log_tail()}"
                    )

    def _mend_service(
        self, name: str, restart: Callable[[], None], service: EmbeddedBroker | EmbeddedStore | None
    ) -> None:
        if service is None or service.alive:
            return
        backoff = self._backoff.setdefault(name, _Backoff())
        first = not backoff.until
        if not backoff.due():
            if first:
                self._say(f"The {name} ended; starting it again in {backoff.wait_s:g} s.")
            return
        try:
            restart()
        except AgentrunError as error:
            self._say(f"The {name} did not start again: {error.message} {error.next_step}")
        else:
            self._say(f"The {name} answers again.")
        backoff.started()

    def restart_broker(self) -> None:
        """Stop the broker if it runs, and start it on its old port; it answers when this returns."""
        assert self.endpoints is not None
        self._stop_service(self.broker)
        # On its old port and no other: workers and users have its address.
        self.broker = self._new_broker(int(self.endpoints.kafka.rpartition(":")[2]))
        self.broker.start()
        self.broker.wait_ready()

    def restart_store(self) -> None:
        """Stop the store if it runs, and start it on its old port; it answers when this returns."""
        assert self.endpoints is not None
        self._stop_service(self.store)
        self.store = EmbeddedStore(
            self._options.data / "clickhouse", port=int(self.endpoints.clickhouse.rpartition(":")[2])
        )
        self.store.start()
        self.store.wait_ready()

    # ---- stop

    def stop(self) -> None:
        """Stop everything, workers first; nothing is left when it returns. Doing it again does nothing."""
        self._stopping.set()
        if self._lock is None:
            return  # never started, or another stack's folder: its file is not ours to remove
        (self._options.data / ENDPOINTS_FILE).unlink(missing_ok=True)
        if self.workers is not None:
            self._say("Stopping the workers.")
            self.workers.stop()
            self.workers = None
        if self.broker is not None or self.store is not None:
            self._say("Stopping broker and store.")
            with ThreadPoolExecutor(2, thread_name_prefix="stop") as pool:
                list(pool.map(self._stop_service, (self.broker, self.store)))
            self.broker = self.store = None
        self.endpoints = None
        self._lock.release()
        self._lock = None

    @staticmethod
    def _stop_service(service: EmbeddedBroker | EmbeddedStore | None) -> None:
        if service is not None:
            service.stop()
