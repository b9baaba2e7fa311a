"""What runs spend that report no cost: the tokens that they accrued, priced by the book in force.

Must not live here: prices, judging (processors/signals/), SQL (store/running.py).
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal

from agentrun_stream.model import money
from agentrun_stream.model.opinions import Pricing
from agentrun_stream.model.run import RunState
from agentrun_stream.processors.project.cost import bill_before
from agentrun_stream.store.closings import AgentKey
from agentrun_stream.store.running import Accrued, Unreported
from agentrun_stream.store.signals import Spending

_ZERO = Decimal(0)


def with_computed(
    reported: Mapping[AgentKey, Spending], runs: Iterable[Unreported], price: Pricing
) -> dict[AgentKey, Spending]:
    """What agents spent, runs that report no cost included: what these cost now, less what they cost before.

    Of a run with a part that has no price the known part counts, and the run is counted as unpriced.
    """
    found = dict(reported)
    for run in runs:
        state = run.state
        key = (state.workspace, (state.snap.doc.get("agent_id") if state.snap is not None else None) or "")
        known, whole = _cost(state, {}, price)
        lately = known - _cost(state, run.five_minutes, price)[0]
        hour = known - _cost(state, run.hour, price)[0]
        spent = found.get(key, Spending(_ZERO, _ZERO, []))
        running = [*spent.running, (state.run_id, known)] if lately > 0 and not state.closed else spent.running
        found[key] = Spending(spent.five_minutes + lately, spent.hour + hour, running, spent.unpriced + (not whole))
    return found


def _cost(state: RunState, less: Accrued, price: Pricing) -> tuple[Decimal, bool]:
    """What the run costs without these tokens, as far as it is known; whether all of it is."""
    priced = price(bill_before(state, less))
    amount = money.amount(priced["cost_effective"])
    if amount is not None:
        return amount, True
    return money.amount(priced["cost_lo"]) or _ZERO, False
