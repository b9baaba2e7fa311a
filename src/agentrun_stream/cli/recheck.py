"""What `agentrun verify` does with stored runs and bundles, and the screen that it shows of them.

Must not live here: the rules (runtime/recheck/), SQL (store/evidence.py).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from agentrun_stream.cli.common import client_for, printable, read_input
from agentrun_stream.cli.output import as_json, table, write
from agentrun_stream.codec.jwks import public_content
from agentrun_stream.errors import AgentrunError, UsageError
from agentrun_stream.model.dossier import Dossier, Finding, Keys
from agentrun_stream.model.lineage import Kin
from agentrun_stream.model.trust import Key, Registry
from agentrun_stream.model.verdict import Verdict
from agentrun_stream.model.words import NOT_PROVED_STORED, meaning, sentence
from agentrun_stream.ports import RunKey
from agentrun_stream.runtime.lineage import resolve
from agentrun_stream.runtime.recheck import Recheck, child_in, readable, recheck, registry_in, uncovered
from agentrun_stream.runtime.recheck.bundle import Bundle, read_bundle, told, write_bundle
from agentrun_stream.store.evidence import dossier_of, workspaces_of
from agentrun_stream.store.lineage import kin
from agentrun_stream.store.queries import Connection
from agentrun_stream.telemetry.logs import clean
from agentrun_stream.trust.folder import load

AXES: Final = ("hash", "chain", "signature", "lineage", "log")
VERIFIED: Final = "verified"
_IN_STORE: Final = "in force in the store"
_IN_BUNDLE: Final = "the keys came with the bundle; name your own with --registry"
_SHOWN_MAX: Final = 12


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked at, against which keys, and what came out."""

    dossier: Dossier
    registry: Registry
    where: str
    found: Recheck

    @property
    def good(self) -> bool:
        """Whether the run is verified and nothing differs."""
        return self.found.verdict.headline == VERIFIED and not self.found.findings


def look_at_run(run: str, workspace: str | None, data: Path | None, registry: Path | None) -> Looked:
    """A run of the store, against the registry in force there, or one from a file."""
    try:
        client = client_for(data)
    except AgentrunError as error:
        raise type(error)(
            f"{printable(run)!r} is no file, and no stored run without a store: {error.message}", error.next_step
        ) from None
    names = [workspace] if workspace is not None else workspaces_of(client, run)
    if len(names) > 1:
        known = ", ".join(map(clean, names))
        raise UsageError(f"The run {printable(run)!r} is in several workspaces: {known}.", "Name one with --workspace.")
    with readable():
        dossier = dossier_of(client, names[0], run) if names else None
    if dossier is None:
        raise UsageError(
            f"There is neither a file nor a stored run {printable(run)!r}.",
            "See `agentrun runs`; a run shows up once its first event is stored.",
        )
    return _looked(dossier, registry, _IN_STORE, client)


def look_at_bundle(raw: bytes, workspace: str | None, registry: Path | None) -> Looked:
    """A run of a bundle, against the keys that came with it, or those of a file."""
    bundle = read_bundle(raw)
    dossier = bundle.dossier
    if workspace not in {None, dossier.workspace}:
        raise UsageError(
            f"The bundle is of the workspace {printable(dossier.workspace)!r}.",
            "Leave out --workspace, or name that one.",
        )
    looked = _looked(dossier, registry, _IN_BUNDLE)
    if registry is not None:
        return looked  # judged by other keys, it may be another verdict
    findings = (*looked.found.findings, *_told_otherwise(bundle, looked.found.verdict))
    return replace(looked, found=replace(looked.found, findings=findings))


def save(looked: Looked, path: Path, now: datetime) -> None:
    """Write the bundle of what was looked at."""
    try:
        path.write_bytes(write_bundle(looked.dossier, looked.found.verdict, now))
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}.", "Name another file.") from None


def _looked(dossier: Dossier, registry: Path | None, where: str, client: Connection | None = None) -> Looked:
    """Judge the run; its ancestors are looked up where there is a store, else as the dossier has them."""
    if registry is not None:
        keys, jwks = load_file(registry)
        mine = Keys(keys.version, keys.digest, orjson.loads(public_content(jwks)))
        dossier, where = replace(dossier, keys=mine), str(registry)
    with readable():
        keys = registry_in(dossier.keys)
        if client is not None:
            dossier = replace(dossier, kin=_kin(client, dossier, keys))
        return Looked(dossier, keys, where, recheck(dossier, keys, in_force=registry is None))


def _kin(client: Connection, dossier: Dossier, registry: Registry) -> dict[str, dict[str, Any]]:
    """The rows of the run's ancestors, level by level."""
    child = child_in(dossier, registry)
    found: dict[RunKey, Kin] = {}

    async def load(keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        found.update(rows := kin(client, keys))
        return rows

    if child is not None:
        asyncio.run(resolve(load, {(dossier.workspace, dossier.run_id): child}, 0, 0))
    return {run_id: row._asdict() for (_, run_id), row in found.items()}


def load_file(path: Path) -> tuple[Registry, dict[str, Any]]:
    """The registry in a file that was asked for, so it must be there."""
    read_input(path)
    return load(path)


def _told_otherwise(bundle: Bundle, verdict: Verdict) -> list[Finding]:
    mine = told(verdict)
    names = sorted(name for name in mine.keys() | bundle.verdict.keys() if mine.get(name) != bundle.verdict.get(name))
    return [Finding("told_verdict_differs", "bundle", ", ".join(names))] if names else []


# ---- what is shown


def show_json(looked: Looked) -> None:
    """Everything, for programs."""
    found, dossier = looked.found, looked.dossier
    key = looked.registry.keys.get(found.verdict.kid or "")
    row = dossier.row or {}
    as_json(
        found.verdict._asdict()
        | {
            "run": dossier.run_id,
            "workspace": dossier.workspace,
            "good": looked.good,
            "claim": found.claim,
            "findings": [f._asdict() | {"means": sentence(f.code)} for f in found.findings],
            "reasons_mean": {code: sentence(code) for code in found.verdict.reasons},
            "missing_steps": found.missing,
            "claims_differ": found.others,
            "not_covered": [{"what": what, "said_by": who} for what, who in uncovered(dossier, found)],
            "stored": {name: row.get(name) for name in ("verdict", "trust_version", "judged_at", "projected_at")},
            "registry": looked.where,
            "key": None if key is None else _key(key),
            "checked": _counts(dossier),
            "proves_not": NOT_PROVED_STORED,
        }
    )


def screen(looked: Looked) -> None:
    """One screen, for people."""
    found, dossier, verdict = looked.found, looked.dossier, looked.found.verdict
    who = f"run {clean(dossier.run_id)} of agent {clean(found.facts.agent_id or _agent(dossier)) or '?'}"
    differs = f": {verdict.headline} by its bytes, but {len(found.findings)} things are not as these say"
    write(f"DIFFERS  {who}{differs}" if found.findings else f"{verdict.headline.upper()}  {who}")
    rows = [{"axis": a, "result": (word := getattr(verdict, a)), "means": meaning(a, word)} for a in AXES]
    table("", {"axis": "axis", "result": "result", "means": "means"}, rows)
    reasons = [{"reason": code, "means": sentence(code)} for code in verdict.reasons]
    if reasons:
        table("", {"reason": "reason", "means": "means"}, reasons)
    if found.findings:
        _findings(found.findings)
    table("", {"name": "", "value": ""}, [{"name": n, "value": v} for n, v in _facts(looked).items() if v is not None])
    apart = [{"what": what, "who": who or None} for what, who in uncovered(dossier, found)]
    if apart:
        table("", {"what": "not covered", "who": "said by"}, apart[:_SHOWN_MAX])
    write("\n".join(NOT_PROVED_STORED))


def _findings(findings: tuple[Finding, ...]) -> None:
    rows = [f._asdict() | {"means": sentence(f.code)} for f in findings[:_SHOWN_MAX]]
    table("", {"where": "differs", "detail": "how", "means": "means"}, rows)
    if len(findings) > _SHOWN_MAX:
        write(f"… and {len(findings) - _SHOWN_MAX} more; see them with -o json.")


def _facts(looked: Looked) -> dict[str, Any]:
    found, dossier, verdict = looked.found, looked.dossier, looked.found.verdict
    key, row = looked.registry.keys.get(verdict.kid or ""), dossier.row
    counts = _counts(dossier)
    return {
        "checked": ", ".join(f"{name}: {count}" for name, count in counts.items()),
        "missing steps": _ranges(found.missing) or None,
        "others said": ", ".join(found.others) or None,
        "run_digest": verdict.run_digest,
        "genesis": verdict.genesis,
        "revision": found.facts.rev,
        "key": verdict.kid,
        "registered for": None if key is None else _scope(key),
        "valid": None if key is None else _validity(key),
        "registry": f"version {looked.registry.version}, {looked.where}",
        "workspace": dossier.workspace,
        "judged at": None if verdict.judged_at_s is None else _moment(verdict.judged_at_s),
        "stored verdict": None if row is None else f"{row.get('verdict')}, by version {row.get('trust_version')}",
        "verifier": verdict.verifier,
    }


def _counts(dossier: Dossier) -> dict[str, int]:
    chained = sum(step.doc is not None for step in dossier.steps)
    return {"signed_records": len(dossier.evidence), "steps": len(dossier.steps), "chained_steps": chained}


def _agent(dossier: Dossier) -> str:
    return "" if dossier.snapshot is None else str(dossier.snapshot.doc.get("agent_id") or "")


def _scope(key: Key) -> str:
    return "every agent" if key.agents is None else ", ".join(key.agents) or "no agent"


def _key(key: Key) -> dict[str, Any]:
    return {"kid": key.kid, "agents": _scope(key), "valid": _validity(key), "reason": key.reason}


def _validity(key: Key) -> str:
    bounds = (
        ("from", key.nbf),
        ("until", key.exp),
        ("revoked at", key.revoked_at),
        ("compromised since", key.compromised_since),
    )
    return ", ".join([key.status, *(f"{word} {_moment(at)}" for word, at in bounds if at is not None)])


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")


def _ranges(numbers: tuple[int, ...]) -> str:
    """3, 7-9."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in spans[:_SHOWN_MAX]]
    return ", ".join([*texts, "…"] if len(spans) > _SHOWN_MAX else texts)
