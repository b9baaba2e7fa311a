"""Prices of one's own, from `prices.toml`: contracts, discounts, models and tiers that the book lacks. They win over it.

Must not live here: reading files, how the file is written (pricefile.py).
"""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from agentrun_stream.pricing.book import (
    CACHE_ENTRIES_MAX,
    PriceBook,
    Prices,
    Rates,
    tier_name,
    too_long,
    with_fallbacks,
)
from agentrun_stream.pricing.pricefile import Discount, Entry, Overrides
from agentrun_stream.pricing.sheet import EXACT

SOURCE: Final = "prices.toml"
_DAY_S: Final = 86_400
_ALL: Final = Decimal(100)


class Asked(NamedTuple):
    """What is looked up: names as they were reported, the names that the book knows them by, and when."""

    providers: tuple[str, ...]
    models: tuple[str, ...]
    tier: str
    day: date


class OverriddenBook:
    """A book with prices of one's own above it. The last entry of the file that fits counts."""

    def __init__(self, base: PriceBook, overrides: Overrides) -> None:
        self._base = base
        self._over = overrides
        body = {"base": json.loads(base.content), "book": SOURCE, "overrides": overrides.document}
        self.content = json.dumps(body, sort_keys=True)
        self.digest = hashlib.sha256(self.content.encode()).hexdigest()
        self._cache: dict[tuple[Any, ...], Rates | str] = {}

    def rates(self, provider: str | None, model: str | None, at_s: float, tier: str | None) -> Rates | str:
        """The rates of a model at a time, or why there are none."""
        known = provider if provider is None else self._over.providers.get(provider, provider)
        base = self._base.rates(known, model, at_s, tier)
        day = int(at_s // _DAY_S)
        key = (provider, model, day, tier, base)
        found = self._cache.get(key)
        if found is None:
            if too_long(provider, model, tier):
                return base
            if len(self._cache) >= CACHE_ENTRIES_MAX:
                self._cache.clear()
            asked = _asked((provider, known), model, base, (tier_name(tier), day))
            found = self._cache[key] = base if asked is None else self._apply(asked, base)
        return found

    def _apply(self, asked: Asked, base: Rates | str) -> Rates | str:
        entry = next((e for e in reversed(self._over.entries) if fits(e, asked)), None)
        found = base if entry is None else _priced(entry, asked, base)
        if isinstance(found, str):
            return found
        discount = next((d for d in reversed(self._over.discounts) if fits(d, asked)), None)
        return found if discount is None else _discounted(discount, found)


def _asked(
    providers: tuple[str | None, str | None], model: str | None, base: Rates | str, when: tuple[str, int]
) -> Asked | None:
    if not model:
        return None
    tier, day = when
    owners, names = [name.lower() for name in providers if name], [model.lower()]
    if isinstance(base, Rates):
        owners.append(base.provider)
        names.append(base.model.lower())
    return Asked(tuple(owners), tuple(names), tier, datetime.fromtimestamp(day * _DAY_S, UTC).date())


def fits(row: Entry | Discount, asked: Asked) -> bool:
    """Whether a row of the file is about what is asked."""
    return (
        (row.provider is None or row.provider in asked.providers)
        and any(_named(row.model, name) for name in asked.models)
        and (asked.tier == row.tier if isinstance(row, Entry) else row.tier in {None, asked.tier})
        and (row.since is None or row.since <= asked.day)
        and (row.until is None or asked.day < row.until)
    )


def _named(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _priced(entry: Entry, asked: Asked, base: Rates | str) -> Rates:
    """The rates of an entry. A meter that it leaves out keeps the book's price; where there is none, the general meter's.

    The book's tiers do not carry over: an entry without `above` costs the same at any length.
    """
    held = Prices(None, None, None, None, None) if isinstance(base, str) else base.base
    own = _over(entry.prices, held)
    steps = tuple((above, with_fallbacks(_over(prices, own))) for above, prices in entry.steps)
    if isinstance(base, Rates):
        provider, model = base.provider, base.model
    else:
        provider, model = entry.provider or next(iter(asked.providers), ""), asked.models[0]
    source = f"{SOURCE} price {entry.number}"
    return Rates(provider, model, source, with_fallbacks(own), steps, contract=entry.contract)


def _over(prices: Prices, held: Prices) -> Prices:
    """`prices`, and of `held` what they leave out. A longer life that is not priced costs as the stated shorter one does."""
    given, read, five, hour, output, request = prices
    hour = five if hour is None else hour
    stated = (given, read, five, hour, output, request)
    return Prices(*(h if own is None else own for own, h in zip(stated, held, strict=True)))


def _discounted(discount: Discount, listed: Rates) -> Rates:
    factor = EXACT.subtract(Decimal(1), discount.percent.scaleb(-2))

    def less(prices: Prices) -> Prices:
        return Prices(*(None if price is None else EXACT.multiply(price, factor) for price in prices))

    return replace(
        listed,
        source=f"{listed.source}, {SOURCE} discount {discount.number}",
        base=less(listed.base),
        steps=tuple((above, less(prices)) for above, prices in listed.steps),
        contract=True,
        listed=listed,
        before=None,
    )
