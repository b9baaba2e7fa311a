"""The ledger's facts: the usage a step states, what an event brings as differences, the sums of a run.

Prices never enter here. Unknown is None, never zero. Must not live here: windows, settlements, computed cost.
"""

from collections.abc import Sequence
from decimal import Decimal
from sys import intern
from typing import Any, Final

from agentrun_stream import limits
from agentrun_stream.model import money
from agentrun_stream.model.event import PATCH, RUN, STEP, Event
from agentrun_stream.model.run import Accrual, RunState, Snapshot, Usage
from agentrun_stream.model.terms import terms

TOKENS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "total_tokens")
_NOTHING: Final[dict[str, Any]] = {}
_US: Final = 1_000_000
_new = tuple.__new__


def count(value: Any) -> int | None:
    """A count as an integer: the schema takes 2.0 for 2; None stays unknown."""
    return None if value is None else int(value)


def step_usage(metadata: dict[str, Any] | None, total: Any) -> Usage | None:
    """What a step says of its model call: `metadata.usage`, and the bare `tokens_used`; None where it says nothing."""
    usage = metadata.get("usage") if metadata is not None else None
    if total is not None:
        total = int(total)
    if type(usage) is not dict:
        return None if total is None else _new(Usage, (None, None, None, None, None, None, total, None, None, None))
    get = usage.get
    provider, model = get("provider"), get("model")
    tokens: tuple[Any, ...] = (
        get("input_tokens"),
        get("output_tokens"),
        get("cache_read_tokens"),
        get("cache_write_tokens"),
    )
    for count_ in tokens:
        # Open metadata, which the schema does not look into: what is no count is no fact.
        if count_ is not None and (type(count_) is not int or not 0 <= count_ <= limits.TOKENS_MAX):
            tokens = tuple(t if type(t) is int and 0 <= t <= limits.TOKENS_MAX else None for t in tokens)
            break
    found: Usage = _new(
        Usage,
        (
            intern(provider) if type(provider) is str else None,
            intern(model) if type(model) is str else None,
            *tokens,
            total,
            *terms(metadata, usage),
        ),
    )
    return found


def book_step(state: RunState, step_id: str, new: Usage | None, old: Usage | None) -> Accrual:
    """What a step brought: its usage less what the same step had before. One of the two is given."""
    get = state.snap.doc.get if state.snap is not None else _NOTHING.get
    said = new or old
    assert said is not None
    tokens: Sequence[int | None] = said[2:7] if old is None else _differences(new, old)
    accrual: Accrual = _new(
        Accrual,
        (
            step_id,
            "step",
            get("agent_id"),
            said[1] or get("model"),
            said[0] or get("provider"),
            get("runtime"),
            get("trigger"),
            *tokens,
            None,
        ),
    )
    return accrual


def _differences(new: Usage | None, old: Usage | None) -> list[int | None]:
    nothing: tuple[None, ...] = (None,) * len(TOKENS)
    return [_minus(n, o) for n, o in zip(new[2:7] if new else nothing, old[2:7] if old else nothing, strict=True)]


def _minus(new: int | None, old: int | None) -> int | None:
    return None if new is None and old is None else (new or 0) - (old or 0)


def run_tokens(doc: dict[str, Any]) -> list[int | None]:
    """The tokens that a snapshot states, in the order of TOKENS."""
    cost = doc.get("cost") or {}
    return [count(cost.get(name)) for name in TOKENS]


def book_snapshot(snap: Snapshot, old_doc: dict[str, Any], old_raw: str | None) -> list[Accrual]:
    """What a changed snapshot brought; nothing where neither it nor the one before states any amount."""
    doc = snap.doc
    if not doc.get("cost") and not old_doc.get("cost"):
        return []
    tokens = [_minus(n, o) for n, o in zip(run_tokens(doc), run_tokens(old_doc), strict=True)]
    cost: Decimal | None = money.difference(money.amount(snap.cost_raw), money.amount(old_raw))
    if cost is None and all(t is None for t in tokens):
        return []
    model = (doc.get("cost") or {}).get("model") or doc.get("model")
    dimensions = (doc.get("agent_id"), model, doc.get("provider"), doc.get("runtime"), doc.get("trigger"))
    return [_new(Accrual, ("", "run", *dimensions, *tokens, cost))]


def named_objects(event: Event) -> list[tuple[str, str]]:
    """(object id, basis) of everything that an event can book: its step, or the snapshot and the steps inside."""
    if event.kind == STEP:
        return [(event.obj["id"], "step")]
    if event.kind not in {RUN, PATCH}:
        return []
    steps = enumerate(event.obj.get("steps") or ())
    return [("", "run"), *((step.get("id") or f"#{i}", "step") for i, step in steps)]


def with_nothing(event: Event, accruals: Sequence[Accrual]) -> list[Accrual]:
    """`accruals`, and one without amounts for every other object that the event names."""
    booked = {accrual.object_id for accrual in accruals}
    named = dict(named_objects(event))
    return [*accruals, *(Accrual(i, basis, *(None,) * 11) for i, basis in named.items() if i not in booked)]


def step_tokens(state: RunState) -> list[int | None]:
    """The sums of the steps' usage, in the order of TOKENS; None where no step states the member."""
    if state.expired is not None:
        return [state.expired["step"].get(name) for name in TOKENS]
    return usage_sums([step.usage for step in state.steps.values()])


def usage_sums(usages: Sequence[Usage | None]) -> list[int | None]:
    """The sums of several calls, in the order of TOKENS; None where no call states the member."""
    stated = [usage for usage in usages if usage is not None]
    if not stated:
        return [None] * len(TOKENS)
    columns = list(zip(*stated, strict=True))[2:7]
    return [_sum(column) if None in column else sum(column) for column in columns]


def _sum(column: Sequence[int | None]) -> int | None:
    known = [tokens for tokens in column if tokens is not None]
    return sum(known) if known else None


def sums(state: RunState) -> dict[str, Any]:
    """The run's sums as facts: what stays when its rows are gone. Tokens by basis, reported cost as its digits."""
    snap = state.snap
    stated = run_tokens(snap.doc) if snap is not None else []
    by_step = step_tokens(state)
    calls = [step for step in state.steps.values() if step.type == "tool_call"]
    return {
        "steps": len(state.steps),
        "tool_calls": len(calls),
        "failed_tool_calls": sum(step.success is False for step in calls),
        "failed_steps": sum(step.success is False for step in state.steps.values()),
        "evals": len(state.evals),
        "evals_passed": sum(fact.doc["pass"] is True for fact in state.evals.values()),
        "run": {n: t for n, t in zip(TOKENS, stated, strict=False) if t is not None},
        "step": {n: t for n, t in zip(TOKENS, by_step, strict=True) if t is not None},
        "cost_reported": snap.cost_raw if snap is not None else None,
        "calls": [[*usage, time_us] for usage, time_us in _calls(state)],
    }


def _calls(state: RunState) -> list[tuple[Usage, int]]:
    """What each step states of its call, and the event's time in microseconds, in the order of the ids.

    One by one: prices have tiers by the size of a request, so sums alone would not bear a price out.
    """
    steps = ((step.usage, step.time_s) for _, step in sorted(state.steps.items()))
    return [(usage, round(at_s * _US)) for usage, at_s in steps if usage is not None and any(_stated(usage))]


def _stated(usage: Usage) -> Sequence[bool]:
    return [count is not None for count in usage[2:6]]
