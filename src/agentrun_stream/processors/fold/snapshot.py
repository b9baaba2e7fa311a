"""The run's own object: how snapshots, patches, leases and expiries change it, and when the run counts as ended.

Must not live here: steps and evals (steps.py).
"""

from dataclasses import asdict, replace
from typing import Any, Final

from agentrun_stream import limits
from agentrun_stream.model import ledger
from agentrun_stream.model.event import PATCH, Event
from agentrun_stream.model.facts import kept
from agentrun_stream.model.run import (
    CLOSED_BY_LEASE,
    CLOSED_BY_RUNTIME,
    SNAPSHOT_EFFECT,
    TERMINAL,
    RunState,
    Snapshot,
)
from agentrun_stream.model.usage import run_call
from agentrun_stream.processors.fold.outcome import (
    FOLDED,
    LATE,
    NO_EFFECT,
    REPEATED,
    STALE,
    Folded,
    Place,
    is_late,
    refused,
    same_stamp,
)
from agentrun_stream.processors.fold.provenance import expired_proofs

CLOSING_EVENT: Final = "closing_event"

_MERGED: Final = ("cost", "provenance", "metadata")
_APART: Final = frozenset({"steps", "eval"})
# What stays of an expired run: no texts, no open members.
_KEPT: Final = (
    *("id", "agent_id", "agent_name", "model", "provider", "runtime", "runtime_version", "trigger", "parent_run_id"),
    *("task_id", "status", "outcome", "started_at", "ended_at", "duration_ms"),
)
_KEPT_PROVENANCE: Final = frozenset(
    {"run_hash", "parent_run_hash", "lineage", "signed_by"}
)  # its children look at these
_KEPT_COST: Final = frozenset({*ledger.TOKENS, "cost_usd", "model"})


def applies(state: RunState, event: Event) -> str | None:
    """Why a snapshot or patch changes nothing of the run's own object; None where it does."""
    snap = state.snap
    if snap is not None and snap.seen and is_late(event, snap):
        return LATE
    return STALE if effect_of(snap, event.obj.get("status")) == "stale" else None


def apply(state: RunState, event: Event, at: Place) -> Folded:
    """Let a snapshot or patch change the run's own object (rule 2); its steps and eval are left to the caller."""
    snap = state.snap
    effect = effect_of(snap, event.obj.get("status"))
    out = Folded(REPEATED if snap is not None and same_stamp(event, snap) else FOLDED)
    snap = own(state, event, at)
    before = snap.doc, snap.cost_raw
    snap.source, snap.time_s = event.source, event.time_s
    if event.kind == PATCH:
        snap.doc, snap.cost_raw = _patched(snap, event)
    else:
        snap.doc, snap.cost_raw = _replaced(snap, event)
        snap.seen = True
    snap.proof = None if event.facts is None else kept(event.facts)
    snap.started_s = event.times[0] or snap.started_s
    snap.ended_s = event.times[1] or snap.ended_s
    corrections = snap.corrections
    _move(snap, effect, event, at)
    if out.outcome == REPEATED:
        snap.corrections = corrections  # told twice, corrected once
    touch(snap, out, at)
    out.accruals.extend(ledger.book_snapshot(snap, *before))
    return out


def fold_lease(state: RunState, event: Event, at: Place) -> Folded:
    """Rule 8: close a run that was silent or open for too long, by append times."""
    idle_ms, age_ms = event.obj["idle_timeout"] * 1000, event.obj["max_age"] * 1000
    last = state.last_append_ms
    if not last or state.closed or idle_ms < limits.LEASE_IDLE_MS_MIN or age_ms < limits.LEASE_AGE_MS_MIN:
        return Folded(NO_EFFECT)
    snap = state.snap
    opened = snap.opened_ms if snap is not None and snap.reopened else state.first_append_ms
    if at.append_ms - last < idle_ms and at.append_ms - opened <= age_ms:
        return Folded(NO_EFFECT)
    out = Folded(FOLDED)
    snap = own(state, event, at)
    snap.closed_by = CLOSED_BY_LEASE
    snap.due_ms = min(last + idle_ms, opened + age_ms + 1)  # of the age every millisecond above counts
    settle(snap, at.append_ms / 1000, CLOSING_EVENT)
    touch(snap, out, at)
    return out


def fold_expire(state: RunState, event: Event, at: Place) -> Folded:
    """Rule 9: let go of a closed run that nothing changed for long; sums and verdicts' facts stay."""
    horizon_ms = event.obj["horizon"] * 1000
    idle = at.append_ms - state.last_append_ms
    snap = state.snap
    if snap is None or not state.closed or horizon_ms < limits.EXPIRE_HORIZON_MS_MIN or idle <= horizon_ms:
        return Folded(NO_EFFECT)
    stays = asdict(replace(snap, doc=_trimmed(snap.doc), proof=None)) | {"settled": list(snap.settled)}
    told = {"at": at.append_ms, "first": state.first_append_ms, "last": state.last_append_ms, "snap": stays}
    state.expired = told | ledger.sums(state) | expired_proofs(state, _trimmed)
    state.forget()
    out = Folded(FOLDED)
    out.run = True
    return out


def _trimmed(doc: dict[str, Any]) -> dict[str, Any]:
    """What stays of the members of an expired run."""
    cost = {name: amount for name, amount in (doc.get("cost") or {}).items() if name in _KEPT_COST}
    life, tier, meant = run_call(doc, 0.0)[7:10]
    told = {"cache_write_1h_tokens": life, "service_tier": tier, "token_convention": meant}
    if stated := {name: value for name, value in told.items() if value is not None}:
        cost["metadata"] = stated  # what its price depends on
    provenance = {k: v for k, v in (doc.get("provenance") or {}).items() if k in _KEPT_PROVENANCE}
    return {name: doc[name] for name in _KEPT if name in doc} | {"cost": cost, "provenance": provenance}


def effect_of(snap: Snapshot | None, status: str | None) -> str:
    """What a snapshot or patch does to the status. A lease does not count: any event may overrule it."""
    if snap is None or not snap.seen:
        return "close" if status in TERMINAL else "replace"
    if status is None:
        return "amend"
    return SNAPSHOT_EFFECT[snap.closed_by == CLOSED_BY_RUNTIME, status in TERMINAL]


def own(state: RunState, event: Event, at: Place) -> Snapshot:
    """The run's own object, made where it is missing. One that a patch or a lease makes has no snapshot yet."""
    if state.snap is None:
        state.snap = Snapshot(
            doc={},
            pos=at.pos,
            source=event.source,
            time_s=event.time_s,
            first_append_ms=at.append_ms,
            append_ms=at.append_ms,
            opened_ms=at.append_ms,
        )
    return state.snap


def _replaced(snap: Snapshot, event: Event) -> tuple[dict[str, Any], str | None]:
    """Rule 2: what a snapshot leaves out or gives as null keeps its earlier value. A kept patch lies under the first one."""
    given = {k: v for k, v in event.obj.items() if v is not None and k not in _APART}
    cost_raw = event.cost_raw if "cost" in given else snap.cost_raw
    if not snap.seen:
        for name in _MERGED:
            if name in given and name in snap.doc:
                given[name] = snap.doc[name] | _given(given[name])
        cost_raw = event.cost_raw or snap.cost_raw
    return snap.doc | given, cost_raw


def _patched(snap: Snapshot, event: Event) -> tuple[dict[str, Any], str | None]:
    given = {k: v for k, v in event.obj.items() if v is not None and k not in _APART}
    for name in _MERGED:
        if name in given:
            given[name] = (snap.doc.get(name) or {}) | _given(given[name])
    return snap.doc | given, event.cost_raw or snap.cost_raw


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in members.items() if v is not None}


def _move(snap: Snapshot, effect: str, event: Event, at: Place) -> None:
    """Let the status follow: close, correct, or reopen what a lease had closed."""
    # A patch before the first snapshot is kept for it: the snapshot alone closes the run.
    if snap.seen and snap.doc.get("status") in TERMINAL and effect != "replace":
        was_closed = snap.closed_by == CLOSED_BY_RUNTIME
        snap.corrections += effect in ("correct", "amend") and was_closed
        snap.closed_by = CLOSED_BY_RUNTIME
        moment, basis = _settle_time(snap, event, at)
        if basis != CLOSING_EVENT or effect != "amend" or not was_closed:  # what amends a closed run did not close it
            settle(snap, moment, basis)
    elif snap.closed_by is not None:
        _open_again(snap, at)


def _settle_time(snap: Snapshot, event: Event, at: Place) -> tuple[float, str]:
    """When a run counts as ended: `ended_at`, else start plus duration, else the closing event's own time."""
    latest = (at.append_ms + limits.FUTURE_MS_MAX) / 1000
    if snap.ended_s is not None:
        return snap.ended_s, "ended_at"
    duration = snap.doc.get("duration_ms")
    if snap.started_s is not None and duration is not None:
        moment = snap.started_s + duration / 1000
        if moment <= latest:
            return moment, "duration"
    if limits.EARLIEST_TIME_S <= event.time_s <= latest:
        return event.time_s, CLOSING_EVENT
    return at.append_ms / 1000, CLOSING_EVENT


def settle(snap: Snapshot, moment_s: float, basis: str) -> None:
    """Count the run as ended at a moment, and remember its minute."""
    minute = int(moment_s) // 60 * 60
    snap.closed_s, snap.time_basis = moment_s, basis
    if minute not in snap.settled:
        snap.settled = (*snap.settled, minute)


def reopen(state: RunState, out: Folded, at: Place) -> None:
    """Rule 8: the runtime is alive after all."""
    snap = state.snap
    if snap is not None and snap.closed_by == CLOSED_BY_LEASE:
        _open_again(snap, at)
        touch(snap, out, at)


def _open_again(snap: Snapshot, at: Place) -> None:
    snap.closed_by, snap.time_basis, snap.closed_s = None, None, 0.0
    snap.opened_ms = at.append_ms
    snap.reopened += 1


def touch(snap: Snapshot, out: Folded, at: Place) -> None:
    """The run's own object changed here."""
    snap.pos, snap.append_ms = at.pos, at.append_ms
    out.run = True


def too_large(state: RunState, event: Event, at: Place) -> Folded:
    """An event with a step beyond what a run may have is refused, and counted by the run."""
    out = refused("run_too_large", event)
    snap = own(state, event, at)
    snap.steps_refused += 1
    snap.pos = at.pos  # counted once: a later reading of this offset is already folded
    out.run = True
    return out
