"""A provider's invoice as CSV: which columns hold what, what is wrong with which line, names as the price book has them.

Must not live here: files, what the store keeps of it (store/invoices.py), comparing (reconcile.py).
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Final, NamedTuple

from agentrun_stream.pricing.book import PriceBook
from agentrun_stream.pricing.focus import CURRENCY, Cells
from agentrun_stream.store.invoices import InvoiceLine

PARTS: Final = ("provider", "day", "model", "amount", "currency", "tokens", "invoice")
_NEEDED: Final = ("provider", "day", "model", "amount")
_FOCUS: Final = {
    "provider": "ProviderName",
    "day": "ChargePeriodStart",
    "model": "x_Model",
    "amount": "BilledCost",
    "currency": "BillingCurrency",
    "tokens": "ConsumedQuantity",
    "invoice": "InvoiceId",
}
_FOCUS_SIGNS: Final = frozenset({"BilledCost", "ChargePeriodStart"})
_AMOUNT: Final = re.compile(r"[+-]?\d{1,20}(\.\d{1,12}0*)?\Z")
_TOKENS: Final = re.compile(r"\d{1,18}\Z")
_NOON: Final = time(12, tzinfo=UTC)
_YEARS: Final = range(2000, 2100)
_TOKEN_UNITS: Final = frozenset({None, "token", "tokens"})


class Wrong(NamedTuple):
    """A line that can't be read, and why."""

    line: int
    text: str


class Parsed(NamedTuple):
    """An invoice's lines by its id ('' where it names none), and what is wrong with others."""

    invoices: Mapping[str, Sequence[InvoiceLine]]
    wrong: Sequence[Wrong]


def columns(header: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """Which column holds which part: as named, else as FOCUS has it in a FOCUS file, else of the part's own name."""
    focus = set(header) >= _FOCUS_SIGNS
    found = {part: _FOCUS[part] if focus else part for part in PARTS} | dict(named)
    return {part: name for part, name in found.items() if name in header or part in named}


def lacking(header: Sequence[str], held: Mapping[str, str]) -> list[str]:
    """The parts without a column, and the named columns that there are not."""
    return [part for part in PARTS if (part in _NEEDED and part not in held) or held.get(part, header[0]) not in header]


def parse(rows: Iterable[tuple[int, Cells]], held: Mapping[str, str], book: PriceBook) -> Parsed:
    """The lines of an invoice; a part of `PARTS` is in the column that `held` names."""
    invoices: dict[str, list[InvoiceLine]] = {}
    wrong: list[Wrong] = []
    for number, row in rows:
        cells = {part: row.get(name) for part, name in held.items()}
        problems = list(_problems(cells))
        wrong += [Wrong(number, text) for text in problems]
        if not problems:
            unit = (row.get("ConsumedUnit") or "tokens").lower()
            invoices.setdefault(cells.get("invoice") or "", []).append(_line(number, cells, unit, book))
    return Parsed(invoices, wrong)


def digest(lines: Sequence[InvoiceLine]) -> str:
    """Equal for invoices that say the same, whatever their columns are called and whichever names a price book has."""
    said = (f"{x.line}\n{x.model_sent}\n{x.day}\n{x.amount}\n{x.currency}\n{x.tokens}\n" for x in lines)
    return hashlib.sha256("".join(said).encode()).hexdigest()


def _problems(cells: Cells) -> Iterator[str]:
    for part in ("provider", "day", "amount"):
        if cells.get(part) is None:
            yield f"the {part} is empty"
    day, amount, currency, tokens = (cells.get(part) for part in ("day", "amount", "currency", "tokens"))
    if day is not None and _day(day) is None:
        yield f"{day!r} is no day, such as 2026-01-31"
    if amount is not None and not _AMOUNT.match(amount):
        yield f"{amount!r} is no amount: digits with a point, at most 12 decimals, no currency sign"
    if currency is not None and currency.upper() != CURRENCY:
        yield f"the amount is in {currency!r}, and ours are in US dollars: convert it first"
    if tokens is not None and not _TOKENS.match(tokens):
        yield f"{tokens!r} is no number of tokens"


def _line(number: int, cells: Cells, unit: str, book: PriceBook) -> InvoiceLine:
    day = _day(cells.get("day") or "")
    assert day is not None
    provider, model, tokens = cells.get("provider") or "", cells.get("model") or "", cells.get("tokens")
    names = _names(book, (provider, model), day)
    counted = tokens if unit in _TOKEN_UNITS else None
    amount = Decimal(cells.get("amount") or 0)
    return InvoiceLine(number, *names, model, day, amount, CURRENCY, None if counted is None else int(counted))


def _names(book: PriceBook, names: tuple[str, str], day: date) -> tuple[str, str]:
    """Provider and model as charges name them; as sent where the book does not know them."""
    rates = book.rates(*names, datetime.combine(day, _NOON).timestamp(), None)
    return names if isinstance(rates, str) else (rates.provider, rates.model)


def _day(text: str) -> date | None:
    """A day, or the UTC day of a time; None where it is none, or of no century in which models cost anything."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if at.year not in _YEARS:
        return None
    return (at if at.tzinfo is None else at.astimezone(UTC)).date()
