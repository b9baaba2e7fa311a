"""The projection: what is shown of a run, as a function of its objects and of opinions.

The row of an open run is a function of the objects other than steps; that of a closed run of all. Making it again under the
same opinions changes nothing. Must not live here: anything that decides facts, I/O.
"""

from typing import Any, Final

from agentrun_stream import limits
from agentrun_stream.codec import json_codec
from agentrun_stream.codec.cloudevents import time_s
from agentrun_stream.model import ledger, money
from agentrun_stream.model.ledger import TOKENS
from agentrun_stream.model.lineage import Child, parents_of
from agentrun_stream.model.opinions import NO_OPINIONS, Opinions
from agentrun_stream.model.projection import Projection
from agentrun_stream.model.run import (
    CLOSED_BY_LEASE,
    ClaimFact,
    EvalFact,
    RunState,
    Snapshot,
    offset_of,
    projection_version,
)
from agentrun_stream.processors.project import cost
from agentrun_stream.processors.project.shown import (
    Shown,
    claims_of,
    missing_claim,
    shown_of,
    snapshot_of,
    verdict_of,
)

__all__ = ["Projection", "child_of", "missing_claim", "project"]

# Members of an AgentRun that are columns of their own, as they are.
_PLAIN: Final = (
    "agent_id",
    "agent_name",
    "model",
    "provider",
    "runtime",
    "runtime_version",
    "trigger",
    "parent_run_id",
    "task_id",
    "outcome",
    "duration_ms",
    "error",
    "git_branch",
    "git_commit",
)
_PROVENANCE: Final = ("run_hash", "parent_run_hash", "model_version", "config_hash", "signed_by", "signature")
_OWN: Final = frozenset(
    (*_PLAIN, "id", "status", "started_at", "ended_at", "steps", "tools_available", "cost", "provenance", "eval")
) | {"workspace_id", "tags", "metadata"}
_STEP_TOKENS: Final = tuple(f"step_{name}" for name in TOKENS[:4])
_COUNTS: Final = ("steps", "tool_calls", "failed_tool_calls", "failed_steps")
_NOTHING: Final[dict[str, int | None]] = dict.fromkeys(_COUNTS, 0) | dict.fromkeys(_STEP_TOKENS)
_NO_SUMS: Final[dict[str, int | None]] = dict.fromkeys((*_COUNTS, *_STEP_TOKENS))


def project(state: RunState, topic: str, partition: int, opinions: Opinions = NO_OPINIONS) -> Projection | None:
    """Project a run under these opinions; None where it has no object other than a step."""
    snap = snapshot_of(state)
    if snap is None and not state.evals:
        return None
    snap = snap or _nothing(state)
    pos = snap.pos
    if state.closed:
        pos = max(pos, state.pos)
    else:
        for objects in (state.evals, state.claims):
            pos = max([pos, *(fact.pos for fact in objects.values())])
    shown = shown_of(state, snap, opinions)
    row = {
        "workspace": state.workspace,
        "run_id": state.run_id,
        "status": shown.status,
        **_members(shown.snap),
        **_verdict(state, shown, opinions),
        **(_closed_facts(state, snap) if state.closed else _open_facts(state, snap)),
        "steps_refused": snap.steps_refused,
        "closed_by": snap.closed_by,
        "reopened": snap.reopened,
        "reopened_at": snap.opened_ms / 1000 if snap.reopened else None,
        "detected_after_ms": round(snap.closed_s * 1000) - snap.due_ms if snap.closed_by == CLOSED_BY_LEASE else None,
        "expired_at": None if state.expired is None else state.expired["at"] / 1000,
        "corrections": snap.corrections,
        "revision": offset_of(pos),
        "projection": 0,
        "topic": topic,
        "partition": partition,
        "_version": str(projection_version(pos)),
    }
    row.update(opinions.price(cost.bill(state, shown, row)))
    settlements = [_settlement(state, snap, row, minute, pos) for minute in snap.settled]
    return Projection(row, settlements, shown.snap.doc, pos, state.closed)


def child_of(state: RunState, opinions: Opinions) -> Child | None:
    """What a run says of its parents, as far as they have to be looked up; None where there is nothing to look up."""
    snap = snapshot_of(state)
    if snap is None:
        return None
    child = shown_of(state, snap, opinions).child
    return None if child is None else child._replace(run_id=state.run_id)


def _nothing(state: RunState) -> Snapshot:
    """What stands in for the snapshot of a run that so far has only evals."""
    first = min(state.evals.values(), key=lambda e: e.pos)
    return Snapshot({}, first.pos, first.source, first.time_s, first.first_append_ms, first.append_ms, first.append_ms)


def _members(snap: Snapshot) -> dict[str, Any]:
    doc = snap.doc
    get = doc.get
    cost, provenance = get("cost") or {}, get("provenance") or {}
    row = {name: get(name) for name in _PLAIN}
    row["started_at"], row["ended_at"] = snap.started_s, snap.ended_s
    row["tools_available"], row["tags"] = get("tools_available") or [], get("tags") or []
    workspace_id, metadata = get("workspace_id"), get("metadata")
    row["workspace_id"] = None if workspace_id is None else str(workspace_id)
    row["metadata"] = None if metadata is None else json_codec.canonical(metadata)
    row["extra"] = None if _OWN.issuperset(doc) else json_codec.canonical({k: doc[k] for k in doc if k not in _OWN})
    row.update(zip(TOKENS, ledger.run_tokens(doc), strict=True))
    row["cost_reported_raw"] = snap.cost_raw
    row["cost_reported"] = money.text(money.amount(snap.cost_raw))
    row["cost_model"] = cost.get("model")
    row["cost_metadata"] = _open_map(cost.get("metadata"))
    for name in _PROVENANCE:
        row[name] = provenance.get(name)
    row["lineage"] = provenance.get("lineage") or []
    row["provenance_runtime"] = provenance.get("runtime")
    created = provenance.get("created_at")
    row["created_at"] = None if created is None else time_s(created)
    row["provenance_metadata"] = _open_map(provenance.get("metadata"))
    return row


def _open_map(value: Any) -> str | None:
    return None if value is None else json_codec.canonical(value)


def _verdict(state: RunState, shown: Shown, opinions: Opinions) -> dict[str, Any]:
    verdict, lineage = verdict_of(state, shown, opinions)
    child = shown.child
    return {
        "verdict": verdict.headline,
        "verdict_hash": verdict.hash,
        "verdict_chain": verdict.chain,
        "verdict_signature": verdict.signature,
        "verdict_lineage": verdict.lineage,
        "verdict_log": verdict.log,
        "verdict_reasons": list(verdict.reasons),
        "run_digest": verdict.run_digest,
        "genesis": verdict.genesis,
        "kid": verdict.kid,
        "signed_rev": None if shown.claim is None else shown.facts.rev,
        "verifier": verdict.verifier,
        "trust_version": verdict.registry_version,
        "judged_at": verdict.judged_at_s,
        "raw_sha256": verdict.raw_sha256,
        "claims": len(claims_of(state)),
        "claims_differ": list(shown.differ),
        "parents": [] if child is None else list(parents_of(child)),
        "parents_seen": list(lineage.seen),
        "flag": opinions.policy(state.workspace).flag(verdict.headline),
    }


def _closed_facts(state: RunState, snap: Snapshot) -> dict[str, Any]:
    """What a closed run's row says of all its objects. The steps are turned into columns first: a third of a loop's cost."""
    if state.expired is not None:
        return _expired_facts(state.expired)
    first, last = snap.first_append_ms, snap.append_ms
    facts: dict[str, Any] = dict(_NOTHING)
    if state.steps:
        _, _, _, firsts, lasts, kinds, successes, usages, _, _ = zip(*state.steps.values(), strict=True)
        first, last = min(first, *firsts), max(last, *lasts)
        facts["steps"] = len(kinds)
        facts["failed_steps"] = successes.count(False)
        facts["tool_calls"] = kinds.count("tool_call")
        if facts["failed_steps"]:
            failed = [kind for kind, success in zip(kinds, successes, strict=True) if success is False]
            facts["failed_tool_calls"] = failed.count("tool_call")
        facts |= zip(_STEP_TOKENS, ledger.usage_sums(usages), strict=False)
    for mark in state.marks.values():
        last = max(last, mark.append_ms)
    return facts | _eval_facts(state, first, last)


def _expired_facts(expired: dict[str, Any]) -> dict[str, Any]:
    """What the row of an expired run says of objects that are gone."""
    facts = {name: expired[name] for name in (*_COUNTS, "evals", "evals_passed")}
    facts |= {f"step_{name}": expired["step"].get(name) for name in TOKENS[:4]}
    return facts | {"eval": None, "first_event_at": expired["first"] / 1000, "last_event_at": expired["last"] / 1000}


def _open_facts(state: RunState, snap: Snapshot) -> dict[str, Any]:
    """What an open run's row says: nothing of its steps, which the view `runs_open` counts when it is asked."""
    return _NO_SUMS | _eval_facts(state, snap.first_append_ms, snap.append_ms)


def _eval_facts(state: RunState, first_ms: int, last_ms: int) -> dict[str, Any]:
    evals = state.evals.values()
    told: list[EvalFact | ClaimFact] = [*evals, *state.claims.values()]
    for fact in told:
        first_ms, last_ms = min(first_ms, fact.first_append_ms), max(last_ms, fact.append_ms)
    newest = max(evals, key=lambda e: e.pos) if evals else None
    return {
        "eval": None if newest is None else json_codec.canonical(newest.doc),
        "evals": len(evals),
        "evals_passed": sum(e.doc["pass"] is True for e in evals),
        "first_event_at": first_ms / 1000,
        "last_event_at": last_ms / 1000,
    }


# ---- settlements


def _settlement(state: RunState, snap: Snapshot, row: dict[str, Any], minute: int, pos: int) -> dict[str, Any]:
    """The run's row under one minute that it ever settled in: its amounts, or zero where it no longer is."""
    settled = {
        "minute": minute,
        "workspace": state.workspace,
        "run_id": state.run_id,
        "_version": str(projection_version(pos)),
        "agent_id": row["agent_id"],
        "provider": row["provider"],
        "runtime": row["runtime"],
        "trigger": row["trigger"],
        "status": row["status"],
        "outcome": row["outcome"],
        "model": row["cost_model"] or row["model"],
        "closed_by": snap.closed_by,
        "time_basis": snap.time_basis,
        "revision": offset_of(pos),
        "appended_at": _settled_at(state, snap, row),
        "runs": 0,
    }
    if not state.closed or int(snap.closed_s) // 60 * 60 != minute:
        return settled
    tokens = cost.settled_tokens(state, [row[name] for name in TOKENS])
    duration = row["duration_ms"]
    settled |= {
        "runs": 1,
        "unpriced": int(row["cost_effective"] is None),
        "steps": row["steps"],
        "tool_calls": row["tool_calls"],
        "failed_tool_calls": row["failed_tool_calls"],
        "corrections": snap.corrections,
        "duration_ms": None if duration is None else min(round(duration), limits.SAFE_INTEGER_MAX),
        **dict(zip(TOKENS, tokens, strict=True)),
        "cost_reported": row["cost_reported"],
        "cost_computed": row["cost_computed"],
        "cost_effective": row["cost_effective"],
    }
    return settled if row["signed_rev"] is None else settled | cost.claim_difference(state, snap, settled)


def _settled_at(state: RunState, snap: Snapshot, row: dict[str, Any]) -> float:
    """The append time of the last event that changed what is settled: neither an eval nor a claim does."""
    if not (state.evals or state.claims or state.marks):
        return float(row["last_event_at"])
    return max([snap.append_ms, *(step.append_ms for step in state.steps.values())]) / 1000
