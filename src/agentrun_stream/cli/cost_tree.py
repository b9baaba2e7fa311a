"""`agentrun cost tree`: what a run cost by itself, and together with all that descend from it.

Must not live here: the sums (store/trees.py).
"""

from typing import Annotated, Any, Final

import typer

from agentrun_stream.cli.common import DataOption, client_for, printable
from agentrun_stream.cli.output import UNKNOWN, Output, OutputOption, as_json, money, table, write
from agentrun_stream.errors import UsageError
from agentrun_stream.store.queries import find_runs
from agentrun_stream.store.trees import subtree
from agentrun_stream.telemetry.logs import clean

app = typer.Typer()

_COLUMNS: Final = {
    "shown": "run",
    "agent_id": "agent",
    "status": "status",
    "own": "own cost",
    "inclusive": "with its subtree",
    "tokens": "own tokens",
    "inclusive_tokens": "with its subtree",
    "runs": "runs",
    "note": "note",
}
_NOTES: Final = {
    "orphan": "its parent is not stored",
    "circle": "its own ancestor: counted as a root",
    "deep": "more than 256 ancestors: counted as a root",
}
_COVERS: Final = "its own cost may contain that of its children; nothing was added twice or left out"


@app.command(epilog="Example: agentrun cost tree run-42")
def tree(
    run: Annotated[str, typer.Argument(help="The run's id.", metavar="RUN")],
    data: DataOption = None,
    workspace: Annotated[str | None, typer.Option(help="Its workspace, where the id is in several.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a run and all that descend from it: own cost, and cost with the whole subtree. Unknown is never zero."""
    client = client_for(data)
    found = [row["workspace"] for row in find_runs(client, run, workspace)]
    if not found:
        raise UsageError(f"There is no run {printable(run)!r}.", "See `agentrun runs`.")
    if len(found) > 1:
        names = ", ".join(map(clean, found))
        raise UsageError(f"The run {printable(run)!r} is in several workspaces: {names}.", "Name one with --workspace.")
    rows = subtree(client, found[0], run)
    if output is Output.JSON:
        as_json({"run": run, "workspace": found[0], "tree": rows})
        return
    top = rows[0]["depth"]
    table("", _COLUMNS, [_shown(row, row["depth"] - top) for row in rows])
    unknown = rows[0]["unpriced"]
    write(f"{rows[0]['runs']} runs: {_known(rows[0]['inclusive_cost_effective'], unknown)}")


def _shown(row: dict[str, Any], depth: int) -> dict[str, Any]:
    notes = [_NOTES.get(row["tree"], ""), _COVERS if row["covers_children"] else ""]
    own = row["cost_effective"]
    return {
        **row,
        "shown": ("│ " * (depth - 1) + "└ " if depth else "") + row["run_id"],
        "own": None if own is None else money(own),
        "inclusive": _known(row["inclusive_cost_effective"], row["unpriced"]),
        "note": "; ".join(filter(None, notes)),
    }


def _known(amount: Any, unknown: int) -> str:
    """The known part, and how many runs have no known cost."""
    known = UNKNOWN if amount is None else money(amount)
    return f"{known} + {unknown} unknown" if unknown else known
