"""Signed runs for made-up logs: whole tales by several keys, told once per process, and the registries that judge them.

Must not live here: in which order anything of it arrives (stories.py), expectations.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from agentrun_stream.codec.canonical import run_hash
from agentrun_stream.model.facts import Parent
from agentrun_stream.sdk.signing import RunSigner, SignedUnder, SigningKey
from agentrun_stream.trust.manage import Scope, entry_of

Json = dict[str, Any]
TENANT = "default"
RUN_IDS = ("run-a", "s-1", "s-2")
# Trusted from the first registry on; trusted later; revoked later; for another agent; never registered.
KEYS = {
    name: SigningKey(hashlib.sha256(name.encode()).digest())
    for name in ("ours", "second", "added", "doomed", "narrow", "foreign")
}
_PARENT = {"run-a": "s-1", "s-2": "run-a"}


@dataclass(frozen=True)
class Tale:
    """One run: its chained steps, and its signed ends: revision 1, revision 2, and revision 2 with other content."""

    steps: tuple[Json, ...]
    ends: tuple[Json, ...]


# How many chained steps are streamed, whether the ends hold them too, and whether they hold one that is not chained.
SHAPES = ((0, False, False), (2, False, False), (3, True, False), (0, False, True))


def base(run_id: str) -> Json:
    """The run as it is signed, but for what differs from end to end. Its lineage is the truth."""
    run = {
        "id": run_id,
        "agent_id": "agent-1",
        "status": "completed",
        "started_at": "2026-01-01T09:00:00Z",
        "model": "m1",
        "steps": [],
        "cost": {"input_tokens": 7, "cost_usd": 0.5},
        "provenance": {"config_hash": run_id},
    }
    parent = _PARENT.get(run_id)
    if parent is not None:
        above = base(parent)
        hashed = run_hash(above)
        lineage = [*(above["provenance"].get("lineage") or ()), hashed]
        run |= {"parent_run_id": parent}
        run["provenance"] = {"config_hash": run_id, "parent_run_hash": hashed, "lineage": lineage}
    return run


@cache
def tale(run_id: str, key: str, shape: int) -> Tale:
    count, inside, plain = SHAPES[shape]
    run = base(run_id)
    # One names its parent's genesis too, the other its hash alone.
    parents = (Parent("s-1", tale("s-1", key, shape).ends[0]["x-genesis"]),) if run_id == "run-a" else ()
    signer = RunSigner(KEYS[key], run, SignedUnder(TENANT, parents))
    steps = tuple(signer.chain({"id": f"c{i}", "type": "tool_call", "output_preview": f"{i}"}) for i in range(count))
    held = list(steps) if inside else [{"id": "e0", "type": "message"}] if plain else []
    moment = datetime(2026, 1, 1, 10, tzinfo=UTC)
    ends = [
        signer.sign(run | {"steps": held, "x-genesis": signer.genesis, "error": text}, rev=rev, signed_at=moment)
        for rev, text in ((1, None), (2, "it failed after all"), (2, "it failed otherwise"))
    ]
    return Tale(steps, tuple(ends))


def registry(version: int, compromised_since: str) -> Json:
    """One after the other: the first keys; one more key; one key known to be compromised since a moment."""
    keys = [entry_of(KEYS[name].public, Scope()) for name in ("ours", "second", "doomed")]
    keys.append(entry_of(KEYS["narrow"].public, Scope(agents=("agent-2",))))
    if version > 1:
        keys.append(entry_of(KEYS["added"].public, Scope()))
    if version > 2:
        keys[2] |= {"status": "revoked", "compromised_since": compromised_since}
    return {"version": version, "keys": keys}
