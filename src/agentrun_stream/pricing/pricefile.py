"""The file `prices.toml`: its rows, what is wrong with it, and the document that its digest is made of.

Must not live here: how its rows apply (overrides.py), reading files.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from agentrun_stream.errors import ConfigError
from agentrun_stream.pricing.book import NAME_CHARS_MAX, PER_MILLION, Prices, tier_name

FILE: Final = "prices.toml"
PRICE_USD_MAX: Final = 1_000_000  # per million tokens, or per request
DIGITS_MAX: Final = 18  # after the point, per million tokens
PERCENT_MAX: Final = 100
STEPS_MAX: Final = 16
CONTRACT: Final = "contract"
LIST: Final = "list"

_TOKENS: Final = ("input", "cache_read", "cache_write", "cache_write_1h", "output")
_METERS: Final = (*_TOKENS, "request")
_WHERE: Final = ("provider", "model", "tier", "from", "until", "note")
_MEMBERS: Final = {
    "price": {*_WHERE, *_METERS, "kind", "above"},
    "discount": {*_WHERE, "percent"},
    "above": {"input_tokens", *_METERS},
}


class Entry(NamedTuple):
    """A price of one's own. `model` is a name in lower case, or its beginning with a star."""

    number: int
    provider: str | None
    model: str
    tier: str
    since: date | None
    until: date | None
    prices: Prices
    steps: tuple[tuple[int, Prices], ...]
    contract: bool


class Discount(NamedTuple):
    """So many percent less than listed."""

    number: int
    provider: str | None
    model: str
    tier: str | None
    since: date | None
    until: date | None
    percent: Decimal


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the file says. `document` is its content as JSON, the same for the same content however it is written."""

    entries: tuple[Entry, ...] = ()
    discounts: tuple[Discount, ...] = ()
    providers: Mapping[str, str] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)


class Problem(NamedTuple):
    """What is wrong, and where."""

    where: str
    text: str


class _WrongError(ValueError):
    """A member is not as it must be."""


def parse(text: str) -> dict[str, Any]:
    """The document of a file. Raises ConfigError where it is no TOML."""
    try:
        found: dict[str, Any] = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The price file is no TOML: {error}.", "Mend that line.") from None
    return found


def load(document: Mapping[str, Any]) -> Overrides:
    """The overrides of a document. Raises ConfigError for the first thing that is wrong."""
    overrides, problems = read(document)
    if problems:
        where, text = problems[0]
        raise ConfigError(f"The price file is wrong at {where}: {text}.", f"See `agentrun prices check {FILE}`.")
    return overrides


def read(document: Mapping[str, Any]) -> tuple[Overrides, list[Problem]]:
    """What a document says, and all that is wrong with it; a row that is wrong is left out."""
    problems = [
        Problem(name, "is no section of this file") for name in document.keys() - {"price", "discount", "providers"}
    ]
    entries = tuple(_rows(document, "price", _entry, problems))
    discounts = tuple(_rows(document, "discount", _discount, problems))
    providers = document.get("providers", {})
    if not isinstance(providers, dict) or not all(isinstance(name, str) for name in providers.values()):
        problems.append(Problem("providers", "maps a name to a name of the book"))
        providers = {}
    # Numbers are written out only when all are known to be of a sane size.
    return Overrides(entries, discounts, dict(providers), {} if problems else _plain(document)), problems


def _rows(
    document: Mapping[str, Any], name: str, make: Callable[[int, dict[str, Any]], Any], problems: list[Problem]
) -> Iterator[Any]:
    rows = document.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        problems.append(Problem(name, f"is written as [[{name}]]"))
        return
    for number, row in enumerate(rows, 1):
        try:
            _only(row, name)
            yield make(number, row)
        except _WrongError as error:
            problems.append(Problem(f"{name} {number}", str(error)))


def _entry(number: int, row: dict[str, Any]) -> Entry:
    prices = _prices(row)
    if all(price is None for price in prices):
        raise _WrongError(f"states no price; one of {', '.join(_METERS)}")
    kind = row.get("kind", CONTRACT)
    if kind not in {CONTRACT, LIST}:
        raise _WrongError(f"kind is {CONTRACT} or {LIST}")
    provider, model, tier, since, until = _where(row)
    return Entry(number, provider, model, tier_name(tier), since, until, prices, _above(row), kind == CONTRACT)


def _discount(number: int, row: dict[str, Any]) -> Discount:
    percent = _decimal(row, "percent", PERCENT_MAX)
    if not percent:
        raise _WrongError("percent is more than 0 and at most 100")
    provider, model, tier, since, until = _where(row)
    return Discount(number, provider, model, None if tier is None else tier_name(tier), since, until, percent)


def _where(row: dict[str, Any]) -> tuple[str | None, str, str | None, date | None, date | None]:
    model = _name(row, "model")
    if model is None:
        raise _WrongError("model is missing; a name, its beginning with a *, or * for all")
    if "*" in model[:-1]:
        raise _WrongError("a * stands at the end of a model's name only")
    since, until = _day(row, "from"), _day(row, "until")
    if since is not None and until is not None and since >= until:
        raise _WrongError("until is the first day after, so it is later than from")
    provider = _name(row, "provider")
    return provider if provider is None else provider.lower(), model.lower(), _name(row, "tier"), since, until


def _above(row: dict[str, Any]) -> tuple[tuple[int, Prices], ...]:
    steps = row.get("above", [])
    if not isinstance(steps, list) or len(steps) > STEPS_MAX or not all(isinstance(step, dict) for step in steps):
        raise _WrongError(f"above is a list of at most {STEPS_MAX} tables")
    found = []
    for step in steps:
        _only(step, "above")
        above = step.get("input_tokens")
        if type(above) is not int or above < 0:
            raise _WrongError("above needs input_tokens, a count")
        found.append((above, _prices(step)))
    if [above for above, _ in found] != sorted({above for above, _ in found}):
        raise _WrongError("above rises from row to row")
    return tuple(found)


def _prices(row: dict[str, Any]) -> Prices:
    given, read, write, hour, output = (_per_token(row, name) for name in _TOKENS)
    return Prices(given, read, write, hour, output, _decimal(row, "request", PRICE_USD_MAX))


def _per_token(row: dict[str, Any], name: str) -> Decimal | None:
    price = _decimal(row, name, PRICE_USD_MAX)
    return None if price is None else price.scaleb(PER_MILLION)


def _decimal(row: dict[str, Any], name: str, most: int) -> Decimal | None:
    value = row.get(name)
    if value is None:
        return None
    try:
        number = Decimal(value) if type(value) in {str, int, Decimal} else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if not (number.is_finite() and 0 <= number <= most):
        raise _WrongError(f"{name} is a number from 0 to {most}")
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -DIGITS_MAX:
        raise _WrongError(f"{name} has more than {DIGITS_MAX} digits after the point")
    return number


def _name(row: dict[str, Any], name: str) -> str | None:
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > NAME_CHARS_MAX:
        raise _WrongError(f"{name} is a text of 1 to {NAME_CHARS_MAX} characters")
    return value


def _day(row: dict[str, Any], name: str) -> date | None:
    value = row.get(name)
    if value is None or (isinstance(value, date) and not isinstance(value, datetime)):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise _WrongError(f"{name} is a day, as 2026-01-31") from None


def _only(row: dict[str, Any], kind: str) -> None:
    unknown = sorted(row.keys() - _MEMBERS[kind])
    if unknown:
        raise _WrongError(f"has no member {unknown[0]}; it has {', '.join(sorted(_MEMBERS[kind]))}")


def _plain(value: Any) -> Any:
    """The document as JSON: numbers as their shortest digits, days as text, notes left out."""
    if isinstance(value, Mapping):
        return {k: value[k] if k == "input_tokens" else _plain(value[k]) for k in sorted(value) if k != "note"}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, Decimal | int) and not isinstance(value, bool):
        return _digits(Decimal(value))
    return value.isoformat() if isinstance(value, date) else value


def _digits(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
