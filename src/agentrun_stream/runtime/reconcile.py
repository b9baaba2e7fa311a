"""What a provider invoiced beside what our runs come to, by provider, model and day; and how much of a difference is explained.

Must not live here: reading invoices (invoice.py), what runs are charged for (charges.py), printing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final, NamedTuple

from agentrun_stream.model import money
from agentrun_stream.pricing.sheet import EXACT
from agentrun_stream.runtime.charges import DAY_S, HOUR_S, REPORTED, UNPRICED, Charges, cost
from agentrun_stream.store.invoices import InvoiceLine

BOTH: Final = "both"
ONLY_INVOICED: Final = "only_invoiced"
ONLY_OURS: Final = "only_ours"

# The reasons, in the order in which they are asked; a class of differences stands behind the colon.
DIFFERENCE: Final = "reported:"
NO_PRICE: Final = "unpriced"
TIME_ZONE: Final = "time_zone"
EDGE: Final = "time_zone_at_the_edge"

# No time zone is further from UTC.
_ZONE_HOURS: Final = 14
_DAY: Final = timedelta(days=1)
_ZERO: Final = Decimal(0)
_UNEXPLAINED: Final = frozenset({"", "unexplained"})
_SHARE: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
_SHARE_DIGITS: Final = Decimal("0.0001")

Name = tuple[str, str]  # provider, model


@dataclass(slots=True)
class Ours:
    """What our runs come to in an hour: the known amount, what has no price, differences to what was reported by class."""

    amount: Decimal | None = None
    unpriced: int = 0
    unpriced_tokens: int = 0
    classes: dict[str, Decimal] = field(default_factory=dict)


Hours = dict[Name, dict[int, Ours]]


class Reason(NamedTuple):
    """Why invoice and runs differ, and by how much; None where that can't be told."""

    reason: str
    amount: Decimal | None


@dataclass(slots=True)
class Compared:
    """A provider's model on a day. The difference is invoiced less the known part of ours.

    `unpriced` counts calls without a price, `left` is the part of it that has no reason.
    """

    provider: str
    model: str
    day: date
    side: str
    invoiced: Decimal | None
    ours: Decimal | None
    unpriced: int
    difference: Decimal
    left: Decimal
    reasons: list[Reason] = field(default_factory=list)

    @property
    def explained(self) -> Decimal:
        """The part of the difference that has a reason."""
        return EXACT.subtract(self.difference, self.left)

    def explain(self, reason: str, amount: Decimal) -> None:
        """Take as much off what is left as the reason explains: never more, and never the other way."""
        taken = min(amount, self.left) if self.left > 0 else max(amount, self.left)
        if taken and (taken > 0) == (self.left > 0):
            self.reasons.append(Reason(reason, taken))
            self.left = EXACT.subtract(self.left, taken)


def by_hour(periods: Iterable[Charges]) -> Hours:
    """Charges of hours, by provider and model."""
    found: Hours = {}
    for period in periods:
        for key, sums in period.items():
            ours = found.setdefault((key.provider, key.model), {}).setdefault(key.start_s, Ours())
            if key.meter == UNPRICED:
                ours.unpriced += sums.charges
                ours.unpriced_tokens += int(sums.quantity)
            elif key.meter == REPORTED:
                ours.classes[key.source] = EXACT.add(ours.classes.get(key.source, _ZERO), sums.effective or _ZERO)
            else:  # also of a run that is priced in part: an invoice knows calls and no runs
                ours.amount = EXACT.add(ours.amount or _ZERO, cost(key, sums, key.unit_price) or _ZERO)
    return found


def reconcile(lines: Sequence[InvoiceLine], ours: Hours) -> list[Compared]:
    """Every provider, model and day of the invoice, and those that only we have: of its providers, between its days."""
    invoiced: dict[tuple[Name, date], list[InvoiceLine]] = {}
    for line in lines:
        invoiced.setdefault(((line.provider, line.model), line.day), []).append(line)
    first, last = min(line.day for line in lines), max(line.day for line in lines)
    providers = {line.provider for line in lines}
    wanted = invoiced.keys() | {
        (name, day) for name, hours in ours.items() if name[0] in providers
        for hour in hours if first <= (day := _day(hour)) <= last
    }  # fmt: skip
    found = {key: _compared(key, invoiced.get(key), ours.get(key[0], {})) for key in sorted(wanted)}
    for name in sorted({name for name, _ in found}):
        _time_zones(name, (first, last), found, ours.get(name, {}))
    return list(found.values())


def _compared(key: tuple[Name, date], lines: Sequence[InvoiceLine] | None, hours: Mapping[int, Ours]) -> Compared:
    (provider, model), day = key
    mine = [one for hour, one in hours.items() if _day(hour) == day]
    known = [one.amount for one in mine if one.amount is not None]
    amount = _sum(known) if known else None
    billed = None if lines is None else _sum(line.amount for line in lines)
    difference = EXACT.subtract(billed or _ZERO, amount or _ZERO)
    side = ONLY_OURS if billed is None else BOTH if mine else ONLY_INVOICED
    unpriced = sum(one.unpriced for one in mine)
    made = Compared(provider, model, day, side, billed, amount, unpriced, difference, difference)
    for kind in sorted({kind for one in mine for kind in one.classes} - _UNEXPLAINED):
        made.explain(DIFFERENCE + kind, _sum(one.classes.get(kind, _ZERO) for one in mine))
    if unpriced:
        _unpriced(made, lines or (), sum(one.unpriced_tokens for one in mine))
    return made


def _unpriced(made: Compared, lines: Sequence[InvoiceLine], tokens: int) -> None:
    """By their share in the invoice's tokens; all of it where nothing of ours has a price; else nobody knows how much."""
    counted = sum(line.tokens or 0 for line in lines)
    if made.ours is None:
        made.explain(NO_PRICE, made.left)
    elif counted and tokens and made.invoiced is not None:
        share = _SHARE.divide(_SHARE.multiply(made.invoiced, min(tokens, counted)), counted)
        made.explain(NO_PRICE, money.rounded(share))
    else:
        made.reasons.append(Reason(NO_PRICE, None))


def _time_zones(
    name: Name, span: tuple[date, date], found: Mapping[tuple[Name, date], Compared], hours: Mapping[int, Ours]
) -> None:
    """What is too much before a midnight and too little after it, or the other way, may lie in another time zone.

    No more than our runs cost in the hours around it. Beyond the invoice's first and last day nothing is known of the other
    side, so there the reason has no amount.
    """
    for day in sorted(day for other, day in found if other == name):
        before, after = found.get((name, day - _DAY)), found[name, day]
        if before is not None:
            _move(before, after, _near(hours, day, before=True))
            _move(after, before, _near(hours, day, before=False))
    for day, midnight in ((span[0], span[0]), (span[1], span[1] + _DAY)):
        at_edge = found.get((name, day))
        near = _near(hours, midnight, before=True) or _near(hours, midnight, before=False)
        if at_edge is not None and at_edge.left and near:
            at_edge.reasons.append(Reason(EDGE, None))


def _move(over: Compared, under: Compared, near: Decimal) -> None:
    """Of `over` we have more than was invoiced, of `under` less: as much may have been invoiced on the other day."""
    moved = min(-over.left, under.left, near)
    if moved > 0:
        over.explain(TIME_ZONE, -moved)
        under.explain(TIME_ZONE, moved)


def _near(hours: Mapping[int, Ours], midnight: date, *, before: bool) -> Decimal:
    """What our runs cost in the hours before a midnight, or after it."""
    at = int(datetime(midnight.year, midnight.month, midnight.day, tzinfo=UTC).timestamp())
    starts = range(at - _ZONE_HOURS * HOUR_S, at, HOUR_S) if before else range(at, at + _ZONE_HOURS * HOUR_S, HOUR_S)
    return _sum(one.amount or _ZERO for start in starts if (one := hours.get(start)) is not None)


def share(explained: Decimal, difference: Decimal) -> Decimal | None:
    """The explained share of a difference, with 4 decimals; None where there is no difference."""
    return abs(_SHARE.divide(explained, difference)).quantize(_SHARE_DIGITS) if difference else None


def days(lines: Sequence[InvoiceLine]) -> tuple[int, int]:
    """From when to when our runs are asked for, in seconds: a day more on both sides, for other time zones."""
    first, last = min(line.day for line in lines), max(line.day for line in lines)
    start = int(datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp())
    return max(0, start - DAY_S), start + ((last - first).days + 2) * DAY_S


def _day(second: int) -> date:
    return datetime.fromtimestamp(second, UTC).date()


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    found = _ZERO
    for amount in amounts:
        found = EXACT.add(found, amount)
    return found
