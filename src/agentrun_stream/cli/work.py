"""`agentrun work`: one worker. Must not live here: the loop (runtime/), or what it is built of (wiring.py)."""

from typing import Annotated

import typer

from agentrun_stream.cli.common import DataOption, run, settings_for
from agentrun_stream.wiring import run_worker

app = typer.Typer()


@app.command(epilog="Example: agentrun work --init --metrics-port 9108")
def work(
    data: DataOption = None,
    init: Annotated[bool, typer.Option("--init", help="Apply topics and migrations first.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Let refused records that are on the log now pass to the dead letters, however many."
        ),
    ] = False,
    group: Annotated[str | None, typer.Option("--group", help="Consumer group.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", help="Port of /metrics; 0 takes a free one.")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option("--metrics-host", help="Address of /metrics.")] = None,
) -> None:
    """Fold events into runs until SIGTERM or Ctrl-C; the batch at hand is finished first."""
    settings = settings_for(
        data, worker__group=group, worker__metrics_port=metrics_port, worker__metrics_host=metrics_host
    )
    run(run_worker(settings, init=init, resume=resume))
