"""A run's calls, each at its rates and level, counted together; and what they come to, exactly.

Counts are added first and multiplied once, which is the same because nothing is rounded here. Must not live here: the
choice between amounts (price.py), differences to what was reported (difference.py).
"""

from collections.abc import Iterable, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from operator import add
from typing import Final, NamedTuple

from agentrun_stream.model.terms import EXCLUSIVE, INCLUSIVE, UNKNOWN
from agentrun_stream.model.usage import Bill, Buckets, Call
from agentrun_stream.pricing import conventions
from agentrun_stream.pricing.book import CONTEXT_UNPRICED, METERS, OK, UNKNOWN_MODEL, ZERO, PriceBook, Prices, Rates
from agentrun_stream.pricing.conventions import Decision

INCONSISTENT: Final = "inconsistent_usage"
TIER_AMBIGUOUS: Final = "tier_ambiguous"
BY_STEPS: Final = "steps"
BY_AGGREGATE: Final = "run_aggregate"

# Raises where a digit would be lost.
EXACT: Final = Context(prec=120, traps=[Inexact, InvalidOperation, Overflow])

Counts = Sequence[int]  # of the meters of Prices, in their order
Key = tuple[Rates, int]  # rates, and the level that applies


class Unpriced(NamedTuple):
    """A call without a price, in full or in part (`partly`), and why. `counts` are its exclusive ones, where they are known."""

    provider: str | None
    model: str | None
    service_tier: str | None
    status: str
    at_s: float
    counts: Buckets | None
    partly: bool


class Sheet:
    """What a bill comes to: counts by rates and level, how far the amount may be off below and above, what has no price.

    `above` is None where nothing bounds the amount.
    """

    __slots__ = ("above", "as_of", "basis", "below", "decisions", "groups", "statuses", "unpriced")

    def __init__(self, basis: str) -> None:
        self.basis = basis
        self.groups: dict[Key, list[int]] = {}
        self.statuses: set[str] = set()
        self.decisions: set[Decision] = set()
        self.unpriced: list[Unpriced] = []
        self.as_of = 0.0
        self.below = ZERO
        self.above: Decimal | None = ZERO

    def total(self) -> Decimal:
        """What the priced part comes to."""
        return total(amount(rates.prices(level), counts) for (rates, level), counts in self.groups.items())


def amount(prices: Prices, counts: Counts) -> Decimal:
    """What the counts come to, those without a price left out."""
    found = ZERO
    for price, count in zip(prices, counts, strict=True):
        if count and price is not None:
            found = EXACT.fma(price, count, found)
    return found


def total(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum."""
    found = ZERO
    for one in amounts:
        found = EXACT.add(found, one)
    return found


def fill(bill: Bill, book: PriceBook) -> Sheet | None:
    """The sheet of a bill: of its steps' calls where any is stated, else of the run's total; None where there is neither."""
    calls = [call for call in bill.steps if call.stated]
    if not calls and not bill.run.stated:
        return None
    sheet = Sheet(BY_STEPS if calls else BY_AGGREGATE)
    profiled = conventions.profile(bill.runtime, bill.runtime_version)
    for call in _add_plain(sheet, calls, bill.run, book, profiled) if calls else (bill.run,):
        _add(sheet, call, _rates(call, bill.run, book), (bill.run, profiled))
    return sheet


def _add_plain(sheet: Sheet, calls: list[Call], run: Call, book: PriceBook, profiled: Decision | None) -> list[Call]:
    """Count the calls that leave nothing to be weighed; return the others, for `_add`, which would count these the same.

    Written for speed: 1 us a call, where `_add` takes 3, and a run may have thousands.
    """
    others: list[Call] = []
    groups, rates_of, as_of = sheet.groups, book.rates, sheet.as_of
    run_provider, run_model, run_tier, run_meant = run.provider, run.model, run.service_tier, run.convention
    for call in calls:
        provider, model, given, output, read, write, _, longer, tier, meant, at_s = call
        rates = rates_of(provider or run_provider, model or run_model, at_s, tier or run_tier)
        decision = conventions.evident(meant or run_meant, profiled, read or write)
        if isinstance(rates, str) or decision is None or not rates.complete or given is None or output is None:
            others.append(call)
            continue
        read, write, longer = read or 0, write or 0, longer or 0
        cached = read + write
        if decision.convention == INCLUSIVE:
            given -= cached
        if given < 0 or longer > write:
            others.append(call)
            continue
        key = (rates, rates.level(given + cached) if rates.steps else 0)
        counts = groups.get(key)
        if counts is None:
            counts = groups[key] = [0] * len(METERS)
            sheet.statuses.add(OK)
        counts[0] += given
        counts[1] += read
        counts[2] += write - longer
        counts[3] += longer
        counts[4] += output
        counts[5] += 1
        sheet.decisions.add(decision)
        if at_s > as_of:  # noqa: PLR1730 - twice as fast as max()
            as_of = at_s
    sheet.as_of = as_of
    return others


def _rates(call: Call, run: Call, book: PriceBook) -> Rates | str:
    model, tier = call.model or run.model, call.service_tier or run.service_tier
    found = book.rates(call.provider or run.provider, model, call.at_s, tier)
    if found == UNKNOWN_MODEL and call.provider is None and model != run.model:
        # The run's provider does not have this step's model, so it came from another one.
        return book.rates(None, model, call.at_s, tier)
    return found


def _add(sheet: Sheet, call: Call, rates: Rates | str, said: tuple[Call, Decision | None]) -> None:
    run, profiled = said
    provider, model = call.provider or run.provider, call.model or run.model
    owner = (rates.provider, rates.model) if not isinstance(rates, str) else (provider, model)
    decision = conventions.decide(call, call.convention or run.convention, profiled, owner)
    sheet.decisions.add(decision)
    sheet.as_of = max(sheet.as_of, call.at_s)
    readings = _readings(call, decision.convention)
    if isinstance(rates, str):
        status: str | None = rates
    elif not readings:
        status = INCONSISTENT
    else:
        _count(sheet, rates, readings)
        status = _lacking(call, rates, readings[0])
    if status is None:
        sheet.statuses.add(OK)
        return
    sheet.statuses.add(status)
    counts = readings[0] if readings else None
    partly = counts is not None and not isinstance(rates, str)
    tier = call.service_tier or run.service_tier
    sheet.unpriced.append(Unpriced(provider, model, tier, status, call.at_s, counts, partly))


def _readings(call: Call, convention: str) -> list[Buckets]:
    """The buckets that the call may mean: one, none where it contradicts itself, two where nobody knows."""
    meant = (INCLUSIVE, EXCLUSIVE) if convention == UNKNOWN else (convention,)
    return [held for one in meant if (held := conventions.buckets(call, one)) is not None]


def _count(sheet: Sheet, rates: Rates, readings: list[Buckets]) -> None:
    chosen = readings[0]
    level = rates.level(input_of(chosen)) if rates.steps else 0
    if len(readings) > 1 or (level and sheet.basis == BY_AGGREGATE):
        chosen, level = _span(sheet, rates, readings)
    if sheet.basis == BY_AGGREGATE and rates.base.request:
        sheet.above = None  # how many requests it was is not known
        sheet.statuses.add(TIER_AMBIGUOUS)
    key, counts = (rates, level), [*chosen, 1]
    held = sheet.groups.get(key)
    sheet.groups[key] = counts if held is None else list(map(add, held, counts))


def _span(sheet: Sheet, rates: Rates, readings: list[Buckets]) -> tuple[Buckets, int]:
    """The cheapest reading at its level, or at the base where calls are added up; what else it may cost widens the bounds."""
    found = []
    for reading in readings:
        top = rates.level(input_of(reading))
        levels = range(top + 1) if sheet.basis == BY_AGGREGATE else (top,)
        found += [(amount(rates.prices(level), (*reading, 1)), level, reading) for level in levels]
    amounts = [row[0] for row in found]
    if sheet.basis == BY_AGGREGATE:
        if any(level for _, level, _ in found):
            sheet.statuses.add(TIER_AMBIGUOUS)
        found = [row for row in found if row[1] == 0]
    cost, level, chosen = min(found)
    sheet.below = EXACT.add(sheet.below, EXACT.subtract(cost, min(amounts)))
    if sheet.above is not None:
        sheet.above = EXACT.add(sheet.above, EXACT.subtract(max(amounts), cost))
    return chosen, level


def _lacking(call: Call, rates: Rates, counts: Buckets) -> str | None:
    """Why a part of the call has no price: a count that it does not state, or a meter that the book does not price."""
    prices = rates.base
    if (call.input_tokens is None and prices.input_uncached != ZERO) or (
        call.output_tokens is None and prices.output is not None and prices.output != ZERO
    ):
        return INCONSISTENT
    if not rates.complete and any(price is None and count for price, count in zip(prices, counts, strict=False)):
        return CONTEXT_UNPRICED
    return None


def input_of(counts: Counts) -> int:
    """All input tokens, cached ones included: what tiers go by."""
    return sum(counts[:4])
