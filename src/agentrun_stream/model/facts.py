"""What the bytes of a run say by themselves: digests, the equation, the links. Facts, so the fold may keep them.

Must not live here: trust in keys, or anything else that may change after the event.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from agentrun_stream.model.chain import Commitment, Link

UNSIGNED = "unsigned"
MALFORMED = "malformed"
UNSUPPORTED = "unsupported_suite"
INVALID = "invalid"
HOLDS = "holds"
HASH_MISMATCH = "run_hash_mismatch"


class Parent(NamedTuple):
    """A parent that a signed run names."""

    run_id: str
    genesis: str


class Seal(NamedTuple):
    """A signature that is well-formed: the equation over (public key, signature, message) is still to be looked at."""

    public: bytes
    signature: bytes
    message: bytes


@dataclass(slots=True)
class Facts:
    """What was found in the bytes of one AgentRun.

    `signature` is `holds`, or a final value of the axis; while it is None, `seal` waits for `processors.verify.settle`.
    `reasons` are the codes found so far, `links` those of the steps inside, in their order. `kid`, `tenant`, `rev` and
    `statement` are those of a well-formed signature.
    """

    hash: str = "absent"
    signature: str | None = None
    lineage: str = "root"
    closed: bool = False
    reasons: tuple[str, ...] = ()
    run_hash: str | None = None
    run_digest: str | None = None
    genesis: str | None = None
    agent_id: str = ""
    run_id: str = ""
    tenant: str | None = None
    rev: int | None = None
    kid: str | None = None
    commitment: Commitment | None = None
    parents: tuple[Parent, ...] = ()
    links: tuple[Link | None, ...] = ()
    statement: bytes | None = None
    seal: Seal | None = None
    raw_sha256: str | None = None


def claim_id(facts: Facts) -> str:
    """The id of a claim within its run."""
    return f"{facts.kid}.{facts.rev}"


def kept(facts: Facts) -> Facts:
    """What stays of facts in a run's own object: without the links of the steps inside, which are objects of their own."""
    return replace(facts, links=(), statement=None, seal=None)


def thin(facts: Facts) -> Facts:
    """What stays of a claim that is one too many to be kept whole: its names, and what trust is judged by."""
    names = Facts(signature=facts.signature, run_digest=facts.run_digest, genesis=facts.genesis, closed=facts.closed)
    names = replace(names, agent_id=facts.agent_id, tenant=facts.tenant, rev=facts.rev, kid=facts.kid)
    return replace(names, raw_sha256=facts.raw_sha256)


_PACKED: Final = (
    *("hash", "signature", "lineage", "closed", "run_hash", "run_digest", "genesis", "agent_id", "run_id", "tenant"),
    *("rev", "kid", "raw_sha256"),
)


def pack(facts: Facts) -> dict[str, Any]:
    """Facts as JSON; links, statement and seal are left out."""
    packed: dict[str, Any] = {name: getattr(facts, name) for name in _PACKED}
    return packed | {
        "reasons": list(facts.reasons),
        "commitment": None if facts.commitment is None else list(facts.commitment),
        "parents": [list(parent) for parent in facts.parents],
    }


def unpack(packed: dict[str, Any]) -> Facts:
    """Facts from JSON."""
    commitment = packed["commitment"]
    return Facts(
        **{name: packed[name] for name in _PACKED},
        reasons=tuple(packed["reasons"]),
        commitment=None if commitment is None else Commitment(*commitment),
        parents=tuple(Parent(*parent) for parent in packed["parents"]),
    )
