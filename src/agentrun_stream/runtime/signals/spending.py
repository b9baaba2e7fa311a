"""The signals that look at the present: velocity, loops, burn rates and budgets, each as rows made from what the store says now.

Must not live here: judging (processors/signals/), writing and telling (refresher.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Protocol

from agentrun_stream.model.opinions import Pricing
from agentrun_stream.processors.signals import budgets, burn, velocity
from agentrun_stream.processors.signals.budgets import WHOLE, Budget
from agentrun_stream.processors.signals.burn import BurnRule, Ends
from agentrun_stream.processors.signals.loops import Call, Loop, loops
from agentrun_stream.processors.signals.rules import Rules
from agentrun_stream.processors.signals.velocity import Cohort, Running
from agentrun_stream.runtime.signals.running import with_computed
from agentrun_stream.store.closings import AgentKey
from agentrun_stream.store.running import Unreported
from agentrun_stream.store.signals import Repeated, Signal, Spending, Sums

VELOCITY: Final = "velocity"
LOOPS: Final = "loops"
BURN: Final = "burn"
BUDGET_PREFIX: Final = "budget_"
BUDGET: Final = {period: BUDGET_PREFIX + period for period in budgets.PERIODS}
_SHOWN_RUNS_MAX: Final = 20


class Present(Protocol):
    """The part of the store that knows the last minutes and the sums of today and of this month."""

    async def spending(self, now_s: int) -> Mapping[AgentKey, Spending]:
        """Who spent what in the last hour."""
        ...

    async def unreported(self, now_s: int) -> Sequence[Unreported]:
        """Runs that accrued tokens in the last hour and report no cost."""
        ...

    async def cohorts(self, agents: Iterable[AgentKey], now_s: int) -> Mapping[AgentKey, tuple[int, Decimal]]:
        """Of each agent's finished runs: how many have a cost, and its 99th percentile."""
        ...

    async def repeated_calls(self, now_s: int, least: int) -> Sequence[Repeated]:
        """Calls that one of the runs of the last minutes made so often with the same input."""
        ...

    async def period_sums(self, workspaces: Iterable[str], day_s: int, month_s: int) -> Mapping[AgentKey, Sums]:
        """What was spent since these moments."""
        ...

    async def ends(self, windows_s: Sequence[int], now_s: int) -> Mapping[tuple[str, str, str], Mapping[int, int]]:
        """By (workspace, agent, status): how many runs ended in each of the last so many seconds."""
        ...


async def velocities(store: Present, rules: Rules, price: Pricing, now_s: int) -> list[Signal]:
    """Of everybody who spent anything in the last hour: what is reported, else what it costs by the book in force."""
    found = with_computed(await store.spending(now_s), await store.unreported(now_s), price)
    # A run below the floor is never too dear, so most often nobody has to be compared.
    dear = {
        key for key, spent in found.items() if any(cost > rules.of(key[0]).velocity.floor for _, cost in spent.running)
    }
    cohorts = await store.cohorts(dear, now_s)
    signals = []
    for key, spent in found.items():
        running = [Running(*run) for run in spent.running]
        told = velocity.judge(
            rules.of(key[0]).velocity, (spent.five_minutes, spent.hour), running, Cohort(*cohorts.get(key, ()))
        )
        state = {
            "five_minutes": _usd(spent.five_minutes),
            "hour": _usd(spent.hour),
            "fast": told.fast,
            "run_limit": _usd(told.limit),
            "runaways": [{"run_id": r.run_id, "cost": _usd(r.cost)} for r in told.runaways[:_SHOWN_RUNS_MAX]],
            "unpriced_runs": spent.unpriced,
        }
        signals.append(Signal(*key, VELOCITY, float(spent.hour), told.level, state))
    return signals


async def looping(store: Present, rules: Rules, now_s: int) -> list[Signal]:
    """Agents of which a run of the last minutes goes round in circles; the value is how many such runs."""
    by_run: dict[tuple[str, str, str], list[Call]] = {}
    for call in await store.repeated_calls(now_s, min(rule.loops.times for rule in rules.all())):
        by_run.setdefault(call[:3], []).append(Call(call.tool, call.digest, call.times))
    by_agent: dict[AgentKey, list[tuple[Loop, str]]] = {}
    for (workspace, run_id, agent_id), calls in by_run.items():
        if worst := loops(calls, rules.of(workspace).loops)[:1]:
            by_agent.setdefault((workspace, agent_id), []).append((worst[0], run_id))
    signals = []
    for key, found in by_agent.items():
        found.sort(key=lambda one: (-one[0].times, one[1]))
        shown = [{"run_id": run_id, **loop._asdict()} for loop, run_id in found[:_SHOWN_RUNS_MAX]]
        signals.append(Signal(*key, LOOPS, len(found), "over", {"runs": shown}))
    return signals


async def burning(store: Present, rules: Rules, now_s: int) -> list[Signal]:
    """Agents in workspaces with burn-rate rules; the value is the highest share of a threshold."""
    windows = sorted({s for rule in rules.all() for b in rule.burn for s in (b.short_s, b.long_s)})
    if not windows:
        return []
    counts: dict[AgentKey, dict[int, Ends]] = {}
    for (workspace, agent_id, status), ended in (await store.ends(windows, now_s)).items():
        rule = rules.of(workspace)
        if not rule.burn:
            continue
        fails = status in rule.failures_of(agent_id).counts
        held = counts.setdefault((workspace, agent_id), dict.fromkeys(windows, Ends()))
        for seconds, runs in ended.items():
            held[seconds] = Ends(held[seconds].runs + runs, held[seconds].failed + runs * fails)
    return [_burn(key, rules.of(key[0]).burn, ended) for key, ended in counts.items()]


def _burn(key: AgentKey, rules: Sequence[BurnRule], ended: Mapping[int, Ends]) -> Signal:
    rates = [(rule, burn.burn_rate(rule, ended[rule.short_s], ended[rule.long_s])) for rule in rules]
    told = [
        {"threshold": str(rule.threshold), "rate": f"{rate:.4f}", "short_s": rule.short_s, "long_s": rule.long_s}
        for rule, rate in rates
    ]
    value = max(rate / rule.threshold for rule, rate in rates)
    return Signal(*key, BURN, float(value), "over" if value >= 1 else "ok", {"rules": told})


async def budgeted(store: Present, wanted: Sequence[Budget], now_s: int) -> list[Signal]:
    """One row for each budget; its state is the record that is published. The value is spent / limit."""
    if not wanted:
        return []
    now = datetime.fromtimestamp(now_s, UTC)
    starts = (round(budgets.bounds(period, now)[0].timestamp()) for period in budgets.PERIODS)
    sums = await store.period_sums({budget.workspace for budget in wanted}, *starts)
    return [_budget(budget, _spent(budget, sums), now) for budget in wanted]


def _spent(budget: Budget, sums: Mapping[AgentKey, Sums]) -> tuple[Decimal, int]:
    whole = budget.agent_id == WHOLE
    mine = [s for (w, a), s in sums.items() if w == budget.workspace and (whole or a == budget.agent_id)]
    parts = [s.day if budget.period == "day" else s.month for s in mine]
    return sum((usd for usd, _ in parts), Decimal(0)), sum(unpriced for _, unpriced in parts)


def _budget(budget: Budget, spent: tuple[Decimal, int], now: datetime) -> Signal:
    usd, unpriced = spent
    told = budgets.judge(budget, usd, now)
    start, end = budgets.bounds(budget.period, now)
    record: dict[str, Any] = {
        "workspace": budget.workspace,
        "agent_id": budget.agent_id or None,
        "period": budget.period,
        "starts": start.isoformat(),
        "ends": end.isoformat(),
        "limit": _usd(budget.limit),
        "spent": _usd(told.spent),
        "projected": None if told.projected is None else _usd(told.projected),
        "level": told.level,
        "unpriced_runs": unpriced,
    }
    return Signal(
        budget.workspace, budget.agent_id, BUDGET[budget.period], float(usd / budget.limit), told.level, record
    )


def _usd(amount: Decimal) -> str:
    """As people write it: no exponent, no zeros at the end."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
