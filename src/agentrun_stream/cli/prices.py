"""`agentrun prices`: what a model costs at a date, whether a price file is right, which prices are in force.

Must not live here: prices, the rules of the file (pricing/).
"""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentrun_stream.cli.common import DataOption, read_input, store_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, table, write
from agentrun_stream.errors import ConfigError, UsageError
from agentrun_stream.pricing import pricefile
from agentrun_stream.pricing.book import METERS, PER_MILLION, PriceBook, Prices, Rates
from agentrun_stream.pricing.pricefile import Discount, Entry
from agentrun_stream.store import prices as stored_prices
from agentrun_stream.store.client import connect

app = typer.Typer(name="prices", help="Prices of models.", no_args_is_help=True)

_PER_MILLION_HEADINGS: Final = {name: name.replace("_", " ") for name in METERS}
_NEXT_STEP: Final = {
    "unknown_provider": "Leave out --provider, or map its name under [providers] of a price file.",
    "unknown_model": "Give its --provider, or add the model to a price file.",
    "context_unpriced": "Add a [[price]] with this tier to a price file.",
}

PricesOption = Annotated[Path | None, typer.Option("--prices", help="A price file that wins over the shipped prices.")]


@app.callback()
def prices() -> None:
    """Prices of models: those that ship with this version, and your own."""


@app.command(epilog="Example: agentrun prices show claude-opus-4-6 --at 2026-02-11 --provider anthropic")
def show(
    model: Annotated[str, typer.Argument(help="The model, as a run or step names it.")],
    at: Annotated[str, typer.Option(help="A day, or a time of RFC 3339; a day is its midnight, UTC.")],
    provider: Annotated[str | None, typer.Option(help="The provider, as a run or step names it.")] = None,
    tier: Annotated[str | None, typer.Option(help="The service tier: batch, flex, priority, ...")] = None,
    file: PricesOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what a model costs at a date, in dollars per million tokens."""
    from agentrun_stream.pricing.books import open_book  # noqa: PLC0415 - the prices take 0.2 s; only this needs them

    book = open_book(None if file is None else _text(file))
    rates = book.rates(provider, model, moment_s(at), tier)
    if isinstance(rates, str):
        raise UsageError(f"There is no price for {model!r} at {at}: {rates}.", _NEXT_STEP[rates])
    rows = list(shown(rates))
    if output is Output.JSON:
        as_json(described(rates, book) | {"prices": rows})
        return
    write(f"{rates.provider} {rates.model}, from {rates.source}, price book {book.digest[:12]}")
    columns = {"above": "above input tokens", **_PER_MILLION_HEADINGS}
    table("", columns if rates.steps else _PER_MILLION_HEADINGS, rows)
    write("Dollars per million tokens; request: dollars each. Cached tokens are no input tokens here.")


@app.command(epilog="Example: agentrun prices check prices.toml")
def check(
    file: Annotated[Path, typer.Argument(help="The price file; `-` reads stdin.")], output: OutputOption = Output.TABLE
) -> None:
    """Check a price file: all that is wrong with it, else what it says. Exit code 3 where anything is wrong."""
    overrides, problems = pricefile.read(pricefile.parse(_text(file)))
    rows = [_row("price", entry) for entry in overrides.entries]
    rows += [_row("discount", discount) for discount in overrides.discounts]
    wrong = [problem._asdict() for problem in problems]
    if output is Output.JSON:
        as_json({"ok": not wrong, "problems": wrong, "rows": rows, "providers": dict(overrides.providers)})
    elif wrong:
        table("", {"where": "where", "text": "what is wrong"}, wrong)
    else:
        columns = ("row", "provider", "model", "tier", "from", "until", "states")
        table("", {name: name for name in columns}, rows)
    if wrong:
        raise ConfigError(f"The price file has {len(wrong)} mistakes.", "Mend them; no worker starts with this file.")


@app.command(epilog="Example: agentrun prices apply --prices prices.toml")
def apply(data: DataOption = None, file: PricesOption = None, output: OutputOption = Output.TABLE) -> None:
    """Put prices in force for every worker: those of this version, below those of a file (else of the settings' file).

    Runs are priced by them from then on; what is stored stays until it is projected again.
    """
    from agentrun_stream.pricing.books import open_book  # noqa: PLC0415 - as above
    from agentrun_stream.wiring import own_book  # noqa: PLC0415 - as above

    settings, address = store_for(data)
    book = own_book(settings) if file is None else open_book(_text(file))
    held = stored_prices.put(connect(address), book, "agentrun prices apply")
    if output is Output.JSON:
        as_json({"ordinal": held.ordinal, "price_book": held.digest})
        return
    write(
        f"Price book number {held.ordinal} is in force: {held.digest[:12]}. Running workers take it up within seconds."
    )


def _text(file: Path) -> str:
    try:
        return read_input(file).decode()
    except UnicodeDecodeError:
        raise UsageError("The price file is no UTF-8 text.", "Save it as UTF-8.") from None


def moment_s(at: str) -> float:
    """A day or a time in seconds since 1970; without an offset it is UTC. Raises UsageError."""
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise UsageError(f"{at!r} is no time.", "Give a day as 2026-02-11 or a time as 2026-02-11T10:00:00Z.") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def described(rates: Rates, book: PriceBook) -> dict[str, Any]:
    """Whose prices they are, and from which book."""
    names = {"provider": rates.provider, "model": rates.model, "source": rates.source, "contract": rates.contract}
    return names | {"price_book": book.digest}


def shown(rates: Rates) -> list[dict[str, Any]]:
    """One row per tier; amounts as text, per million tokens, None where a meter has no price."""
    levels = [(0, rates.base), *rates.steps]
    return [{"above": above, **_per_million(prices)} for above, prices in levels]


def _per_million(prices: Prices) -> dict[str, str | None]:
    units = [*(None if price is None else price.scaleb(-PER_MILLION) for price in prices[:-1]), prices.request]
    return {name: None if unit is None else digits(unit) for name, unit in zip(METERS, units, strict=True)}


def digits(value: Decimal) -> str:
    """All digits of an amount, at least two after the point."""
    whole, _, fraction = f"{value:f}".partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def _row(kind: str, row: Entry | Discount) -> dict[str, Any]:
    if isinstance(row, Discount):
        said = f"{digits(row.percent)} % less"
    else:
        units = zip(METERS, (*row.prices[:-1], None), strict=True)
        stated = [f"{name} {digits(unit.scaleb(-PER_MILLION))}" for name, unit in units if unit is not None]
        stated += [] if row.prices.request is None else [f"request {digits(row.prices.request)}"]
        said = ", ".join([*stated, *(f"above {above}" for above, _ in row.steps)])
    return {
        "row": f"{kind} {row.number}",
        "provider": row.provider,
        "model": row.model,
        "tier": row.tier or None,
        "from": row.since,
        "until": row.until,
        "states": said,
    }
