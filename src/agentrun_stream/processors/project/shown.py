"""What is shown of a run, and its verdict: a claim that somebody trusts, else the merged snapshot.

Nobody without a key of the registry changes what a trusted claim shows. Must not live here: columns, look-ups.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from agentrun_stream.codec import json_codec
from agentrun_stream.codec.canonical import hash_axis
from agentrun_stream.codec.cloudevents import time_s
from agentrun_stream.model.chain import ChainAxis
from agentrun_stream.model.facts import HASH_MISMATCH, HOLDS, UNSIGNED, Facts, claim_id, unpack
from agentrun_stream.model.judgement import Judgement, signature_axis
from agentrun_stream.model.lineage import Child, Lineage, parents_of
from agentrun_stream.model.opinions import Opinions
from agentrun_stream.model.run import ClaimFact, RunState, Snapshot, expired_snapshot
from agentrun_stream.model.streamed import chain_of
from agentrun_stream.model.trust import TRUSTED
from agentrun_stream.model.verdict import STEPS_UNCOVERED, Axes, Verdict, headline

_APART: Final = frozenset({"steps", "eval"})
_NESTED: Final = ("cost", "provenance")
_ROOT: Final = Lineage("root")
_MISMATCH: Final = Lineage("mismatch", ("parent_unnamed",))
_UNSIGNED: Final = Facts(signature=UNSIGNED)
_NO_CHAIN: Final = ChainAxis("absent")
_STREAMED: Final = ChainAxis("absent", (STEPS_UNCOVERED,))


@dataclass(slots=True)
class Shown:
    """What is shown: members, status and facts. `claim` is the id of a trusted one, None for the merged snapshot.

    `differ` are the members in which the merged snapshot says something else; `at_ms` is when it appended, by which keys are
    judged.
    """

    snap: Snapshot
    status: str | None
    facts: Facts
    at_ms: int
    claim: str | None = None
    differ: tuple[str, ...] = ()

    @property
    def child(self) -> Child | None:
        """What it says of its parents; None where it names none."""
        doc, provenance = self.snap.doc, self.snap.doc.get("provenance") or {}
        if doc.get("parent_run_id") is None and not self.facts.parents:
            return None
        lineage = tuple(provenance.get("lineage") or ())
        named = doc.get("parent_run_id"), provenance.get("parent_run_hash")
        return Child(doc.get("id") or "", *named, lineage, self.facts.parents, self.at_ms)


def snapshot_of(state: RunState) -> Snapshot | None:
    """The run's own object, also past retention."""
    if state.expired is None:
        return state.snap
    snap = expired_snapshot(state.expired)
    proof = state.expired.get("proof")
    snap.proof = None if proof is None else unpack(proof)
    return snap


def claims_of(state: RunState) -> Mapping[str, ClaimFact]:
    """The claims of a run, also past retention."""
    if state.expired is None:
        return state.claims
    return {key: _expired_claim(told) for key, told in (state.expired.get("claims") or {}).items()}


def _expired_claim(told: Mapping[str, Any]) -> ClaimFact:
    doc = None if told["doc"] is None else json_codec.dumps(told["doc"])
    times = (told["pos"], "", told["time_s"], told["first_append_ms"], told["append_ms"], told["at"])
    return ClaimFact(*times, told["fork"], doc, told["cost_raw"], unpack(told["facts"]))


# ---- which claim


def trusted_claim(claims: Mapping[str, ClaimFact], workspace: str, opinions: Opinions) -> str | None:
    """The claim to show: of several trusted keys the one that appended first, of its trusted claims the highest revision."""
    if not claims:
        return None
    registry = opinions.registry(workspace)
    trusted = {
        key: claim
        for key, claim in claims.items()
        if signature_axis(claim.facts, Judgement(workspace, registry, claim.first_append_ms / 1000))[0] == TRUSTED
    }
    if not trusted:
        return None
    kid = min(trusted.values(), key=lambda claim: claim.at).facts.kid
    return max((key for key in trusted if trusted[key].facts.kid == kid), key=lambda key: trusted[key].facts.rev or 0)


def missing_claim(state: RunState, opinions: Opinions) -> tuple[str, int] | None:
    """The claim that would be shown but is not kept whole, and the position of its evidence."""
    key = trusted_claim(state.claims, state.workspace, opinions)
    if key is None or state.claims[key].doc is not None:
        return None
    return key, state.claims[key].at


def shown_of(state: RunState, snap: Snapshot, opinions: Opinions) -> Shown:
    """What is shown of a run. A trusted claim that is not kept whole was put back before (`missing_claim`)."""
    claims = claims_of(state)
    key = trusted_claim(claims, state.workspace, opinions)
    if key is None or claims[key].doc is None:
        facts = snap.proof or _UNSIGNED
        claim = claims.get(claim_id(facts)) if facts.signature == HOLDS else None
        return Shown(snap, snap.status, facts, snap.append_ms if claim is None else claim.first_append_ms)
    claim = claims[key]
    members = {
        name: v for name, v in json_codec.loads(claim.doc or b"{}").items() if v is not None and name not in _APART
    }
    merged = snap.doc
    shown = replace(
        snap,
        doc=members,
        time_s=claim.time_s,
        cost_raw=claim.cost_raw,
        started_s=time_s(members.get("started_at")),
        ended_s=time_s(members.get("ended_at")),
    )
    differ = () if merged == members else tuple(sorted(_differing(merged, members)))
    return Shown(shown, members.get("status"), claim.facts, claim.first_append_ms, key, differ)


def _differing(merged: Mapping[str, Any], claimed: Mapping[str, Any]) -> set[str]:
    """The members with different values, those of cost and provenance by themselves; null counts as not given."""
    found: set[str] = set()
    for name in merged.keys() | claimed.keys():
        one, other = merged.get(name), claimed.get(name)
        if name in _NESTED:
            one, other = one or {}, other or {}
            found.update(f"{name}.{m}" for m in one.keys() | other.keys() if one.get(m) != other.get(m))
        elif one != other:
            found.add(name)
    return found


# ---- its verdict


def verdict_of(state: RunState, shown: Shown, opinions: Opinions) -> tuple[Verdict, Lineage]:
    """The verdict on what is shown, and its lineage, `pending` where nobody looked at the parents yet."""
    facts, doc = shown.facts, shown.snap.doc
    registry = opinions.registry(state.workspace)
    signature, doubt = signature_axis(facts, Judgement(state.workspace, registry, shown.at_ms / 1000))
    axis, reasons = _hash_axis(state, shown)
    chain = _chain(state, shown) if state.closed else _NO_CHAIN
    lineage = _lineage(doc, facts) or opinions.lineage.get((state.workspace, state.run_id)) or _unseen(shown)
    axes = Axes(axis, chain.axis, signature, lineage.axis, state.closed, uncovered=STEPS_UNCOVERED in chain.reasons)
    codes = {*reasons, *chain.reasons, *lineage.reasons, doubt} - {None}
    verdict = Verdict(
        headline(axes),
        axis,
        chain.axis,
        signature,
        lineage.axis,
        reasons=tuple(sorted(str(code) for code in codes)) if codes else (),
        details=chain.details,
        run_digest=facts.run_digest,
        genesis=facts.genesis,
        kid=facts.kid,
        raw_sha256=facts.raw_sha256,
        registry_version=registry.version,
        judged_at_s=shown.at_ms / 1000,
    )
    return verdict, lineage


def _hash_axis(state: RunState, shown: Shown) -> tuple[str, tuple[str, ...]]:
    """The fingerprint of what is shown. That of a merged snapshot is made of its members, whatever signed parts of it."""
    if shown.claim is not None:
        return shown.facts.hash, shown.facts.reasons
    reasons = tuple(code for code in shown.facts.reasons if code != HASH_MISMATCH)
    axis = hash_axis(shown.snap.doc) if state.expired is None else state.expired["hash"]
    return axis, (*reasons, HASH_MISMATCH) if axis == "mismatch" else reasons


def _chain(state: RunState, shown: Shown) -> ChainAxis:
    if state.expired is not None:
        told = state.expired if shown.claim is None else state.expired["claims"][shown.claim]
        axis, reasons = told.get("chain") or ("absent", ())
        chain = ChainAxis(axis, tuple(reasons))
    elif shown.claim is None and shown.facts is _UNSIGNED:
        return _STREAMED if state.steps else _NO_CHAIN  # what most runs are
    else:
        chain = chain_of(state, shown.facts, shown.claim)
    if shown.claim is not None and claims_of(state)[shown.claim].fork:
        return ChainAxis("fork", tuple(sorted({*chain.reasons, "rev_conflict"})), chain.details)
    return chain


def _lineage(doc: Mapping[str, Any], facts: Facts) -> Lineage | None:
    """The lineage axis as far as the run itself decides it."""
    if doc.get("parent_run_id") is not None:
        return None
    provenance = doc.get("provenance") or {}
    if provenance.get("parent_run_hash") is not None or provenance.get("lineage"):
        return _MISMATCH
    return None if facts.parents else _ROOT


def _unseen(shown: Shown) -> Lineage:
    child = shown.child
    assert child is not None
    return Lineage("pending", (), ("",) * len(parents_of(child)))
