"""The commands, one line each. Must not live here: what they do."""

from typing import Final

import typer

from agentrun_stream import __version__
from agentrun_stream.cli import (
    audit,
    bench,
    broker,
    chaos,
    config,
    cost,
    cost_export,
    cost_tree,
    demo,
    dlq,
    doctor,
    hashes,
    keys,
    migrate,
    prices,
    publish,
    query,
    reconcile,
    refuse,
    replay,
    reprice,
    runs,
    show,
    signals,
    status,
    store,
    topics,
    up,
    verify,
    wait,
    work,
)
from agentrun_stream.cli.common import Commands
from agentrun_stream.cli.output import write

app = typer.Typer(
    name="agentrun",
    cls=Commands,
    help="Agent-run events on Kafka become exact runs in ClickHouse.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# In the order of the help page; each module brings one verb, or a group of its own name.
MODULES: Final = (
    up,
    demo,
    publish,
    wait,
    runs,
    show,
    query,
    status,
    doctor,
    dlq,
    refuse,
    audit,
    replay,
    reprice,
    hashes,
    verify,
    keys,
    cost,
    signals,
    prices,
    bench,
    chaos,
    topics,
    migrate,
    work,
    broker,
    store,
    config,
)
# More of the group `cost`, below what cost.py itself has.
for part in (cost_tree, cost_export, reconcile):
    cost.app.add_typer(part.app)
for module in MODULES:
    app.add_typer(module.app)


def _version(asked: bool) -> None:  # noqa: FBT001 - typer's form
    if asked:
        write(f"agentrun-stream {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),  # noqa: FBT001, FBT003
) -> None:
    """Agent-run events on Kafka become exact runs in ClickHouse."""
