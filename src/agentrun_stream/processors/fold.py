"""The fold: (run state, event) -> which objects change, and what the ledger books. A pure function of the log.

No clock, no price, no key registry and no setting takes part, so whoever folds an event again writes the same facts. Must
not live here: opinions (project.py), rows, I/O.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Final, NamedTuple

from agentrun_stream import limits
from agentrun_stream.codec.fast import ID, SUCCESS, TOKENS_USED, TYPE, PlainStep
from agentrun_stream.codec.json_codec import canonical
from agentrun_stream.model import ledger
from agentrun_stream.model.event import EVAL, EXPIRE, LEASE, PATCH, RUN, STEP, Event, Refusal, Times
from agentrun_stream.model.run import (
    CLOSED_BY_LEASE,
    CLOSED_BY_RUNTIME,
    SNAPSHOT_EFFECT,
    TERMINAL,
    Accrual,
    EvalFact,
    RunState,
    Snapshot,
    StepFact,
)

FOLDED: Final = "folded"
REPEATED: Final = "repeated"  # folded, although source and time are those of the stored object
LATE: Final = "late"
STALE: Final = "stale"
NO_EFFECT: Final = "no_effect"

CLOSING_EVENT: Final = "closing_event"

_MERGED: Final = ("cost", "provenance", "metadata")
_APART: Final = frozenset({"steps", "eval"})
# What stays of an expired run: no texts, no open members.
_KEPT: Final = (
    *("id", "agent_id", "agent_name", "model", "provider", "runtime", "runtime_version", "trigger", "parent_run_id"),
    *("task_id", "status", "outcome", "started_at", "ended_at", "duration_ms"),
)
_KEPT_COST: Final = frozenset({*ledger.TOKENS, "cost_usd", "model"})
_new = tuple.__new__


class Place(NamedTuple):
    """Where an event stands on the log: its position and the broker's append time in ms."""

    pos: int
    append_ms: int


FoldedStep = tuple[str, dict[str, Any], Times, StepFact]


class Folded:
    """What one event changed. `steps` are (id, object, times, fact); `evals` are ids; `run` says whether the snapshot did.

    `refusal` is set where the contract refuses the event because of the run's state; then only `run` may be set besides.
    """

    __slots__ = ("accruals", "evals", "outcome", "refusal", "run", "steps")

    def __init__(self, outcome: str) -> None:
        self.outcome = outcome
        self.steps: list[FoldedStep] = []
        self.evals: list[str] = []
        self.accruals: list[Accrual] = []
        self.run = False
        self.refusal: Refusal | None = None

    @property
    def changed(self) -> bool:
        """Whether any object changed; an event that changes none has no effect."""
        return bool(self.steps or self.evals or self.run)


def fold(state: RunState, event: Event, at: Place) -> Folded:
    """Apply one event to a run, in place. Rules: the wire contract, section 3."""
    if state.expired is not None:
        return _refused("expired", event)
    out = _FOLDS[event.kind](state, event, at)
    if out.changed:
        state.pos = at.pos
    return out


def fold_new_step(state: RunState, step: PlainStep, pos: int, append_ms: int) -> tuple[StepFact, Accrual | None] | None:
    """`fold` for the commonest case, a new step of an open run; None where it is another case, with nothing changed.

    Hot, so it makes nothing but the fact and the accrual. The property tests hold it and `fold` together.
    """
    _, _, source, time_s, body, _, metadata, _ = step
    steps, snap, step_id, total = state.steps, state.snap, body[ID], body[TOKENS_USED]
    if (
        step_id in steps
        or state.expired is not None
        or (snap is not None and snap.closed_by is not None)
        or len(steps) >= limits.STEPS_PER_RUN_MAX
    ):
        return None
    usage = ledger.step_usage(metadata, total) if metadata is not None or total is not None else None
    fact: StepFact = _new(StepFact, (pos, source, time_s, append_ms, append_ms, body[TYPE], body[SUCCESS], usage))
    steps[step_id] = fact
    state.pos = pos
    return fact, None if usage is None else ledger.book_step(state, step_id, usage, None)


def _fold_step(state: RunState, event: Event, at: Place) -> Folded:
    obj = event.obj
    step_id = obj["id"]
    old = state.steps.get(step_id)
    if old is None:
        if len(state.steps) >= limits.STEPS_PER_RUN_MAX:
            return _too_large(state, event, at)
        out = Folded(FOLDED)
    elif _is_late(event, old):
        return Folded(LATE)
    else:
        out = Folded(REPEATED if _same_stamp(event, old) else FOLDED)
    _put_step(state, out, (step_id, obj, event.times), event, at)
    _reopen(state, out, at)
    return out


def _fold_run(state: RunState, event: Event, at: Place) -> Folded:
    snap = state.snap
    if snap is not None and snap.seen and _is_late(event, snap):
        return Folded(LATE)
    effect = _effect(snap, event.obj.get("status"))
    if effect == "stale":
        return Folded(STALE)
    if _new_steps(state, event.obj) > limits.STEPS_PER_RUN_MAX:
        return _too_large(state, event, at)
    out = Folded(REPEATED if snap is not None and _same_stamp(event, snap) else FOLDED)
    snap = _own(state, event, at)
    before = snap.doc, snap.cost_raw
    snap.source, snap.time_s = event.source, event.time_s
    if event.kind == PATCH:
        snap.doc, snap.cost_raw = _patched(snap, event)
    else:
        snap.doc, snap.cost_raw = _replaced(snap, event)
        snap.seen = True
    snap.started_s = event.times[0] or snap.started_s
    snap.ended_s = event.times[1] or snap.ended_s
    corrections = snap.corrections
    _move(snap, effect, event, at)
    if out.outcome == REPEATED:
        snap.corrections = corrections  # told twice, corrected once
    _touch(snap, out, at)
    out.accruals.extend(ledger.book_snapshot(snap, *before))
    # Of several steps with one id the last counts: an event books each object once.
    steps = zip(event.obj.get("steps") or (), event.step_times, strict=True)
    for step_id, step in {s.get("id") or f"#{i}": (s, times) for i, (s, times) in enumerate(steps)}.items():
        _embedded_step(state, out, (step_id, *step), event, at)
    evaluation = event.obj.get("eval")
    if evaluation is not None:
        _put_eval(state, out, evaluation, event, at)
    return out


def _fold_eval(state: RunState, event: Event, at: Place) -> Folded:
    out = Folded(FOLDED)
    if not _put_eval(state, out, event.obj, event, at):
        return Folded(LATE)
    # An eval says nothing of whether the agent lives, so unlike a step it does not reopen a run closed by a lease.
    return out


def _fold_lease(state: RunState, event: Event, at: Place) -> Folded:
    idle_ms, age_ms = event.obj["idle_timeout"] * 1000, event.obj["max_age"] * 1000
    last = state.last_append_ms
    if not last or state.closed or idle_ms < limits.LEASE_IDLE_MS_MIN or age_ms < limits.LEASE_AGE_MS_MIN:
        return Folded(NO_EFFECT)
    snap = state.snap
    opened = snap.opened_ms if snap is not None and snap.reopened else state.first_append_ms
    if at.append_ms - last < idle_ms and at.append_ms - opened <= age_ms:
        return Folded(NO_EFFECT)
    out = Folded(FOLDED)
    snap = _own(state, event, at)
    snap.closed_by = CLOSED_BY_LEASE
    snap.due_ms = min(last + idle_ms, opened + age_ms + 1)  # of the age every millisecond above counts
    _settle(snap, at.append_ms / 1000, CLOSING_EVENT)
    _touch(snap, out, at)
    return out


def _fold_expire(state: RunState, event: Event, at: Place) -> Folded:
    horizon_ms = event.obj["horizon"] * 1000
    idle = at.append_ms - state.last_append_ms
    snap = state.snap
    if snap is None or not state.closed or horizon_ms < limits.EXPIRE_HORIZON_MS_MIN or idle <= horizon_ms:
        return Folded(NO_EFFECT)
    doc = {name: snap.doc[name] for name in _KEPT if name in snap.doc}
    cost = {name: amount for name, amount in (snap.doc.get("cost") or {}).items() if name in _KEPT_COST}
    kept = asdict(replace(snap, doc=doc | {"cost": cost})) | {"settled": list(snap.settled)}
    told = {"at": at.append_ms, "first": state.first_append_ms, "last": state.last_append_ms, "snap": kept}
    state.expired = told | ledger.sums(state)
    state.snap, state.steps, state.evals = None, {}, {}
    out = Folded(FOLDED)
    out.run = True
    return out


# ---- the run's own object


def _effect(snap: Snapshot | None, status: str | None) -> str:
    """What a snapshot or patch does to the status. A lease does not count: any event may overrule it."""
    if snap is None or not snap.seen:
        return "close" if status in TERMINAL else "replace"
    if status is None:
        return "amend"
    return SNAPSHOT_EFFECT[snap.closed_by == CLOSED_BY_RUNTIME, status in TERMINAL]


def _own(state: RunState, event: Event, at: Place) -> Snapshot:
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
            _settle(snap, moment, basis)
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


def _settle(snap: Snapshot, moment_s: float, basis: str) -> None:
    minute = int(moment_s) // 60 * 60
    snap.closed_s, snap.time_basis = moment_s, basis
    if minute not in snap.settled:
        snap.settled = (*snap.settled, minute)


def _reopen(state: RunState, out: Folded, at: Place) -> None:
    """Rule 8: the runtime is alive after all."""
    snap = state.snap
    if snap is not None and snap.closed_by == CLOSED_BY_LEASE:
        _open_again(snap, at)
        _touch(snap, out, at)


def _open_again(snap: Snapshot, at: Place) -> None:
    snap.closed_by, snap.time_basis, snap.closed_s = None, None, 0.0
    snap.opened_ms = at.append_ms
    snap.reopened += 1


def _touch(snap: Snapshot, out: Folded, at: Place) -> None:
    snap.pos, snap.append_ms = at.pos, at.append_ms
    out.run = True


# ---- steps and evals


def _new_steps(state: RunState, obj: dict[str, Any]) -> int:
    steps = obj.get("steps")
    if not steps or len(state.steps) + len(steps) <= limits.STEPS_PER_RUN_MAX:
        return 0
    return len(state.steps.keys() | {s.get("id") or f"#{i}" for i, s in enumerate(steps)})


def _embedded_step(
    state: RunState, out: Folded, step: tuple[str, dict[str, Any], Times], event: Event, at: Place
) -> None:
    old = state.steps.get(step[0])
    if old is None or not _is_late(event, old):
        _put_step(state, out, step, event, at)


def _put_step(state: RunState, out: Folded, step: tuple[str, dict[str, Any], Times], event: Event, at: Place) -> None:
    """Add a step or replace it. A fact is made by `tuple.__new__`, a third of the cost of a call by name: this is hot."""
    step_id, obj, times = step
    old = state.steps.get(step_id)
    usage = ledger.step_usage(obj.get("metadata"), obj.get("tokens_used"))
    pos, append_ms = at
    first = append_ms if old is None else old[3]
    fact: StepFact = _new(
        StepFact, (pos, event.source, event.time_s, first, append_ms, obj["type"], obj.get("success"), usage)
    )
    state.steps[step_id] = fact
    out.steps.append((step_id, obj, times, fact))
    if usage is not None or (old is not None and old[7] is not None):
        out.accruals.append(ledger.book_step(state, step_id, usage, old[7] if old is not None else None))


def eval_id(doc: dict[str, Any]) -> str:
    """The identity of an eval within its run: (eval_layer, benchmark_id, metadata.scorer)."""
    scorer = (doc.get("metadata") or {}).get("scorer")
    return canonical([doc.get("eval_layer"), doc.get("benchmark_id"), scorer])


def _put_eval(state: RunState, out: Folded, doc: dict[str, Any], event: Event, at: Place) -> bool:
    key = eval_id(doc)
    old = state.evals.get(key)
    if old is not None and _is_late(event, old):
        return False
    first = at.append_ms if old is None else old.first_append_ms
    state.evals[key] = EvalFact(at.pos, event.source, event.time_s, first, at.append_ms, doc)
    out.evals.append(key)
    return True


# ---- late repeats and refusals


def _is_late(event: Event, old: StepFact | EvalFact | Snapshot) -> bool:
    """Rule 5: the same source told an earlier time than the stored object has."""
    return event.stamped and event.time_s < old.time_s and event.source == old.source


def _same_stamp(event: Event, old: StepFact | Snapshot) -> bool:
    return event.stamped and event.time_s == old.time_s and event.source == old.source


def _refused(reason: str, event: Event) -> Folded:
    out = Folded(NO_EFFECT)
    out.refusal = Refusal(reason, workspace=event.workspace)
    return out


def _too_large(state: RunState, event: Event, at: Place) -> Folded:
    out = _refused("run_too_large", event)
    snap = _own(state, event, at)
    snap.steps_refused += 1
    snap.pos = at.pos  # counted once: a later reading of this offset is already folded
    out.run = True
    return out


_FOLDS: Final[dict[str, Callable[[RunState, Event, Place], Folded]]] = {
    STEP: _fold_step,
    RUN: _fold_run,
    PATCH: _fold_run,
    EVAL: _fold_eval,
    LEASE: _fold_lease,
    EXPIRE: _fold_expire,
}
