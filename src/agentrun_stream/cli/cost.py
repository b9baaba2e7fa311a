"""`agentrun cost`: how a run's amount came about, and what has no price.

Must not live here: prices, what a run is billed by (runtime/bills.py).
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import typer

from agentrun_stream.cli.common import DataOption, printable, store_for
from agentrun_stream.cli.output import Output, OutputOption, as_json, money, table, write
from agentrun_stream.errors import ConfigError, UsageError
from agentrun_stream.store import prices
from agentrun_stream.store.client import connect
from agentrun_stream.store.queries import Connection, find_runs
from agentrun_stream.store.reader import load_runs
from agentrun_stream.telemetry.logs import clean

app = typer.Typer(name="cost", help="What runs cost.", no_args_is_help=True)

_STORED: Final = (
    *("cost_reported", "cost_computed", "cost_lo", "cost_hi", "cost_effective", "effective_source", "price_status"),
    *("price_basis", "token_convention", "convention_evidence", "price_book", "price_as_of"),
    *("diff_abs", "diff_rel", "diff_class"),
)
_LINE: Final = {
    "provider": "provider",
    "model": "model",
    "meter": "meter",
    "above": "above tokens",
    "quantity": "quantity",
    "unit_price": "unit price",
    "amount": "amount",
    "source": "from",
}
_NAMED: Final = ("provider", "model", "service_tier", "price_status")
_TO_BE_PRICED: Final = frozenset({"unknown_model", "unknown_provider", "context_unpriced"})


@app.callback()
def cost() -> None:
    """What runs cost: reported, computed by the price book, and which of these counts. Unknown is never zero."""


@app.command(epilog="Example: agentrun cost explain run-42")
def explain(
    run: Annotated[str, typer.Argument(help="The run's id.", metavar="RUN")],
    data: DataOption = None,
    workspace: Annotated[str | None, typer.Option(help="Its workspace, where the id is in several.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show line by line how a run's computed amount came about, from what is stored and the price book that its row names."""
    settings, address = store_for(data)
    client = connect(address)
    row = _row(client, run, workspace)
    from agentrun_stream.pricing.books import book_of  # noqa: PLC0415 - the prices take 0.2 s; only this needs them
    from agentrun_stream.proof import opinions_in_force  # noqa: PLC0415 - as above
    from agentrun_stream.runtime.bills import explained  # noqa: PLC0415 - as above

    content = prices.contents(client).get(row["price_book"])
    if content is None:
        raise ConfigError(
            "The run was stored without a price book.", "Start a worker: it prices what comes from then on."
        )
    key = (row["workspace"], run)
    opinions = asyncio.run(opinions_in_force(settings))
    told = explained(load_runs(client, [key])[key], opinions, book_of(content))
    stored = {name: row[name] for name in _STORED}
    known = told.priced.cost_lo if told.priced.cost_computed is None else told.priced.cost_computed
    result = {
        "run": run,
        "workspace": row["workspace"],
        **stored,
        "lines": [line._asdict() for line in told.lines],
        "lines_total": known,
        "unpriced": [_lacking(call._asdict()) for call in told.unpriced],
        "adds_up": _same(told.priced.cost_computed, row["cost_computed"])
        and _same(told.priced.cost_lo, row["cost_lo"]),
    }
    if output is Output.JSON:
        as_json(result)
        return
    _print(result)


def _row(client: Connection, run: str, workspace: str | None) -> Mapping[str, Any]:
    found = find_runs(client, run, workspace)
    if not found:
        raise UsageError(f"There is no run {printable(run)!r}.", "See `agentrun runs`.")
    if len(found) > 1:
        names = ", ".join(clean(row["workspace"]) for row in found)
        raise UsageError(f"The run {printable(run)!r} is in several workspaces: {names}.", "Name one with --workspace.")
    return found[0]


def _same(one: Decimal | None, other: Decimal | None) -> bool:
    return one == other


def _lacking(call: dict[str, Any]) -> dict[str, Any]:
    counts = call["counts"]
    at = datetime.fromtimestamp(call["at_s"], UTC).isoformat()
    return {**call, "at_s": at, "counts": None if counts is None else counts._asdict()}


def _print(result: Mapping[str, Any]) -> None:
    if result["lines"]:
        table("", _LINE, result["lines"], {"unit_price": money, "amount": money})
    for call in result["unpriced"]:
        named = " ".join(clean(str(call[n])) for n in ("provider", "model", "service_tier") if call[n])
        write(f"no price: {named or 'a call without a name'}: {call['status']}")
    amounts = ("cost_reported", "cost_computed", "cost_lo", "cost_hi", "cost_effective", "diff_abs", "lines_total")
    for name in (*_STORED, "lines_total", "adds_up"):
        value = result[name]
        if value is not None and value != "":
            write(f"{name}: {money(value) if name in amounts else clean(str(value))}")
    if not result["adds_up"]:
        write("The run changed since, or the amount was changed: see `agentrun audit`.")


@app.command(epilog="Example: agentrun cost unpriced")
def unpriced(data: DataOption = None, output: OutputOption = Output.TABLE) -> None:
    """Show what has no price under the prices in force, as lines for prices.toml in which only the prices are missing."""
    settings, address = store_for(data)
    client = connect(address)
    held = prices.in_force(client)
    if held is None:
        raise ConfigError("No prices are in force.", "Start a worker, or run `agentrun prices apply`.")
    from agentrun_stream.pricing.books import book_of  # noqa: PLC0415 - as above
    from agentrun_stream.proof import opinions_in_force  # noqa: PLC0415 - as above
    from agentrun_stream.runtime import bills  # noqa: PLC0415 - as above

    opinions, book = asyncio.run(opinions_in_force(settings)), book_of(held.content)
    states = (state for some in prices.unpriced_runs(client) for state in some.values())
    found = bills.unpriced(states, opinions, book)
    rows = [
        {**dict(zip(_NAMED, name, strict=True)), "runs": one.runs, "calls": one.calls, "tokens": one.tokens}
        for name, one in sorted(found.items())
    ]
    if output is Output.JSON:
        as_json(rows)
        return
    for row in rows:
        _print_lines(row)


def _print_lines(row: Mapping[str, Any]) -> None:
    """One table of prices.toml; what no price would help is a comment."""
    count = f"# {row['price_status']}: {row['runs']} runs, {row['calls']} calls, {row['tokens']} tokens"
    if row["price_status"] not in _TO_BE_PRICED:
        write(f"{count}, of {_toml(row['model'])}" if row["model"] else count)
        return
    write(f"{count}\n[[price]]\nmodel = {_toml(row['model'])}")
    if row["provider"]:
        write(f"provider = {_toml(row['provider'])}")
    if row["service_tier"]:
        write(f"tier = {_toml(row['service_tier'])}")
    write("# input =        dollars per million tokens\n# output =\n")


def _toml(text: str) -> str:
    """The name as it was reported, and safe for a terminal: what is no plain character is an escape of TOML."""
    plain = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return f'"{plain}"'
