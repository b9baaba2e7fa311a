"""What a worker prices by: the book in force in the store; the installed one, with a file above it, only where there is none.

Must not live here: what a run costs (pricing/), SQL (store/prices.py), pricing stored runs again.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from structlog.typing import FilteringBoundLogger

from agentrun_stream.errors import AgentrunError, ConfigError, LackingPricesError
from agentrun_stream.model.opinions import no_prices
from agentrun_stream.model.usage import Bill
from agentrun_stream.ports import Clock
from agentrun_stream.pricing.book import PriceBook
from agentrun_stream.pricing.books import book_of
from agentrun_stream.pricing.price import pricing_by
from agentrun_stream.runtime.reprice import BookInForce
from agentrun_stream.store.prices import StoredBook

EVERY_S: Final = 3.0


class Prices(Protocol):
    """The part of the store that keeps price books. Errors are those of `ports.Store`."""

    async def in_force(self) -> StoredBook | None:
        """The book with the highest ordinal; of two under it, the one stored first."""
        ...

    async def put(self, book: PriceBook, proposed_by: str) -> StoredBook:
        """Put a book in force; return what is in force then. MUST NOT return before it is durable."""
        ...


class PriceKeeper:
    """`price` answers by the book in force; `load` is to be awaited before the first record is folded.

    `run()` follows the store beside the loop. Books are opened off the loop: that takes a moment.
    """

    def __init__(
        self, store: Prices, clock: Clock, log: FilteringBoundLogger, own: Callable[[], PriceBook], name: str = ""
    ) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._own = own
        self._name = name
        self._price: Callable[[Bill], Mapping[str, Any]] = no_prices
        self._book = BookInForce(0, "")
        self._told = ""

    def price(self, bill: Bill) -> Mapping[str, Any]:
        """The priced columns of a bill."""
        return self._price(bill)

    @property
    def book(self) -> BookInForce:
        """The book that `price` answers by."""
        return self._book

    async def load(self) -> None:
        """Take the book in force; propose our own where there is none.

        Raises ConfigError where the installed prices are not those in force, or the price file is wrong.
        """
        own = await asyncio.to_thread(self._own)
        held = await self._store.in_force() or await self._store.put(own, self._name)
        if held.digest != own.digest:
            self._log.warning(
                "other prices are in force than this worker has",
                in_force=held.digest[:12],
                own=own.digest[:12],
                next="Put these in force with `agentrun prices apply`, or leave it: all workers price by those in force.",
            )
        await self._take(held, own)

    async def follow(self) -> None:
        """Take the book that is in force now, if it is another one: to be awaited before a partition is folded.

        Raises AgentrunError where the store can't say, LackingPricesError where the installed prices are not those in force.
        """
        held = await self._store.in_force()
        if held is None or BookInForce(held.ordinal, held.digest) == self._book:
            return
        try:
            await self._take(held, None)
        except ConfigError as error:
            raise LackingPricesError(error.message, error.next_step) from None

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            await self._clock.sleep(EVERY_S)
            try:
                await self.follow()
                self._told = ""
            except Exception as error:  # noqa: BLE001 - the worker goes on by the prices it has, whatever went wrong
                # Only our own errors are known to quote no row.
                why = error.message if isinstance(error, AgentrunError) else type(error).__name__
                if why != self._told:
                    self._log.warning("prices are not kept up to date", why=why)
                self._told = why

    async def _take(self, held: StoredBook, own: PriceBook | None) -> None:
        same = own is not None and own.digest == held.digest
        book = own if same and own is not None else await asyncio.to_thread(book_of, held.content)
        if held.ordinal < self._book.ordinal:
            return  # a newer one came meanwhile
        self._price, self._book = pricing_by(book), BookInForce(held.ordinal, held.digest)
        self._log.info("price book in force", ordinal=held.ordinal, digest=held.digest[:12])
