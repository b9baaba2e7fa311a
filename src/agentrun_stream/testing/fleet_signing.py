"""How runs of the fleet are signed, how some are tampered with, and the headline that each must end with.

Must not live here: when an event is sent, the rules of a verdict (processors, model).
"""

from decimal import Decimal
from random import Random
from typing import Any, Final

from agentrun_stream.model.facts import Parent
from agentrun_stream.sdk.signing import RunSigner, SignedUnder
from agentrun_stream.testing.fleet_plan import AGENTS, Plan
from agentrun_stream.testing.keys import WORKSPACE, made_up_entry, made_up_key

# What is done to a run, and the headline that this alone leads to.
TAMPERS: Final = {
    "step_altered": "rejected",
    "forged_correction": "verified",
    "tail_cut": "mismatch",
    "foreign_key": "unverifiable",
    "end_altered": "rejected",
    "retired_key": "revoked",
    "step_dropped": "mismatch",
}
_FIRST: Final = ("rejected", "mismatch", "revoked", "pending", "unverifiable", "verified")
_UNTRUSTED: Final = frozenset({"end_altered", "foreign_key", "retired_key"})
_OTHER_KEYS: Final = {"foreign_key": "foreign", "retired_key": "retired"}
_CUT_MAX: Final = 3


def fleet_registry(seed: int) -> dict[str, Any]:
    """The JWK Set of the fleet of this seed: a key for each agent that signs, and one that it signed with in the past."""
    signers = [agent.id for agent in AGENTS if agent.signs]
    keys = [made_up_entry(made_up_key(seed, name), name) for name in signers]
    keys += [made_up_entry(made_up_key(seed, f"{name}/retired"), name, revoked=True) for name in signers]
    return {"version": 1, "keys": keys}


def signer_of(seed: int, plan: Plan, run: dict[str, Any]) -> RunSigner | None:
    """Who signs this run; None for an agent that never does. A parent that signs is named by its genesis."""
    if not plan.agent.signs:
        return None
    other = _OTHER_KEYS.get(plan.tamper or "")
    key = made_up_key(seed, f"{plan.agent.id}/{other}" if other else plan.agent.id)
    parent = plan.parent
    named = [Parent(parent.run_id, parent.signer.genesis)] if parent and parent.signer else []
    return RunSigner(key, run, SignedUnder(WORKSPACE, named))


def tamper_with(rng: Random, plan: Plan, tamper: str) -> None:
    """Have this done to a run; which of its steps never arrive is drawn."""
    plan.tamper = tamper
    plan.flags -= {"corrected", "unfinished"}  # so that its end is the one that is tampered with
    steps = len(plan.turns)
    if plan.tamper == "step_dropped":
        plan.lost = {rng.randrange(steps)}
    elif plan.tamper == "tail_cut":
        plan.lost = set(range(max(0, steps - rng.randint(1, _CUT_MAX)), steps))


def alter_step(step: dict[str, Any]) -> dict[str, Any]:
    """A chained step with another output than the one that was chained."""
    return step | {"output_preview": f"{step['output_preview']} Approved."}


def alter_end(rng: Random, plan: Plan, signed: dict[str, Any]) -> dict[str, Any]:
    """A signed end of which one member was changed afterwards, and the plan with it: it is what arrives."""
    member = rng.choice(("cost", "status", "outcome"))
    if member == "cost":
        plan.reported_usd = (plan.reported_usd or Decimal(0)) + 1
        return signed | {"cost": signed["cost"] | {"cost_usd": float(plan.reported_usd)}}
    if member == "status":
        plan.status = "failed" if plan.status == "completed" else "completed"
    else:
        plan.outcome = "failed" if plan.outcome == "success" else "success"
    return signed | {member: getattr(plan, member)}


def forge_correction(plan: Plan, end: dict[str, Any]) -> dict[str, Any]:
    """An end that somebody without the key would like better."""
    status = "failed" if plan.status == "completed" else "completed"
    return end | {"status": status, "outcome": "abandoned", "cost": {"cost_usd": 1_000_000}}


def headline_of(plan: Plan) -> str:
    """The headline that the run must end with, when all its events arrived and its parents were looked up."""
    words = {TAMPERS[plan.tamper] if plan.tamper else "verified" if plan.signer else "unverifiable"}
    if plan.hash_word == "mismatch":
        words.add("mismatch")
    if "unfinished" in plan.flags or (_waits(plan) and plan.tamper not in _UNTRUSTED):
        words.add("pending")
    return next(word for word in _FIRST if word in words)


def _waits(plan: Plan) -> bool:
    """Whether the run is signed and names a genesis that no signature shows yet."""
    parent = plan.parent
    return plan.signer is not None and parent is not None and parent.signer is not None and "unfinished" in parent.flags
