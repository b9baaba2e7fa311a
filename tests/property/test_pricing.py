"""Whatever a run states: lines add up, bounds hold, unknown is never zero, and the order of its steps does not matter."""

from decimal import Decimal
from random import Random
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from agentrun_stream.model.usage import Bill, Call
from agentrun_stream.pricing.book import PriceBook
from agentrun_stream.pricing.books import book_of, open_book
from agentrun_stream.pricing.difference import CLASSES
from agentrun_stream.pricing.price import STATUSES, explain, price
from pricing_calls import book

OWN: Final = """
[providers]
gateway = "anthropic"

[[price]]
model = "claude-opus*"
provider = "anthropic"
input = 4.123456789
above = [{ input_tokens = 50_000, output = 31.5 }]

[[discount]]
model = "gpt-4o*"
percent = 12.345
"""
OVERRIDDEN: Final = open_book(OWN)

NAMES: Final = (
    ("anthropic", "claude-opus-4-6"),
    ("anthropic", "claude-sonnet-4-5-20250929"),
    ("google", "gemini-2.5-pro"),
    ("openai", "gpt-4o"),
    ("openai", "text-embedding-3-small"),
    ("perplexity", "sonar"),
    ("deepseek", "deepseek-chat"),
    ("novita", "deepseek/deepseek-r1-0528"),
    ("novita", "baidu/cobuddy"),
    ("gateway", "claude-opus-4-6"),
    ("openai", "no-such-model"),
    (None, "gpt-4o"),
    (None, None),
)
COUNTS: Final = st.one_of(st.none(), st.integers(0, 5), st.integers(0, 400_000), st.just(10**12))


@st.composite
def calls(draw: st.DrawFn) -> Call:
    provider, model = draw(st.sampled_from(NAMES))
    given_, output, read, write, total, longer = (draw(COUNTS) for _ in range(6))
    tier = draw(st.sampled_from([None, None, "batch", "standard", "flex"]))
    meant = draw(st.sampled_from([None, None, "inclusive", "exclusive"]))
    at_s = draw(st.floats(1_700_000_000, 1_800_000_000))
    return Call(provider, model, given_, output, read, write, total, longer, tier, meant, at_s)


BILLS: Final = st.builds(
    Bill,
    calls(),
    st.lists(calls(), max_size=6),
    st.one_of(st.none(), st.decimals(0, 100, places=12)),
    st.sampled_from([None, "claude-code"]),
)
BOOKS: Final = st.sampled_from([book(), OVERRIDDEN])


@given(BILLS, BOOKS)
@settings(max_examples=200)
def test_a_price_is_sound(bill: Bill, own: PriceBook) -> None:
    """Bounds around the amount, lines that add up to it exactly, nothing known where a part is not, no zero from nowhere."""
    told = explain(bill, own)
    priced = told.priced
    assert priced.price_status in STATUSES
    assert all(line.unit_price * line.quantity == line.amount for line in told.lines)
    known = sum((line.amount for line in told.lines), Decimal(0))
    if priced.cost_computed is not None:
        assert not told.unpriced
        assert priced.cost_lo is not None
        assert priced.cost_lo <= priced.cost_computed == known
        assert priced.cost_hi is None or priced.cost_computed <= priced.cost_hi
        assert priced.cost_computed.as_tuple().exponent == -12
        assert priced.cost_computed or all(not line.amount for line in told.lines)
    else:
        assert priced.price_status == "no_usage" or told.unpriced
        assert priced.cost_hi is None
        assert priced.cost_lo is None or 0 < priced.cost_lo <= known
    assert (priced.diff_class is None) == (bill.reported is None or priced.cost_computed is None)
    assert priced.diff_class is None or priced.diff_class in CLASSES
    assert priced.effective_source != "reported" or priced.cost_effective == bill.reported
    assert (priced.cost_effective is None) == (priced.effective_source == "none")


@given(BILLS, BOOKS, st.integers())
@settings(max_examples=100)
def test_the_order_of_steps_does_not_matter(bill: Bill, own: PriceBook, seed: int) -> None:
    """Steps in any order: the same price, lines and list of what has none; and the same answer when asked again."""
    shuffled = list(bill.steps)
    Random(seed).shuffle(shuffled)
    assert explain(bill, own) == explain(bill._replace(steps=shuffled), own)
    assert price(bill, own) == explain(bill, own).priced


@given(BILLS)
@settings(max_examples=60)
def test_a_book_made_from_its_content_gives_the_same_prices(bill: Bill) -> None:
    """What is kept in the store by digest is enough to price again."""
    again = book_of(OVERRIDDEN.content)
    assert again.digest == OVERRIDDEN.digest
    assert explain(bill, again) == explain(bill, OVERRIDDEN)


@given(st.lists(calls(), min_size=1, max_size=8))
@settings(max_examples=100)
def test_steps_are_priced_one_by_one(steps: list[Call]) -> None:
    """A run of several calls costs what they cost one by one, up to the one rounding that each of them has alone."""
    whole = price(Bill(steps[0], steps), book())
    alone = [price(Bill(steps[0], [step]), book()) for step in steps if step.stated]
    if alone and all(one.cost_computed is not None for one in alone):
        assert whole.cost_computed is not None
        parts = sum((one.cost_computed for one in alone if one.cost_computed is not None), Decimal(0))
        assert abs(whole.cost_computed - parts) <= Decimal("5e-13") * (len(alone) + 1)


@given(BILLS, BOOKS)
@settings(max_examples=100)
def test_the_fast_way_counts_as_the_plain_one(bill: Bill, own: PriceBook) -> None:
    """A step alone and as the run's only total, neither of which is weighed by the fast loop, cost the same."""
    for step in bill.steps:
        bare = Bill(step, [step], None, bill.runtime)
        fast, weighed = explain(bare, own), explain(bare._replace(steps=()), own)
        if weighed.priced.price_status == "tier_ambiguous" or any(line.above for line in fast.lines):
            lo, hi = fast.priced.cost_lo, weighed.priced.cost_hi
            assert lo is None or hi is None or lo <= hi
        else:
            assert fast.lines == weighed.lines
            assert fast.unpriced == weighed.unpriced
            assert fast.priced._replace(price_basis=None) == weighed.priced._replace(price_basis=None)
