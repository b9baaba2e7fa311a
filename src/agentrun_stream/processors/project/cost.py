"""What is billed of a run: the total of what is shown and the calls of its steps, for the price book in force.

Must not live here: prices, what amounts there are (pricing/).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentrun_stream.model import money
from agentrun_stream.model.run import RunState, Usage
from agentrun_stream.model.usage import Bill, Call, bill_of, call_of
from agentrun_stream.model.verdict import STEPS_UNCOVERED
from agentrun_stream.processors.project.shown import Shown

_US: Final = 1_000_000
_COVERING: Final = frozenset({"intact", "absent"})


def bill(state: RunState, shown: Shown, row: Mapping[str, Any]) -> Bill:
    """The bill of what is shown; of an open run only what it says itself, as its row does not depend on steps."""
    snap = shown.snap
    calls = _calls(state) if state.closed and (shown.claim is None or _covers(row)) else ()
    return bill_of(snap.doc, calls, snap.time_s, money.amount(snap.cost_raw))


def _covers(row: Mapping[str, Any]) -> bool:
    """Whether a claim vouches for the steps: what it is billed by is nothing that others could add to."""
    return row["verdict_chain"] in _COVERING and STEPS_UNCOVERED not in row["verdict_reasons"]


def _calls(state: RunState) -> Sequence[Call]:
    if state.expired is not None:
        kept = state.expired.get("calls") or ()
        return [Call(*Usage(*said), time_us / _US) for *said, time_us in kept]
    calls = (call_of(step[7], step[2]) for step in state.steps.values() if step[7] is not None)
    return [call for call in calls if call is not None]
