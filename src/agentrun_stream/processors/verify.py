"""The verifier's facts: bytes of runs and steps -> what they say by themselves. `model/judgement.py` makes the verdict.

Must not live here: trust in keys, stores, brokers, a clock.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from agentrun_stream import limits
from agentrun_stream.codec import arsig as suite
from agentrun_stream.codec import ed25519, keynames
from agentrun_stream.codec.arsig import Arsig
from agentrun_stream.codec.canonical import run_hash
from agentrun_stream.codec.json_codec import too_deep
from agentrun_stream.codec.strict_json import UnreadableError, read
from agentrun_stream.model.chain import Link, Marks
from agentrun_stream.model.facts import HOLDS, INVALID, MALFORMED, UNSIGNED, UNSUPPORTED, Facts, Seal
from agentrun_stream.model.run import TERMINAL

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
_TEXT: Final = frozenset({str})


class Step(NamedTuple):
    """A streamed step as the chain sees it. `link` is None where it has no `seq` and `prev`."""

    link: Link | None


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
    return Step(None if not isinstance(metadata, dict) else suite.step_link(step, plain=plain))


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
    steps = run.get("steps")
    if steps and facts.commitment is not None:
        facts.links = tuple(link for step in steps if (link := suite.step_link(step, plain=plain)) is not None)
    if flaw is not None:
        return _refused(facts, flaw)
    facts.run_digest = suite.run_digest(run, plain=plain)
    _read_signature(facts, run, arsig)
    return facts


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
