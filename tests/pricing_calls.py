"""Short words for calls and bills in tests of prices."""

from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any

from agentrun_stream.model.usage import Bill, Call
from agentrun_stream.pricing.book import PriceBook
from agentrun_stream.pricing.books import open_book
from agentrun_stream.pricing.price import Explanation, explain

NOTHING = Call(None, None, None, None, None, None, None, None, None, None, 0.0)
SONNET = ("anthropic", "claude-3-7-sonnet-20250219")


@cache
def book() -> PriceBook:
    return open_book()


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def call(provider: str | None, model: str | None, given: int | None, output: int | None, **more: Any) -> Call:
    names = {"read": "cache_read_tokens", "write": "cache_write_tokens", "hour": "cache_write_1h_tokens"}
    names |= {"total": "total_tokens", "tier": "service_tier"}
    at_s = at(more.pop("day", "2025-10-01"))
    stated = {names.get(name, name): value for name, value in more.items()}
    return NOTHING._replace(
        provider=provider, model=model, input_tokens=given, output_tokens=output, at_s=at_s, **stated
    )


def total(one: Call, reported: str | None = None, own: PriceBook | None = None) -> Explanation:
    """A run that states only its total."""
    return explained(Bill(one, (), None if reported is None else Decimal(reported)), own)


def steps(*calls: Call, run: Call = NOTHING, reported: str | None = None) -> Explanation:
    """A run that is priced by its steps."""
    return explained(Bill(run, calls, None if reported is None else Decimal(reported)))


def explained(bill: Bill, own: PriceBook | None = None) -> Explanation:
    told = explain(bill, own or book())
    known = told.priced.cost_lo if told.priced.cost_computed is None else told.priced.cost_computed
    if known is not None:
        assert sum((line.amount for line in told.lines), Decimal(0)) == known
    assert all(line.unit_price * line.quantity == line.amount for line in told.lines)
    return told
