"""`agentrun show RUN`: a run, and its steps as a waterfall."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from agentrun_stream.cli.common import DataOption, client_for, printable
from agentrun_stream.cli.output import Output, OutputOption, as_json, cell, console, milliseconds, moment, money
from agentrun_stream.errors import UsageError
from agentrun_stream.store.queries import evals_of, find_runs, steps_of
from agentrun_stream.telemetry.logs import clean

STEPS_SHOWN_MAX: Final = 200
BAR_CHARS: Final = 32
ERROR_CHARS_MAX: Final = 60
_STYLE: Final = {"tool_call": "cyan", "message": "green", "reasoning": "magenta", "handoff": "yellow", "error": "red"}

app = typer.Typer()

Row = dict[str, Any]


@app.command(epilog="Example: agentrun show run-42")
def show(
    run: Annotated[str, typer.Argument(help="The run's id.", metavar="RUN")],
    data: DataOption = None,
    workspace: Annotated[str | None, typer.Option(help="Its workspace, where the id is in several.")] = None,
    every: Annotated[bool, typer.Option("--all", help=f"Every step, not only the first {STEPS_SHOWN_MAX}.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a run and its steps as a waterfall."""
    client = client_for(data)
    found = find_runs(client, run, workspace)
    if not found:
        raise UsageError(
            f"There is no run {printable(run)!r}.",
            "See `agentrun runs`; a run shows up once its first event is stored.",
        )
    if len(found) > 1:
        names = ", ".join(clean(row["workspace"]) for row in found)
        raise UsageError(f"The run {printable(run)!r} is in several workspaces: {names}.", "Name one with --workspace.")
    row = found[0]
    steps, evals = steps_of(client, row["workspace"], run), evals_of(client, row["workspace"], run)
    if output is Output.JSON:
        as_json({**row, "steps": steps, "step_count": row["steps"], "evals": evals})
        return
    shown = steps if every else steps[:STEPS_SHOWN_MAX]
    parts: list[Table | Text] = [_head(row), Text(""), waterfall(shown)]
    if len(shown) < len(steps):
        parts.append(Text(f"… and {len(steps) - len(shown)} more steps; see them with --all."))
    if evals:
        parts += [Text(""), *(_eval_line(e) for e in evals)]
    console().print(Group(*parts))


def waterfall(steps: Sequence[Row]) -> Table:
    """The steps, each with a bar where and how long it was within the run."""
    begin, end = _span(steps)
    made = Table(box=None, pad_edge=False)
    for heading in ("step", "type", "what", "", "took", "tokens"):
        made.add_column(heading, justify="right" if heading in {"took", "tokens"} else "left", no_wrap=not heading)
    for step in steps:
        kind = clean(step["type"] or "")
        style = "red" if step["success"] is False else _STYLE.get(kind, "")
        what = Text(clean(step["tool_name"] or step["usage_model"] or "", 40))
        if step["success"] is False:
            what.append(f" ✗ {clean(step['error'] or 'failed', ERROR_CHARS_MAX)}", "red")
        took = Text(milliseconds(step["duration_ms"]) if step["duration_ms"] is not None else "")
        made.add_row(
            Text(clean(step["id"], 24)),
            Text(kind, style),
            what,
            Text(_bar(step, begin, end), style),
            took,
            _tokens(step),
        )
    return made


def _head(row: Row) -> Table:
    made = Table(box=None, show_header=False, pad_edge=False)
    cost = money(row["cost_reported"]) if row["cost_reported"] is not None else "not reported"
    took = milliseconds(row["duration_ms"]) if row["duration_ms"] is not None else None
    axes = ", ".join(f"{axis} {row[f'verdict_{axis}']}" for axis in ("hash", "signature", "chain"))
    lines = {
        "run": row["id"],
        "workspace": row["workspace"],
        "agent": row["agent_id"],
        "model": row["model"],
        "status": row["status"],
        "outcome": row["outcome"],
        "started": moment(row["started_at"]) if row["started_at"] else None,
        "took": took,
        "closed by": row["closed_by"] or "nobody yet: open",
        "parent": row["parent_run_id"],
        "cost": cost,
        "tokens": f"{_count(row['input_tokens'])} in, {_count(row['output_tokens'])} out",
        "steps": f"{row['steps']}, {row['failed_tool_calls']} of {row['tool_calls']} tool calls failed",
        "verdict": f"{row['verdict']} ({axes})",
        "error": row["error"],
    }
    for name, value in lines.items():
        if value is not None:
            made.add_row(Text(name, "dim"), cell(value))
    return made


def _eval_line(row: Row) -> Text:
    verdict = "passed" if row["pass"] else "failed"
    name = " ".join(clean(row[n]) for n in ("eval_layer", "benchmark_id", "scorer", "task_type") if row[n])
    return Text(f"eval {name}: {verdict}, score {row['score']}", "green" if row["pass"] else "red")


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _tokens(step: Row) -> Text:
    known = [step[n] for n in ("input_tokens", "output_tokens") if step[n] is not None]
    total = step["tokens_used"] if step["tokens_used"] is not None else sum(known) if known else None
    return Text("" if total is None else f"{total:,}")


def _times(step: Row) -> tuple[float, float] | None:
    """When a step was, in seconds; one without an end is a point."""
    found = [datetime.fromisoformat(step[name]).timestamp() for name in ("started_at", "ended_at") if step[name]]
    if not found:
        return None
    end = found[0] + (step["duration_ms"] or 0) / 1_000 if len(found) == 1 else max(found)
    return found[0], end


def _span(steps: Sequence[Row]) -> tuple[float, float]:
    times = [t for step in steps if (t := _times(step)) is not None]
    return (min(t[0] for t in times), max(t[1] for t in times)) if times else (0.0, 0.0)


def _bar(step: Row, begin: float, end: float) -> str:
    times = _times(step)
    if times is None:
        return ""
    scale = (BAR_CHARS - 1) / (end - begin) if end > begin else 0.0
    first, last = round((times[0] - begin) * scale), round((times[1] - begin) * scale)
    return " " * first + "█" * max(1, last - first)
