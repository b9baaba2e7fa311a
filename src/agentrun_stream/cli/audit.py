"""`agentrun audit`: proves from stored data that every record has its effect, once. Must not live here: the checks."""

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from prometheus_client import CollectorRegistry

from agentrun_stream.cli.common import EXIT_NO, DataOption, YesOption, run, settings_for, since
from agentrun_stream.cli.output import Output, OutputOption, as_json, console, say, table, write
from agentrun_stream.errors import UsageError
from agentrun_stream.proof import AuditOptions, run_audit, run_repair
from agentrun_stream.runtime.audit import CHECKS, Findings
from agentrun_stream.runtime.repair import Plan
from agentrun_stream.telemetry.endpoint import Endpoint
from agentrun_stream.telemetry.logs import clean
from agentrun_stream.telemetry.metrics import Metrics

app = typer.Typer()

MEANS: Final = {
    "coverage": "the journal covers every committed offset",
    "records": "every record accepted, or refused once with its dead letter",
    "digests": "every object is there, in the version the log gives",
    "projections": "run rows are the projection of their objects",
    "settlements": "settlements are the projection of their objects",
    "accruals": "accruals are the differences along the log",
    "windows": "windows are the sums of their rows",
    "published": "the compacted topic's last record of each run is the run",
    "signatures": "the bytes of every signed event are kept as they arrived",
    "closings": "the closed runs of each agent are those of the log",
    "signals": "agents are judged by their closed runs",
}


@app.command(epilog="Example: agentrun audit --since 1d --deep -o json")
def audit(
    data: DataOption = None,
    since_: Annotated[
        str | None,
        typer.Option(
            "--since",
            help="Only what was appended since: those offsets and refusals, and each run that something was said about "
            "since, from its beginning. Windows are always checked whole.",
            metavar="TIME",
        ),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare every column of every object, and every published value.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Make projections, published records and windows again where they differ."),
    ] = False,
    yes: YesOption = False,
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
    """Fold the log again up to what is committed and compare every table with it; exit code 1 where anything differs.

    It changes nothing but the list of past audits, and runs beside workers; --repair is a dry run unless --yes is given. TIME
    is 15m, 2h, 7d or a date.
    """
    if watch is not None:
        if repair:
            raise UsageError("A repair is done once.", "Leave out --watch or --repair.")
        _watch(data, _options(since_, deep=deep), watch, metrics_port)
        return
    findings = _audited(data, _options(since_, deep=deep))
    plan = Plan.of(findings) if repair else None
    if plan is not None and yes and not plan.empty:
        done = run(run_repair(settings_for(data), plan))
        findings = _audited(data, _options(since_, deep=deep))
        findings.notes += done
    if output is Output.JSON:
        as_json(as_dict(findings, since_, deep=deep) | ({} if plan is None else {"repair": _told(plan, done=yes)}))
    else:
        _print(findings, show, deep=deep)
        if plan is not None:
            write(_words(plan, done=yes))
    if findings.total:
        raise typer.Exit(EXIT_NO)


def _options(text: str | None, *, deep: bool) -> AuditOptions:
    moment = since(text, datetime.now(UTC))
    return AuditOptions(deep, None if moment is None else int(moment.timestamp() * 1000))


def _audited(data: Path | None, options: AuditOptions) -> Findings:
    with console(err=True).status("audit") as line:
        progress = (lambda text: line.update(f"audit: {text}")) if sys.stderr.isatty() else (lambda _text: None)
        return run(run_audit(settings_for(data), progress, options))


def _watch(data: Path | None, options: AuditOptions, every_s: float, port: int) -> None:
    """Audit until Ctrl-C; the residuals of the last one are on /metrics."""
    settings, registry = settings_for(data), CollectorRegistry()
    metrics = Metrics(registry, settings.events_topics)
    endpoint = Endpoint(registry, list, settings.worker.metrics_host, port)
    say(f"Residuals are on {endpoint.start()}/metrics.")
    try:
        while True:
            started = time.monotonic()
            findings = run(run_audit(settings, options=options))
            for check, residual in findings.residual.items():
                metrics.audit_residual.set(residual, check=check)
            metrics.audit_records.set(findings.records)
            metrics.audit_duration_seconds.set(time.monotonic() - started)
            metrics.audit_timestamp_seconds.set(time.time())
            write(f"{findings.records:,} records, residual {findings.total}")
            time.sleep(every_s)
    finally:
        endpoint.stop()


def as_dict(findings: Findings, since_: str | None = None, *, deep: bool = False) -> dict[str, Any]:
    """The findings as JSON says them."""
    return {
        "residual": findings.total,
        "checks": findings.residual,
        "deep": deep,
        "since": since_,
        "records": findings.records,
        "refused": findings.refused,
        "runs": findings.runs,
        "objects": findings.objects,
        "notes": findings.notes,
        "differences": [asdict(d) | {"place": d.place} for d in findings.differences],
    }


def _print(findings: Findings, show: int, *, deep: bool) -> None:
    rows = [{"check": c, "means": MEANS[c], "residual": findings.residual[c]} for c in CHECKS]
    table("", {"check": "check", "means": "holds when", "residual": "residual"}, rows)
    for found in findings.differences[:show]:
        write(clean(found.text, 400))
    more = findings.total - min(show, len(findings.differences))
    if more > 0:
        write(f"... and {more} more; --show {findings.total} prints them, -o json keeps the first {findings.kept_max}.")
    for note in findings.notes:
        write(clean(f"Note: {note}.", 400))
    if not deep:
        write("Objects were checked by version and checksum, published runs by revision; --deep compares every column.")
    write(
        f"{findings.records:,} records, {findings.refused:,} refused, {findings.runs:,} runs, {findings.objects:,} objects: "
        f"residual {findings.total}."
    )


def _told(plan: Plan, *, done: bool) -> dict[str, Any]:
    return {"dry_run": not done, "runs": len(plan.runs), "windows": len(plan.windows), "beyond": plan.beyond}


def _words(plan: Plan, *, done: bool) -> str:
    did = "were made again" if done else "would be made again; do it with --yes"
    text = f"Repair: {len(plan.runs)} runs and {len(plan.windows)} windows {did}."
    if plan.beyond:
        text += (
            f" Not to be made from the objects: {', '.join(f'{n} of {check}' for check, n in plan.beyond.items())}. "
            "`agentrun replay --into NAME` makes every table again from the log."
        )
    return text
