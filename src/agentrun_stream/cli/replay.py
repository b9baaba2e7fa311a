"""`agentrun replay --into SHADOW`: every table made again from the log, compared, and exchanged where asked.

Must not live here: folding, comparing.
"""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from agentrun_stream.cli.common import EXIT_NO, DataOption, YesOption, confirm, run, settings_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, console, say, table, write
from agentrun_stream.proof import Replayed, run_replay, swap_replayed

app = typer.Typer()


@app.command(epilog="Example: agentrun replay --into agentrun_replay")
def replay(
    into: Annotated[str, typer.Option(help="Name of a new database in the store, for the tables made again.")],
    data: DataOption = None,
    swap: Annotated[
        bool, typer.Option("--swap", help="Then exchange the tables with the live ones; workers must be stopped.")
    ] = False,
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make every table again from the log, beside the live ones, and compare them; exit code 1 where they differ.

    What the group has committed is replayed. Workers may go on: nothing is committed, published or refused anew, and an
    operator's refusals count here too. With --swap the old tables stay under the shadow's name.
    """
    settings = settings_for(data)
    with console(err=True).status("replay") as line:
        progress = (lambda text: line.update(f"replay: {text}")) if sys.stderr.isatty() else (lambda _text: None)
        done = run(run_replay(settings, into, progress, swap=swap))
    if output is Output.TABLE:
        _print(done, into)
    if swap:
        confirm(f"Exchange the tables of {settings.clickhouse.database} with those of {into}?", yes=yes)
        run(swap_replayed(settings, done))
    if output is Output.JSON:
        told = {"tables": [asdict(t) for t in done.tables], "records": done.records, "seconds": round(done.seconds, 3)}
        told |= {"equal": done.equal, "into": into, "left_out": done.left_out, "swapped": swap, "notes": done.notes}
        as_json(told)
    elif swap:
        write(f"Exchanged. The tables of before are in the database {into}; drop it when nobody needs them.")
    if not done.equal and not swap:
        say(
            f"The tables differ. `agentrun audit --deep` names what; `agentrun replay --into {into} --swap` replaces them."
        )
        raise typer.Exit(EXIT_NO)


def _print(done: Replayed, into: str) -> None:
    rows = [
        {
            "table": found.table,
            "live": None if found.left_out else found.live_rows,
            "shadow": None if found.left_out else found.shadow_rows,
            "verdict": f"not compared: {found.left_out}" if found.left_out else "equal" if found.equal else "different",
        }
        for found in done.tables
    ]
    table("", {"table": "table", "live": "live rows", "shadow": "shadow rows", "verdict": "verdict"}, rows)
    for note in done.notes:
        write(f"Note: {note}.")
    write(f"{done.records:,} records replayed into {into} in {done.seconds:.1f} s; {done.left_out:,} runs left out.")
