"""Lineage: what a run says of its parents, what their rows say, and the judgement between the two.

Must not live here: the rules (processors/lineage.py), look-ups.
"""

from typing import Final, NamedTuple

from agentrun_stream.model.facts import Parent

ROOT: Final = "root"
LINKED: Final = "linked"
PENDING: Final = "pending"
ORPHANED: Final = "orphaned"
TOO_DEEP: Final = "too_deep"
MISMATCH: Final = "mismatch"
CYCLE: Final = "cycle"

# Reason codes; stable.
LINEAGE_CYCLE: Final = "lineage_cycle"
LINEAGE_MISMATCH: Final = "lineage_mismatch"
LINEAGE_TOO_DEEP: Final = "lineage_too_deep"
ANCESTOR_CYCLE: Final = "ancestor_cycle"
PARENT_UNNAMED: Final = "parent_unnamed"
PARENT_HASH_MISMATCH: Final = "parent_hash_mismatch"
PARENT_GENESIS_MISMATCH: Final = "parent_genesis_mismatch"
PARENT_UNKNOWN: Final = "parent_unknown"
PARENT_OPEN: Final = "parent_open"
PARENT_UNPROVED: Final = "parent_unproved"
PARENT_EXPIRED: Final = "parent_expired"
REASONS: Final = frozenset(
    {LINEAGE_CYCLE, LINEAGE_MISMATCH, LINEAGE_TOO_DEEP, ANCESTOR_CYCLE, PARENT_UNNAMED, PARENT_HASH_MISMATCH}
) | {PARENT_GENESIS_MISMATCH, PARENT_UNKNOWN, PARENT_OPEN, PARENT_UNPROVED, PARENT_EXPIRED}


class Kin(NamedTuple):
    """What is looked at of an ancestor's row. `axis` is its own lineage axis, `version` a digest of all this.

    `genesis` is None unless the claim shown is trusted. Of an expired run `run_hash`, `lineage`, `genesis` may be gone.
    """

    run_id: str
    closed: bool
    run_hash: str | None
    lineage: tuple[str, ...]
    genesis: str | None
    parent_run_id: str | None
    axis: str
    version: str
    expired: bool = False


class Child(NamedTuple):
    """What a run says of where it comes from. `since_ms` is the append time of its snapshot."""

    run_id: str
    parent_run_id: str | None
    parent_run_hash: str | None
    lineage: tuple[str, ...]
    parents: tuple[Parent, ...]
    since_ms: int


class Lineage(NamedTuple):
    """The lineage axis and its reason codes, sorted. `seen` is for each parent the digest of what was looked at, or ''."""

    axis: str
    reasons: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()


def parents_of(child: Child) -> tuple[str, ...]:
    """The run ids of the parents: the one that the run names itself, then those that its signature names besides."""
    named = () if child.parent_run_id is None else (child.parent_run_id,)
    return tuple(dict.fromkeys((*named, *(parent.run_id for parent in child.parents))))
