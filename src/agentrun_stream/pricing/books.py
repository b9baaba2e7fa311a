"""Which book there is: the shipped one, with a price file above it, or the one that a stored content names.

Must not live here: what is in them.
"""

import json
from typing import Any

from agentrun_stream.errors import ConfigError
from agentrun_stream.pricing import genai, overrides, pricefile
from agentrun_stream.pricing.book import PriceBook
from agentrun_stream.pricing.genai import GenaiBook
from agentrun_stream.pricing.overrides import OverriddenBook


def open_book(prices_toml: str | None = None) -> PriceBook:
    """The book that ships with this version, below the prices of a file, if one is given. Raises ConfigError."""
    if prices_toml is None:
        return GenaiBook()
    return OverriddenBook(GenaiBook(), pricefile.load(pricefile.parse(prices_toml)))


def book_of(content: str) -> PriceBook:
    """The book with that content. Raises ConfigError where the installed prices are others than it was made with."""
    said: dict[str, Any] = json.loads(content)
    if said.get("book") == overrides.SOURCE:
        book: PriceBook = OverriddenBook(
            book_of(json.dumps(said["base"], sort_keys=True)), pricefile.load(said["overrides"])
        )
    else:
        book = GenaiBook()
    if book.content != content:
        asked = said if said.get("book") == genai.NAME else said.get("base", {})
        raise ConfigError(
            f"The prices in force are those of {asked.get('book')} {asked.get('version')}; installed is {genai.SOURCE}.",
            f"Install {asked.get('book')}=={asked.get('version')}, or put these in force: `agentrun prices apply`.",
        )
    return book
