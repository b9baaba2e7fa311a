"""`agentrun hash`: what anyone can compute of a run from its bytes alone.

Must not live here: the rules (codec/), signatures and trust (verify.py).
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from agentrun_stream.cli.common import WorkspaceOption, read_input
from agentrun_stream.cli.output import Output, OutputOption, as_json, table, write
from agentrun_stream.codec import arsig
from agentrun_stream.codec.strict_json import UnreadableError
from agentrun_stream.errors import UsageError
from agentrun_stream.processors.verify import facts_of_run, read_object

app = typer.Typer()


@app.command("hash", epilog="Example: agentrun hash run.json")
def hash_(
    file: Annotated[Path, typer.Argument(help="A run as JSON, bare or in an envelope; `-` reads stdin.")],
    workspace: WorkspaceOption = "default",
    output: OutputOption = Output.TABLE,
) -> None:
    """Print run_hash, genesis and run_digest of a run. Needs no stack.

    The genesis names a workspace: that of `metadata.arsig`, where the run has one, else --workspace.
    """
    told = digests(read_input(file), workspace)
    if output is Output.JSON:
        as_json(told)
        return
    table("", {"name": "", "value": ""}, [{"name": name, "value": value} for name, value in told.items()])
    write(
        "run_hash is a fingerprint of the configuration, which runs of one agent share; genesis is the identity of this "
        "run; run_digest covers all of it but its signature, eval and workspace_id."
    )


def digests(raw: bytes, workspace: str) -> dict[str, Any]:
    """The digests of a run from its bytes. Raises UsageError where they hold none."""
    try:
        run, plain = read_object(raw)
    except UnreadableError as error:
        raise UsageError(f"That is no strict JSON object: {error.code}.", "Give one run, as it was sent.") from None
    facts = facts_of_run(run, plain=plain)
    if facts.run_hash is None or facts.run_digest is None:
        raise UsageError(f"That is no AgentRun: {', '.join(facts.reasons)}.", "See `agentrun verify`.")
    stated = (run.get("provenance") or {}).get("run_hash")
    tenant = arsig.arsig_of(run).tenant or workspace
    genesis = facts.genesis
    if genesis is None and all(isinstance(run.get(name), str) for name in ("id", "agent_id", "started_at")):
        genesis = arsig.genesis_of(run, facts.run_hash if stated is None else stated, tenant, facts.parents)
    return {
        "run_id": run.get("id"),
        "run_hash": facts.run_hash,
        "stated_run_hash": stated,
        "workspace": tenant,
        "genesis": genesis,
        "run_digest": facts.run_digest,
    }
