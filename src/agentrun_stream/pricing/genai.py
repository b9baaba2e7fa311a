"""The default price book: the prices that the pinned genai-prices package ships, never refreshed.

Must not live here: prices of one's own (overrides.py).
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Final

import genai_prices
from genai_prices.data import providers as shipped
from genai_prices.data_snapshot import DataSnapshot, find_provider_by_id
from genai_prices.types import (
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from agentrun_stream.pricing.book import (
    CACHE_ENTRIES_MAX,
    CONTEXT_UNPRICED,
    PER_MILLION,
    UNKNOWN_MODEL,
    UNKNOWN_PROVIDER,
    ZERO,
    Prices,
    Rates,
    tier_name,
    too_long,
    with_fallbacks,
)

NAME: Final = "genai-prices"
DAY_S: Final = 86_400
PER_THOUSAND: Final = -3
SOURCE: Final = f"{NAME} {genai_prices.__version__}"

# Meters of ours -> meters of the package. What it prices besides (searches, audio, pages) no usage of ours states.
_TOKEN_KEYS: Final = (
    ("input_mtok",),
    ("cache_read_mtok",),
    ("cache_write_5m_mtok", "cache_write_mtok"),
    ("cache_write_1h_mtok",),
    ("output_mtok",),
)
_REQUEST_KEY: Final = "requests_kcount"
# Under which names the package's own price variants ask for a tier.
_TIER_KEYS: Final = ("service_tier", "processing", "speed")

Price = Decimal | TieredPrices


class Timed:
    """The rates of a day on which the price depends on the hour: rates[i] from edges[i] (seconds since midnight, UTC) on."""

    __slots__ = ("edges", "rates")

    def __init__(self, edges: list[int], rates: list[Rates | str]) -> None:
        self.edges = edges
        self.rates = rates


class GenaiBook:
    """Prices of genai-prices, each resolved once per (provider, model, day, tier)."""

    def __init__(self) -> None:
        self.content = content()
        self.digest = hashlib.sha256(self.content.encode()).hexdigest()
        self._forget()

    def _forget(self) -> None:
        # The package remembers every name it was ever asked for; names come from outside, so it starts anew with us.
        self._snapshot = DataSnapshot(providers=shipped, from_auto_update=False)
        self._cache: dict[tuple[str | None, str | None, int, str | None], Rates | str | Timed] = {}

    def rates(self, provider: str | None, model: str | None, at_s: float, tier: str | None) -> Rates | str:
        """The rates of a model at a time, or why there are none."""
        day = int(at_s // DAY_S)
        key = (provider, model, day, tier)
        found = self._cache.get(key)
        if found is None:
            if too_long(provider, model, tier):
                return UNKNOWN_MODEL
            if len(self._cache) >= CACHE_ENTRIES_MAX:
                self._forget()
            found = self._cache[key] = self._resolve(provider, model, day, tier_name(tier))
        if type(found) is Timed:
            return found.rates[bisect_right(found.edges, at_s - day * DAY_S) - 1]
        assert not isinstance(found, Timed)
        return found

    def _resolve(self, provider: str | None, model: str | None, day: int, tier: str) -> Rates | str | Timed:
        if provider is not None and not self._knows(provider):
            return UNKNOWN_PROVIDER
        if not model:
            return UNKNOWN_MODEL
        try:
            owner, info = self._snapshot.find_provider_model(model, None, provider, None)
        except LookupError:
            return UNKNOWN_MODEL
        midnight = datetime.fromtimestamp(day * DAY_S, UTC)
        edges = sorted({0, *(edge for limit in constraints(info) for edge in _hours(limit))})
        found = [rates_of(owner, info, midnight + timedelta(seconds=edge), tier) for edge in edges]
        return found[0] if len(edges) == 1 else Timed(edges, found)

    def _knows(self, provider: str) -> bool:
        return provider.lower() == "litellm" or find_provider_by_id(shipped, provider) is not None


@cache
def content() -> str:
    """What this book is: the package, its version, and a digest of all the prices and matching rules that it ships."""
    data = hashlib.sha256(repr(shipped).encode()).hexdigest()
    return json.dumps({"book": NAME, "data": data, "version": genai_prices.__version__}, sort_keys=True)


def rates_of(owner: Provider, info: ModelInfo, at: datetime, tier: str) -> Rates | str:
    """The rates of a model of the package at a time and tier, with those before the last change of price."""
    now = _rates(owner, info, at, tier)
    if isinstance(now, str):
        return now
    for start in reversed(change_dates(info)):
        if start > at.date():
            continue
        earlier = _rates(owner, info, datetime.combine(start - timedelta(days=1), at.timetz()), tier)
        if isinstance(earlier, Rates) and (earlier.base, earlier.steps) != (now.base, now.steps):
            return replace(now, before=earlier)
    return now


def change_dates(info: ModelInfo) -> list[date]:
    """The days from which a price of the model applies."""
    return sorted({c.start_date for c in constraints(info) if isinstance(c, StartDateConstraint)})


def constraints(info: ModelInfo) -> Iterator[StartDateConstraint | TimeOfDateConstraint]:
    """When the prices of a model apply, as far as that is limited."""
    dated: list[ConditionalPrice] = [] if isinstance(info.prices, ModelPrice) else info.prices
    for row in (*dated, *(info.price_variants or ())):
        if row.constraint is not None:
            yield row.constraint


def _hours(limit: StartDateConstraint | TimeOfDateConstraint) -> Iterator[int]:
    if isinstance(limit, TimeOfDateConstraint):
        for edge in (limit.start_time, limit.end_time):
            yield _seconds(edge)


def _seconds(clock: time) -> int:
    aware = clock if clock.tzinfo is not None else clock.replace(tzinfo=UTC)
    at = datetime.combine(date(2000, 1, 1), aware).astimezone(UTC).time()
    return at.hour * 3_600 + at.minute * 60 + at.second


def _rates(owner: Provider, info: ModelInfo, at: datetime, tier: str) -> Rates | str:
    asked = dict.fromkeys(_TIER_KEYS, tier) if tier else None
    if asked is not None and not _has_variant(owner, info, at, asked):
        return CONTEXT_UNPRICED
    stated = {k: v for k, v in info.get_prices(at, asked).__dict__.items() if v is not None}
    if not stated:
        # The package writes "no charge" and "no price known" alike; only a name can tell them apart.
        if not info.id.endswith(":free"):
            return UNKNOWN_MODEL
        free = with_fallbacks(Prices(ZERO, None, None, None, ZERO))
        return Rates(owner.id, info.id, f"{SOURCE}, free", free)
    keys = {key for names in _TOKEN_KEYS for key in names} | {_REQUEST_KEY}
    tiered = [v for k, v in stated.items() if k in keys and isinstance(v, TieredPrices)]
    cliffs = sorted({step.start for price in tiered for step in price.tiers})
    steps = tuple((cliff, _prices(stated, cliff)) for cliff in cliffs)
    return Rates(owner.id, info.id, SOURCE, _prices(stated, -1), steps)


def _has_variant(owner: Provider, info: ModelInfo, at: datetime, asked: dict[str, str]) -> bool:
    if not any(info is model for model in owner.models):
        return False  # a model borrowed from another provider: its tiers are not this one's
    return any(
        (row.constraint is None or row.constraint.active(at)) and all(asked.get(k) == v for k, v in row.when.items())
        for row in info.price_variants or ()
    )


def _prices(stated: dict[str, Price], cliff: int) -> Prices:
    """The prices above `cliff` input tokens; -1 for the base."""
    given, read, five, hour, output = (
        next((_at(stated[key], cliff).scaleb(PER_MILLION) for key in keys if key in stated), None)
        for keys in _TOKEN_KEYS
    )
    request = _at(stated[_REQUEST_KEY], cliff).scaleb(PER_THOUSAND) if _REQUEST_KEY in stated else ZERO
    return with_fallbacks(Prices(given, read, five, hour, output, request))


def _at(price: Price, cliff: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    passed = [step.price for step in price.tiers if step.start <= cliff]
    return passed[-1] if passed else price.base
