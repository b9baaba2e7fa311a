"""What is billed of a run: the total of what is shown and the calls of its steps; and what a claim settles otherwise.

Must not live here: prices, what amounts there are (pricing/).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentrun_stream.model import ledger, money
from agentrun_stream.model.ledger import TOKENS
from agentrun_stream.model.run import RunState, Snapshot, Usage
from agentrun_stream.model.usage import Bill, Call, bill_of, call_of
from agentrun_stream.model.verdict import STEPS_UNCOVERED
from agentrun_stream.processors.project.shown import Shown

_US: Final = 1_000_000
CLAIM_COLUMNS: Final = ("claim_difference", *(f"claim_{name}" for name in TOKENS))
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


def settled_tokens(state: RunState, stated: Sequence[int | None]) -> Sequence[int | None]:
    """The tokens that a run settles with, in the order of TOKENS: its own where it states any, else those of its steps."""
    return stated if any(count is not None for count in stated) else ledger.step_tokens(state)


def claim_difference(state: RunState, merged: Snapshot, settled: Mapping[str, Any]) -> dict[str, Any]:
    """By how much a run whose claim is shown settles otherwise than by its merged snapshot, which is what was accrued.

    None where nothing differs; what is unknown counts as nothing.
    """
    booked = settled_tokens(state, ledger.run_tokens(merged.doc))
    by = money.difference(money.amount(settled["cost_reported"]), money.amount(merged.cost_raw))
    differing = {
        f"claim_{n}": (settled[n] or 0) - (count or 0) or None for n, count in zip(TOKENS, booked, strict=True)
    }
    return {"claim_difference": money.text(by) if by else None, **differing}


def bill_before(state: RunState, less: Mapping[tuple[str, str], Sequence[int]]) -> Bill:
    """The bill of a run's merged snapshot and of all its steps, before these tokens accrued (by basis and object).

    What was reported is left out. With nothing to leave out it is the bill as the run stands, be it open or closed.
    """
    doc, time_s = ({}, 0.0) if state.snap is None else (state.snap.doc, state.snap.time_s)
    if gone := less.get(("run", "")):
        stated = zip(TOKENS, ledger.run_tokens(doc), gone, strict=True)
        doc = doc | {"cost": (doc.get("cost") or {}) | {n: _before(count, by) for n, count, by in stated}}
    calls = []
    for step_id, step in state.steps.items():
        gone = less.get(("step", step_id))
        usage = step.usage if step.usage is None or gone is None else _usage_before(step.usage, gone)
        call = None if usage is None else call_of(usage, step.time_s)
        if call is not None:
            calls.append(call)
    return bill_of(doc, calls, time_s)


def _usage_before(usage: Usage, gone: Sequence[int]) -> Usage:
    tokens = [_before(count, by) for count, by in zip(usage[2:7], gone, strict=True)]
    life = usage.cache_write_1h_tokens
    life = None if life is None else min(life, tokens[3] or 0)
    return Usage(*usage[:2], *tokens, life, *usage[8:])  # type: ignore[call-arg, arg-type]  # members in their order


def _before(count: int | None, by: int) -> int | None:
    """The count before; one that was nothing was not stated yet."""
    return None if count is None else (count - by) or None
