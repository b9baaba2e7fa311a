"""`agentrun cost reconcile`: a provider's invoice beside what our runs come to; and taking the invoice in.

Must not live here: reading its lines (runtime/invoice.py), comparing (runtime/reconcile.py).
"""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentrun_stream.cli.common import DataOption, printable, store_for
from agentrun_stream.cli.cost_export import opened, read_rows
from agentrun_stream.cli.output import QueryOutput, as_csv, as_json, money, say, table, write
from agentrun_stream.config import Settings
from agentrun_stream.errors import ConfigError, UsageError
from agentrun_stream.model.money import rounded
from agentrun_stream.store import charges, invoices, prices
from agentrun_stream.store.charges import Span
from agentrun_stream.store.client import connect
from agentrun_stream.store.queries import Connection

if TYPE_CHECKING:
    from agentrun_stream.runtime.invoice import Parsed
    from agentrun_stream.runtime.reconcile import Compared
    from agentrun_stream.store.invoices import InvoiceLine

app = typer.Typer()

_SHOWN_MAX: Final = 20
_COLUMNS: Final = (
    "provider",
    "model",
    "day",
    "side",
    "invoiced",
    "ours",
    "unpriced",
    "difference",
    "explained",
    "share",
    "reasons",
)
_HEADINGS: Final = {name: name for name in _COLUMNS} | {
    "side": "found",
    "unpriced": "calls without price",
    "share": "explained %",
}


@app.command(epilog="Example: agentrun cost reconcile january.csv --column model=sku --import")
def reconcile(
    file: Annotated[
        Path, typer.Argument(help="CSV: provider, day, model, amount[, currency, tokens, invoice], or FOCUS.")
    ],
    data: DataOption = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Which column holds what: model=sku. Give it for each.")
    ] = None,
    invoice: Annotated[
        str | None, typer.Option(help="The invoice's id; default: its column, else the file's name.")
    ] = None,
    workspace: Annotated[str | None, typer.Option(help="Hold it against runs of this workspace alone.")] = None,
    import_: Annotated[
        bool, typer.Option("--import", help="Keep the invoice; one of the same id is replaced.")
    ] = False,
    output: Annotated[QueryOutput, typer.Option("-o", "--output", help="How to print.")] = QueryOutput.TABLE,
) -> None:
    """Hold an invoice against our runs, by provider, day (UTC) and model: both amounts, the difference, and what explains it."""
    settings, address = store_for(data)
    client = connect(address)
    parsed = _parsed(client, file, column or ())
    lines = [line for some in parsed.invoices.values() for line in some]
    if not lines:
        raise UsageError("The invoice has no line.", "Check the file.")
    if import_ and invoice is None and str(file) == "-" and "" in parsed.invoices:
        raise UsageError("What comes from stdin has no name.", "Give the invoice's id: --invoice ID.")
    compared = _compared(client, settings, lines, workspace)
    if import_:
        _import(client, parsed, invoice, file)
    _print(compared, output)


def _parsed(client: Connection, file: Path, named: Sequence[str]) -> "Parsed":
    """The lines of the file. Raises UsageError, after every line that is wrong was told."""
    from agentrun_stream.pricing.books import book_of  # noqa: PLC0415 - the prices take 0.2 s; only this needs them
    from agentrun_stream.runtime import invoice as form  # noqa: PLC0415 - as above

    held = prices.in_force(client)
    if held is None:
        raise ConfigError("No prices are in force.", "Start a worker, or run `agentrun prices apply`.")
    with opened(file) as source:
        header, rows = read_rows(source)
        columns = form.columns(header, _named(named, form.PARTS))
        if missing := form.lacking(header, columns):
            said = f"The file has no column for: {', '.join(missing)}. It has: {printable(', '.join(header))}."
            raise UsageError(said, f"Name it: --column {missing[0]}=NAME.")
        parsed = form.parse(rows, columns, book_of(held.content))
    for line, text in parsed.wrong[:_SHOWN_MAX]:
        say(f"line {line}: {text}")
    if parsed.wrong:
        raise UsageError(f"{len(parsed.wrong)} mistakes are in the invoice; nothing was compared.", "Mend these lines.")
    return parsed


def _named(given: Sequence[str], parts: Sequence[str]) -> dict[str, str]:
    found = dict(text.partition("=")[::2] for text in given)
    for part, name in found.items():
        if part not in parts or not name:
            raise UsageError(
                f"{printable(part)!r} can't be in a column.", f"Write PART=NAME; parts: {', '.join(parts)}."
            )
    return found


def _compared(
    client: Connection, settings: Settings, lines: Sequence["InvoiceLine"], workspace: str | None
) -> list["Compared"]:
    from agentrun_stream.proof import opinions_in_force  # noqa: PLC0415 - as above
    from agentrun_stream.runtime import reconcile as held  # noqa: PLC0415 - as above
    from agentrun_stream.runtime.charges import HOUR_S, Books, charged  # noqa: PLC0415 - as above

    opinions = asyncio.run(opinions_in_force(settings))
    pages = charges.settled(client, Span(*held.days(lines), workspace))
    hours = held.by_hour(charged(pages, Books(prices.contents(client)), opinions, HOUR_S))
    return held.reconcile(lines, hours)


def _import(client: Connection, parsed: "Parsed", named: str | None, file: Path) -> None:
    from agentrun_stream.runtime.invoice import digest  # noqa: PLC0415 - as above

    if named is not None and len(parsed.invoices) > 1:
        raise UsageError("The file holds several invoices.", "Leave out --invoice: each has its id in its column.")
    for found, lines in sorted(parsed.invoices.items()):
        name = named or found or file.stem
        changed = invoices.put(client, name, digest(lines), lines)
        say(f"Invoice {name}: {f'{len(lines)} lines are in' if changed else 'it is in already, nothing changed'}.")


def _print(compared: Sequence["Compared"], output: QueryOutput) -> None:
    from agentrun_stream.runtime.reconcile import share  # noqa: PLC0415 - as above

    rows = [_row(one, share(one.explained, one.difference)) for one in compared]  # rounded here, once
    # Differences of both signs must not cancel each other out.
    absolute, explained = (sum((abs(row[name]) for row in rows), Decimal(0)) for name in ("difference", "explained"))
    totals = {
        name: sum((row[name] or Decimal(0) for row in rows), Decimal(0)) for name in ("invoiced", "ours", "difference")
    }
    total = totals | {"unpriced": sum(row["unpriced"] for row in rows), "share": share(explained, absolute)}
    if output is QueryOutput.JSON:
        as_json({"rows": rows, "total": total})
        return
    shown = [row | {"reasons": ", ".join(map(_reason, row["reasons"]))} for row in rows]
    if output is QueryOutput.CSV:
        as_csv(_COLUMNS, [[row[name] for name in _COLUMNS] for row in shown])
        return
    amounts = dict.fromkeys(("invoiced", "ours", "difference", "explained"), money)
    table("", _HEADINGS, shown, amounts | {"share": _percent})
    write(
        f"total: invoiced {money(total['invoiced'])}, ours {money(total['ours'])} and {total['unpriced']} calls without a "
        f"price, difference {money(total['difference'])}, explained {_percent(total['share'])} of all differences"
    )


def _row(one: "Compared", explained: Decimal | None) -> dict[str, Any]:
    return {
        "provider": one.provider,
        "model": one.model,
        "day": one.day.isoformat(),
        "side": one.side,
        "invoiced": _rounded(one.invoiced),
        "ours": _rounded(one.ours),
        "unpriced": one.unpriced,
        "difference": _rounded(one.difference),
        "explained": _rounded(one.explained),
        "share": explained,
        "reasons": [{"reason": reason, "amount": _rounded(amount)} for reason, amount in one.reasons],
    }


def _rounded(value: Decimal | None) -> Decimal | None:
    return None if value is None else rounded(value)


def _reason(reason: Mapping[str, Any]) -> str:
    return reason["reason"] if reason["amount"] is None else f"{reason['reason']} {money(reason['amount'])}"


def _percent(value: Decimal | None) -> str:
    return "-" if value is None else f"{value * 100:.2f} %"
