"""The fold: (run state, event) -> which objects change, and what the ledger books. A pure function of the log.

No clock, no price, no key registry and no setting takes part, so whoever folds an event again writes the same facts. Must
not live here: opinions (project.py), rows, I/O.
"""

from collections.abc import Callable
from typing import Final

from agentrun_stream import limits
from agentrun_stream.model.event import EVAL, EXPIRE, LEASE, PATCH, RUN, STEP, Event
from agentrun_stream.model.facts import HOLDS
from agentrun_stream.model.run import RunState
from agentrun_stream.processors.fold.outcome import FOLDED, LATE, NO_EFFECT, REPEATED, STALE, Folded, Place, refused
from agentrun_stream.processors.fold.provenance import hear, is_evidence, keep_claim
from agentrun_stream.processors.fold.snapshot import CLOSING_EVENT, applies, apply, fold_expire, fold_lease, too_large
from agentrun_stream.processors.fold.steps import (
    embedded,
    embedded_step,
    eval_id,
    fold_eval,
    fold_new_step,
    fold_step,
    new_steps,
    put_eval,
    put_step,
)

__all__ = [
    "CLOSING_EVENT",
    "FOLDED",
    "LATE",
    "NO_EFFECT",
    "REPEATED",
    "STALE",
    "Folded",
    "Place",
    "eval_id",
    "fold",
    "fold_new_step",
    "is_evidence",
]


def fold(state: RunState, event: Event, at: Place) -> Folded:
    """Apply one event to a run, in place. Rules: the wire contract, section 3."""
    if state.expired is not None:
        return refused("expired", event)
    out = _FOLDS[event.kind](state, event, at)
    if out.changed:
        state.pos = at.pos
    return out


def fold_run(state: RunState, event: Event, at: Place) -> Folded:
    """Rules 2, 3 and 5; then rule 4, which a late snapshot is subject to as well."""
    why_not = applies(state, event)
    signed = event.facts is not None and event.facts.signature == HOLDS
    if (why_not is None or signed) and new_steps(state, event.obj) > limits.STEPS_PER_RUN_MAX:
        return too_large(state, event, at)
    steps = embedded(event)
    if why_not is not None:
        out = Folded(why_not)
        for step in steps:
            # What is signed may be shown all the same, so it is late for none of its steps but those that are there.
            add = put_step if signed and step.id not in state.steps else hear
            add(state, out, step, event, at)
    else:
        out = apply(state, event, at)
        for step in steps:
            embedded_step(state, out, step, event, at)
        evaluation = event.obj.get("eval")
        if evaluation is not None:
            put_eval(state, out, evaluation, event, at)
    if signed:
        keep_claim(state, out, event, at)
    return out


_FOLDS: Final[dict[str, Callable[[RunState, Event, Place], Folded]]] = {
    STEP: fold_step,
    RUN: fold_run,
    PATCH: fold_run,
    EVAL: fold_eval,
    LEASE: fold_lease,
    EXPIRE: fold_expire,
}
