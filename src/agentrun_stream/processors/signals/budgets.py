"""How much of its budget a workspace or an agent has spent, and will have spent: `budgets.toml` as types, and the judgement.

Periods are UTC days and months. Unknown costs are no zeros: a judgement carries how many runs have none.
Must not live here: the sums (store/), telling the world (runtime/).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final, NamedTuple

from agentrun_stream.processors.signals.strict import named, number, read, wrong

WHOLE: Final = ""  # instead of an agent's name: the budget of all agents of a workspace together
PERIODS: Final = ("day", "month")
WARN: Final = Decimal("0.8")
# A projection from the first minutes of a period would only multiply noise.
_PROJECTED_FROM: Final = Decimal("0.05")
_CENT: Final = Decimal("0.01")
_USD: Final = number(0, 10.0**12)


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent in a period, in USD; from `warn` of it on somebody should know."""

    workspace: str
    agent_id: str
    period: str
    limit: Decimal
    warn: Decimal = WARN


class Spent(NamedTuple):
    """The known cost of a period in USD, and how many of its runs have none."""

    usd: Decimal = Decimal(0)
    unpriced_runs: int = 0


class Judgement(NamedTuple):
    """`projected` None: too early to say."""

    spent: Decimal
    projected: Decimal | None
    level: str


def parse_budgets(document: Mapping[str, Any], where: str) -> tuple[Budget, ...]:
    """The content of the file. Raises ConfigError."""
    found = read(document, where, {"workspaces": named(_workspace, workspaces=True)})
    budgets: list[Budget] = []
    for workspace, said in found.get("workspaces", {}).items():
        agents = said.pop("agents", {})
        for agent_id, amounts in {WHOLE: said, **agents}.items():
            warn = amounts.get("warn", said.get("warn", WARN))
            budgets += [Budget(workspace, agent_id, p, amounts[p], warn) for p in PERIODS if p in amounts]
    return tuple(budgets)


_AMOUNTS: Final = {"day": _USD, "month": _USD, "warn": number(0, 1)}


def _agent(table: Any, where: str) -> dict[str, Any]:
    if where.endswith("."):
        raise wrong(where, "an agent needs a name")
    said = read(table, where, _AMOUNTS)
    if not set(said) & set(PERIODS):
        raise wrong(where, "names no amount; give day or month")
    return said


def _workspace(table: Any, where: str) -> dict[str, Any]:
    said = read(table, where, {**_AMOUNTS, "agents": named(_agent)})
    if not said.get("agents") and not set(said) & set(PERIODS):
        raise wrong(where, "names no amount; give day, month or agents")
    return said


def bounds(period: str, now: datetime) -> tuple[datetime, datetime]:
    """Beginning and end of the period that `now` lies in."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return day, day + timedelta(days=1)
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def judge(budget: Budget, spent: Decimal, now: datetime) -> Judgement:
    """Judge what was spent so far. Projected is the same pace to the end of the period."""
    start, end = bounds(budget.period, now)
    passed = Decimal((now - start) // timedelta(seconds=1)) / Decimal((end - start) // timedelta(seconds=1))
    projected = None
    if passed >= _PROJECTED_FROM:
        projected = (spent / passed).quantize(_CENT, ROUND_HALF_EVEN)
    if spent > budget.limit:
        level = "over"
    elif spent >= budget.warn * budget.limit or (projected is not None and projected > budget.limit):
        level = "warn"
    else:
        level = "ok"
    return Judgement(spent, projected, level)
