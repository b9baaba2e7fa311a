"""`agentrun config show`: every setting, secrets hidden."""

import typer

from agentrun_stream.cli.common import DataOption, settings_for, store_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, table, write
from agentrun_stream.config import catalogue
from agentrun_stream.store import settings as stored_settings
from agentrun_stream.store.client import connect
from agentrun_stream.wiring import shared_settings

app = typer.Typer(name="config", help="Settings.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """Settings: flags win over the environment, the environment over the file, the file over the default."""


@app.command(epilog="Example: agentrun config show -o json")
def show(data: DataOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show every setting with its value, secrets hidden."""
    values = settings_for(data).redacted()
    if output is Output.JSON:
        as_json(values)
        return
    rows = [
        {
            "name": row.name,
            "value": values.get(row.name),
            "unit": row.unit,
            "variable": row.variable,
            "meaning": row.meaning,
        }
        for row in catalogue()
    ]
    columns = {"name": "setting", "value": "value", "unit": "unit", "variable": "variable", "meaning": "meaning"}
    table("", columns, rows)


@app.command(epilog="Example: agentrun config apply")
def apply(data: DataOption = None) -> None:
    """Put this machine's workspace mapping, tenancy, topic epoch and policy in force for every worker of the store.

    Stop all workers first. Those that start with it show stored runs again whose flag is another under the policy.
    """
    settings, address = store_for(data)
    ordinal = stored_settings.store(connect(address), shared_settings(settings))
    write(f"Settings number {ordinal} are in force. Workers that were started with others will not start again.")
