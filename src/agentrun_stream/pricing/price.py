"""What a run costs: computed, bounded, compared with what was reported, and explained line by line.

Must not live here: where prices come from (book.py), how counts are meant (conventions.py).
"""

from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Final, NamedTuple

from agentrun_stream.model import money
from agentrun_stream.model.terms import EITHER, MIXED, UNKNOWN
from agentrun_stream.model.usage import Bill, Buckets
from agentrun_stream.pricing.book import (
    CONTEXT_UNPRICED,
    METERS,
    OK,
    UNKNOWN_MODEL,
    UNKNOWN_PROVIDER,
    PriceBook,
    Rates,
)
from agentrun_stream.pricing.conventions import Decision
from agentrun_stream.pricing.difference import classify
from agentrun_stream.pricing.sheet import EXACT, INCONSISTENT, TIER_AMBIGUOUS, Sheet, Unpriced, fill

NO_USAGE: Final = "no_usage"
REPORTED: Final = "reported"
COMPUTED: Final = "computed"
CONTRACT: Final = "contract"
NONE: Final = "none"

# Of several calls' statuses a run shows the one that stands first.
STATUSES: Final = (UNKNOWN_PROVIDER, UNKNOWN_MODEL, CONTEXT_UNPRICED, INCONSISTENT, TIER_AMBIGUOUS, OK, NO_USAGE)
# Which amount counts, where there are several: the first that there is.
PREFERENCE: Final = (CONTRACT, REPORTED, COMPUTED)

ROUNDING: Final = "rounding"
_SHARES: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
_NO_DECISION: Final = Decision(UNKNOWN, NONE)


class Priced(NamedTuple):
    """A run's amounts in US dollars with 12 decimals, and how they came about. None is unknown, never zero.

    Where any part has no price, `cost_computed` and `cost_hi` are None and `cost_lo` is the known part, if there is one.
    `tokens` are the exclusive counts that were found, priced or not.
    """

    cost_computed: Decimal | None
    cost_lo: Decimal | None
    cost_hi: Decimal | None
    cost_effective: Decimal | None
    effective_source: str
    price_status: str
    price_basis: str | None
    token_convention: str | None
    convention_evidence: str | None
    price_book: str
    price_as_of: float | None
    diff_abs: Decimal | None
    diff_rel: Decimal | None
    diff_class: str | None
    tokens: Buckets | None


_NOTHING: Final = Priced(None, None, None, None, NONE, NO_USAGE, None, None, None, "", None, None, None, None, None)


class Line(NamedTuple):
    """One meter of one model at one price: quantity x unit price = amount, exactly. `above` is the tier's input count.

    `list_price` is the unit price before a discount. A line of the meter `rounding` brings the sum to 12 decimals.
    """

    provider: str
    model: str
    meter: str
    quantity: int
    unit_price: Decimal
    amount: Decimal
    list_price: Decimal
    source: str
    above: int | None


class Explanation(NamedTuple):
    """A price with its lines, which add up to `cost_computed` (where it is None, to `cost_lo`), and with what has no price."""

    priced: Priced
    lines: tuple[Line, ...]
    unpriced: tuple[Unpriced, ...]


def price(bill: Bill, book: PriceBook, preference: Sequence[str] = PREFERENCE) -> Priced:
    """What a run costs by a price book."""
    return _judge(bill, book, fill(bill, book), preference)


def explain(bill: Bill, book: PriceBook, preference: Sequence[str] = PREFERENCE) -> Explanation:
    """The same with its lines, in an order that does not depend on that of the calls."""
    sheet = fill(bill, book)
    priced = _judge(bill, book, sheet, preference)
    if sheet is None:
        return Explanation(priced, (), ())
    unpriced = sorted(sheet.unpriced, key=_order)
    return Explanation(priced, _lines(sheet), tuple(unpriced))


def _order(call: Unpriced) -> tuple[Any, ...]:
    names = (call.provider or "", call.model or "", call.service_tier or "", call.status)
    return *names, call.at_s, call.counts or (), call.partly


def columns(priced: Priced) -> dict[str, Any]:
    """The members of a price as the store and the topic show them: amounts as text."""
    shown = {k: money.text(v) if isinstance(v, Decimal) else v for k, v in priced._asdict().items() if k != "tokens"}
    tokens = priced.tokens
    return shown | (dict.fromkeys(Buckets._fields) if tokens is None else tokens._asdict())


def pricing_by(book: PriceBook, preference: Sequence[str] = PREFERENCE) -> Callable[[Bill], dict[str, Any]]:
    """What a projection asks: the members of a bill's price by this book."""
    return lambda bill: columns(price(bill, book, preference))


def _judge(bill: Bill, book: PriceBook, sheet: Sheet | None, preference: Sequence[str]) -> Priced:
    reported = bill.reported
    if sheet is None:
        counts = reported is not None and REPORTED in preference
        source, effective = (REPORTED, reported) if counts else (NONE, None)
        return _NOTHING._replace(cost_effective=effective, effective_source=source, price_book=book.digest)
    computed, lo, hi = _amounts(sheet)
    contract = computed if computed is not None and all(rates.contract for rates, _ in sheet.groups) else None
    known = {CONTRACT: contract, REPORTED: reported, COMPUTED: computed}
    source = next((name for name in preference if known[name] is not None), NONE)
    status = next(status for status in STATUSES if status in sheet.statuses)
    convention, evidence = _decision(sheet.decisions)
    difference, share, kind = _difference(sheet, computed, reported)
    return Priced(
        computed,
        lo,
        hi,
        known.get(source),
        source,
        status,
        sheet.basis,
        convention,
        evidence,
        book.digest,
        sheet.as_of,
        difference,
        share,
        kind,
        _tokens(sheet),
    )


def _amounts(sheet: Sheet) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
    """(computed, lower bound, upper bound)."""
    exact = sheet.total()
    if sheet.unpriced:
        return None, money.rounded(EXACT.subtract(exact, sheet.below)) if exact else None, None
    computed = money.rounded(exact)
    lo = money.rounded(EXACT.subtract(exact, sheet.below)) if sheet.below else computed
    if sheet.above is None:
        return computed, lo, None
    return computed, lo, money.rounded(EXACT.add(exact, sheet.above)) if sheet.above else computed


def _difference(
    sheet: Sheet, computed: Decimal | None, reported: Decimal | None
) -> tuple[Decimal | None, Decimal | None, str | None]:
    if computed is None or reported is None:
        return None, None, None
    difference = money.difference(reported, computed)
    assert difference is not None
    share = money.rounded(_SHARES.divide(difference, computed)) if computed else None
    return difference, share, classify(sheet, computed, reported)


def _decision(decisions: set[Decision]) -> Decision:
    """One convention for the run: calls without cached tokens go with the others, and one unknown makes all unknown."""
    if len(decisions) == 1:
        (only,) = decisions
        return only
    telling = sorted(d for d in decisions if d.convention != EITHER)
    conventions = {d.convention for d in telling}
    evidence = ", ".join(dict.fromkeys(d.evidence for d in telling))
    if UNKNOWN in conventions:
        return _NO_DECISION
    return Decision(telling[0].convention if len(conventions) == 1 else MIXED, evidence)


def _tokens(sheet: Sheet) -> Buckets | None:
    held: list[Sequence[int]] = [counts[:5] for counts in sheet.groups.values()]
    held += [call.counts for call in sheet.unpriced if call.counts is not None and not call.partly]
    return Buckets(*(held[0] if len(held) == 1 else map(sum, zip(*held, strict=True)))) if held else None


def _lines(sheet: Sheet) -> tuple[Line, ...]:
    quantities: dict[tuple[Any, ...], int] = {}
    for (rates, level), counts in sheet.groups.items():
        for key, count in _meters(rates, level, counts):
            quantities[key] = quantities.get(key, 0) + count
    lines = [
        Line(provider, model, meter, quantity, unit, EXACT.multiply(unit, quantity), listed, source, above)
        for (provider, model, meter, unit, listed, source, above), quantity in quantities.items()
    ]
    lines.sort(
        key=lambda x: (
            x.provider,
            x.model,
            METERS.index(x.meter),
            -1 if x.above is None else x.above,
            x.unit_price,
            x.source,
            x.list_price,
        )
    )
    exact = sheet.total()
    rest = EXACT.subtract(money.rounded(exact), exact)
    if rest:
        lines.append(Line("", "", ROUNDING, 1, rest, rest, rest, "12 decimals, half-even", None))
    return tuple(lines)


def _meters(rates: Rates, level: int, counts: Sequence[int]) -> list[tuple[tuple[Any, ...], int]]:
    prices, listed = rates.prices(level), (rates.listed or rates).prices(level)
    above = rates.steps[level - 1][0] if level else None
    return [
        ((rates.provider, rates.model, meter, unit, before, rates.source, above), count)
        for meter, unit, before, count in zip(METERS, prices, listed, counts, strict=True)
        if count and unit is not None and (unit or meter != "request")
    ]
