"""Why a reported amount differs from the computed one: the first hypothesis that fits, in the order of a table.

Must not live here: how the computed amount comes about (sheet.py).
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Final

from agentrun_stream.model.terms import EXCLUSIVE
from agentrun_stream.pricing.book import Rates
from agentrun_stream.pricing.sheet import BY_AGGREGATE, Counts, Sheet, amount, input_of, total

MATCH: Final = "match"
UNEXPLAINED: Final = "unexplained"
SUBSCRIPTION_ZERO: Final = "subscription_zero"
TOLERANCE: Final = Decimal("0.000001")
TOLERANCE_SHARE: Final = Decimal("0.005")
_HALF: Final = Decimal("0.5")

Guess = Callable[[Sheet, Decimal], Iterable[Decimal]]


def classify(sheet: Sheet, computed: Decimal, reported: Decimal) -> str:
    """The class of the difference between what was reported and what was computed."""
    if _near(reported, computed):
        return MATCH
    if not reported:
        return SUBSCRIPTION_ZERO
    return next(
        (n for n, guess in HYPOTHESES if any(_near(reported, one) for one in guess(sheet, computed))), UNEXPLAINED
    )


def _near(reported: Decimal, expected: Decimal) -> bool:
    return abs(reported - expected) <= max(TOLERANCE, TOLERANCE_SHARE * expected)


def _recounted(sheet: Sheet, change: Callable[[Counts], Counts]) -> Decimal:
    return total(amount(rates.prices(level), change(counts)) for (rates, level), counts in sheet.groups.items())


def _twice(counts: Counts) -> Counts:
    given, read, five, hour, output, requests = counts
    return given + read + five + hour, read, five, hour, output, requests


def _counted_twice(sheet: Sheet, _: Decimal) -> Iterable[Decimal]:
    yield _recounted(sheet, _twice)


def _cache_ignored(sheet: Sheet, _: Decimal) -> Iterable[Decimal]:
    """Cached tokens at the price of others, or not at all."""
    yield _recounted(sheet, lambda c: (input_of(c), 0, 0, 0, c[4], c[5]))
    yield _recounted(sheet, lambda c: (c[0], 0, 0, 0, c[4], c[5]))


def _other_convention(sheet: Sheet, _: Decimal) -> Iterable[Decimal]:
    if any(decision.convention == EXCLUSIVE for decision in sheet.decisions):
        yield _recounted(sheet, lambda c: (max(0, c[0] - c[1] - c[2] - c[3]), *c[1:]))
    else:
        yield _recounted(sheet, _twice)


def _other_life(sheet: Sheet, _: Decimal) -> Iterable[Decimal]:
    """All cache writes with the longer life, or all with the shorter."""
    yield _recounted(sheet, lambda c: (c[0], c[1], 0, c[2] + c[3], *c[4:]))
    yield _recounted(sheet, lambda c: (c[0], c[1], c[2] + c[3], 0, *c[4:]))


def _half(_: Sheet, computed: Decimal) -> Iterable[Decimal]:
    yield computed * _HALF


def _by_run_total(sheet: Sheet, _: Decimal) -> Iterable[Decimal]:
    """All calls at the tier of their sum; of a total that was priced at the base, at any tier that it reaches."""
    together: dict[Rates, list[int]] = {}
    for (rates, _level), counts in sheet.groups.items():
        held = together.get(rates)
        together[rates] = list(counts) if held is None else [a + b for a, b in zip(held, counts, strict=True)]
    yield total(amount(rates.prices(rates.level(input_of(c))), c) for rates, c in together.items())
    if sheet.basis == BY_AGGREGATE:
        for rates, counts in together.items():
            yield from (amount(prices, counts) for _above, prices in rates.steps)


def _previous(sheet: Sheet, _: Decimal) -> Iterable[Decimal]:
    if any(rates.before is not None for rates, _level in sheet.groups):
        yield total(amount((r.before or r).prices(level), counts) for (r, level), counts in sheet.groups.items())


HYPOTHESES: Final[tuple[tuple[str, Guess], ...]] = (
    ("cache_double_counted", _counted_twice),
    ("cache_ignored", _cache_ignored),
    ("other_convention", _other_convention),
    ("write_ttl_1h", _other_life),
    ("batch_or_flex_half", _half),
    ("tier_by_run_total", _by_run_total),
    ("previous_price", _previous),
)
CLASSES: Final = (MATCH, *(name for name, _ in HYPOTHESES), SUBSCRIPTION_ZERO, UNEXPLAINED)
