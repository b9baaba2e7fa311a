"""`agentrun runs`: the list of runs."""

from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from agentrun_stream.cli.common import DataOption, client_for, since
from agentrun_stream.cli.output import Output, OutputOption, as_json, console, milliseconds, minute, money, table, write
from agentrun_stream.store.queries import RunFilter, list_runs

WIDE: Final = 110

app = typer.Typer()


@app.command(epilog="Example: agentrun runs --agent support-bot --status failed --since 2h")
def runs(
    data: DataOption = None,
    agent: Annotated[str | None, typer.Option(help="Runs of this agent id.")] = None,
    status: Annotated[str | None, typer.Option(help="Runs of this status.")] = None,
    since_text: Annotated[str | None, typer.Option("--since", help="Begun since: 15m, 2h, 7d, 2026-01-01.")] = None,
    workspace: Annotated[str | None, typer.Option(help="Runs of this workspace.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, newest first.")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List runs, newest first."""
    begun = since(since_text, datetime.now(UTC))
    found = list_runs(client_for(data), RunFilter(agent, status, workspace, begun, limit))
    if output is Output.JSON:
        as_json(found)
        return
    if not found:
        write("No run matches.")
        return
    columns = {"id": "run", "agent_id": "agent", "status": "status", "outcome": "outcome", "started_at": "started"}
    columns |= {"duration_ms": "took", "steps": "steps", "failed_tool_calls": "failed", "cost_reported": "cost"}
    if len({row["workspace"] for row in found}) > 1:
        columns = {"workspace": "workspace", **columns}
    if console().width < WIDE:
        columns = {name: heading for name, heading in columns.items() if name not in {"outcome", "failed_tool_calls"}}
    table("", columns, found, {"started_at": minute, "duration_ms": milliseconds, "cost_reported": money})
