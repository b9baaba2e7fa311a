"""The verdict on a run: five axes, and one word that sums them up.

Must not live here: cryptography, or trust in keys.
"""

from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple

VERIFIER: Final = "arsig1/1"  # the suite, and a number that rises when this verifier changes its mind
STEPS_UNCOVERED: Final = "steps_uncovered"


AXIS_VALUES: Final = {
    "headline": ("verified", "rejected", "mismatch", "revoked", "pending", "unverifiable", "orphaned"),
    "hash": ("match", "mismatch", "absent"),
    "chain": ("intact", "gap", "fork", "truncated", "wrong_run", "absent"),
    "signature": (
        *("trusted", "valid_untrusted", "invalid", "unsigned", "malformed", "unsupported_suite", "key_expired"),
        *("key_revoked", "scope_violation", "tenant_mismatch"),
    ),
    "lineage": ("root", "linked", "pending", "orphaned", "mismatch", "cycle", "too_deep"),
    "log": ("unlogged",),
}
BAD_HEADLINES: Final = frozenset(AXIS_VALUES["headline"]) - {"verified", "pending"}


class Verdict(NamedTuple):
    """What is proved of a run, axis by axis, and the headline that sums it up.

    `reasons` are stable codes, sorted; `details` say the same for people. Digests and key are None where they are not
    defined. `judged_at_s` is the broker's append time, in seconds since 1970.
    """

    headline: str
    hash: str
    chain: str
    signature: str
    lineage: str
    log: str = "unlogged"
    reasons: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    run_digest: str | None = None
    genesis: str | None = None
    kid: str | None = None
    statement_sha256: str | None = None
    message_sha256: str | None = None
    raw_sha256: str | None = None
    registry_version: int | None = None
    judged_at_s: float | None = None
    verifier: str = VERIFIER


class Axes(NamedTuple):
    """What a headline is made of. `closed` says whether the run has ended, `uncovered` that no commitment covers its steps."""

    hash: str
    chain: str
    signature: str
    lineage: str
    closed: bool
    uncovered: bool = False


_REJECTED: Final = frozenset({"malformed", "invalid", "scope_violation", "tenant_mismatch"})

# The first that applies.
_HEADLINES: Final[tuple[tuple[str, Callable[[Axes], bool]], ...]] = (
    ("rejected", lambda a: a.signature in _REJECTED or a.chain in {"fork", "wrong_run"} or a.lineage == "cycle"),
    ("mismatch", lambda a: "mismatch" in {a.hash, a.lineage} or a.chain in {"gap", "truncated"}),
    ("revoked", lambda a: a.signature == "key_revoked"),
    ("pending", lambda a: not a.closed or (a.signature == "trusted" and a.lineage == "pending")),
    ("unverifiable", lambda a: a.signature != "trusted" or a.uncovered or a.lineage == "too_deep"),
    ("orphaned", lambda a: a.lineage == "orphaned"),
    ("verified", lambda a: a.hash == "match" and a.chain in {"intact", "absent"} and a.lineage in {"root", "linked"}),
)


@cache  # over a few hundred combinations of words
def headline(axes: Axes) -> str:
    """The one word for a run. What no line of the table knows is not verified."""
    return next((word for word, applies in _HEADLINES if applies(axes)), "unverifiable")
