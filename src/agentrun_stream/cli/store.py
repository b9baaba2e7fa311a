"""`agentrun store`: the embedded ClickHouse engine alone."""

from pathlib import Path
from typing import Annotated

import typer

from agentrun_stream.childproc import LOOPBACK, private_folder
from agentrun_stream.cli.common import DataOption, require_embedded, settings_for
from agentrun_stream.cli.output import say
from agentrun_stream.store.embedded import DEFAULT_PORT, StoreOptions, serve

app = typer.Typer()


@app.command(epilog="Example: agentrun store --port 8123")
def store(
    data: DataOption = None,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the HTTP interface.")] = DEFAULT_PORT,
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback needs a user.")] = LOOPBACK,
    user: Annotated[str, typer.Option(help="User name that clients must give.")] = "",
    password_file: Annotated[Path | None, typer.Option(help="File with that user's password.")] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="A further host name that clients may use.")] = None,
) -> None:
    """Start the embedded ClickHouse engine alone, until Ctrl-C. It has no tables before `agentrun migrate`."""
    require_embedded()
    folder = private_folder(settings_for(data).data) / "clickhouse"
    say(f"Starting the store on http://{host}:{port}; Ctrl-C stops it.")
    serve(StoreOptions(folder, host, port, user, password_file, tuple(allow_host or ())))
