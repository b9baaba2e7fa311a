"""`agentrun query "SQL"`: asks the store."""

from typing import Annotated

import typer

from agentrun_stream.cli.common import DataOption, client_for
from agentrun_stream.cli.output import QueryOutput, as_csv, as_json, table
from agentrun_stream.store.queries import passthrough

app = typer.Typer()


@app.command(epilog='Example: agentrun query "SELECT status, count() FROM runs_latest GROUP BY status" -o csv')
def query(
    sql: Annotated[str, typer.Argument(help="One statement.", metavar='"SQL"')],
    data: DataOption = None,
    output: Annotated[QueryOutput, typer.Option("-o", "--output", help="How to print.")] = QueryOutput.TABLE,
) -> None:
    """Ask the store one statement."""
    answer = passthrough(client_for(data), sql)
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    if output is QueryOutput.JSON:
        as_json(rows)
    elif output is QueryOutput.CSV:
        as_csv(answer.columns, answer.rows)
    elif answer.columns:
        table("", {name: name for name in answer.columns}, rows)
