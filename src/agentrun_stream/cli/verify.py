"""`agentrun verify`: a run checked from its bytes, and a screen that says what was checked and what it does not prove.

Must not live here: the rules (processors/verify.py), reading of stores.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentrun_stream.cli.common import EXIT_NO, TrustOption, WorkspaceOption, read_input, since, trust_folder
from agentrun_stream.cli.output import Output, OutputOption, as_json, say, table, write
from agentrun_stream.codec.arsig import dsse_envelope
from agentrun_stream.codec.strict_json import UnreadableError
from agentrun_stream.errors import UsageError
from agentrun_stream.model.event import STEP, TYPE_OF_KIND
from agentrun_stream.model.facts import HOLDS, Facts
from agentrun_stream.model.judgement import Judgement, judge
from agentrun_stream.model.trust import NOBODY, Registry
from agentrun_stream.model.verdict import Verdict
from agentrun_stream.processors.verify import facts_of, marks_of, read_object, read_step
from agentrun_stream.sdk.verifying import with_digests
from agentrun_stream.telemetry.logs import clean
from agentrun_stream.trust.folder import load_registry, registry_path

app = typer.Typer()

VERIFIED: Final = "verified"
LIMITS: Final = (
    "A signature shows who asserted these bytes. It does not show that they are true.",
    "Not covered: eval and workspace_id; a replayed older revision; parents, which only a store can look up.",
)
_MEANING: Final = {
    "match": "the stated run_hash is that of the configuration",
    "absent": "nothing to check",
    "intact": "every step that the run commits to arrived, unchanged and in its place",
    "gap": "a step before the last one that arrived is missing",
    "truncated": "the last steps are missing",
    "fork": "a step was changed, added or replaced",
    "wrong_run": "the steps belong to another run",
    "trusted": "holds, by a key that the workspace trusts for this agent at that time",
    "valid_untrusted": "holds, but the workspace does not know the key",
    "invalid": "does not hold: something that it covers was changed, or another key signed",
    "unsigned": "there is none",
    "malformed": "the run breaks a rule of the suite, so it was not looked at",
    "unsupported_suite": "of a suite that this verifier does not know",
    "key_expired": "holds, but the key was not valid at that time",
    "key_revoked": "holds, but the key was revoked by then",
    "scope_violation": "holds, but the key may not sign for this agent",
    "tenant_mismatch": "holds, but was made for another workspace",
    "root": "no parent",
    "pending": "names parents, which only a store can look up",
    "unlogged": "there is no transparency log yet",
}
_MISMATCH: Final = {
    "hash": "the stated run_hash is not that of the configuration",
    "lineage": "names ancestors without a parent",
}


@dataclass(frozen=True, slots=True)
class Source:
    """What is verified: the run, its streamed steps, and the registry with the file it came from."""

    raw: bytes
    steps: tuple[bytes, ...]
    registry: Registry
    registry_file: Path


@app.command(epilog="Example: agentrun verify run.json --steps steps.jsonl --trust ./trust -w acme")
def verify(
    file: Annotated[Path, typer.Argument(help="A run as it was sent, bare or in an envelope; `-` reads stdin.")],
    steps: Annotated[
        Path | None, typer.Option("--steps", help="Its streamed steps, one event a line; other events are passed over.")
    ] = None,
    trust: TrustOption = None,
    workspace: WorkspaceOption = "default",
    at: Annotated[
        str | None, typer.Option("--at", help="Time of judgement, as of the broker's append time; default: now.")
    ] = None,
    export_dsse: Annotated[
        Path | None, typer.Option("--export-dsse", help="Write the signed statement as a DSSE envelope to this file.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Verify a run from its bytes, and say what that proves. Exit code 1 unless it is verified. Needs no stack."""
    now = datetime.now(UTC)
    path = registry_path(trust_folder(trust), workspace)
    raw = read_input(file)
    lines = () if steps is None else steps_of(read_input(steps), raw)
    source = Source(raw, lines, _registry(path), path)
    judgement = Judgement(workspace, source.registry, (since(at, now) or now).timestamp())
    facts = facts_of(raw)
    links, marks = marks_of(map(read_step, source.steps))
    verdict = with_digests(judge(facts, judgement, links, marks), raw, facts)
    if export_dsse is not None:
        _export(facts, export_dsse)
    if output is Output.JSON:
        as_json(verdict._asdict() | {"workspace": workspace, "registry": str(path), "proves_not": LIMITS})
    else:
        _screen(verdict, facts, source, judgement)
    if verdict.headline != VERIFIED:
        raise typer.Exit(EXIT_NO)


def steps_of(text: bytes, run: bytes) -> tuple[bytes, ...]:
    """The lines that are steps of this run: bare ones, and events of its subject. What can't be read is for the verifier."""
    try:
        run_id = read_object(run)[0].get("id")
    except UnreadableError:
        return ()
    return tuple(line for line in text.splitlines() if line.strip() and _is_step_of(line, run_id))


def _is_step_of(line: bytes, run_id: object) -> bool:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return True
    if not isinstance(event, dict) or "specversion" not in event:
        return not (isinstance(event, dict) and "agent_id" in event)
    return event.get("type") == TYPE_OF_KIND[STEP] and event.get("subject") in {None, run_id}


def _registry(path: Path) -> Registry:
    try:
        found = load_registry(path)
    except FileNotFoundError:
        say(f"There is no registry {path}, so no key is trusted; name its folder with --trust.")
        return NOBODY
    for warning in found.warnings:
        say(warning)
    return found


def _export(facts: Facts, path: Path) -> None:
    if facts.signature != HOLDS or facts.statement is None or facts.seal is None or facts.kid is None:
        raise UsageError(
            "The run has no signature that holds, so there is nothing to export.", "Leave out --export-dsse."
        )
    envelope = dsse_envelope(facts.statement, facts.seal.signature, facts.kid)
    try:
        path.write_text(json.dumps(envelope) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}.", "Name another file.") from None


def _screen(verdict: Verdict, facts: Facts, source: Source, judgement: Judgement) -> None:
    write(f"{verdict.headline.upper()}  run {clean(facts.run_id) or '?'} of agent {clean(facts.agent_id) or '?'}")
    axes = ("hash", "chain", "signature", "lineage", "log")
    rows = [{"axis": axis, "result": (word := getattr(verdict, axis)), "means": _means(axis, word)} for axis in axes]
    table("", {"axis": "axis", "result": "result", "means": "means"}, rows)
    told: list[dict[str, Any]] = [{"name": "reasons", "value": ", ".join(verdict.reasons) or None}]
    told += [{"name": "", "value": detail} for detail in verdict.details]
    told += [{"name": name, "value": getattr(verdict, name)} for name in ("run_digest", "genesis")]
    told += [{"name": name, "value": value} for name, value in _against(verdict, source, judgement).items()]
    table("", {"name": "", "value": ""}, told)
    write("\n".join(LIMITS))


def _means(axis: str, word: str) -> str:
    return _MISMATCH.get(axis, "") if word == "mismatch" else _MEANING.get(word, "")


def _against(verdict: Verdict, source: Source, judgement: Judgement) -> dict[str, Any]:
    """What the run was checked against."""
    key = source.registry.keys.get(verdict.kid or "")
    agents = None if key is None else "every agent" if key.agents is None else ", ".join(key.agents) or "no agent"
    refused = source.registry.refused.get(verdict.kid or "")
    return {
        "key": verdict.kid,
        "registered for": agents or (f"counts as not there: {refused}" if refused else None),
        "registry": f"{source.registry_file}, version {source.registry.version}",
        "workspace": judgement.workspace,
        "judged at": datetime.fromtimestamp(judgement.at_s, UTC).isoformat(timespec="milliseconds"),
        "streamed steps": len(source.steps),
        "verifier": verdict.verifier,
    }
