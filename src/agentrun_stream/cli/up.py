"""`agentrun up`: broker, store and workers on this machine, until Ctrl-C or SIGTERM."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from agentrun_stream.broker.jars import jars_folder
from agentrun_stream.cli.common import EXIT_INTERRUPTED, DataOption, require_embedded, settings_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, say, write
from agentrun_stream.config import Endpoints, Settings
from agentrun_stream.supervisor import StackOptions, Supervisor

app = typer.Typer()


@app.command(epilog="Example: agentrun up --data ./stack --workers 2")
def up(
    data: DataOption = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many workers to run.")] = 1,
    kafka_port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port of the broker.")] = None,
    clickhouse_port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port of the store.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start broker, store and workers; stop them on Ctrl-C. Data is kept for the next start."""
    require_embedded()
    settings = settings_for(data)
    supervisor = Supervisor(stack_options(settings, settings.data, workers, (kafka_port, clickhouse_port)), say)
    with stopping() as stop:
        try:
            found = supervisor.start()
            as_json(asdict(found)) if output is Output.JSON else write(endpoints_text(found, settings.data))
            stop.armed = True
            supervisor.watch(stop.event)
        finally:
            stop.armed = True  # the first signal stops in order, a second one at once
            supervisor.stop()
    say("Stopped. The data is kept.")


def stack_options(
    settings: Settings, data: Path, workers: int, ports: tuple[int | None, int | None] = (None, None)
) -> StackOptions:
    """What the settings say of a local stack."""
    return StackOptions(
        data=data,
        workers=workers,
        kafka_port=ports[0],
        clickhouse_port=ports[1],
        cache=jars_folder(settings.cache),
        kafka_home=settings.kafka_home,
        database=settings.clickhouse.database,
        inputs=settings.events_topics,
    )


def endpoints_text(found: Endpoints, data: Path) -> str:
    """What a person wants to know of a stack that answers."""
    lines = [f"Kafka        {found.kafka}", f"ClickHouse   {found.clickhouse}"]
    lines += [f"Metrics      {url}/metrics" for url in found.metrics]
    lines += [
        f"Data         {data}",
        "",
        "Ready. Next: `agentrun publish FILE`, `agentrun runs`, `agentrun status`. Ctrl-C stops it.",
    ]
    return "\n".join(lines)


class Stop:
    """Whether to stop. Until armed, a signal interrupts what is being done; then it asks, and a second one ends all."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.armed = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Handle SIGINT or SIGTERM."""
        if self.event.is_set():
            # Every child dies with this process.
            sys.stderr.write("agentrun: Ended at once; what was not stored yet is still on the log.\n")
            os._exit(EXIT_INTERRUPTED)
        self.event.set()
        if not self.armed:
            sys.stderr.write("agentrun: Stopping; the same signal again ends everything at once.\n")
            raise KeyboardInterrupt


@contextmanager
def stopping() -> Iterator[Stop]:
    """SIGINT and SIGTERM handled by a `Stop`."""
    stop = Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
