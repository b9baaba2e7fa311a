"""The suite `arsig1`: which bytes of a run and of a step are hashed, chained and signed.

Must not live here: whether a signature holds (ed25519.py), what a run's verdict is (processors/verify.py).
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson

from agentrun_stream import limits
from agentrun_stream.codec.canonical import jcs, utf16_sorted
from agentrun_stream.model.chain import Commitment, Link
from agentrun_stream.model.facts import Parent

STATEMENT_TYPE: Final = "application/vnd.in-toto+json"
GENESIS_TYPE: Final = "application/vnd.agentrun.genesis.v1+json"
_IN_TOTO: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "urn:agent-run:attestation:run:v1"
IDENTIFIER: Final = re.compile(r"[A-Za-z0-9._:/@-]{1,128}\Z")
_HEX: Final = re.compile(r"[0-9a-f]{64}\Z")
_SIGNED_AT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z\Z", re.ASCII)
_OUTSIDE: Final = ("eval", "workspace_id")
_DROPPED_EMPTY: Final = ("steps", "tools_available", "tags")
_SORTED: Final = orjson.OPT_SORT_KEYS
_new: Final = tuple.__new__


class Arsig(NamedTuple):
    """`metadata.arsig` of a run. Each member is judged by itself: None where it is not as it must be (`steps`: or absent).

    `flaw` is the reason code of the first that is not; without one, the other members are all there.
    """

    flaw: str | None
    tenant: str | None = None
    rev: int | None = None
    signed_at: str | None = None
    parents: tuple[Parent, ...] | None = None
    steps: Commitment | None = None


def canonical(obj: object, *, plain: bool) -> bytes:
    """RFC 8785 bytes; `plain` says that the document they come from was shown to need no look."""
    return orjson.dumps(obj, option=_SORTED) if plain else jcs(obj)


# ---- what of a run and a step is covered


def covered_view(run: dict[str, Any]) -> dict[str, Any]:
    """The part of a run that a signature covers. The list is the suite's and never read from the message."""
    view = _without_nulls(run).copy()
    for name in _OUTSIDE:
        view.pop(name, None)
    if "cost" in view:
        view["cost"] = _without_nulls(view["cost"])
    if "provenance" in view:
        provenance = view["provenance"] = _without_nulls(view["provenance"]).copy()
        provenance.pop("signature", None)
        if provenance.get("lineage") == []:
            del provenance["lineage"]
    for name in _DROPPED_EMPTY:
        if view.get(name) == []:
            del view[name]
    if "steps" in view:
        view["steps"] = [_without_nulls(step) for step in view["steps"]]
    if "tools_available" in view:
        view["tools_available"] = utf16_sorted(view["tools_available"])
    return view


def run_digest(run: dict[str, Any], *, plain: bool = False) -> str:
    """The digest of what is covered of a run."""
    return hashlib.sha256(canonical(covered_view(run), plain=plain)).hexdigest()


def step_digest(step: dict[str, Any], *, plain: bool = False) -> str:
    """The digest of a step, `seq` and `prev` included."""
    return hashlib.sha256(step_body(step, plain=plain)).hexdigest()


def step_body(step: dict[str, Any], *, plain: bool = False) -> bytes:
    """The canonical bytes that a step's digest is of."""
    return canonical(_without_nulls(step), plain=plain)


def _without_nulls(obj: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in obj.items() if value is not None} if None in obj.values() else obj


# ---- the chain


def step_link(step: dict[str, Any], *, plain: bool = False) -> Link | None:
    """The link of a chained step; None for a step without `seq` and `prev`."""
    arsig = (step.get("metadata") or {}).get("arsig")
    if not isinstance(arsig, dict):
        return None
    seq, prev = whole(arsig.get("seq")), arsig.get("prev")
    if seq is None or seq < 0 or not isinstance(prev, str):
        return None
    return _new(Link, (seq, prev, step_digest(step, plain=plain)))


def whole(value: object) -> int | None:
    """A whole number in any spelling (2, 2.0); None for anything else, or what a float can't hold exactly."""
    if type(value) is int:
        return value if abs(value) <= limits.SAFE_INTEGER_MAX else None
    return whole(int(value)) if type(value) is float and value.is_integer() else None


# ---- metadata.arsig


def arsig_of(run: Mapping[str, Any]) -> Arsig:
    """`metadata.arsig` of a run; null counts as not given."""
    arsig = (run.get("metadata") or {}).get("arsig")
    if arsig is None:
        return Arsig("arsig_missing")
    if not isinstance(arsig, dict) or whole(arsig.get("v")) != 1:
        return Arsig("arsig_member")
    tenant, rev, signed_at = arsig.get("tenant"), whole(arsig.get("rev")), arsig.get("signed_at")
    parents, parents_flaw = _parents(arsig["parents"]) if "parents" in arsig else ((), None)
    steps, steps_flaw = _commitment(arsig["steps"]) if "steps" in arsig else (None, None)
    named = type(tenant) is str and IDENTIFIER.match(tenant) is not None
    flaw: str | None = parents_flaw or steps_flaw
    if type(tenant) is not str or rev is None or rev < 1 or not _is_utc(signed_at):
        flaw = "arsig_member"
    elif not named:
        flaw = "identifier"
    found: Arsig = _new(Arsig, (flaw, tenant if named else None, rev, signed_at, parents, steps))
    return found


def _parents(value: object) -> tuple[tuple[Parent, ...] | None, str | None]:
    """The parents in the order of the statement, or the code of what is wrong with them."""
    if value is None:
        return (), None
    if not isinstance(value, list):
        return None, "arsig_member"
    found: dict[str, Parent] = {}
    for entry in value:
        run_id, genesis = (entry.get("run_id"), entry.get("genesis")) if isinstance(entry, dict) else (None, None)
        if not isinstance(run_id, str) or not _is_digest(genesis) or run_id in found:
            return None, "arsig_member"
        if not IDENTIFIER.match(run_id):
            return None, "identifier"
        found[run_id] = Parent(run_id, str(genesis))
    return tuple(found[run_id] for run_id in sorted(found)), None


def _commitment(value: object) -> tuple[Commitment | None, str | None]:
    if value is None:
        return None, None
    count, head = (whole(value.get("count")), value.get("head")) if isinstance(value, dict) else (None, None)
    if count is None or count < 0 or not _is_digest(head):
        return None, "arsig_member"
    if count > limits.SIGNED_STEPS_MAX:
        return None, "limit_steps"
    return Commitment(count, str(head)), None


def _is_digest(value: object) -> bool:
    return type(value) is str and _HEX.match(value) is not None


def _is_utc(value: object) -> bool:
    if not isinstance(value, str) or not _SIGNED_AT.match(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


# ---- genesis, statement, message


def genesis_of(run: Mapping[str, Any], run_hash: str, tenant: str, parents: Sequence[Parent] = ()) -> str:
    """The identity of a run that is known when it starts."""
    body = {
        "agent_id": run["agent_id"],
        "parents": sorted(parent.genesis for parent in parents) if parents else [],
        "run_hash": run_hash,
        "run_id": run["id"],
        "started_at": run["started_at"],
        "tenant": tenant,
    }
    # Fixed ASCII names in their order, and strings: orjson is RFC 8785.
    return hashlib.sha256(pae(GENESIS_TYPE, orjson.dumps(body))).hexdigest()


def statement_of(run: Mapping[str, Any], arsig: Arsig, genesis: str, digest: str) -> bytes:
    """The in-toto statement that a signature is about: the run by its digest, and what must be readable beside it."""
    provenance, steps = run["provenance"], arsig.steps
    predicate = {
        "agent_id": run["agent_id"],
        "genesis": genesis,
        "parents": [{"genesis": p.genesis, "run_id": p.run_id} for p in arsig.parents or ()],
        "rev": arsig.rev,
        "run_hash": provenance["run_hash"],
        "signed_at": arsig.signed_at,
        "signed_by": provenance["signed_by"],
        "status": run["status"],
        "steps": None if steps is None else {"count": steps.length, "head": steps.head},
        "tenant": arsig.tenant,
    }
    if steps is None:
        del predicate["steps"]
    # As above, with names in order already; its numbers are whole and small.
    return orjson.dumps(
        {
            "_type": _IN_TOTO,
            "predicate": predicate,
            "predicateType": _PREDICATE,
            "subject": [{"digest": {"sha256": digest}, "name": run["id"]}],
        }
    )


def pae(kind: str, body: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed says of which type it is."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(body), body)


def message_of(statement: bytes) -> bytes:
    """The bytes that are signed."""
    return pae(STATEMENT_TYPE, statement)


def dsse_envelope(statement: bytes, signature: bytes, kid: str) -> dict[str, Any]:
    """The DSSE envelope of a signed statement, which in-toto's own tools read."""
    return {
        "payloadType": STATEMENT_TYPE,
        "payload": base64.b64encode(statement).decode(),
        "signatures": [{"keyid": kid, "sig": base64.b64encode(signature).decode()}],
    }
