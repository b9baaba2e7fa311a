"""The re-check of a stored run: its verdict made again from its bytes alone, and what in the store is not as these say.

Must not live here: stores, files, printing. The rules are those of the projection, which is made again as it stands.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import orjson

from agentrun_stream.codec.jwks import registry_of
from agentrun_stream.errors import AgentrunError
from agentrun_stream.model.dossier import Dossier, Finding, Keys
from agentrun_stream.model.facts import Facts
from agentrun_stream.model.lineage import ORPHANED, Child, Kin
from agentrun_stream.model.opinions import Opinions
from agentrun_stream.model.projection import AXES
from agentrun_stream.model.run import RunState
from agentrun_stream.model.trust import Registry
from agentrun_stream.model.verdict import VERIFIER, Verdict
from agentrun_stream.processors.lineage import judge_lineage
from agentrun_stream.processors.project import child_of, project
from agentrun_stream.processors.project.shown import shown_of, snapshot_of, verdict_of
from agentrun_stream.processors.verify import facts_of
from agentrun_stream.runtime.recheck.claims import claims_in, own_object, stored_claims
from agentrun_stream.runtime.recheck.columns import differing
from agentrun_stream.runtime.recheck.steps import marks_in, steps_in

__all__ = ["Recheck", "child_in", "readable", "recheck", "registry_in", "uncovered"]

_VERDICT: Final = (
    *(column for _, column in AXES),
    *(
        "verdict_reasons",
        "run_digest",
        "genesis",
        "kid",
        "signed_rev",
        "raw_sha256",
        "claims",
        "claims_differ",
        "judged_at",
    ),
)
_MEMBERS: Final = (
    *(
        "agent_id",
        "agent_name",
        "model",
        "provider",
        "runtime",
        "runtime_version",
        "trigger",
        "parent_run_id",
        "task_id",
    ),
    *(
        "status",
        "outcome",
        "started_at",
        "ended_at",
        "duration_ms",
        "tools_available",
        "error",
        "git_branch",
        "git_commit",
    ),
    *("tags", "metadata", "extra", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"),
    *(
        "total_tokens",
        "cost_reported_raw",
        "cost_reported",
        "cost_model",
        "cost_metadata",
        "run_hash",
        "parent_run_hash",
    ),
    *("lineage", "model_version", "config_hash", "provenance_runtime", "signed_by", "signature", "created_at"),
    *("provenance_metadata", "parents", "steps", "tool_calls", "failed_tool_calls", "failed_steps"),
)
_BROKEN: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class Recheck:
    """What the bytes of a run give, and what in the store differs from that.

    `facts` and `raw` are those of what is shown, `claim` its id where it is a trusted signed snapshot. `missing` are the places
    of the chain at which no step is. `others` are the members of which somebody else said something else (`claims_differ`).
    """

    verdict: Verdict
    facts: Facts
    claim: str | None
    raw: bytes | None
    missing: tuple[int, ...]
    others: tuple[str, ...]
    findings: tuple[Finding, ...]


@contextmanager
def readable() -> Iterator[None]:
    """Raises AgentrunError where what is read has a form in which the pipeline never writes it."""
    try:
        yield
    except _BROKEN as error:
        raise AgentrunError(
            f"What is kept of the run can't be read ({type(error).__name__}): somebody changed it.",
            "`agentrun audit` compares the store with the log.",
        ) from None


def registry_in(keys: Keys) -> Registry:
    """The registry that a dossier brings along, under the version by which it was in force."""
    return replace(registry_of(keys.jwks, keys.digest), version=keys.version)


def child_in(dossier: Dossier, registry: Registry) -> Child | None:
    """What the run says of its parents; None where it names none."""
    return child_of(_state(dossier, []), Opinions(registry=lambda _workspace: registry))


def recheck(dossier: Dossier, registry: Registry, *, in_force: bool = True) -> Recheck:
    """Judge a run from its bytes. `in_force` says that the registry is the one that the stored verdict should be made with."""
    findings: list[Finding] = []
    state = _state(dossier, findings)
    opinions = _opinions(dossier, state, registry)
    snap = snapshot_of(state)
    projection = project(state, "", 0, opinions)
    if snap is None or projection is None:
        return _nothing(findings, registry)
    shown = shown_of(state, snap, opinions)
    verdict, lineage = verdict_of(state, shown, opinions)
    row = dossier.row
    if row is None:
        findings.append(Finding("row_missing", "run"))
    else:
        findings += (Finding("row_differs", name, what) for name, what in differing(projection.row, row, _MEMBERS))
        same = in_force and row["trust_version"] == registry.version and row["verifier"] == VERIFIER
        same = same and tuple(row["parents_seen"]) == lineage.seen
        code = "verdict_differs" if same else "judged_otherwise"
        findings += (Finding(code, name, what) for name, what in differing(projection.row, row, _VERDICT))
    raw = _raw_of(dossier, shown.facts)
    facts = shown.facts if raw is None else facts_of(raw)
    missing = tuple(_missing(state, facts))
    return Recheck(verdict, facts, shown.claim, raw, missing, shown.differ, tuple(findings))


def uncovered(dossier: Dossier, found: Recheck) -> Iterator[tuple[str, str]]:
    """(what no trusted signature covers, who said it) of all that is shown of the run."""
    said_by = "" if dossier.snapshot is None else dossier.snapshot.source
    if found.claim is None:
        yield "every member", said_by
    workspace_id = None if dossier.snapshot is None else dossier.snapshot.doc.get("workspace_id")
    if workspace_id is not None:
        yield f"workspace_id {workspace_id}", said_by
    for name, source in sorted(dossier.evals.items()):
        yield f"eval {_eval_name(name)}".rstrip(), source
    streamed = sum((step.chain or {}).get("origin") != found.claim for step in dossier.steps)
    if streamed and (found.claim is None or found.facts.commitment is None):
        yield f"{streamed} steps", said_by


def _eval_name(eval_id: str) -> str:
    """The id of an eval without the form in which it is stored."""
    try:
        return " ".join(str(part) for part in orjson.loads(eval_id) if part is not None)
    except (ValueError, TypeError):
        return eval_id


def _state(dossier: Dossier, findings: list[Finding]) -> RunState:
    """The run with its claims and the links of its steps as the bytes have them."""
    claims = claims_in(dossier, findings)
    stored_claims(dossier, claims, findings)
    state = RunState(dossier.workspace, dossier.run_id, claims=claims)
    state.snap = own_object(dossier, claims, findings)
    state.steps = steps_in(dossier, claims, findings)
    state.marks = marks_in(dossier)
    return state


def _opinions(dossier: Dossier, state: RunState, registry: Registry) -> Opinions:
    """The registry, and the lineage by what other runs say, of which a dossier has no bytes.

    Whether a parent that did not come is still waited for is up to the clock of whoever projects, so the row decides that.
    """
    opinions = Opinions(registry=lambda _workspace: registry)
    child = child_of(state, opinions)
    if child is None:
        return opinions
    rows = {run_id: Kin(**row | {"lineage": tuple(row["lineage"])}) for run_id, row in dossier.kin.items()}
    over = dossier.row is not None and dossier.row["verdict_lineage"] == ORPHANED
    lineage = judge_lineage(child, rows, child.since_ms, 0 if over else 1)
    return replace(opinions, lineage={(dossier.workspace, dossier.run_id): lineage})


def _nothing(findings: list[Finding], registry: Registry) -> Recheck:
    """Of a run without an object of its own nothing is signed yet."""
    verdict = Verdict("pending", "absent", "absent", "unsigned", "root", registry_version=registry.version)
    return Recheck(verdict, Facts(signature="unsigned"), None, None, (), (), tuple(findings))


def _raw_of(dossier: Dossier, facts: Facts) -> bytes | None:
    """The bytes of what is shown; as they were told first where they were told again in another envelope."""
    if facts.raw_sha256 is None or facts.signature == "unsigned":
        return None
    raws = [one.raw.encode() for one in dossier.evidence]
    same = (raw for raw in raws if hashlib.sha256(raw).hexdigest() == facts.raw_sha256)
    return next(same, None) or next((raw for raw in raws if facts_of(raw).run_digest == facts.run_digest), None)


def _missing(state: RunState, facts: Facts) -> Iterator[int]:
    if facts.commitment is None:
        return
    inside = {link.seq for link in facts.links if link is not None}
    there = inside | {step.link.seq for step in state.steps.values() if step.link is not None}
    yield from (seq for seq in range(facts.commitment.length) if seq not in there)
