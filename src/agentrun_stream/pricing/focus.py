"""FOCUS, the FinOps Open Cost and Usage Specification: its columns as far as they are used here, and whether rows keep its rules.

Written after version 1.2; the rules that 1.3 added hold as well. Cells are text, None is null. Must not live here: where
charges come from (runtime/charges.py), files.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Final, NamedTuple

from agentrun_stream.pricing.book import OK
from agentrun_stream.pricing.sheet import EXACT, TIER_AMBIGUOUS

Cells = Mapping[str, str | None]

CURRENCY: Final = "USD"
USAGE: Final = "Usage"
ADJUSTMENT: Final = "Adjustment"
# Why a row has no cost; a column of our own, as x_ says.
STATUS: Final = "x_PriceStatus"

_DECIMAL: Final = re.compile(r"[+-]?\d+(\.\d+)?([Ee][+-]?\d+)?\Z")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
_CURRENCY: Final = re.compile(r"[A-Z]{3}\Z")
_NAME: Final = re.compile(r"(x_[A-Za-z0-9]+|[A-Z][A-Za-z0-9]*)\Z")
_PRICED: Final = frozenset({None, OK, TIER_AMBIGUOUS})


class Null(Enum):
    """When a cell may be null. `UNPRICED`: only where the row says why there is no price, which FOCUS does not know."""

    NEVER = 1
    UNPRICED = 2
    ANY = 3


class Column(NamedTuple):
    """A column: whether a file must have it, when it is null, what a value looks like, which values there are."""

    name: str
    kind: str = "text"
    null: Null = Null.ANY
    needed: bool = False
    values: Sequence[str] = ()


def _must(name: str, kind: str = "text", null: Null = Null.NEVER, values: Sequence[str] = ()) -> Column:
    return Column(name, kind, null, needed=True, values=values)


_CATEGORIES: Final = (
    *("AI and Machine Learning", "Analytics", "Business Applications", "Compute", "Databases", "Developer Tools"),
    *("Identity", "Integration", "Internet of Things", "Management and Governance", "Media", "Migration", "Mobile"),
    *("Multicloud", "Networking", "Security", "Storage", "Web", "Other"),
)

COLUMNS: Final = (
    _must("BilledCost", "decimal", Null.UNPRICED),
    _must("BillingAccountId"),
    _must("BillingAccountName", null=Null.ANY),
    Column("BillingAccountType"),
    _must("BillingCurrency", "currency"),
    _must("BillingPeriodEnd", "time"),
    _must("BillingPeriodStart", "time"),
    _must("ChargeCategory", values=(USAGE, "Purchase", "Tax", "Credit", ADJUSTMENT)),
    _must("ChargeClass", null=Null.ANY, values=("Correction",)),
    _must("ChargeDescription", null=Null.ANY),
    Column("ChargeFrequency", null=Null.NEVER, values=("One-Time", "Recurring", "Usage-Based")),
    _must("ChargePeriodEnd", "time"),
    _must("ChargePeriodStart", "time"),
    Column("ConsumedQuantity", "decimal"),
    Column("ConsumedUnit"),
    _must("ContractedCost", "decimal", Null.UNPRICED),
    Column("ContractedUnitPrice", "price"),
    _must("EffectiveCost", "decimal", Null.UNPRICED),
    Column("InvoiceId"),
    _must("InvoiceIssuerName", null=Null.UNPRICED),
    _must("ListCost", "decimal", Null.UNPRICED),
    Column("ListUnitPrice", "price"),
    Column("PricingCategory", values=("Standard", "Dynamic", "Committed", "Other")),
    _must("PricingQuantity", "decimal", null=Null.ANY),
    _must("PricingUnit", null=Null.ANY),
    _must("ProviderName", null=Null.UNPRICED),
    _must("PublisherName", null=Null.UNPRICED),
    _must("ServiceCategory", values=_CATEGORIES),
    _must("ServiceName"),
    Column("ServiceSubcategory"),
    Column("SkuId"),
    Column("SkuMeter"),
    Column("SkuPriceDetails", "object"),
    Column("SkuPriceId"),
    Column("SubAccountId"),
    Column("SubAccountName"),
    Column("SubAccountType"),
    Column("Tags", "object"),
)
_BY_NAME: Final = {column.name: column for column in COLUMNS}


class Problem(NamedTuple):
    """What is wrong: in which line of the file (the header is 1), in which column."""

    line: int
    column: str
    text: str


def _object(text: str) -> bool:
    try:
        held = json.loads(text)
    except ValueError:
        return False
    return isinstance(held, dict) and not any(isinstance(value, dict | list) for value in held.values())


def _moment(text: str) -> bool:
    try:
        return _TIME.match(text) is not None and datetime.fromisoformat(text) is not None
    except ValueError:
        return False


_KINDS: Final[Mapping[str, tuple[Callable[[str], object], str]]] = {
    "text": (lambda text: text == text.strip(), "has spaces around it"),
    "decimal": (_DECIMAL.match, "is no decimal number"),
    "price": (lambda text: _DECIMAL.match(text) and not text.startswith("-"), "is no decimal number from 0 on"),
    "time": (_moment, "is no time of the form 2026-01-31T00:00:00Z"),
    "currency": (_CURRENCY.match, "is no currency code of ISO 4217"),
    "object": (_object, "is no JSON object of plain values"),
}


def _usage(row: Cells) -> bool:
    return row.get("ChargeCategory") in {USAGE, "Purchase"} and row.get("ChargeClass") != "Correction"


def _unpriced(row: Cells) -> bool:
    return row.get(STATUS) not in _PRICED


def _product(row: Cells, price: str, cost: str) -> bool:
    given = [row.get(name) for name in (price, "PricingQuantity", cost)]
    if None in given:
        return given[0] is None or given[1] is None or _unpriced(row)
    unit, quantity, amount = (Decimal(cell or 0) for cell in given)
    return EXACT.multiply(unit, quantity) == amount


class Rule(NamedTuple):
    """A rule about one row: the column that it is told of, whether the row keeps it, what it says."""

    column: str
    keeps: Callable[[Cells], bool]
    text: str


def _in_order(first: str, last: str, column: str, text: str, *, equal: bool = False) -> Rule:
    def keeps(row: Cells) -> bool:
        one, other = row.get(first) or "", row.get(last) or ""
        return one < other or (equal and one == other)

    return Rule(column, keeps, text)


def _together(one: str, other: str) -> Rule:
    return Rule(
        one, lambda row: (row.get(one) is None) == (row.get(other) is None), f"and {other} are not null together"
    )


def _used(name: str, *, priced: bool) -> Rule:
    def keeps(row: Cells) -> bool:
        return not _usage(row) or row.get(name) is not None or (priced and _unpriced(row))

    return Rule(name, keeps, "is null in a charge for usage")


def _with_sku_price(name: str) -> Rule:
    return Rule(
        name, lambda row: row.get("SkuPriceId") is not None or row.get(name) is None, "is not null, and SkuPriceId is"
    )


def _list_cost(row: Cells) -> bool:
    return row.get("ListUnitPrice") is not None or row.get("ListCost") == row.get("BilledCost") or _unpriced(row)


# Each is asked only of rows in which every cell by itself is right.
RULES: Final = (
    _in_order("ChargePeriodStart", "ChargePeriodEnd", "ChargePeriodEnd", "is not after ChargePeriodStart"),
    _in_order("BillingPeriodStart", "BillingPeriodEnd", "BillingPeriodEnd", "is not after BillingPeriodStart"),
    _in_order(
        "BillingPeriodStart", "ChargePeriodStart", "ChargePeriodStart", "is before the billing period", equal=True
    ),
    _in_order("ChargePeriodEnd", "BillingPeriodEnd", "ChargePeriodEnd", "is after the billing period", equal=True),
    Rule("ListCost", lambda row: _product(row, "ListUnitPrice", "ListCost"), "is not ListUnitPrice x PricingQuantity"),
    Rule(
        "ContractedCost",
        lambda row: _product(row, "ContractedUnitPrice", "ContractedCost"),
        "is not ContractedUnitPrice x PricingQuantity",
    ),
    Rule("ListCost", _list_cost, "is not BilledCost, and there is no unit price"),
    _together("PricingUnit", "PricingQuantity"),
    _together("ConsumedUnit", "ConsumedQuantity"),
    _together("SubAccountType", "SubAccountId"),
    Rule(
        "ConsumedQuantity",
        lambda row: row.get("ChargeCategory") == USAGE or row.get("ConsumedQuantity") is None,
        "is not null, and the charge is no usage",
    ),
    *(_used(name, priced=False) for name in ("SkuId", "SkuPriceId", "PricingCategory")),
    *(
        _used(name, priced=True)
        for name in ("PricingQuantity", "ListUnitPrice", "ContractedUnitPrice", "ConsumedQuantity")
    ),
    *map(_with_sku_price, ("PricingQuantity", "ListUnitPrice", "ContractedUnitPrice", "PricingCategory")),
    Rule(
        "ChargeFrequency",
        lambda row: row.get("ChargeFrequency") != "Usage-Based" or row.get("ChargeCategory") != "Purchase",
        "is Usage-Based, and the charge a purchase",
    ),
)


def check(header: Sequence[str], rows: Iterable[tuple[int, Cells]]) -> Iterator[Problem]:
    """Everything that is wrong with a file: its header, then its rows one by one, each with its line."""
    yield from _header(header)
    known = [_BY_NAME[name] for name in header if name in _BY_NAME]
    skus: dict[str, str | None] = {}
    for line, row in rows:
        wrong = [Problem(line, column.name, text) for column in known if (text := _cell(column, row))]
        if not wrong and all(column.name in header for column in COLUMNS if column.needed):
            wrong = [Problem(line, rule.column, rule.text) for rule in RULES if not rule.keeps(row)]
        yield from wrong
        price = row.get("SkuPriceId")
        if price is not None and skus.setdefault(price, row.get("SkuId")) != row.get("SkuId"):
            yield Problem(line, "SkuPriceId", "stands for another SkuId than before")


def _header(header: Sequence[str]) -> Iterator[Problem]:
    for name in sorted({name for name in header if header.count(name) > 1}):
        yield Problem(1, name, "stands twice in the header")
    for column in COLUMNS:
        if column.needed and column.name not in header:
            yield Problem(1, column.name, "is missing")
    for name in header:
        if not _NAME.match(name):
            yield Problem(1, name, "is no column name: PascalCase, or x_ and letters for a column of your own")


def _cell(column: Column, row: Cells) -> str | None:
    """What is wrong with a cell by itself."""
    value = row.get(column.name)
    if value is None:
        allowed = column.null is Null.ANY or (column.null is Null.UNPRICED and _unpriced(row))
        return None if allowed else "is null"
    looks, text = _KINDS[column.kind]
    if not looks(value):
        return text
    return f"is none of: {', '.join(column.values)}" if column.values and value not in column.values else None
