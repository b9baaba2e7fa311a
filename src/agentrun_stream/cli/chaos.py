"""`agentrun chaos`: a stack of its own, load, and a seeded schedule of faults; then the audit's verdict.

Must not live here: the faults (testing/chaos/).
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from agentrun_stream.broker.jars import jars_folder
from agentrun_stream.cli.common import EXIT_NO, require_embedded, settings_for, tell
from agentrun_stream.cli.output import Output, OutputOption, as_json, say, table, write
from agentrun_stream.cli.up import stopping
from agentrun_stream.errors import StoppedError, UsageError

app = typer.Typer()


@app.command(epilog="Example: agentrun chaos --minutes 5 --seed 7")
def chaos(
    minutes: Annotated[float, typer.Option(min=0.1, max=24 * 60, help="How long faults come.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the load and of the schedule of faults.")] = 1,
    workers: Annotated[int, typer.Option(min=1, max=16, help="How many workers to run.")] = 2,
    rate: Annotated[int, typer.Option(min=10, max=5_000, help="Records published a second.")] = 300,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="An empty folder for the stack, kept; default: a temporary one, removed after."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Strike a throw-away local stack under load, and prove that nothing was lost or counted twice.

    Workers, broker and store are killed, paused and cut off, on this machine alone, never on a configured cluster.
    Exit code 1 unless the audit's residual is 0 and the compacted topic equals the runs in the store.
    """
    require_embedded()
    with stopping():
        if folder is not None:
            shown = _run(_empty(folder), (minutes, seed, workers, rate))
        else:
            with tempfile.TemporaryDirectory(prefix="agentrun-chaos-", ignore_cleanup_errors=True) as temporary:
                shown = _run(Path(temporary), (minutes, seed, workers, rate))
    as_json(shown) if output is Output.JSON else _print(shown)
    if not shown["exact"]:
        raise typer.Exit(EXIT_NO)


def _empty(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder.", "Faults are for throw-away stacks: name a new folder.")
    return folder


def _run(folder: Path, asked: tuple[float, int, int, int]) -> dict[str, Any]:
    from agentrun_stream.testing.chaos.bed import BedOptions  # noqa: PLC0415 - heavy
    from agentrun_stream.testing.chaos.session import chaos as strike  # noqa: PLC0415

    minutes, seed, workers, rate = asked
    settings = settings_for(None)
    options = BedOptions(folder, seed, workers, rate, jars_folder(settings.cache), settings.kafka_home)
    try:
        came = strike(options, minutes, say)
    except StoppedError as error:  # a fault that was not got over is a verdict too
        tell(error)
        raise typer.Exit(EXIT_NO) from None
    verdict = came.verdict
    return {
        "exact": verdict.exact,
        "seed": seed,
        "records": verdict.records,
        "runs_published": verdict.runs,
        "kills": dict(came.outcomes.kills),
        "residual": verdict.residual,
        "published_residual": len(verdict.published),
        "differences": [*verdict.differences, *verdict.published],
        "faults": came.outcomes.listed(),
    }


def _print(shown: dict[str, Any]) -> None:
    headings = {"fault": "fault", "times": "times", "seen": "seen", "residual": "residual"}
    table("", headings, shown["faults"])
    kills = ", ".join(f"{what} {count}" for what, count in shown["kills"].items()) or "none"
    write(f"Records {shown['records']:,}, runs published {shown['runs_published']:,}, kills: {kills}.")
    for line in shown["differences"][:20]:
        say(line)
    write(
        "Exact: the audit's residual is 0, and agentrun.runs.v1 equals the runs in the store."
        if shown["exact"]
        else f"WRONG: residual {shown['residual']}, runs that differ on the topic {shown['published_residual']}. "
        f"Run it again with --seed {shown['seed']} --folder to look at it."
    )
