"""The verifier's facts: bytes of runs and steps -> what they say by themselves. `model/judgement.py` makes the verdict.

Must not live here: trust in keys, stores, brokers, a clock.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, NamedTuple

from agentrun_stream import limits
from agentrun_stream.codec import arsig as suite
from agentrun_stream.codec import ed25519, json_codec, keynames
from agentrun_stream.codec.arsig import Arsig
from agentrun_stream.codec.canonical import run_hash
from agentrun_stream.codec.json_codec import too_deep
from agentrun_stream.codec.strict_json import UnreadableError, read
from agentrun_stream.model.chain import Link, Marks
from agentrun_stream.model.event import PATCH, RUN, STEP, Event, Refusal
from agentrun_stream.model.facts import HOLDS, INVALID, MALFORMED, UNSIGNED, UNSUPPORTED, Facts, Seal
from agentrun_stream.model.run import TERMINAL, ClaimFact

_NONE: Final = type(None)
# What the suite reads of a run, by its type; null counts as not given.
_RUN_TYPES: Final[dict[str, type]] = {
    **dict.fromkeys(("id", "agent_id", "status", "started_at", "model", "trigger", "parent_run_id"), str),
    **dict.fromkeys(("steps", "tools_available", "tags"), list),
    **dict.fromkeys(("cost", "provenance", "metadata"), dict),
}
_PROVENANCE_TYPES: Final[dict[str, type]] = {
    **dict.fromkeys(("run_hash", "parent_run_hash", "config_hash", "signed_by", "signature"), str),
    "lineage": list,
}
_HASHED_TYPES: Final = {
    name: _RUN_TYPES[name] for name in ("agent_id", "model", "tools_available", "trigger", "provenance")
}
_PROVABLE: Final = frozenset({RUN, STEP, PATCH})
_new: Final = tuple.__new__
_NOTHING: Final[dict[str, Any]] = {}
_TEXT: Final = frozenset({str})


class Step(NamedTuple):
    """A streamed step as the chain sees it. `link` is None where it has no `seq` and `prev`."""

    link: Link | None


# ---- an event of the log


def prove(event: Event, raw: bytes) -> Event | Refusal:
    """Read what a signed or chained object says by its bytes into the event; the equation is left to `settle`.

    An object that is neither costs a glance. Strictness is for the bytes of the whole record: what two readers could take
    for two objects is refused as malformed.
    """
    if event.kind not in _PROVABLE or not _claims_something(event):
        return event
    try:
        obj, plain = read_object(raw)
    except UnreadableError as error:
        return Refusal("malformed", keyword=error.code, workspace=event.workspace)
    if not event.enveloped and "specversion" in event.obj and "type" in event.obj:
        # In binary mode; whoever reads the bytes alone would take it for an envelope.
        return Refusal("malformed", keyword="two_envelopes", workspace=event.workspace)
    if event.kind == STEP:
        event.links = (suite.step_link(obj, plain=plain),)
    elif event.kind == PATCH:
        event.links = links_inside(obj, plain=plain)
    else:
        event.facts = facts_of_run(obj, plain=plain)
        event.facts.raw_sha256 = hashlib.sha256(raw).hexdigest()
        event.links, event.whole = event.facts.links, obj
    return event


def _claims_something(event: Event) -> bool:
    """Whether the object is signed, or has the suite's members."""
    obj = event.obj
    if event.kind == STEP:
        return _has_arsig(obj)
    if event.kind == RUN and ((obj.get("provenance") or _NOTHING).get("signature") or _has_arsig(obj)):
        return True
    return any(map(_has_arsig, obj.get("steps") or ()))


def _has_arsig(obj: dict[str, Any]) -> bool:
    metadata = obj.get("metadata")
    return metadata is not None and "arsig" in metadata


# ---- facts: a function of the bytes alone


def facts_of(raw: bytes) -> Facts:
    """The facts of one record that carries an AgentRun, bare or in an envelope; the equation is looked at too."""
    facts = read_facts(raw)
    settle(facts)
    return facts


def read_facts(raw: bytes) -> Facts:
    """As `facts_of`, but the equation is left to `settle`, so that many of them can be looked at in threads."""
    try:
        run, plain = read_object(raw)
    except UnreadableError as error:
        return Facts(signature=MALFORMED, reasons=(error.code,))
    return facts_of_run(run, plain=plain)


def settle(facts: Facts) -> None:
    """Look at the equation of a well-formed signature."""
    if facts.signature is None and facts.seal is not None:
        if ed25519.holds(*facts.seal):
            facts.signature = HOLDS
        else:
            facts.signature, facts.reasons = INVALID, (*facts.reasons, "bad_signature")


def settle_all(many: Iterable[Facts]) -> None:
    """Look at many equations, one after the other; libsodium lets other threads work meanwhile."""
    for facts in many:
        settle(facts)


def claim_of(claim: ClaimFact, raw: bytes) -> ClaimFact:
    """A claim made whole from the bytes that arrived; as it was where they are not the ones."""
    facts = facts_of(raw)
    if facts.run_digest != claim.facts.run_digest:
        return claim
    run, _ = read_object(raw)
    facts = replace(facts, statement=None, seal=None, raw_sha256=hashlib.sha256(raw).hexdigest())
    path = ("data", "cost", "cost_usd") if "specversion" in json_codec.loads(raw) else ("cost", "cost_usd")
    cost_raw = json_codec.number_text(raw, path)
    return claim._replace(doc=json_codec.canonical(run).encode(), cost_raw=cost_raw, facts=facts)


def read_object(raw: bytes) -> tuple[dict[str, Any], bool]:
    """The object that strict bytes carry, bare or in an envelope, and whether they are plain. Raises UnreadableError."""
    # An envelope is one level around the object, whose own root is level 1.
    obj, plain, bushy = read(raw, limits.OBJECT_DEPTH_MAX + 1)
    if isinstance(obj, dict) and "specversion" in obj and "type" in obj:
        obj = obj.get("data")
    if bushy and too_deep(obj):
        raise UnreadableError("too_deep")
    if not isinstance(obj, dict):
        raise UnreadableError("not_an_object")
    return obj, plain


def read_step(raw: bytes) -> Step | None:
    """A streamed step; None where its bytes are no strict I-JSON object, so that it never arrived."""
    try:
        step, plain = read_object(raw)
    except UnreadableError:
        return None
    metadata = step.get("metadata")
    if not isinstance(metadata, dict):
        return Step(None)
    return Step(suite.step_link(step, plain=plain))


def facts_of_run(run: dict[str, Any], *, plain: bool) -> Facts:
    """The facts of an AgentRun that came out of the strict reader."""
    facts = Facts()
    flaw = _flaw(run)
    if flaw is None or not _ill_typed(run, _HASHED_TYPES):
        _judge_hash(facts, run)
    if flaw == "shape":
        return _refused(facts, flaw)
    facts.closed = run.get("status") in TERMINAL
    facts.run_id, facts.agent_id = run.get("id") or "", run.get("agent_id") or ""
    facts.lineage = _lineage(run)
    arsig = _read_arsig(facts, run)
    facts.links = links_inside(run, plain=plain)
    if flaw is not None:
        return _refused(facts, flaw)
    facts.run_digest = suite.run_digest(run, plain=plain)
    _read_signature(facts, run, arsig)
    return facts


def links_inside(run: dict[str, Any], *, plain: bool = False) -> tuple[Link | None, ...]:
    """The links of the steps inside a run, in their order."""
    return tuple(suite.step_link(step, plain=plain) for step in run.get("steps") or ())


def _flaw(run: dict[str, Any]) -> str | None:
    """What makes a run malformed before anybody asks whether it is signed: an ill-typed member, or one over a limit."""
    if _ill_typed(run, _RUN_TYPES) or not all(map(_is_step, run.get("steps") or ())):
        return "shape"
    if len(run.get("steps") or ()) > limits.SIGNED_STEPS_MAX:
        return "limit_steps"
    if len((run.get("provenance") or {}).get("lineage") or ()) > limits.SIGNED_LINEAGE_MAX:
        return "limit_lineage"
    arsig = (run.get("metadata") or {}).get("arsig")
    parents = arsig.get("parents") if isinstance(arsig, dict) else None
    if isinstance(parents, list) and len(parents) > limits.SIGNED_PARENTS_MAX:
        return "limit_parents"
    return None


def _ill_typed(run: dict[str, Any], types: dict[str, type]) -> bool:
    """Whether one of these members, or what the suite reads inside of it, has a wrong type."""
    if _misfit(run, types):
        return True
    provenance = run.get("provenance") or {}
    return (
        _misfit(provenance, _PROVENANCE_TYPES)
        or not _TEXT.issuperset(map(type, provenance.get("lineage") or ()))
        or not _TEXT.issuperset(map(type, run.get("tools_available") or ()))
    )


def _misfit(obj: dict[str, Any], types: dict[str, type]) -> bool:
    get = obj.get
    for name, wanted in types.items():  # noqa: SIM110 - a generator would cost every run half a microsecond
        if type(value := get(name)) is not wanted and value is not None:
            return True
    return False


def _is_step(step: object) -> bool:
    return isinstance(step, dict) and isinstance(step.get("metadata"), dict | _NONE)


def _refused(facts: Facts, reason: str) -> Facts:
    facts.signature, facts.reasons = MALFORMED, (*facts.reasons, reason)
    return facts


def _judge_hash(facts: Facts, run: dict[str, Any]) -> None:
    stated = (run.get("provenance") or {}).get("run_hash")
    facts.run_hash = run_hash(run)
    if stated is not None:
        facts.hash = "match" if stated == facts.run_hash else "mismatch"
        if facts.hash == "mismatch":
            facts.reasons = ("run_hash_mismatch",)


def _lineage(run: dict[str, Any]) -> str:
    """The lineage axis as far as the run itself says: parents are looked up by somebody else."""
    provenance = run.get("provenance") or {}
    if run.get("parent_run_id") is not None:
        return "pending"
    if provenance.get("parent_run_hash") is not None or provenance.get("lineage"):
        return "mismatch"
    arsig = (run.get("metadata") or {}).get("arsig")
    return "pending" if isinstance(arsig, dict) and arsig.get("parents") else "root"


def _read_arsig(facts: Facts, run: dict[str, Any]) -> Arsig:
    """Read `metadata.arsig`, and make the genesis where it is defined."""
    arsig = suite.arsig_of(run)
    facts.commitment, facts.parents = arsig.steps, arsig.parents or ()
    stated = (run.get("provenance") or {}).get("run_hash")
    if arsig.tenant is None or arsig.parents is None or stated is None or run.get("started_at") is None:
        return arsig
    if _has_identifiers(facts):
        facts.genesis = suite.genesis_of(run, stated, arsig.tenant, arsig.parents)
    return arsig


def _has_identifiers(facts: Facts) -> bool:
    return suite.IDENTIFIER.match(facts.run_id) is not None and suite.IDENTIFIER.match(facts.agent_id) is not None


def _read_signature(facts: Facts, run: dict[str, Any], arsig: Arsig) -> None:
    provenance = run.get("provenance") or {}
    text = provenance.get("signature")
    if not text:
        facts.signature = UNSIGNED
    elif not text.startswith(keynames.SUITE):
        facts.signature, facts.reasons = UNSUPPORTED, (*facts.reasons, "suite")
    elif arsig.flaw or facts.genesis is None or facts.run_digest is None or not facts.closed:
        _refused(facts, arsig.flaw or _missing(facts, run))
    else:
        try:
            name = keynames.named_by_did(provenance.get("signed_by") or "")
        except ValueError:
            _refused(facts, "signed_by")
            return
        try:
            signature = keynames.signature_bytes(text)
        except ValueError:
            _refused(facts, "signature_encoding")
            return
        facts.kid, facts.tenant, facts.rev = name.kid, arsig.tenant, arsig.rev
        facts.statement = suite.statement_of(run, arsig, facts.genesis, facts.run_digest)
        facts.seal = Seal(name.public, signature, suite.message_of(facts.statement))


def _missing(facts: Facts, run: dict[str, Any]) -> str:
    """Which rule of signed runs a run with a good `metadata.arsig` breaks."""
    if not _has_identifiers(facts):
        return "identifier"
    if (run.get("provenance") or {}).get("run_hash") is None:
        return "run_hash_missing"
    return "not_terminal" if not facts.closed else "shape"


# ---- streamed steps


def marks_of(steps: Iterable[Step | None]) -> tuple[list[Link], Marks]:
    """The links of streamed steps, in any order, and what else they left behind."""
    arrived = list(steps)
    there = [step for step in arrived if step is not None]
    links = [step.link for step in there if step.link is not None]
    return links, Marks(streamed=bool(there), unchained=len(links) < len(there), broken=len(there) < len(arrived))
