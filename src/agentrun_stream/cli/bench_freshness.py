"""The freshness benchmark: from acknowledged by the broker to visible by SQL, at a steady rate of steps.

Must not live here: how results are printed (bench.py).
"""

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from agentrun_stream import topics
from agentrun_stream.broker.bulk import BulkProducer
from agentrun_stream.broker.jars import jars_folder
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.config import Settings, load_settings
from agentrun_stream.proof import run_audit
from agentrun_stream.store.client import connect
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.sql import literal
from agentrun_stream.supervisor import StackOptions, Supervisor
from agentrun_stream.testing.fleet import Record
from agentrun_stream.testing.load import Load, bench_load
from agentrun_stream.wiring import kafka_address, store_address

TICK_S: Final = 0.05
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Freshness:
    """How many steps a second, and for how long."""

    rate: int = 5_000
    seconds: float = 20.0
    seed: int = 1


class _Watch:
    """Marked runs: when each was acknowledged, and when SQL first showed its newest step."""

    def __init__(self, settings: Settings) -> None:
        self._client = connect(store_address(settings))
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], float] = {}
        self.seen: list[float] = []
        self.done = threading.Event()

    def acknowledged(self, run_id: str, step_id: str, at: float) -> None:
        with self._lock:
            self._waiting[run_id, step_id] = at

    def run(self) -> None:
        patience = time.monotonic() + _PATIENCE_S
        while time.monotonic() < patience:
            with self._lock:
                waiting = dict(self._waiting)
            if not waiting and self.done.is_set():
                return
            if waiting:
                self._look(waiting)
                if not self.done.is_set():
                    patience = time.monotonic() + _PATIENCE_S
            time.sleep(0.01)

    def _look(self, waiting: dict[tuple[str, str], float]) -> None:
        keys = ", ".join(f"('default', {literal(r)}, 'step', {literal(s)})" for r, s in waiting)
        sql = f"SELECT run_id, object_id FROM run_objects WHERE (workspace, run_id, kind, object_id) IN ({keys})"  # noqa: S608 - literals
        found = {(row[0], row[1]) for row in rows_of(self._client, sql)}
        now = time.monotonic()
        with self._lock:
            for key in found:
                at = self._waiting.pop(key, None)
                if at is not None:
                    self.seen.append(now - at)

    @property
    def missing(self) -> int:
        return len(self._waiting)


def freshness(options: Freshness, folder: Path, settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the benchmark on a stack of its own in `folder`; returns the figures by name."""
    stack = Supervisor(StackOptions(folder, 1, cache=jars_folder(settings.cache), kafka_home=settings.kafka_home), say)
    endpoints = stack.start()
    try:
        mine = load_settings(
            {"kafka.bootstrap": endpoints.kafka, "clickhouse.url": endpoints.clickhouse, "data": folder}
        )
        watch = _Watch(mine)
        thread = threading.Thread(target=watch.run, daemon=True)
        thread.start()
        say(f"Publishing {options.rate:,} steps/s for {options.seconds:g} s.")
        sent = asyncio.run(_publish(options, kafka_address(mine), watch))
        watch.done.set()
        thread.join()
        findings = asyncio.run(run_audit(mine))
    finally:
        stack.stop()
    cuts = statistics.quantiles(watch.seen, n=100) if len(watch.seen) > 1 else [float("nan")] * 99
    return {
        "records": sent,
        "samples": len(watch.seen),
        "never_seen": watch.missing,
        "p50_seconds": round(cuts[49], 3),
        "p99_seconds": round(cuts[98], 3),
        "max_seconds": round(max(watch.seen, default=float("nan")), 3),
        "audit_residual": findings.total,
    }


async def _publish(options: Freshness, address: KafkaAddress, watch: _Watch) -> int:
    total = int(options.rate * options.seconds)
    load = bench_load(Load(steps=total, open_runs=500, seed=options.seed, now=datetime.now(UTC)))
    started = time.monotonic()
    async with BulkProducer(address, topics.EVENTS) as producer:
        for tick, records in enumerate(_ticks(load, int(options.rate * TICK_S)), 1):
            newest = None
            for record in records:
                await producer.send(record.key, record.value, record.headers)
                if b"agentrun.step.v1" in record.value:
                    newest = record
            await producer.flush()
            if newest is not None:
                step_id = orjson.loads(newest.value)["data"]["id"]
                watch.acknowledged(newest.key.decode(), step_id, time.monotonic())
            await asyncio.sleep(max(0.0, started + tick * TICK_S - time.monotonic()))
    return producer.acknowledged


def _ticks(load: Iterator[Record], size: int) -> Iterator[list[Any]]:
    while records := list(islice(load, size)):
        yield records
