"""`agentrun wait`: until everything on the log is stored."""

import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from agentrun_stream.broker.admin import wait_stored
from agentrun_stream.cli.common import DataOption, kafka_for, run
from agentrun_stream.cli.output import Output, OutputOption, as_json, console, write

app = typer.Typer()


@app.command(epilog="Example: agentrun wait --timeout 120")
def wait(
    data: DataOption = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most.")] = 600.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Wait until the group has committed the end of every events partition: then all of it is stored."""
    settings, address = kafka_for(data)
    started = time.monotonic()
    with console(err=True).status("waiting") as line:

        def show(lag: int) -> None:
            line.update(f"{lag:,} records to go")

        heard: Callable[[int], None] | None = show if sys.stderr.isatty() else None
        found = run(wait_stored(address, settings.worker.group, settings.events_topics, timeout, heard))
    seconds = time.monotonic() - started
    records = sum(p.end - p.start for p in found)
    if output is Output.JSON:
        as_json({"stored": True, "partitions": len(found), "offsets": records, "seconds": round(seconds, 3)})
    else:
        write(f"Everything is stored: {len(found)} partitions, {records:,} offsets, after {seconds:.1f} s.")
