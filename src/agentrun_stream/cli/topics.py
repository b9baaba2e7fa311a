"""`agentrun topics apply|show`: the topics beside the table that says how they must be."""

from typing import Annotated

import typer

from agentrun_stream import topics as table_of
from agentrun_stream.broker.admin import TopicOptions, TopicState, apply_topics, show_topics
from agentrun_stream.cli.common import DataOption, kafka_for, run
from agentrun_stream.cli.output import Output, OutputOption, as_json, table

app = typer.Typer(name="topics", help="Topics: made, set as they must be, shown.", no_args_is_help=True)


@app.command(epilog="Example: agentrun topics apply --partitions 12 --replication 3")
def apply(
    data: DataOption = None,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="Partitions of each topic; default: the table's.")
    ] = None,
    replication: Annotated[int | None, typer.Option(min=1, help="Copies; default: 3, or as many as brokers.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make the topics, or set them as they must be. A partition count is never changed in place."""
    settings, address = kafka_for(data)
    wanted = partitions or table_of.BY_NAME[table_of.EVENTS].partitions
    changes = run(apply_topics(address, TopicOptions(wanted, replication, settings.events_topics)))
    rows = [{"topic": c.topic, "action": c.action, "detail": c.detail} for c in changes]
    as_json(rows) if output is Output.JSON else table(
        "", {"topic": "topic", "action": "action", "detail": "what"}, rows
    )


@app.command(epilog="Example: agentrun topics show -o json")
def show(data: DataOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show the topics beside what they must be."""
    settings, address = kafka_for(data)
    states = run(show_topics(address, settings.events_topics))
    if output is Output.JSON:
        as_json([_as_row(state) for state in states])
        return
    columns = {
        "topic": "topic",
        "state": "state",
        "partitions": "partitions",
        "replication": "copies",
        "differs": "differs",
    }
    table("", columns, [{**_as_row(state), "differs": _differences(state)} for state in states])


def _as_row(state: TopicState) -> dict[str, object]:
    missing = state.partitions is None
    return {
        "topic": state.name,
        "state": "missing" if missing else "differs" if state.differs else "ok",
        "partitions": state.partitions,
        "replication": None if missing else state.replication,
        "config": {name: state.config.get(name) for name in state.wanted.config},
        "differs": {} if missing else {n: {"is": was, "must_be": wanted} for n, (was, wanted) in state.differs.items()},
    }


def _differences(state: TopicState) -> str:
    if state.partitions is None:
        return "run `agentrun topics apply`"
    return ", ".join(f"{name} is {was}, must be {wanted}" for name, (was, wanted) in state.differs.items())
