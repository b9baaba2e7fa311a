"""What a price book answers: unit prices of a model at a time, with their tiers; and the promise of every book.

Must not live here: where prices come from (genai.py, overrides.py), counts, multiplication (sheet.py).
"""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple, Protocol

ZERO: Final = Decimal(0)
PER_MILLION: Final = -6
NAME_CHARS_MAX: Final = 512
CACHE_ENTRIES_MAX: Final = 10_000

OK: Final = "ok"
UNKNOWN_MODEL: Final = "unknown_model"
UNKNOWN_PROVIDER: Final = "unknown_provider"
CONTEXT_UNPRICED: Final = "context_unpriced"

# Names of the tier that everybody gets who asks for none.
STANDARD: Final = frozenset({"", "standard", "default", "auto", "on_demand"})


class Prices(NamedTuple):
    """Dollars per unit of each meter: a token, or (the last) a request. None where the book has no price."""

    input_uncached: Decimal | None
    cache_read: Decimal | None
    cache_write_5m: Decimal | None
    cache_write_1h: Decimal | None
    output: Decimal | None
    request: Decimal | None = ZERO


METERS: Final = Prices._fields


@dataclass(frozen=True, eq=False, slots=True)
class Rates:
    """The prices of one model, as they stand at one time and service tier.

    `steps` are (tokens, prices), rising: above so many input tokens, cached ones included, all meters cost that much.
    `listed` are the prices before a discount, `before` those in force before the last change of price. `complete` says that
    no meter is without a price.
    """

    provider: str
    model: str
    source: str
    base: Prices
    steps: tuple[tuple[int, Prices], ...] = ()
    contract: bool = False
    listed: "Rates | None" = None
    before: "Rates | None" = None
    complete: bool = field(init=False)

    def __post_init__(self) -> None:
        # Meters fall back on others, so no meter lacks a price where the base has them all.
        object.__setattr__(self, "complete", None not in self.base)

    def level(self, input_tokens: int) -> int:
        """Which step applies to a request with so many input tokens; 0 is the base."""
        return sum(input_tokens > above for above, _ in self.steps)

    def prices(self, level: int) -> Prices:
        """The prices of a level; of the highest there is, where there are fewer."""
        return self.steps[min(level, len(self.steps)) - 1][1] if level and self.steps else self.base


class PriceBook(Protocol):
    """Prices by name and time. The same book gives the same answers for ever: it MUST NOT read a clock or refresh itself."""

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hex: what a row names as `price_book`."""
        ...

    @property
    def content(self) -> str:
        """What the digest is of, and what the book can be built from again."""
        ...

    def rates(self, provider: str | None, model: str | None, at_s: float, tier: str | None) -> Rates | str:
        """The rates, or the price status that says why there are none. The same object for the same answer, while cached."""
        ...


def tier_name(tier: str | None) -> str:
    """A service tier's name for comparing; empty for the standard one."""
    name = (tier or "").strip().lower()
    return "" if name in STANDARD else name


def too_long(*names: str | None) -> bool:
    """Whether a name is longer than any that a book knows: it is not looked up, and not remembered."""
    return any(name is not None and len(name) > NAME_CHARS_MAX for name in names)


def with_fallbacks(prices: Prices) -> Prices:
    """A cached token without a price of its own costs what the more general meter does, down to plain input."""
    given, read, five, hour, output, request = prices
    five = given if five is None else five
    return Prices(given, given if read is None else read, five, five if hour is None else hour, output, request)
