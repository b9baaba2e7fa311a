"""What stored runs were priced from, line by line, and what of them has no price.

Must not live here: SQL, printing, prices.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentrun_stream.model.opinions import Opinions, no_prices
from agentrun_stream.model.run import RunState
from agentrun_stream.model.usage import Bill, Buckets, run_call
from agentrun_stream.pipeline import project
from agentrun_stream.pricing.book import PriceBook
from agentrun_stream.pricing.price import NO_USAGE, Explanation, explain

Name = tuple[str, str, str, str]  # provider, model, service tier, price status


@dataclass(slots=True)
class Lacking:
    """What one name has no price for: how many runs and calls, and the tokens that are known."""

    runs: int = 0
    calls: int = 0
    tokens: int = 0


def explained(state: RunState, opinions: Opinions, book: PriceBook) -> Explanation:
    """How the amount came about that a book gives a run, for what is shown of it under these opinions."""
    bills: list[Bill] = []

    def price(bill: Bill) -> Mapping[str, Any]:
        bills.append(bill)
        return no_prices(bill)

    project(state, "", 0, replace(opinions, price=price))
    return explain(bills[0] if bills else Bill(run_call({}, 0.0)), book)


def unpriced(states: Iterable[RunState], opinions: Opinions, book: PriceBook) -> dict[Name, Lacking]:
    """What these runs have no price for, by name; a run that states no tokens at all is under no name."""
    found: dict[Name, Lacking] = {}
    for state in states:
        told = explained(state, opinions, book)
        named: dict[Name, list[Buckets | None]] = {}
        for call in told.unpriced:
            name = (call.provider or "", call.model or "", call.service_tier or "", call.status)
            named.setdefault(name, []).append(call.counts)
        if told.priced.price_status == NO_USAGE:
            named["", "", "", NO_USAGE] = []
        for name, calls in named.items():
            lacking = found.setdefault(name, Lacking())
            lacking.runs += 1
            lacking.calls += len(calls)
            lacking.tokens += sum(sum(counts) for counts in calls if counts is not None)
    return found
