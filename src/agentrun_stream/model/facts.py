"""What the bytes of a run say by themselves: digests, the equation, the links. Facts, so the fold may keep them.

Must not live here: trust in keys, or anything else that may change after the event.
"""

from dataclasses import dataclass
from typing import NamedTuple

from agentrun_stream.model.chain import Commitment, Link

UNSIGNED = "unsigned"
MALFORMED = "malformed"
UNSUPPORTED = "unsupported_suite"
INVALID = "invalid"
HOLDS = "holds"


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
    `reasons` are the codes found so far. `kid`, `tenant`, `rev` and `statement` are those of a well-formed signature.
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
    links: tuple[Link, ...] = ()
    statement: bytes | None = None
    seal: Seal | None = None
