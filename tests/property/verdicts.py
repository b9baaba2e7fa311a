"""What the oracle's runs show under given opinions, and what they are worth: verdict columns, from the page.

Must not live here: how events become runs (oracle.py), what bytes prove (proofs.py), rows of a store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from property import proofs
from property.oracle import Claim, Json, Run, Told
from property.proofs import NOTHING, Row, Said

NOBODY: Json = {"version": 0, "keys": []}
FLAGS = {"off": "", "warn": "warned", "enforce": "quarantined"}
BAD = frozenset({"rejected", "mismatch", "revoked"})
NESTED = ("cost", "provenance")
RunKey = tuple[str, str]


@dataclass(frozen=True)
class Opinion:
    """Which registries are in force, what a run is called that waits for its parents, and what is done about bad ones."""

    registries: Mapping[str, Json] = field(default_factory=dict)
    waited: str = "pending"
    policy: str = "off"

    def signature(self, workspace: str, said: Said, agent_id: str, at_ms: int) -> str:
        return proofs.signature(said, agent_id, workspace, self.registries.get(workspace, NOBODY), at_ms)


class Shown(NamedTuple):
    """What is shown of a run: a trusted claim, or the merged snapshot."""

    members: Json
    said: Said
    at_ms: int
    claim: Claim | None = None


def shown(run: Run, workspace: str, opinion: Opinion) -> Shown:
    """Rule 4: of several trusted keys the one that appended first, of its trusted claims the highest revision."""
    trusted = [
        claim
        for claim in run.claims.values()
        if opinion.signature(workspace, claim.said, claim.data["agent_id"], claim.told.first_ms) == "trusted"
    ]
    if not trusted:
        said = NOTHING if run.proof is None else proofs.said(run.proof)
        own = run.claims.get(said.claim_id) if said.signature == "holds" else None
        told = run.told or min(
            (e.told for e in run.evals.values()), key=lambda t: t.offset, default=Told(0, "", 0.0, 0, 0)
        )
        return Shown(run.members, said, own.told.first_ms if own else told.append_ms)
    first = min(trusted, key=lambda claim: claim.at).said.kid
    best = max((c for c in trusted if c.said.kid == first), key=lambda claim: claim.said.rev or 0)
    return Shown(given(best.data), best.said, best.told.first_ms, best)


def given(data: Json) -> Json:
    return {k: v for k, v in data.items() if v is not None and k not in ("steps", "eval")}


def row_of(run: Run, workspace: str, opinion: Opinion) -> Row:
    seen = shown(run, workspace, opinion)
    genesis = seen.said.genesis if seen.claim else None
    return Row(run.closed_by is not None, run.expired_at is not None, seen.members, genesis)


def chain_axis(run: Run, seen: Shown) -> tuple[str, bool]:
    """The chain axis, and whether steps came that nothing covers. A step that the shown claim alone brought is covered."""
    mine = seen.said.claim_id if seen.said.signature == "holds" else None
    found = {step_id: proofs.summary(versions) for step_id, versions in run.versions.items()}
    streamed = [step_id for step_id, (*_, by) in found.items() if by != mine]
    if seen.said.commitment is None or seen.said.genesis is None:
        return "absent", bool(streamed) if seen.claim else bool(found)
    inside = run.claims[mine].data.get("steps") or [] if mine in run.claims else []
    versions = [proofs.version(step, "") for step in inside] + [run.stands[step_id] for step_id in streamed]
    links = [version.link for version in versions if version.link]
    spoiled = any(conflict or bare not in (None, mine) for _, conflict, bare, _ in found.values())
    return proofs.chain(links, seen.said.commitment, seen.said.genesis, spoiled=spoiled), False


def differing(run: Run, seen: Shown) -> list[str]:
    if seen.claim is None:
        return []
    found = []
    for name in run.members.keys() | seen.members.keys():
        merged, claimed = run.members.get(name), seen.members.get(name)
        if name in NESTED:
            merged, claimed = merged or {}, claimed or {}
            found += [f"{name}.{m}" for m in merged.keys() | claimed.keys() if merged.get(m) != claimed.get(m)]
        elif merged != claimed:
            found.append(name)
    return sorted(found)


def verdict(key: RunKey, run: Run, rows: Mapping[RunKey, Row], opinion: Opinion) -> Json:
    """Section 5, as the columns of `runs`."""
    workspace, run_id = key
    seen = shown(run, workspace, opinion)
    closed = run.closed_by is not None
    axis, uncovered = chain_axis(run, seen) if closed else ("absent", False)
    if seen.claim is not None and seen.claim.fork and closed:
        axis = "fork"
    agent_id = (seen.claim.data if seen.claim else run.proof or {}).get("agent_id") or ""
    axes = {
        "hash": seen.said.hash if seen.claim else proofs.fingerprint(run.members),
        "chain": axis,
        "signature": opinion.signature(workspace, seen.said, agent_id, seen.at_ms),
        "lineage": proofs.lineage(
            run_id,
            row_of(run, workspace, opinion),
            seen.said.parents,
            {name: row for (place, name), row in rows.items() if place == workspace},
            opinion.waited,
        ),
        "log": "unlogged",
    }
    word = proofs.headline(axes | {"closed": closed, "uncovered": uncovered})
    return {
        "verdict": word,
        **{f"verdict_{name}": value for name, value in axes.items()},
        "kid": seen.said.kid,
        "signed_rev": seen.claim.said.rev if seen.claim else None,
        "claims": len(run.claims),
        "claims_differ": differing(run, seen) if run.expired_at is None else "forgotten",
        "genesis": seen.said.genesis,
        "run_digest": seen.said.digest,
        "flag": FLAGS[opinion.policy] if word in BAD else "",
        "judged_at": seen.at_ms / 1000,
    }
