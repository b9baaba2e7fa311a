"""What an oracle's run adds up to: the amounts that it states, and its settlements.

Must not live here: how events become runs (oracle.py).
"""

from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from property.oracle import Run

TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "total_tokens")
CENT = Decimal("1e-12")  # money is kept with 12 decimals, rounded half-even

Json = dict[str, Any]
Amounts = dict[str, Decimal]


def usages(run: "Run") -> dict[str, Amounts]:
    """Every amount that the run states, by the object that states it: steps by id, the snapshot as `run`."""
    found = {f"step {key}": step_amounts(step.data) for key, step in run.steps.items()}
    return found | {"run": stated_by(run.members)}


def stated_by(members: Json) -> Amounts:
    cost = members.get("cost") or {}
    stated = {name: Decimal(int(cost[name])) for name in TOKENS if cost.get(name) is not None}
    if cost.get("cost_usd") is not None:
        stated["cost_reported"] = Decimal(str(cost["cost_usd"])).quantize(CENT)
    return stated


def step_amounts(data: Json) -> Amounts:
    usage = (data.get("metadata") or {}).get("usage")
    found = {}
    for name in TOKENS[:4]:
        count = usage.get(name) if isinstance(usage, dict) else None
        if type(count) is int and 0 <= count <= 10**12:
            found[name] = Decimal(count)
    if data.get("tokens_used") is not None:
        found["total_tokens"] = Decimal(int(data["tokens_used"]))
    return found


def step_sums(run: "Run") -> Amounts:
    totals: Amounts = {}
    for step in run.steps.values():
        for name, count in step_amounts(step.data).items():
            totals[name] = totals.get(name, Decimal(0)) + count
    return totals


def settlements(run: "Run", members: Json | None = None) -> dict[int, Amounts]:
    """What a run shows under each minute that it ever settled in; nothing where it no longer is.

    `members` are those that are shown, where that is not the merged snapshot.
    """
    stated = stated_by(run.members if members is None else members)
    tokens = {n: a for n, a in stated.items() if n in TOKENS} or step_sums(run)
    amounts = {"runs": Decimal(1), **tokens}
    if "cost_reported" in stated:
        amounts["cost_reported"] = stated["cost_reported"]
    here = int(run.closed_at) // 60 * 60 if run.closed_by else None
    return {minute: amounts if minute == here else {} for minute in run.settled}
