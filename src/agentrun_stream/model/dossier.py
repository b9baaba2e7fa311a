"""A dossier: what a stored run's verdict can be made from again by whoever holds it, and what stands in the store beside it.

All of it is text and numbers, so that it goes into a file as it is. Must not live here: SQL, files, judging.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A signed event as it arrived; times are the broker's, in ms since 1970."""

    version: int
    topic: str
    partition: int
    offset: int
    appended_ms: int
    raw: str


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step as it stands: the canonical bytes that its row gives, its place in the chain by that row, and its columns."""

    id: str
    doc: str | None
    chain: Row | None
    columns: Row


@dataclass(frozen=True, slots=True)
class StoredClaim:
    """What the store says of a signed snapshot: `sha256` is of its canonical bytes, None where these are not kept."""

    id: str
    first_appended_ms: int
    fork: bool
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The run's own object: its merged members, what the fold remembers of it, and who said the last of it."""

    doc: Row
    facts: Row
    source: str
    first_appended_ms: int
    appended_ms: int


@dataclass(frozen=True, slots=True)
class Keys:
    """The JWK Set that was in force where the dossier was made; `digest` names the file that it came from."""

    version: int = 0
    digest: str = ""
    jwks: Row = field(default_factory=lambda: {"version": 0, "keys": []})


@dataclass(frozen=True, slots=True)
class Dossier:
    """A run's evidence, its other objects, its row of `runs`, the keys, and what other runs say as its ancestors (`Kin`).

    `marks` are by step; `evals` say who gave each.
    """

    workspace: str
    run_id: str
    evidence: tuple[Evidence, ...] = ()
    snapshot: Snapshot | None = None
    claims: tuple[StoredClaim, ...] = ()
    steps: tuple[StoredStep, ...] = ()
    marks: dict[str, Row] = field(default_factory=dict)
    evals: dict[str, str] = field(default_factory=dict)
    row: Row | None = None
    keys: Keys = field(default_factory=Keys)
    kin: dict[str, Row] = field(default_factory=dict)


class Finding(NamedTuple):
    """Something that is not as the bytes have it: a stable code (`words.py`), what it is about, and what differs."""

    code: str
    where: str
    detail: str = ""
