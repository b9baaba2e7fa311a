"""A run's signed snapshots as their bytes have them, and its own object with what these say of its last version.

Must not live here: which of them is shown, steps.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

from agentrun_stream import limits
from agentrun_stream.codec.cloudevents import time_s
from agentrun_stream.model import run
from agentrun_stream.model.dossier import Dossier, Finding, Row
from agentrun_stream.model.facts import HOLDS, UNSIGNED, Facts, claim_id, kept, unpack
from agentrun_stream.model.run import ClaimFact
from agentrun_stream.processors.verify import claim_of, facts_of

_REMEMBERED: Final = frozenset(field.name for field in fields(run.Snapshot)) - {"doc", "proof", "settled"}


def claims_in(dossier: Dossier, findings: list[Finding]) -> dict[str, ClaimFact]:
    """The claims that the evidence holds, whole, by their first bytes."""
    claims: dict[str, ClaimFact] = {}
    for one in dossier.evidence:
        raw = one.raw.encode()
        facts = facts_of(raw)
        where = f"{one.topic}:{one.partition}:{one.offset}"
        if facts.run_id and facts.run_id != dossier.run_id:
            findings.append(Finding("evidence_of_another_run", where))
        elif facts.signature == HOLDS:
            key, pos = claim_id(facts), one.version >> limits.MAINTENANCE_BITS
            old = claims.get(key)
            if old is None:
                told = (pos, "", 0.0, one.appended_ms, one.appended_ms)
                claims[key] = claim_of(ClaimFact(*told, pos, fork=False, doc=None, cost_raw=None, facts=facts), raw)
            elif old.facts.run_digest != facts.run_digest:
                claims[key] = old._replace(fork=True)
    return claims


def stored_claims(dossier: Dossier, claims: dict[str, ClaimFact], findings: list[Finding]) -> None:
    """Hold what the store says of the claims against the evidence. Its mark of a fork is kept: marks are sticky."""
    stored = {claim.id: claim for claim in dossier.claims}
    findings += (Finding("evidence_missing", f"claim {key}") for key in stored.keys() - claims.keys())
    for key, claim in claims.items():
        told = stored.get(key)
        if told is None:
            findings.append(Finding("claim_missing", f"claim {key}"))
            continue
        doc = None if claim.doc is None else hashlib.sha256(claim.doc).hexdigest()
        if told.fork != claim.fork or (told.sha256 is not None and told.sha256 != doc):
            findings.append(Finding("claim_differs", f"claim {key}"))
        if told.first_appended_ms != claim.first_append_ms:
            findings.append(Finding("append_time_differs", f"claim {key}"))
        claims[key] = claim._replace(fork=claim.fork or told.fork)


def own_object(dossier: Dossier, claims: Mapping[str, ClaimFact], findings: list[Finding]) -> run.Snapshot | None:
    """The run's own object. Its members are nobody's claim; what is signed of its last version is read from the bytes."""
    stored = dossier.snapshot
    if stored is None:
        return None
    told: dict[str, Any] = {name: stored.facts[name] for name in _REMEMBERED & stored.facts.keys()}
    times = (stored.first_appended_ms, stored.appended_ms)
    snap = run.Snapshot(stored.doc, 0, stored.source, 0.0, *times, **told)
    snap.started_s, snap.ended_s = time_s(stored.doc.get("started_at")), time_s(stored.doc.get("ended_at"))
    if "proof" in stored.facts:
        snap.proof = _proof(dossier, stored.facts["proof"], claims, findings)
    return snap


def _proof(dossier: Dossier, packed: Row, claims: Mapping[str, ClaimFact], findings: list[Finding]) -> Facts:
    """What the last version of the run says of its signature, by the bytes that the store names."""
    told = unpack(packed)
    if told.signature == UNSIGNED:
        return told
    digest = told.raw_sha256
    for one in dossier.evidence:
        raw = one.raw.encode()
        if hashlib.sha256(raw).hexdigest() == digest:
            return kept(replace(facts_of(raw), raw_sha256=digest))
    again = claims.get(claim_id(told))  # told again in another envelope, of which one copy is enough
    if again is not None and again.facts.run_digest == told.run_digest:
        return kept(replace(again.facts, raw_sha256=digest))
    findings.append(Finding("evidence_missing", "the run's last snapshot"))
    return Facts(signature=UNSIGNED)
