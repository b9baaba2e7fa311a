"""`agentrun demo`: a stack, a made-up fleet on it, and what came out, beside what must come out."""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from agentrun_stream import topics
from agentrun_stream.broker.admin import wait_stored
from agentrun_stream.broker.bulk import BulkProducer
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.cli.common import EXIT_NO, DataOption, require_embedded, run, settings_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, console, make_table, milliseconds, money, say
from agentrun_stream.cli.up import endpoints_text, stack_options, stopping
from agentrun_stream.config import Settings
from agentrun_stream.proof import run_audit
from agentrun_stream.store import queries
from agentrun_stream.store.client import connect
from agentrun_stream.supervisor import Supervisor
from agentrun_stream.testing.fleet import FleetTotals, demo_fleet
from agentrun_stream.testing.fleet_signing import fleet_registry
from agentrun_stream.testing.keys import WORKSPACE, register
from agentrun_stream.trust.folder import registry_path
from agentrun_stream.wiring import kafka_address, store_address

WAIT_S: Final = 600.0
SEED: Final = 1
CHUNK_RECORDS: Final = 500
TRUST_FOLDER: Final = "trust"
LINEAGE_WAIT_S: Final = 30.0
LINEAGE_POLL_S: Final = 0.25

app = typer.Typer()


@dataclass(frozen=True, slots=True)
class Published:
    """What was sent: the fleet's own totals, what was acknowledged, when it began."""

    totals: FleetTotals
    acknowledged: int
    started: float


@app.command(epilog="Example: agentrun demo --runs 500 --exit")
def demo(
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many runs the fleet makes.")] = 2_000,
    exit_: Annotated[
        bool, typer.Option("--exit", help="Stop everything afterwards; exit code 0 if all was right.")
    ] = False,
    data: DataOption = None,
    workers: Annotated[int, typer.Option(min=1, max=16, help="How many workers to run.")] = 1,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a stack, publish a seeded fleet of agents, and show what came out.

    Its runs are signed with made-up keys, which that stack trusts and which must never be trusted elsewhere.
    """
    require_embedded()
    chosen = settings_for(data)
    with _folder(chosen, named=data is not None, temporary=exit_) as folder, stopping() as stop:
        # The stack's own addresses and keys, whatever clusters and registries the environment names.
        trust = folder / TRUST_FOLDER
        # On a folder with an earlier fleet, another one: the same again would change nothing that could be seen.
        seed = int(time.time()) if registry_path(trust, WORKSPACE).exists() else SEED
        options = replace(
            stack_options(chosen, folder, workers),
            environment={"AGENTRUN_TRUST__DIR": str(trust)},
            prepare=lambda: register(trust, fleet_registry(seed)),
        )
        supervisor = Supervisor(options, say)
        try:
            found = supervisor.start()
            local = {"kafka__bootstrap": found.kafka, "clickhouse__url": found.clickhouse, "trust__dir": trust}
            shown = _show(settings_for(folder, **local), runs, seed)
            as_json(shown) if output is Output.JSON else console().print(_screen(shown))
            stop.armed = True
            if not exit_:
                for line in ("", *endpoints_text(found, folder).partition("\n\n")[0].splitlines()):
                    say(line)
                say(f"It stays up until Ctrl-C. Next: `agentrun runs --data {folder}`, or `status`, `show`, `query`.")
                supervisor.watch(stop.event)
        finally:
            stop.armed = True
            supervisor.stop()
    if exit_ and shown["problems"]:
        raise typer.Exit(EXIT_NO)


@contextlib.contextmanager
def _folder(settings: Settings, *, named: bool, temporary: bool) -> Iterator[Path]:
    if named:
        yield settings.data
    elif temporary:
        with tempfile.TemporaryDirectory(prefix="agentrun-demo-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    else:
        yield settings.data / "demo"


def _show(settings: Settings, runs: int, seed: int) -> dict[str, Any]:
    """Publish, wait, ask, audit."""
    client = connect(store_address(settings))
    fresh, before = queries.totals(client)["runs"] == 0, _by_verdict(client)
    address = kafka_address(settings)
    published = run(_publish(address, runs, seed))
    say(f"{published.acknowledged:,} records acknowledged; waiting until they are stored.")
    run(wait_stored(address, settings.worker.group, settings.events_topics, WAIT_S))
    seconds = time.monotonic() - published.started
    verdicts = _verdicts(client, before, published.totals.runs_by_verdict)
    shown: dict[str, Any] = {
        "records": published.acknowledged,
        "seconds": round(seconds, 2),
        "records_per_second": round(published.acknowledged / seconds),
        "totals": queries.totals(client),
        "runs_by_status": queries.runs_by_status(client),
        "runs_by_verdict": verdicts,
        "cost_by_agent": queries.cost_by_agent(client),
        "refused": queries.refused_by_reason(client),
        "slowest_tools": queries.slowest_tools(client),
        "freshness": queries.freshness(client),
    }
    say("Auditing: the log is folded again and compared with the tables.")
    findings = run(run_audit(settings, lambda _text: None))
    shown["audit_residual"] = findings.total
    shown["compared"] = fresh
    shown["problems"] = _problems(shown, published, compare=fresh)
    return shown


def _by_verdict(client: queries.Connection) -> Counter[str]:
    return Counter({row["verdict"]: row["runs"] for row in queries.runs_by_verdict(client)})


def _verdicts(client: queries.Connection, before: Counter[str], expected: Counter[str]) -> list[queries.Row]:
    """The headlines expected of this fleet, beside those that came to the ones of `before`.

    A child is looked at again when its parent has arrived, soon after the last record: this waits for it.
    """
    until = time.monotonic() + LINEAGE_WAIT_S
    while True:
        found = _by_verdict(client)
        found.subtract(before)
        if found == expected or time.monotonic() > until:
            words = sorted(found.keys() | expected.keys(), key=lambda word: (-expected[word], word))
            return [{"verdict": word, "expected": expected[word], "found": found[word]} for word in words]
        time.sleep(LINEAGE_POLL_S)


async def _publish(address: KafkaAddress, runs: int, seed: int) -> Published:
    totals = FleetTotals()
    say(f"Publishing a fleet of {runs:,} runs.")
    started = time.monotonic()
    async with BulkProducer(address, topics.EVENTS) as producer:
        for number, record in enumerate(demo_fleet(runs, seed, datetime.now(UTC), totals), 1):
            await producer.send(record.key, record.value, record.headers)
            if number % CHUNK_RECORDS == 0:
                await asyncio.sleep(0)
                if sys.stderr.isatty():
                    sys.stderr.write(f"\r{producer.acknowledged:,} records")
    if sys.stderr.isatty():
        sys.stderr.write("\r")
    return Published(totals, producer.acknowledged, started)


def _problems(shown: Mapping[str, Any], published: Published, *, compare: bool) -> list[str]:
    """Everything that is not as it must be; `compare` where nothing else is in the tables."""
    found = [f"the audit found {shown['audit_residual']} differences"] if shown["audit_residual"] else []
    totals = published.totals
    pairs: list[tuple[str, Any, Any]] = [("records acknowledged", shown["records"], totals.records)]
    if compare:
        sums = shown["totals"]
        pairs += [("runs", sums["runs"], totals.runs), ("steps", sums["steps"], totals.steps)]
        pairs += [("evals", sums["evals"], totals.evals)]
        by_status = {row["status"]: row["runs"] for row in shown["runs_by_status"]}
        pairs += [("runs by status", by_status, dict(totals.runs_by_status))]
        by_verdict = {row["verdict"]: row["found"] for row in shown["runs_by_verdict"] if row["found"]}
        pairs += [("runs by verdict", by_verdict, dict(totals.runs_by_verdict))]
        by_reason = {row["reason"]: row["records"] for row in shown["refused"]}
        pairs += [("refused by reason", by_reason, dict(totals.refused))]
        known = sum(row["cost_reported"] for row in shown["cost_by_agent"] if row["cost_reported"] is not None)
        pairs += [("reported cost", known, totals.cost_reported_usd)]
    return found + [f"{name}: {is_}, but the fleet has {must}" for name, is_, must in pairs if is_ != must]


def _screen(shown: Mapping[str, Any]) -> Group:
    agents = {"agent_id": "agent", "runs": "runs", "cost": "cost", "unpriced": "runs without"}
    verdicts = {"verdict": "verdict", "expected": "expected", "found": "found"}
    tools = {"tool": "tool", "calls": "calls", "failed": "failed", "p50_ms": "half within", "p95_ms": "95 % within"}
    fresh, sums = shown["freshness"], shown["totals"]
    took = {"p50_ms": milliseconds, "p95_ms": milliseconds}
    tables = [
        make_table("Runs by status", {"status": "status", "runs": "runs"}, shown["runs_by_status"]),
        make_table("Runs by verdict", verdicts, shown["runs_by_verdict"]),
        make_table("Cost by agent", agents, shown["cost_by_agent"], {"cost": money}),
        make_table("Refused by reason", {"reason": "reason", "records": "records"}, shown["refused"]),
        make_table("Slowest tools", tools, shown["slowest_tools"], took),
    ]
    parts: list[Text | Table] = []
    for made in tables:
        parts += [Text(""), made]
    half, most = (f"{fresh[name]:.2f} s" if fresh[name] is not None else "unknown" for name in ("p50_s", "p99_s"))
    good = not shown["problems"]
    runs = f"{sums['runs']:,} runs ({sums['open_runs']:,} open)"
    stored = f"Stored       {runs}, {sums['steps']:,} steps, {sums['evals']:,} evals"
    rate = shown["records_per_second"]
    speed = f"Speed        {shown['records']:,} records in {shown['seconds']} s: {rate:,} a second"
    parts += [
        Text(""),
        Text(stored),
        Text(speed),
        Text(f"Freshness    half within {half}, 99 % within {most}, publishing as fast as it goes"),
        Text(f"Audit        residual {shown['audit_residual']}", "green" if not shown["audit_residual"] else "red"),
        Text("Everything is as the fleet says." if good and shown["compared"] else "", "green"),
        *(Text(f"NOT right: {problem}", "red") for problem in shown["problems"]),
    ]
    return Group(*parts)
