"""What the fold keeps so that nobody without a key can change what a verified run shows: claims, and marks of steps.

Must not live here: whether anybody trusts a key.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from agentrun_stream import limits
from agentrun_stream.codec import json_codec
from agentrun_stream.codec.canonical import hash_axis
from agentrun_stream.codec.json_codec import canonical
from agentrun_stream.model.chain import Link, Seen, seen_of
from agentrun_stream.model.event import Event, Times
from agentrun_stream.model.facts import HOLDS, UNSIGNED, claim_id, pack, thin
from agentrun_stream.model.run import ClaimFact, MarkFact, RunState, StepFact
from agentrun_stream.model.streamed import chain_of
from agentrun_stream.processors.fold.outcome import Folded, Place


class Version(NamedTuple):
    """A step that an event brings: its place in the chain, and the claim that it came inside of, or ''."""

    id: str
    obj: dict[str, Any]
    times: Times
    link: Link | None
    origin: str

    @property
    def seen(self) -> Seen:
        """What this version says of how the step came."""
        return seen_of(self.link, self.origin)


def keep_claim(state: RunState, out: Folded, event: Event, at: Place) -> None:
    """Rule 4: a validly signed snapshot is kept whole, once; the same key and revision with another digest is a fork."""
    facts = event.facts
    assert facts is not None
    key = claim_id(facts)
    old = state.claims.get(key)
    pos, append_ms = at
    if old is None:
        whole = len(state.claims) < limits.CLAIMS_WHOLE_MAX
        doc = canonical(event.whole).encode() if whole else None
        slim = replace(facts, statement=None, seal=None) if whole else thin(facts)
        told = (event.source, event.time_s, append_ms, append_ms)
        claim = ClaimFact(
            pos, *told, at=pos, fork=False, doc=doc, cost_raw=event.cost_raw if whole else None, facts=slim
        )
    elif old.facts.run_digest != facts.run_digest and not old.fork:
        claim = old._replace(pos=pos, append_ms=append_ms, fork=True)
    else:
        return
    state.claims = {**state.claims, key: claim}
    out.claims.append(key)


def hear(state: RunState, out: Folded, step: Version, event: Event, at: Place) -> None:
    """A version of a step that comes too late to replace it is remembered all the same."""
    old = state.steps.get(step.id)
    if old is not None:
        mark(state, out, step.id, (known_of(state, old, step.id).and_(step.seen), old.seen), stamp_of(event, at))


def known_of(state: RunState, step: StepFact, step_id: str) -> Seen:
    """All that is known of how a step came."""
    mark = state.marks.get(step_id)
    return step.seen if mark is None else mark.seen


def stamp_of(event: Event, at: Place) -> tuple[int, str, float, int]:
    """(position, source, time, append time) of an event."""
    return at.pos, event.source, event.time_s, at.append_ms


def mark(
    state: RunState, out: Folded, step_id: str, seen: tuple[Seen, Seen], stamp: tuple[int, str, float, int]
) -> None:
    """Mark a step where the version that stays does not say by itself what is known; `seen` is (what is, what it says).

    Once there is a mark it says all that is known, so that it does not depend on which version came last.
    """
    known, said = seen
    mark = state.marks.get(step_id)
    if known == (said if mark is None else mark.seen):
        return
    pos, source, time_s, append_ms = stamp
    first = append_ms if mark is None else mark.first_append_ms
    state.marks = {**state.marks, step_id: MarkFact(pos, source, time_s, first, append_ms, known)}
    out.marks.append(step_id)


def is_evidence(event: Event, folded: Folded) -> bool:
    """Whether the bytes of an event are kept: it is signed and changed something; of a claim told again one copy is enough."""
    facts = event.facts
    if facts is None or facts.signature == UNSIGNED or not folded.changed:
        return False
    return facts.signature != HOLDS or bool(folded.claims)


# ---- past retention


def expired_proofs(state: RunState, trimmed: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """What an expired run is judged by: the facts of its claims and of its own object, and how each one's chain looked.

    Of its fingerprint the axis stays, as the members that it is made of are gone.
    """
    claims = {}
    for key, claim in state.claims.items():
        told = {
            name: getattr(claim, name)
            for name in ("pos", "at", "fork", "cost_raw", "time_s", "first_append_ms", "append_ms")
        }
        doc = None if claim.doc is None else trimmed(json_codec.loads(claim.doc))
        chain = chain_of(state, claim.facts, key)
        claims[key] = told | {"doc": doc, "facts": pack(claim.facts), "chain": [chain.axis, list(chain.reasons)]}
    proof = state.snap.proof if state.snap is not None else None
    chain = chain_of(state, proof, None)
    return {
        "claims": claims,
        "proof": None if proof is None else pack(proof),
        "hash": hash_axis(state.snap.doc if state.snap is not None else {}),
        "chain": [chain.axis, list(chain.reasons)],
    }
