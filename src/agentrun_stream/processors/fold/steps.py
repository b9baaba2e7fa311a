"""Steps and evals: each adds an object, or replaces the one of its id.

Must not live here: the run's own object (snapshot.py).
"""

from typing import Any

from agentrun_stream import limits
from agentrun_stream.codec.fast import ID, SUCCESS, TOKENS_USED, TYPE, PlainStep
from agentrun_stream.codec.json_codec import canonical
from agentrun_stream.model import ledger
from agentrun_stream.model.chain import Link
from agentrun_stream.model.event import Event
from agentrun_stream.model.facts import HOLDS, claim_id
from agentrun_stream.model.run import Accrual, EvalFact, RunState, StepFact
from agentrun_stream.processors.fold.outcome import FOLDED, LATE, REPEATED, Folded, Place, is_late, same_stamp
from agentrun_stream.processors.fold.provenance import Version, hear, known_of, mark, stamp_of
from agentrun_stream.processors.fold.snapshot import reopen, too_large

_new = tuple.__new__


def fold_new_step(
    state: RunState, step: PlainStep, pos: int, append_ms: int, link: Link | None
) -> tuple[StepFact, Accrual | None] | None:
    """`fold` for the commonest case, a new step of an open run; None where it is another case, with nothing changed.

    Hot, so it makes nothing but the fact and the accrual. The property tests hold it and `fold` together.
    """
    _, _, source, time_s, body, _, metadata, *_ = step
    steps, snap, step_id, total = state.steps, state.snap, body[ID], body[TOKENS_USED]
    if (
        step_id in steps
        or state.expired is not None
        or (snap is not None and snap.closed_by is not None)
        or len(steps) >= limits.STEPS_PER_RUN_MAX
    ):
        return None
    usage = ledger.step_usage(metadata, total) if metadata is not None or total is not None else None
    fact: StepFact = _new(
        StepFact, (pos, source, time_s, append_ms, append_ms, body[TYPE], body[SUCCESS], usage, link, "")
    )
    steps[step_id] = fact
    state.pos = pos
    return fact, None if usage is None else ledger.book_step(state, step_id, usage, None)


def fold_step(state: RunState, event: Event, at: Place) -> Folded:
    """Rule 1: add a step, or replace the one of its id; a run closed by a lease is open again."""
    obj = event.obj
    step_id = obj["id"]
    old = state.steps.get(step_id)
    step = Version(step_id, obj, event.times, event.links[0] if event.links else None, "")
    if old is None:
        if len(state.steps) >= limits.STEPS_PER_RUN_MAX:
            return too_large(state, event, at)
        out = Folded(FOLDED)
    elif is_late(event, old):
        out = Folded(LATE)
        hear(state, out, step, event, at)
        return out
    else:
        out = Folded(REPEATED if same_stamp(event, old) else FOLDED)
    put_step(state, out, step, event, at)
    reopen(state, out, at)
    return out


def fold_eval(state: RunState, event: Event, at: Place) -> Folded:
    """Rule 6: an eval of its own."""
    out = Folded(FOLDED)
    if not put_eval(state, out, event.obj, event, at):
        return Folded(LATE)
    # An eval says nothing of whether the agent lives, so unlike a step it does not reopen a run closed by a lease.
    return out


def new_steps(state: RunState, obj: dict[str, Any]) -> int:
    """How many steps the run would have with those of a snapshot, where that may be too many; else 0."""
    steps = obj.get("steps")
    if not steps or len(state.steps) + len(steps) <= limits.STEPS_PER_RUN_MAX:
        return 0
    return len(state.steps.keys() | {s.get("id") or f"#{i}" for i, s in enumerate(steps)})


def embedded(event: Event) -> list[Version]:
    """The steps inside a snapshot. Of several with one id the last counts: an event books each object once."""
    steps = event.obj.get("steps")
    if not steps:
        return []
    facts = event.facts
    origin = claim_id(facts) if facts is not None and facts.signature == HOLDS else ""
    links = event.links or (None,) * len(steps)
    found = {}
    for i, (step, times, link) in enumerate(zip(steps, event.step_times, links, strict=True)):
        step_id = step.get("id") or f"#{i}"
        found[step_id] = Version(step_id, step, times, link, origin)
    return list(found.values())


def embedded_step(state: RunState, out: Folded, step: Version, event: Event, at: Place) -> None:
    """Rule 1 for a step inside a snapshot, which may be late by itself."""
    old = state.steps.get(step.id)
    if old is None or not is_late(event, old):
        put_step(state, out, step, event, at)
    else:
        hear(state, out, step, event, at)


def put_step(state: RunState, out: Folded, step: Version, event: Event, at: Place) -> None:
    """Add a step or replace it. A fact is made by `tuple.__new__`, a third of the cost of a call by name: this is hot."""
    step_id, obj, times, link, origin = step
    old = state.steps.get(step_id)
    usage = ledger.step_usage(obj.get("metadata"), obj.get("tokens_used"))
    pos, append_ms = at
    first = append_ms if old is None else old[3]
    fact: StepFact = _new(
        StepFact,
        (pos, event.source, event.time_s, first, append_ms, obj["type"], obj.get("success"), usage, link, origin),
    )
    if old is not None and (link is not None or origin or old[8] is not None or old[9] or step_id in state.marks):
        if origin != old[9]:
            fact = fact._replace(origin="")
        mark(state, out, step_id, (known_of(state, old, step_id).and_(step.seen), fact.seen), stamp_of(event, at))
    state.steps[step_id] = fact
    out.steps.append((step_id, obj, times, fact))
    if usage is not None or (old is not None and old[7] is not None):
        out.accruals.append(ledger.book_step(state, step_id, usage, old[7] if old is not None else None))


def eval_id(doc: dict[str, Any]) -> str:
    """The identity of an eval within its run: (eval_layer, benchmark_id, metadata.scorer)."""
    scorer = (doc.get("metadata") or {}).get("scorer")
    return canonical([doc.get("eval_layer"), doc.get("benchmark_id"), scorer])


def put_eval(state: RunState, out: Folded, doc: dict[str, Any], event: Event, at: Place) -> bool:
    """Add or replace an eval; False where it is late."""
    key = eval_id(doc)
    old = state.evals.get(key)
    if old is not None and is_late(event, old):
        return False
    first = at.append_ms if old is None else old.first_append_ms
    state.evals[key] = EvalFact(at.pos, event.source, event.time_s, first, at.append_ms, doc)
    out.evals.append(key)
    return True
