"""A throw-away local stack under load, every part of which can be struck: workers, broker, store, and the wire between.

Must not live here: which faults there are, or whether the outcome is right.
"""

import asyncio
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import orjson

from agentrun_stream import topics
from agentrun_stream.broker import admin
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.childproc import private_folder
from agentrun_stream.config import CRASH_POINT_VARIABLE, ClickhouseSettings, KafkaSettings, Settings, WorkerSettings
from agentrun_stream.errors import AgentrunError, StoppedError, UnavailableError
from agentrun_stream.ports import Part
from agentrun_stream.store.client import StoreAddress, connect, execute
from agentrun_stream.store.migrate import migrate
from agentrun_stream.store.queries import ask
from agentrun_stream.supervisor import StackOptions, Supervisor, Workers, local_environment
from agentrun_stream.testing.chaos.proxy import CutProxy
from agentrun_stream.testing.chaos.steady import SteadyLoad

SESSION_S: Final = 6.0
GROUP: Final = "agentrun"
DATABASE: Final = "agentrun"
CAUGHT_UP_S: Final = 120.0
NOTICE_S: Final = 40.0
_POLL_S: Final = 0.2
_READY_S: Final = 90.0
# Small batches, so that a fault meets many checkpoints; the shortest session that the broker allows.
_WORKER: Final = {
    "AGENTRUN_CONFIG": "",
    "AGENTRUN_CLICKHOUSE__DATABASE": DATABASE,
    "AGENTRUN_CLICKHOUSE__INSERT_TIMEOUT_S": "20",
    "AGENTRUN_EVENTS_TOPICS": f'["{topics.EVENTS}"]',
    "AGENTRUN_WORKSPACES": "{}",
    "AGENTRUN_TENANCY": "envelope",
    "AGENTRUN_LOG_STYLE": "json",
    "AGENTRUN_WORKER__GROUP": GROUP,
    "AGENTRUN_WORKER__TOPIC_EPOCH": "0",
    "AGENTRUN_WORKER__BATCH_RECORDS_MAX": "400",
    "AGENTRUN_WORKER__SESSION_TIMEOUT_MS": str(int(SESSION_S * 1000)),
    "AGENTRUN_WORKER__REBALANCE_TIMEOUT_MS": "20000",
    "AGENTRUN_LEASES__SWEEP_EVERY_S": "1",
}
# The rows as they stand, and how many closed children nobody held against their parent yet.
_SHOWN: Final = """
SELECT groupBitXor(cityHash64(workspace, run_id, _version)) AS rows, countIf(closed_by IS NOT NULL AND has(parents_seen, '')
    AND hasAny(parents, (SELECT groupUniqArray(run_id) FROM runs))) AS waiting
FROM runs FINAL
"""
_STILL: Final = 15  # looks, together longer than the pause between two turns of the sweeper

Say = Callable[[str], None]


class Seen(NamedTuple):
    """What came of a fault, and how many seconds it took to catch up afterwards; None where nobody waited for that."""

    words: str
    seconds: float | None = None

    def __str__(self) -> str:
        return self.words if self.seconds is None else f"{self.words}; caught up in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class BedOptions:
    """Where, how much load, and how many workers."""

    folder: Path
    seed: int = 1
    workers: int = 2
    rate: int = 300
    cache: Path | None = None
    kafka_home: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


class Bed:
    """A context manager: everything runs inside, nothing is left after it. Workers reach the store through a proxy."""

    def __init__(self, options: BedOptions, say: Say = lambda _text: None) -> None:
        self.options = options
        self.folder = options.folder
        stack = StackOptions(options.folder, 0, cache=options.cache, kafka_home=options.kafka_home, database=DATABASE)
        self.supervisor = Supervisor(stack, say)
        self.kills: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self._read: dict[Path, int] = {}
        self.proxy: CutProxy
        self.workers: Workers
        self.load: SteadyLoad
        self._started: ExitStack
        self.kafka: KafkaAddress
        self.store: StoreAddress

    def __enter__(self) -> Self:
        with ExitStack() as started:
            found = self.supervisor.start()
            started.callback(self.supervisor.stop)
            self.kafka, self.store = KafkaAddress(found.kafka), StoreAddress(found.clickhouse, DATABASE)
            self.proxy = CutProxy(int(found.clickhouse.rpartition(":")[2]))
            started.callback(self.proxy.close)
            self.workers = self.crew("fleet", self.options.workers)
            started.callback(self.workers.stop)
            self.workers.start()
            self.workers.wait_ready(_READY_S)
            self.load = SteadyLoad(self.kafka, self.options.seed, self.options.rate)
            started.callback(self.load.stop)
            self._started = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started.__exit__(kind, error, trace)

    # ---- workers

    def crew(self, name: str, count: int, **environment: str) -> Workers:
        """More workers of the same group, with a folder of their own; the caller starts and stops them."""
        mine = local_environment(
            self.kafka.bootstrap, self.proxy.url, {**_WORKER, **self.options.environment, **environment}
        )
        return Workers(private_folder(self.folder / name), count, mine)

    def alive(self, index: int) -> bool:
        """Whether a worker runs."""
        child = self.workers.children[index]
        return child is not None and child.alive

    def pid(self, index: int) -> int:
        """A worker's process."""
        child = self.workers.children[index]
        assert child is not None
        return child.pid

    def kill(self, index: int) -> None:
        """SIGKILL a worker."""
        if self.alive(index):
            os.kill(self.pid(index), signal.SIGKILL)
            self.wait_dead(index)

    def start_worker(self, index: int, crash_point: str = "") -> None:
        """Start a worker that is dead, with a crash point if one is named."""
        self.hear()
        self._read.pop(self.folder / "fleet" / f"worker-{index}.log", None)  # it begins anew
        self.workers.start_one(index, {CRASH_POINT_VARIABLE: crash_point} if crash_point else None)

    def wait_dead(self, index: int, timeout_s: float = 10.0) -> None:
        """Return when a worker has ended by a kill; the kill is counted. Raises StoppedError where it ended by itself."""
        self.until(lambda: not self.alive(index), timeout_s, f"The end of worker {index}")
        self._require_killed(index)
        self.kills["worker"] += 1

    def heal(self) -> None:
        """Start every worker that was killed; all are ready when this returns. No fault makes a worker end by itself."""
        for index in range(len(self.workers.children)):
            if not self.alive(index):
                self._require_killed(index)
                self.start_worker(index)
        self.workers.wait_ready(_READY_S)

    def _require_killed(self, index: int) -> None:
        child = self.workers.children[index]
        if child is not None and child.exit_code != -signal.SIGKILL:
            raise StoppedError(
                f"Worker {index} ended by itself (exit code {child.exit_code}). {child.log_tail()}",
                f"Read {child.log_file}.",
            )

    # ---- broker and store

    def kill_broker(self) -> None:
        """SIGKILL the broker."""
        assert self.supervisor.broker is not None
        os.kill(self.supervisor.broker.pid, signal.SIGKILL)
        self.kills["broker"] += 1

    def kill_store(self) -> None:
        """SIGKILL the store."""
        assert self.supervisor.store is not None
        os.kill(self.supervisor.store.pid, signal.SIGKILL)
        self.kills["store"] += 1

    def stop_store(self) -> None:
        """Stop the store in order."""
        assert self.supervisor.store is not None
        self.supervisor.store.stop()

    @property
    def store_folder(self) -> Path:
        """The folder that the store's process serves."""
        return self.folder / "clickhouse"

    @property
    def store_data(self) -> Path:
        """The store's data, without its log and lock."""
        return self.store_folder / "clickhouse"

    def replace_store_data(self, backup: Path | None) -> None:
        """Put a copy in place of the data of a store that is stopped, or nothing at all; then start it, tables made."""
        shutil.rmtree(self.store_data)
        if backup is not None:
            shutil.copytree(backup, self.store_data, symlinks=True)
        self.supervisor.restart_store()
        migrate(self.store)

    def sql(self, statement: str) -> None:
        """A statement straight to the store."""
        execute(connect(self.store), statement, {"mutations_sync": 2})

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query straight to the store."""
        return ask(connect(self.store), query)

    # ---- looking on

    @property
    def settings(self) -> Settings:
        """Settings that name this stack and nothing else."""
        # Made by hand: nothing that the user's own environment says of a cluster is looked at.
        return Settings(
            kafka=KafkaSettings(bootstrap=self.kafka.bootstrap),
            clickhouse=ClickhouseSettings(url=self.store.url, database=DATABASE),
            worker=WorkerSettings(group=GROUP),
            data=self.folder,
        )

    def until(self, true: Callable[[], object], timeout_s: float, what: str) -> None:
        """Return when it is true. Raises UnavailableError when the time is up."""
        deadline = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{what} did not happen within {timeout_s:g} s.", f"Read the logs in {self.folder}."
                )
            time.sleep(_POLL_S)

    def lags(self) -> list[admin.GroupLag]:
        """How far the group has come."""
        return asyncio.run(admin.group_lag(self.kafka, GROUP, (topics.EVENTS,)))

    def caught_up(self, timeout_s: float = CAUGHT_UP_S) -> float:
        """Wait until everything that is on the log now is stored; returns how many seconds that took."""
        started = time.monotonic()
        ends: dict[Part, int] = {}

        def stored() -> bool:
            try:
                found = self.lags()
            except (AgentrunError, OSError):
                return False
            if not ends:
                ends.update({lag.part: lag.end for lag in found})
            return bool(found) and all(lag.committed is not None and lag.committed >= ends[lag.part] for lag in found)

        self.until(stored, timeout_s, "Catching up")
        return time.monotonic() - started

    def noticed(self, before: Counter[str]) -> str:
        """Wait until a worker says that it waits, or that a partition stands still; returns which."""

        def said(event: str) -> bool:
            return self.hear()[event] > before[event]

        self.until(lambda: said("waits") or said("partition stopped"), NOTICE_S, "A word of a worker about it")
        return "stopped and said so" if said("partition stopped") else "waited and said so"

    def drain(self) -> None:
        """Stop the load, and wait until all of it is stored."""
        self.load.stop()
        self.heal()
        asyncio.run(admin.wait_stored(self.kafka, GROUP, (topics.EVENTS,), CAUGHT_UP_S))
        seen: list[dict[str, Any]] = []

        def still() -> bool:
            seen.extend(ask(connect(self.store), _SHOWN))
            return not seen[-1]["waiting"] and len(seen) > _STILL and all(one == seen[-1] for one in seen[-_STILL:])

        self.until(still, CAUGHT_UP_S, "An end of showing runs again")

    def hear(self) -> Counter[str]:
        """Count what all workers have logged so far, by event."""
        for path in sorted(self.folder.glob("*/worker-*.log")):
            self._hear(path)
        return Counter(self.events)

    def _hear(self, path: Path) -> None:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            for line in file.read().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break  # the rest of it comes
                self._read[path] = self._read.get(path, 0) + len(line)
                with suppress(orjson.JSONDecodeError, AttributeError):
                    self.events[str(orjson.loads(line).get("event"))] += 1
