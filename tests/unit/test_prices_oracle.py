"""Our multiplication against genai-prices itself: every model, meter, tier and date that it ships."""

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from genai_prices.types import ModelInfo, PriceCalculation, Provider, TimeOfDateConstraint

from agentrun_stream.model.terms import EXCLUSIVE, INCLUSIVE
from agentrun_stream.model.usage import Bill, Call
from agentrun_stream.pricing import genai
from agentrun_stream.pricing.book import CONTEXT_UNPRICED, UNKNOWN_MODEL, Rates
from agentrun_stream.pricing.genai import GenaiBook
from agentrun_stream.pricing.price import Priced, price
from agentrun_stream.pricing.sheet import amount

TIERS = ("", "batch", "flex", "priority", "fast")
CACHES = ((0, 0, 0), (700, 300, 0), (600, 400, 150), (1, 500, 500))
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Use(NamedTuple):
    """Exclusive counts of a request."""

    given: int
    read: int
    write: int
    hour: int
    output: int

    def counts(self) -> tuple[int, ...]:
        return self.given, self.read, self.write - self.hour, self.hour, self.output, 1

    def theirs(self) -> Usage:
        given = self.given + self.read + self.write
        split = {"cache_write_1h_tokens": self.hour, "cache_write_5m_tokens": self.write - self.hour}
        return Usage(
            input_tokens=given,
            output_tokens=self.output,
            cache_read_tokens=self.read,
            cache_write_tokens=self.write,
            **split,
        )


def moments(info: ModelInfo) -> list[datetime]:
    """Each day on which a price changes and the day before; on those, each side of every hour that matters."""
    days = {NOW.date()} | {d + timedelta(days=n) for d in genai.change_dates(info) for n in (-1, 0)}
    clocks = {time(12)}
    for limit in genai.constraints(info):
        if isinstance(limit, TimeOfDateConstraint):
            edges = [datetime.combine(NOW.date(), t, tzinfo=UTC) for t in (limit.start_time, limit.end_time)]
            clocks |= {(edge + timedelta(seconds=s)).time() for edge in edges for s in (-1, 0)}
    return [datetime.combine(day, clock, tzinfo=UTC) for day in sorted(days) for clock in sorted(clocks)]


def uses(rates: Rates) -> Iterator[Use]:
    """With and without each cache bucket: few tokens, and both sides of each cliff of the price."""
    for total in {1_000, *(above + side for above, _ in rates.steps for side in (0, 1))}:
        for read, write, hour in CACHES:
            yield Use(total - read - write, read, write, hour, 777)


@pytest.mark.parametrize("provider", providers, ids=lambda p: p.id)
def test_every_price_multiplies_as_the_package_multiplies(provider: Provider) -> None:
    """Every model, date, tier of length and service tier: the same amount to the last digit, or no amount at all."""
    compared = 0
    for info in provider.models:
        for at in moments(info):
            for tier in TIERS:
                rates = genai.rates_of(provider, info, at, tier)
                if isinstance(rates, str):
                    assert_is_unpriced(info, tier, rates)
                    continue
                context = {"service_tier": tier, "processing": tier, "speed": tier} if tier else None
                for use in uses(rates):
                    theirs = info.calc_price(use.theirs(), provider, genai_request_timestamp=at, price_context=context)
                    ours = amount(rates.prices(rates.level(sum(use[:3]))), use.counts())
                    assert ours == theirs.total_price, (info.id, at, tier, use)
                    compared += 1
    assert compared or all(not m.prices for m in provider.models)


def assert_is_unpriced(info: ModelInfo, tier: str, status: str) -> None:
    """Unpriced is what the package would call 0 because it has no price, or a tier that it does not know."""
    if status == UNKNOWN_MODEL:
        assert not vars(info.get_prices(NOW))
    else:
        assert tier
        assert status == CONTEXT_UNPRICED


@pytest.mark.parametrize("provider", providers, ids=lambda p: p.id)
def test_every_name_finds_the_price_that_the_package_finds(provider: Provider) -> None:
    """Through the book's own door, by provider and name, for an inclusive and an exclusive producer."""
    book = GenaiBook()
    use = Use(123_457, 2_345, 0, 0, 6_789)
    for info in provider.models:
        for declared, given in ((EXCLUSIVE, use.given), (INCLUSIVE, use.given + use.read)):
            call = Call(
                provider.id, info.id, given, use.output, use.read, 0, None, None, None, declared, NOW.timestamp()
            )
            ours = price(Bill(call, [call]), book)
            try:
                theirs = calc_price(use.theirs(), info.id, provider_id=provider.id, genai_request_timestamp=NOW)
            except LookupError:
                assert ours.price_status == UNKNOWN_MODEL
                continue
            assert_same(ours, theirs)


def assert_same(ours: Priced, theirs: PriceCalculation) -> None:
    meters = vars(theirs.model_price)
    if "input_mtok" in meters and "output_mtok" in meters:
        assert ours.price_status == "ok"
        assert ours.cost_computed == theirs.total_price.quantize(Decimal("1e-12"))
    elif ours.price_status == "ok":
        assert ours.cost_computed == theirs.total_price == 0
        assert theirs.model.id.endswith(":free")
    else:
        assert ours.cost_computed is None
        assert ours.price_status == (CONTEXT_UNPRICED if meters else UNKNOWN_MODEL)


def test_hours_of_the_day_through_the_book() -> None:
    """A price that depends on the hour is found by the hour, from one cached day."""
    book = GenaiBook()
    at = datetime(2025, 6, 11, tzinfo=UTC).timestamp()
    for seconds in (0, 1_799, 1_800, 59_399, 59_400, 86_399):
        rates = book.rates("deepseek", "deepseek-chat", at + seconds, None)
        assert isinstance(rates, Rates)
        theirs = calc_price(
            Usage(input_tokens=1_000_000, output_tokens=0),
            "deepseek-chat",
            provider_id="deepseek",
            genai_request_timestamp=datetime.fromtimestamp(at + seconds, UTC),
        )
        assert amount(rates.base, (1_000_000, 0, 0, 0, 0, 1)) == theirs.total_price


def test_the_book_forgets_names_instead_of_growing() -> None:
    """Names come from outside: twice as many as the cache holds neither fill memory nor change an answer."""
    book = GenaiBook()
    first = book.rates("openai", "gpt-4o", NOW.timestamp(), None)
    for number in range(20_001):
        assert book.rates("openai", f"no-such-{number}", NOW.timestamp(), None) == UNKNOWN_MODEL
    again = book.rates("openai", "gpt-4o", NOW.timestamp(), None)
    assert isinstance(first, Rates)
    assert isinstance(again, Rates)
    assert first.base == again.base
    assert len(book._cache) <= 10_000
