"""`agentrun status`: workers, lag, freshness, refused, open runs, last audit, on one screen."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentrun_stream.broker.admin import group_lag
from agentrun_stream.cli.common import EXIT_NO, DataOption, run, settings_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, console, make_table
from agentrun_stream.cli.scrape import WorkerState, ask_worker
from agentrun_stream.config import Settings, find_stack
from agentrun_stream.errors import AgentrunError
from agentrun_stream.store.client import connect
from agentrun_stream.store.queries import freshness, refused_by_reason, totals
from agentrun_stream.wiring import kafka_address, store_address

app = typer.Typer()

MetricsOption = Annotated[
    list[str] | None, typer.Option("--metrics", help="A worker's http://host:port; default: those of the local stack.")
]


@app.command(epilog="Example: agentrun status --watch")
def status(
    data: DataOption = None,
    metrics: MetricsOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks, with --watch.")] = 2.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show workers, lag, freshness, refused records, open runs, the last audit; exit code 1 if something is wrong."""
    settings = settings_for(data)
    if watch and output is Output.TABLE:
        with Live(console=console(), auto_refresh=False) as live:
            while True:
                live.update(_screen(look(settings, metrics)), refresh=True)
                time.sleep(every)
    while True:
        seen = look(settings, metrics)
        as_json(seen) if output is Output.JSON else console().print(_screen(seen))
        if not watch:
            break
        time.sleep(every)
    if seen["problems"]:
        raise typer.Exit(EXIT_NO)


def look(settings: Settings, metrics: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything that `status` shows. What does not answer is among the problems, and the rest is shown."""
    stack = find_stack(settings.data)
    urls = list(metrics or (stack.metrics if stack is not None else ()))
    workers = [ask_worker(url) for url in urls]
    problems = [f"worker {w.url}: {reason}" for w in workers for reason in w.reasons]
    seen: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "workers": [_worker(w) for w in workers],
    }
    try:
        lag = run(group_lag(kafka_address(settings), settings.worker.group, settings.events_topics))
        seconds = _lag_seconds(workers)
        seen["lag"] = [
            {
                "partition": f"{p.part.topic}:{p.part.partition}",
                "committed": p.committed,
                "end": p.end,
                "records": p.lag,
            }
            | {"seconds": seconds.get((p.part.topic, str(p.part.partition)))}
            for p in lag
        ]
    except AgentrunError as error:
        seen["lag"] = None
        problems.append(f"broker: {error.message} {error.next_step}")
    try:
        client = connect(store_address(settings))
        seen |= {"totals": totals(client), "refused": refused_by_reason(client), "freshness": freshness(client)}
    except AgentrunError as error:
        seen |= {"totals": None, "refused": None, "freshness": None}
        problems.append(f"store: {error.message} {error.next_step}")
    seen["last_audit"] = _last_audit(workers)
    seen["problems"] = problems
    return seen


def _worker(worker: WorkerState) -> dict[str, Any]:
    return {
        "url": worker.url,
        "state": worker.state,
        "reasons": list(worker.reasons),
        "consumed": worker.total("records_consumed_total"),
        "refused": worker.total("records_refused_total"),
        "rehomed": worker.total("records_rehomed_total"),
        "cache_runs": worker.total("cache_runs"),
        "cache_mib": round((worker.total("cache_bytes") or 0) / 2**20, 1) if worker.up else None,
    }


def _lag_seconds(workers: Sequence[WorkerState]) -> dict[tuple[str, str], float]:
    return {
        (s.labels["topic"], s.labels["partition"]): s.value for w in workers for s in w.samples.get("lag_seconds", ())
    }


def _last_audit(workers: Sequence[WorkerState]) -> dict[str, Any] | None:
    newest: dict[str, Any] | None = None
    for worker in workers:
        at = worker.total("audit_timestamp_seconds")
        if at and (newest is None or at > newest["unix_time"]):
            when = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
            newest = {"unix_time": at, "at": when, "residual": worker.total("audit_residual")}
    return newest


def _screen(seen: dict[str, Any]) -> Group:
    columns = {
        "url": "worker",
        "state": "state",
        "consumed": "consumed",
        "refused": "refused",
        "cache_runs": "cached runs",
    }
    parts: list[Text | Table] = []
    whole = {"consumed": _whole, "refused": _whole, "cache_runs": _whole}
    if seen["workers"]:
        parts += [make_table("", columns, seen["workers"], whole), Text("")]
    else:
        parts += [Text("No worker is known here: give --metrics http://host:port.", "dim"), Text("")]
    if seen["lag"] is not None:
        names = {
            "partition": "partition",
            "committed": "committed",
            "end": "end",
            "records": "lag",
            "seconds": "seconds",
        }
        parts += [make_table("", names, seen["lag"]), Text("")]
    if seen["totals"] is not None:
        sums = seen["totals"]
        parts.append(
            Text(
                f"runs {sums['runs']:,} ({sums['open_runs']:,} open), steps {sums['steps']:,}, evals {sums['evals']:,}"
            )
        )
        parts.append(Text(_freshness_text(seen["freshness"])))
        refused = ", ".join(f"{row['reason']} {row['records']:,}" for row in seen["refused"])
        parts.append(Text(f"refused: {refused or 'none'}"))
    audit = seen["last_audit"]
    parts.append(
        Text(f"last audit: {audit['at']}, residual {audit['residual']:.0f}" if audit else "last audit: none known")
    )
    parts += [Text(problem, "red") for problem in seen["problems"]]
    return Group(*parts)


def _freshness_text(row: dict[str, Any]) -> str:
    if row["p50_s"] is None:
        return f"freshness: nothing was stored in the last {row['minutes']} minutes"
    return (
        f"freshness: half within {row['p50_s']:.2f} s, 99 % within {row['p99_s']:.2f} s (last {row['minutes']} minutes)"
    )


def _whole(value: float) -> str:
    return f"{value:,.0f}"
