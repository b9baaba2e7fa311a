"""The verdict on a run: five axes and one word.

Must not live here: cryptography, or trust in keys.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is proved of a run, axis by axis, and the headline that sums it up."""

    headline: str
    hash: str
    chain: str
    signature: str
    lineage: str
    log: str = "unlogged"
    reasons: tuple[str, ...] = ()


def judge(doc: dict[str, Any], computed_hash: str, *, closed: bool) -> Verdict:
    """Judge the snapshot of a run: the stated `run_hash` against the computed one; nothing else is proved yet."""
    stated = (doc.get("provenance") or {}).get("run_hash")
    axis = "absent" if stated is None else "match" if stated == computed_hash else "mismatch"
    lineage = "root" if doc.get("parent_run_id") is None else "pending"
    headline = "mismatch" if axis == "mismatch" else "unverifiable" if closed else "pending"
    reasons = ("run_hash_mismatch",) if axis == "mismatch" else ()
    return Verdict(headline, axis, "absent", "unsigned", lineage, reasons=reasons)
