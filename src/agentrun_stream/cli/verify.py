"""`agentrun verify`: a run checked from its bytes, and a screen that says what was checked and what it does not prove.

Must not live here: the rules (processors/verify.py), what is done with stored runs (recheck.py).
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentrun_stream.cli.common import EXIT_NO, DataOption, TrustOption, read_input, since, trust_folder
from agentrun_stream.cli.output import Output, OutputOption, as_json, say, table, write
from agentrun_stream.cli.recheck import AXES, VERIFIED, load_file, look_at_bundle, look_at_run, save, screen, show_json
from agentrun_stream.codec.arsig import dsse_envelope
from agentrun_stream.codec.strict_json import UnreadableError
from agentrun_stream.errors import UsageError
from agentrun_stream.model.event import STEP, TYPE_OF_KIND
from agentrun_stream.model.facts import HOLDS, Facts
from agentrun_stream.model.judgement import Judgement, judge
from agentrun_stream.model.trust import NOBODY, Registry
from agentrun_stream.model.verdict import Verdict
from agentrun_stream.model.words import NOT_PROVED, meaning, sentence
from agentrun_stream.processors.verify import facts_of, marks_of, read_object, read_step
from agentrun_stream.runtime.recheck.bundle import is_bundle
from agentrun_stream.sdk.verifying import with_digests
from agentrun_stream.telemetry.logs import clean
from agentrun_stream.trust.folder import load_registry, registry_path

app = typer.Typer()

_FILES: Final = frozenset({".json", ".jsonl"})
# The flags that go with one kind of thing alone.
_ONLY: Final = {
    "--steps": "file",
    "--at": "file",
    "--trust": "file",
    "--bundle": "stored run",
    "--data": "stored run",
}


@dataclass(frozen=True, slots=True)
class Source:
    """What is verified: the run, its streamed steps, and the registry with the file it came from."""

    raw: bytes
    steps: tuple[bytes, ...]
    registry: Registry
    registry_file: Path


@app.command(epilog="Example: agentrun verify run-42 --bundle run-42.json; agentrun verify run-42.json")
def verify(
    what: Annotated[
        str,
        typer.Argument(
            help="The id of a stored run; or a file: a bundle, or a run as it was sent; `-` reads stdin.",
            metavar="RUN|FILE",
        ),
    ],
    steps: Annotated[
        Path | None, typer.Option("--steps", help="Its streamed steps, one event a line; other events are passed over.")
    ] = None,
    trust: TrustOption = None,
    registry: Annotated[
        Path | None,
        typer.Option(
            "--registry", help="A JWK Set to judge by, instead of the one in force, in the bundle or the folder."
        ),
    ] = None,
    workspace: Annotated[
        str | None, typer.Option("--workspace", "-w", help="Its workspace; of a file that is no bundle: default.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Time of judgement, as of the broker's append time; default: now.")
    ] = None,
    export_dsse: Annotated[
        Path | None, typer.Option("--export-dsse", help="Write the signed statement as a DSSE envelope to this file.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Write evidence, steps, keys and verdict to this file, to verify elsewhere."),
    ] = None,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Verify a run from its bytes, and say what that proves. Exit code 1 unless it is verified. A file needs no stack."""
    given = {"--steps": steps, "--at": at, "--trust": trust, "--bundle": bundle, "--data": data}
    raw = _file(what)
    kind = "stored run" if raw is None else "bundle" if is_bundle(raw) else "file"
    _refuse(kind, {flag for flag, value in given.items() if value is not None})
    if raw is None or kind == "bundle":
        looked = (
            look_at_run(what, workspace, data, registry) if raw is None else look_at_bundle(raw, workspace, registry)
        )
        if export_dsse is not None:
            _export(looked.found.facts, export_dsse)
        if bundle is not None:
            save(looked, bundle, datetime.now(UTC))
        (show_json if output is Output.JSON else screen)(looked)
        good = looked.good
    else:
        now = datetime.now(UTC)
        judged = (since(at, now) or now).timestamp()
        named = workspace or "default"
        path = registry or registry_path(trust_folder(trust), named)
        lines = () if steps is None else steps_of(read_input(steps), raw)
        keys = _registry(path) if registry is None else load_file(path)[0]
        good = _from_file(Source(raw, lines, keys, path), Judgement(named, keys, judged), export_dsse, output)
    if not good:
        raise typer.Exit(EXIT_NO)


def _file(what: str) -> bytes | None:
    """The bytes of the file that is meant; None where it is a run's id."""
    path = Path(what)
    try:
        there = path.exists() and not path.is_dir()
    except (OSError, ValueError):
        there = False  # no file could have that name
    return read_input(path) if there or what == "-" or path.suffix in _FILES else None


def _refuse(kind: str, flags: set[str]) -> None:
    """Refuse flags that say nothing of this kind of thing."""
    for flag in sorted(flags):
        if _ONLY[flag] != kind:
            raise UsageError(f"{flag} goes with a {_ONLY[flag]}, and this is a {kind}.", f"Leave out {flag}.")


def _from_file(source: Source, judgement: Judgement, export_dsse: Path | None, output: Output) -> bool:
    """A run from its own bytes."""
    facts = facts_of(source.raw)
    links, marks = marks_of(map(read_step, source.steps))
    verdict = with_digests(judge(facts, judgement, links, marks), source.raw, facts)
    if export_dsse is not None:
        _export(facts, export_dsse)
    if output is Output.JSON:
        told = {"workspace": judgement.workspace, "registry": str(source.registry_file), "proves_not": NOT_PROVED}
        as_json(verdict._asdict() | told | {"reasons_mean": {code: sentence(code) for code in verdict.reasons}})
    else:
        _screen(verdict, facts, source, judgement)
    return verdict.headline == VERIFIED


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
    rows = [{"axis": axis, "result": (word := getattr(verdict, axis)), "means": meaning(axis, word)} for axis in AXES]
    table("", {"axis": "axis", "result": "result", "means": "means"}, rows)
    told: list[dict[str, Any]] = [{"name": code, "value": sentence(code)} for code in verdict.reasons]
    told += [{"name": "", "value": detail} for detail in verdict.details]
    told += [{"name": name, "value": getattr(verdict, name)} for name in ("run_digest", "genesis")]
    told += [{"name": name, "value": value} for name, value in _against(verdict, source, judgement).items()]
    table("", {"name": "", "value": ""}, told)
    write("\n".join(NOT_PROVED))


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
