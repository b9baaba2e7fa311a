"""`agentrun wait`: until everything on the log is stored."""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer

from agentrun_stream.broker.admin import GroupLag, group_lag
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.cli.common import DataOption, kafka_for, run
from agentrun_stream.cli.output import Output, OutputOption, as_json, console, write
from agentrun_stream.errors import ConfigError, UnavailableError

POLL_S: Final = 0.25

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
        show: Callable[[int], None] = lambda lag: line.update(f"{lag:,} records to go")  # noqa: E731
        found = run(wait_stored(address, settings.worker.group, settings.events_topics, timeout, show if sys.stderr.isatty() else None))
    seconds = time.monotonic() - started
    records = sum(p.end - p.start for p in found)
    if output is Output.JSON:
        as_json({"stored": True, "partitions": len(found), "offsets": records, "seconds": round(seconds, 3)})
    else:
        write(f"Everything is stored: {len(found)} partitions, {records:,} offsets, after {seconds:.1f} s.")


async def wait_stored(
    address: KafkaAddress, group: str, names: Sequence[str], timeout_s: float, show: Callable[[int], None] | None = None
) -> list[GroupLag]:
    """Return once the group has committed the end of the log everywhere. Raises UnavailableError when the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = await group_lag(address, group, names)
        if not found:
            raise ConfigError(f"There is no topic {', '.join(names)} on this broker.", "Run `agentrun topics apply`.")
        behind = [p for p in found if p.lag]
        if not behind:
            return found
        if show is not None:
            show(sum(p.lag for p in behind))
        if time.monotonic() >= deadline:
            where = ", ".join(f"{p.part.topic}:{p.part.partition} has {p.lag} to go" for p in behind[:4])
            raise UnavailableError(
                f"Not everything is stored after {timeout_s:g} s: {where}.",
                "See `agentrun status` for whether a worker runs and why it waits; or give a longer --timeout.",
            )
        await asyncio.sleep(POLL_S)
