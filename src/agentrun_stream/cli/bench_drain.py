"""The drain benchmark: a full topic, one worker on it, two yardsticks on the same records, the audit's verdict beside it.

Must not live here: how results are printed (bench.py).
"""

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agentrun_stream import topics
from agentrun_stream.broker.bulk import BulkProducer
from agentrun_stream.broker.jars import jars_folder
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.broker.scan import read_topic
from agentrun_stream.childproc import private_folder
from agentrun_stream.config import Endpoints, Settings, load_settings
from agentrun_stream.errors import UnavailableError
from agentrun_stream.ports import Part, Record
from agentrun_stream.proof import run_audit
from agentrun_stream.store import queries
from agentrun_stream.store.client import connect, execute
from agentrun_stream.store.writer import insert
from agentrun_stream.supervisor import StackOptions, Supervisor
from agentrun_stream.testing.folding import encoded_steps
from agentrun_stream.testing.keys import register
from agentrun_stream.testing.load import Load, bench_load
from agentrun_stream.testing.load_signing import bench_registry
from agentrun_stream.wiring import kafka_address, run_worker, store_address

TRUST_FOLDER: Final = "trust"
RAW_ROWS: Final = 200_000
RAW_INSERT_ROWS: Final = 20_000
_DRAIN_TIMEOUT_S: Final = 1_800

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Drain:
    """What to drain. The shares are of step events; `tampered` is of runs, where they are `signed`."""

    steps: int = 1_000_000
    open_runs: int = 500
    bad: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    seed: int = 1
    signed: bool = False
    tampered: float = 0.0
    costs: bool = True


@dataclass(frozen=True, slots=True)
class _Filled:
    """How many records the topic holds, and the headlines of their runs."""

    records: int
    verdicts: Counter[str]


# What is compared with what: the options of the first, and of the second, as a share of which the ratio is told.
PAIRS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "signed": {"unsigned": {"signed": False}, "signed": {"signed": True}},
    "costs": {"plain": {"costs": False}, "costed": {"costs": True}},
}


def drain_both(pair: str, options: Drain, folder: Path, settings: Settings, say: Say) -> dict[str, Any]:
    """Drain the same load both ways of a pair, each on a stack of its own; returns the figures of both and their ratio."""
    found: dict[str, dict[str, Any]] = {}
    for name, changed in PAIRS[pair].items():
        say(f"The load, {name}.")
        found[name] = drain(replace(options, **changed), private_folder(folder / name), settings, say)
    both = {f"{name}_{figure}": value for name, figures in found.items() for figure, value in figures.items()}
    first, second = found
    both[f"{second}_of_{first}"] = round(found[second]["steps_per_second"] / found[first]["steps_per_second"], 3)
    for figure in ("audit_residual", "verdicts_differ"):
        both[figure] = sum(figures[figure] for figures in found.values())
    return both


def drain(options: Drain, folder: Path, settings: Settings, say: Say) -> dict[str, Any]:
    """Run the benchmark on a stack of its own in `folder`; returns the figures by name."""
    stack = Supervisor(StackOptions(folder, 0, cache=jars_folder(settings.cache), kafka_home=settings.kafka_home), say)
    endpoints = stack.start()
    try:
        mine = load_settings(
            {
                "kafka.bootstrap": endpoints.kafka,
                "clickhouse.url": endpoints.clickhouse,
                "data": folder,
                "trust.dir": folder / TRUST_FOLDER,
            }
        )
        if options.signed:
            register(folder / TRUST_FOLDER, bench_registry(options.seed))
        say(f"Filling the topic: {options.steps:,} steps, {options.open_runs:,} runs open at once.")
        filled = asyncio.run(_fill(options, kafka_address(mine)))
        say(f"{filled.records:,} records. Yardstick: raw consumption.")
        raw_consume = asyncio.run(_raw_consume(kafka_address(mine)))
        say("Draining.")
        worker = _worker(filled.records, endpoints, folder, costs=options.costs)
        say("Yardstick: raw insert of step rows.")
        raw_insert = _raw_insert(mine)
        say("Auditing.")
        findings = asyncio.run(run_audit(mine))
        verdicts = _verdicts(mine, filled.verdicts)
    finally:
        stack.stop()
    return {
        "steps": options.steps,
        "records": filled.records,
        "open_runs": options.open_runs,
        "seconds": round(worker["seconds"], 3),
        "steps_per_second": round(options.steps / worker["seconds"]),
        "worker_cpu_us_per_step": round(worker["cpu_s"] / options.steps * 1e6, 2),
        "worker_rss_mb": round(worker["rss_mb"]),
        "raw_consume_per_second": round(raw_consume),
        "raw_insert_per_second": round(raw_insert),
        **verdicts,
        "audit_residual": findings.total,
        "refused": findings.refused,
    }


async def _fill(options: Drain, address: KafkaAddress) -> _Filled:
    load = Load(
        steps=options.steps,
        open_runs=options.open_runs,
        seed=options.seed,
        now=datetime.now(UTC),
        bad=options.bad,
        repeated=options.repeated,
        late=options.late,
        signed=options.signed,
        tampered=options.tampered,
    )
    verdicts: Counter[str] = Counter()
    async with BulkProducer(address, topics.EVENTS) as producer:
        for record in bench_load(load, verdicts):
            await producer.send(record.key, record.value, record.headers)
    return _Filled(producer.acknowledged, verdicts)


def _verdicts(settings: Settings, generated: Counter[str]) -> dict[str, int]:
    """The headlines found beside those generated, and how many of them are not as they must be."""
    rows = queries.runs_by_verdict(connect(store_address(settings)))
    found = Counter({str(row["verdict"]): int(row["runs"]) for row in rows})
    figures: dict[str, int] = {}
    for word in sorted(found.keys() | generated.keys()):
        figures |= {f"runs_{word}_generated": generated[word], f"runs_{word}_found": found[word]}
    return figures | {"verdicts_differ": sum(abs(found[w] - generated[w]) for w in found.keys() | generated.keys())}


async def _raw_consume(address: KafkaAddress) -> float:
    count, started = 0, 0.0
    async for _, records in read_topic(address, topics.EVENTS):
        started = started or time.perf_counter()
        count += len(records)
    return count / (time.perf_counter() - started)


def _raw_insert(settings: Settings) -> float:
    """The step rows of the drained topic, encoded as the worker encodes them, into a table like `run_objects`."""
    client = connect(store_address(settings))
    encoded: list[bytes] = []
    for part, records in asyncio.run(_some_records(kafka_address(settings))):
        encoded += encoded_steps(part, records)
    execute(client, "CREATE TABLE raw_rows AS run_objects")
    started = time.perf_counter()
    for at in range(0, len(encoded), RAW_INSERT_ROWS):
        insert(client, "run_objects", encoded[at : at + RAW_INSERT_ROWS], into="raw_rows")
    seconds = time.perf_counter() - started
    execute(client, "DROP TABLE raw_rows")
    return len(encoded) / seconds


async def _some_records(address: KafkaAddress) -> list[tuple[Part, Sequence[Record]]]:
    found, count = [], 0
    async for part, records in read_topic(address, topics.EVENTS):
        found.append((part, records))
        count += len(records)
        if count >= RAW_ROWS:
            break
    return found


# ---- the worker, in a process of its own


def _worker(records: int, endpoints: Endpoints, folder: Path, *, costs: bool) -> dict[str, float]:
    addresses = [f"AGENTRUN_KAFKA__BOOTSTRAP={endpoints.kafka}", f"AGENTRUN_CLICKHOUSE__URL={endpoints.clickhouse}"]
    command = [
        "env",  # the environment itself is the settings' business alone
        *addresses,
        f"AGENTRUN_TRUST__DIR={folder / TRUST_FOLDER}",
        sys.executable,
        "-m",
        "agentrun_stream.cli",
        "bench",
        "worker",
        "--records",
        str(records),
        "--data",
        str(folder),
        *([] if costs else ["--without-costs"]),
    ]
    with (folder / "bench-worker.log").open("w") as log:
        done = subprocess.run(  # noqa: S603 - our own command line
            command, stdout=subprocess.PIPE, stderr=log, timeout=_DRAIN_TIMEOUT_S, check=False
        )
    if done.returncode:
        raise UnavailableError(f"The worker ended with exit code {done.returncode}.", f"See {log.name}.")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_worker(settings: Settings, records: int, *, costs: bool) -> dict[str, float]:
    """Run a worker until it committed `records` offsets; seconds and CPU from its first poll to its last commit."""
    found: dict[str, float] = {}

    async def watch(worker: Any) -> None:
        while not worker.members.parts:  # noqa: ASYNC110 - a benchmark looks on, it does not take part
            await asyncio.sleep(0.001)
        started, cpu = time.perf_counter(), time.process_time()
        while sum(p.acknowledged for p in worker.members.parts.values()) < records:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        found["seconds"], found["cpu_s"] = time.perf_counter() - started, time.process_time() - cpu
        found["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        worker.stop()

    asyncio.run(run_worker(settings, init=False, beside=watch, costs=costs))
    return found
