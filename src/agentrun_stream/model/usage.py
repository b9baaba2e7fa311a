"""What a model call is billed by: its counts as stated, how they are meant, and the exclusive buckets they fall into.

Unknown is None, never zero. Must not live here: how a convention is decided, prices (pricing/).
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from agentrun_stream.model import ledger
from agentrun_stream.model.run import Usage
from agentrun_stream.model.terms import Terms, terms


class Call(NamedTuple):
    """One model call, or a run's total taken as one. All members but the last are those of `model.run.Usage`, in its order.

    `at_s` is the event's own time: what the call is priced at. `convention` is the declared one, where there is one.
    """

    provider: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    total_tokens: int | None
    cache_write_1h_tokens: int | None
    service_tier: str | None
    convention: str | None
    at_s: float

    @property
    def stated(self) -> bool:
        """Whether any count is stated that a price could apply to; a bare total is none."""
        return not (self[2] is None and self[3] is None and self[4] is None and self[5] is None)


class Buckets(NamedTuple):
    """Exclusive counts: each token is in one of them. Reasoning tokens are inside output."""

    input_uncached: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output: int


class Bill(NamedTuple):
    """All that a run's price depends on, prices aside: its total, its steps' calls, the reported amount, its producer."""

    run: Call
    steps: Sequence[Call] = ()
    reported: Decimal | None = None
    runtime: str | None = None
    runtime_version: str | None = None


def step_call(metadata: dict[str, Any] | None, tokens_used: Any, at_s: float) -> Call | None:
    """The call that a step states in `metadata.usage`; None where it states none."""
    said = ledger.step_usage(metadata, tokens_used)
    return None if said is None else call_of(said, at_s)


def call_of(usage: Usage, at_s: float) -> Call | None:
    """A step's usage as a call at a time; None where it states no count that a price could apply to."""
    call = Call(*usage, at_s)
    return call if call.stated else None


def run_call(doc: dict[str, Any], at_s: float) -> Call:
    """The total that a snapshot states, as if it were one call. What `cost.metadata` says counts before the run's own."""
    cost = doc.get("cost") or {}
    said = terms(cost.get("metadata"), cost)
    if None in said and type(doc.get("metadata")) is dict:
        own = terms(doc["metadata"], {})
        said = Terms(said[0], said[1] or own[1], said[2] or own[2])
    given, output, read, write, total = ledger.run_tokens(doc)
    provider, model = doc.get("provider"), cost.get("model") or doc.get("model")
    life, tier, meant = said
    return Call(provider, model, given, output, read, write, total, life, tier, meant, at_s)


def bill_of(doc: dict[str, Any], steps: Sequence[Call], at_s: float, reported: Decimal | None = None) -> Bill:
    """The bill of a run, from its snapshot and its steps' calls."""
    return Bill(run_call(doc, at_s), steps, reported, doc.get("runtime"), doc.get("runtime_version"))
