"""`agentrun audit`: proves from stored data that every record has its effect, once. Must not live here: the checks."""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from prometheus_client import CollectorRegistry

from agentrun_stream.cli.common import EXIT_NO, DataOption, run, settings_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, console, say, table, write
from agentrun_stream.runtime.audit import CHECKS, Findings
from agentrun_stream.telemetry.endpoint import Endpoint
from agentrun_stream.telemetry.logs import clean
from agentrun_stream.telemetry.metrics import Metrics
from agentrun_stream.wiring import run_audit

app = typer.Typer()

_MEANS: Final = {
    "coverage": "the journal covers every committed offset",
    "records": "every record accepted, or refused once with its dead letter",
    "digests": "every object is there, in the version the log gives",
    "projections": "run rows are the projection of their objects",
    "settlements": "settlements are the projection of their objects",
    "accruals": "accruals are the differences along the log",
    "windows": "windows are the sums of their rows",
    "published": "the compacted topic is as new as the store",
}


@app.command(epilog="Example: agentrun audit -o json")
def audit(
    data: DataOption = None,
    show: Annotated[int, typer.Option(min=0, help="Differences to print at most.")] = 20,
    watch: Annotated[
        float | None,
        typer.Option("--watch", min=1, help="Audit again every so many seconds, and export the residuals."),
    ] = None,
    metrics_port: Annotated[
        int, typer.Option("--metrics-port", help="Port of /metrics with --watch; 0: a free one.")
    ] = 0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fold the log again up to what is committed and compare every table with it; exit code 1 where anything differs."""
    if watch is not None:
        _watch(data, watch, metrics_port)
        return
    with console(err=True).status("audit") as line:
        progress = (lambda text: line.update(f"audit: {text}")) if sys.stderr.isatty() else (lambda _text: None)
        findings = run(run_audit(settings_for(data), progress))
    if output is Output.JSON:
        as_json(as_dict(findings))
    else:
        _print(findings, show)
    if findings.total:
        raise typer.Exit(EXIT_NO)


def _watch(data: Path | None, every_s: float, port: int) -> None:
    """Audit until Ctrl-C; the residuals of the last one are on /metrics."""
    settings, registry = settings_for(data), CollectorRegistry()
    metrics = Metrics(registry, settings.events_topics)
    endpoint = Endpoint(registry, list, settings.worker.metrics_host, port)
    say(f"Residuals are on {endpoint.start()}/metrics.")
    try:
        while True:
            findings = run(run_audit(settings))
            for check, residual in findings.residual.items():
                metrics.audit_residual.set(residual, check=check)
            metrics.audit_timestamp_seconds.set(time.time())
            write(f"{findings.records:,} records, residual {findings.total}")
            time.sleep(every_s)
    finally:
        endpoint.stop()


def as_dict(findings: Findings) -> dict[str, Any]:
    """The findings as JSON says them."""
    return {
        "residual": findings.total,
        "checks": findings.residual,
        "records": findings.records,
        "refused": findings.refused,
        "runs": findings.runs,
        "objects": findings.objects,
        "differences": [asdict(d) for d in findings.differences],
    }


def _print(findings: Findings, show: int) -> None:
    rows = [{"check": c, "means": _MEANS[c], "residual": findings.residual[c]} for c in CHECKS]
    table("", {"check": "check", "means": "holds when", "residual": "residual"}, rows)
    for found in findings.differences[:show]:
        text = f"{found.check}: {found.table} {found.place} {found.run}: expected {found.expected}, found {found.found}"
        write(clean(text, 400))
    more = findings.total - min(show, len(findings.differences))
    if more > 0:
        write(f"... and {more} more; --show {findings.total} prints them, -o json keeps the first {findings.kept_max}.")
    write(
        f"{findings.records:,} records, {findings.refused:,} refused, {findings.runs:,} runs, {findings.objects:,} objects: "
        f"residual {findings.total}."
    )
