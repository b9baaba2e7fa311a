"""`agentrun migrate`: the tables brought to this version."""

import typer

from agentrun_stream.cli.common import DataOption, store_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, write
from agentrun_stream.store.migrate import migrate as bring_up

app = typer.Typer()


@app.command(epilog="Example: agentrun migrate")
def migrate(data: DataOption = None, output: OutputOption = Output.TABLE) -> None:
    """Bring the tables to this version; doing it again changes nothing."""
    _, address = store_for(data)
    done = bring_up(address)
    if output is Output.JSON:
        as_json({"database": address.database, "applied": done})
    elif done:
        write("\n".join(f"applied {name}" for name in done))
    else:
        write(f"Database {address.database} is up to date.")
