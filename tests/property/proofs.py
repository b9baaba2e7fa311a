"""The slow, obvious reading of provenance: what bytes say, which claim is shown, how a chain holds, what a run is worth.

Written from the page. Digests and the equation are the package's own, as there is one cryptography; nothing else of it is
asked. Must not live here: how events become runs (oracle.py), rows.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from agentrun_stream import verify_run
from agentrun_stream.codec.arsig import step_digest
from agentrun_stream.codec.canonical import run_hash

Json = dict[str, Any]


class Said(NamedTuple):
    """What the bytes of one snapshot say. `signature` is `holds`, or a final value of the axis."""

    signature: str
    hash: str
    kid: str | None
    rev: int | None
    digest: str | None
    genesis: str | None
    tenant: str | None
    commitment: tuple[int, str] | None
    parents: tuple[tuple[str, str], ...]

    @property
    def claim_id(self) -> str:
        return f"{self.kid}.{self.rev}"


NOTHING = Said("unsigned", "absent", None, None, None, None, None, None, ())


def said(data: Json) -> Said:
    return _said(orjson.dumps(data))


@lru_cache(4_096)
def _said(raw: bytes) -> Said:
    run, verdict = orjson.loads(raw), verify_run(raw)  # without a registry: the equation is all that is left
    arsig = (run.get("metadata") or {}).get("arsig") or {}
    steps = arsig.get("steps")
    holds = verdict.signature in {"valid_untrusted", "tenant_mismatch"}
    return Said(
        "holds" if holds else verdict.signature,
        verdict.hash,
        verdict.kid,
        arsig.get("rev"),
        verdict.run_digest,
        verdict.genesis,
        arsig.get("tenant"),
        None if not steps else (steps["count"], steps["head"]),
        tuple(sorted((p["run_id"], p["genesis"]) for p in arsig.get("parents") or ())),
    )


def says_something(data: Json) -> bool:
    """Whether a snapshot is signed or chained at all."""
    return bool((data.get("provenance") or {}).get("signature")) or any(
        "arsig" in (thing.get("metadata") or {}) for thing in (data, *(data.get("steps") or ()))
    )


# ---- steps


class Version(NamedTuple):
    """One version of a step that came: its place in the chain, and the claim that brought it, or ''."""

    link: tuple[int, str, str] | None  # seq, prev, digest
    by: str


def version(step: Json, by: str) -> Version:
    arsig = (step.get("metadata") or {}).get("arsig")
    return Version((arsig["seq"], arsig["prev"], step_digest(step)) if arsig else None, by)


def summary(versions: Iterable[Version]) -> tuple[Any, ...]:
    """All that ever came of a step, in one line: its digests, who brought it bare, who brought it at all."""
    found = list(versions)
    digests = {v.link[2] for v in found if v.link}
    bare, by = {v.by for v in found if not v.link}, {v.by for v in found}
    return (
        next(iter(digests)) if len(digests) == 1 else None,
        len(digests) > 1,
        None if not bare else next(iter(bare)) if len(bare) == 1 else "",
        next(iter(by)) if len(by) == 1 else "",
    )


def chain(links: Iterable[tuple[int, str, str]], commitment: tuple[int, str], genesis: str, *, spoiled: bool) -> str:
    """Section 3. `spoiled`: a step came with two contents, or without a place in the chain."""
    count, head = commitment
    at: dict[int, dict[str, str]] = {}
    for seq, prev, digest in links:
        at.setdefault(seq, {})[digest] = prev
    if any(prev != genesis for prev in at.get(0, {}).values()):
        return "wrong_run"
    broken = any(prev not in at[seq - 1] for seq in at if seq - 1 in at for prev in at[seq].values())
    last = at.get(count - 1) if count else {genesis: ""}
    if spoiled or broken or any(len(v) > 1 for v in at.values()) or any(seq >= count for seq in at):
        return "fork"
    if last is not None and head not in last:
        return "fork"
    missing = [seq for seq in range(count) if seq not in at]
    if not missing:
        return "intact"
    return "gap" if min(missing) < max(at, default=-1) else "truncated"


# ---- trust: section 4


def signature(told: Said, agent_id: str, workspace: str, jwks: Json, at_ms: int) -> str:
    if told.signature != "holds":
        return told.signature
    if told.tenant != workspace:
        return "tenant_mismatch"
    entry = next((e for e in jwks["keys"] if e["kid"] == told.kid), None)
    if entry is None:
        return "valid_untrusted"
    if "agents" in entry and agent_id not in entry["agents"]:
        return "scope_violation"
    since = [entry[name] for name in ("revoked_at", "compromised_since") if entry.get(name)]
    if any(datetime.fromisoformat(text).timestamp() <= at_ms / 1000 for text in since):
        return "key_revoked"
    return "key_revoked" if entry["status"] == "revoked" and not since else "trusted"


# ---- lineage: section 6


class Row(NamedTuple):
    """What a run shows that its children look at."""

    closed: bool
    expired: bool
    members: Json
    genesis: str | None

    @property
    def parent(self) -> str | None:
        return self.members.get("parent_run_id")

    def proved(self, name: str) -> Any:
        return (self.members.get("provenance") or {}).get(name)


def lineage(run_id: str, row: Row, parents: Iterable[tuple[str, str]], rows: Mapping[str, Row], waited: str) -> str:
    """`rows` are those of the same workspace; `waited` is what a run is called that waited long enough."""
    stated_hash, stated = row.proved("parent_run_hash"), list(row.proved("lineage") or ())
    if row.parent is None and (stated_hash is not None or stated):
        return "mismatch"
    found = [_genesis(rows.get(name), genesis) for name, genesis in parents]
    if row.parent is None and not found:
        return "root"
    if row.parent is not None:
        found += [_parent(rows.get(row.parent), stated_hash, stated), _walk(run_id, row.parent, rows)]
    for axis in ("cycle", "mismatch", "too_deep", "pending"):
        if axis in found:
            return waited if axis == "pending" else axis
    return "linked"


def _genesis(parent: Row | None, stated: str) -> str:
    if parent is None or not parent.closed or parent.genesis is None:
        return "pending"
    return "linked" if parent.genesis == stated else "mismatch"


def _parent(parent: Row | None, stated_hash: str | None, stated: list[str]) -> str:
    if parent is None:
        return "pending"
    hashed, above = parent.proved("run_hash"), list(parent.proved("lineage") or ())
    wrong = stated_hash is not None and stated_hash != hashed
    if stated or (stated_hash is not None and above):
        wrong = wrong or hashed is None or stated != [*above, hashed]
    if not wrong:
        return "linked"
    return "mismatch" if parent.closed and not (parent.expired and hashed is None) else "pending"


def _walk(run_id: str, parent: str, rows: Mapping[str, Row]) -> str:
    passed: list[str] = []
    at: str | None = parent
    while at is not None:
        if at == run_id:
            return "cycle"
        if at in passed:
            return "too_deep"
        passed.append(at)
        at = rows[at].parent if at in rows else None
    return "linked"


# ---- the verdict: section 5


def fingerprint(members: Json) -> str:
    """The hash axis of a merged snapshot."""
    stated = (members.get("provenance") or {}).get("run_hash")
    return "absent" if stated is None else "match" if stated == run_hash(members) else "mismatch"


def headline(axes: Mapping[str, Any]) -> str:
    """The first that applies."""
    word: dict[str, Callable[[], bool]] = {
        "rejected": lambda: (
            axes["signature"] in {"malformed", "invalid", "scope_violation", "tenant_mismatch"}
            or axes["chain"] in {"fork", "wrong_run"}
            or axes["lineage"] == "cycle"
        ),
        "mismatch": lambda: "mismatch" in {axes["hash"], axes["lineage"]} or axes["chain"] in {"gap", "truncated"},
        "revoked": lambda: axes["signature"] == "key_revoked",
        "pending": lambda: not axes["closed"] or (axes["signature"] == "trusted" and axes["lineage"] == "pending"),
        "unverifiable": lambda: axes["signature"] != "trusted" or axes["uncovered"] or axes["lineage"] == "too_deep",
        "orphaned": lambda: axes["lineage"] == "orphaned",
        "verified": lambda: axes["hash"] == "match",
    }
    return next((name for name, applies in word.items() if applies()), "unverifiable")
