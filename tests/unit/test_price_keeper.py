"""Which book a worker prices by: the one in force, taken up by every worker, never an older one again."""

import asyncio
import json

import pytest
import structlog

from agentrun_stream.errors import LackingPricesError
from agentrun_stream.model.usage import Bill, Call
from agentrun_stream.pricing.book import PriceBook
from agentrun_stream.pricing.books import open_book
from agentrun_stream.runtime.clock import SystemClock
from agentrun_stream.runtime.prices import PriceKeeper
from agentrun_stream.store.prices import StoredBook

QUIET = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(50))
CALL = Call(None, "house-a", 1_000_000, 0, None, None, None, None, None, None, 1_767_268_800.0)


def book(rate: int) -> PriceBook:
    return open_book(f'[[price]]\nmodel = "house-a"\ninput = {rate}\noutput = 0\n')


class Held:
    """The store's part: what was put in force, in memory."""

    def __init__(self) -> None:
        self.books: list[StoredBook] = []

    async def in_force(self) -> StoredBook | None:
        return self.books[-1] if self.books else None

    async def put(self, book: PriceBook, proposed_by: str) -> StoredBook:
        self.books.append(StoredBook(len(self.books) + 1, book.digest, book.content))
        return self.books[-1]


def keeper(store: Held, rate: int) -> PriceKeeper:
    made = PriceKeeper(store, SystemClock(), QUIET, lambda: book(rate))
    asyncio.run(made.load())
    return made


def cost(by: PriceKeeper) -> str | None:
    found: str | None = by.price(Bill(CALL))["cost_computed"]
    return found


def test_the_first_book_counts_for_all() -> None:
    """Whoever comes later prices by it, whatever its own file says."""
    store = Held()
    one, other = keeper(store, 5), keeper(store, 7)
    assert cost(one) == cost(other) == "5.000000000000"
    assert one.book == other.book == (1, book(5).digest)


def test_a_newer_book_is_taken_up() -> None:
    """At the latest before a partition is folded; also one that was in force before."""
    store = Held()
    made = keeper(store, 5)
    for ordinal, rate in ((2, 7), (3, 5)):
        asyncio.run(store.put(book(rate), "somebody"))
        assert made.book.ordinal == ordinal - 1
        asyncio.run(made.follow())
        assert made.book == (ordinal, book(rate).digest)
        assert cost(made) == f"{rate}.000000000000"


def test_of_two_first_books_that_which_is_in_force_counts() -> None:
    """Two workers may propose at once, under one ordinal: the store says which of them it is."""
    store = Held()
    made = keeper(store, 5)
    store.books[-1] = StoredBook(1, book(7).digest, book(7).content)
    asyncio.run(made.follow())
    assert (made.book, cost(made)) == ((1, book(7).digest), "7.000000000000")


def test_a_book_that_cannot_be_opened_stops_the_partition() -> None:
    """Else its runs would go back to older prices; the error says what is missing and what helps."""
    store = Held()
    made = keeper(store, 5)
    content = json.dumps({"book": "genai-prices", "sha256": "0" * 64, "version": "0.0.1"}, sort_keys=True)
    store.books.append(StoredBook(2, "0" * 64, content))
    with pytest.raises(LackingPricesError, match=r"genai-prices 0\.0\.1") as told:
        asyncio.run(made.follow())
    assert "agentrun prices apply" in told.value.next_step
    assert (made.book.ordinal, cost(made)) == (1, "5.000000000000")
