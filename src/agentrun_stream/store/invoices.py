"""Invoices as they were imported: the table `invoices`. Must not live here: reading files, comparing."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from clickhouse_connect.driver.client import Client

from agentrun_stream.model import money
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.rows import row
from agentrun_stream.store.sql import literal
from agentrun_stream.store.writer import insert

_NEWEST: Final = """
SELECT toString(max(_version)), argMax(digest, _version) FROM invoices WHERE invoice_id = {invoice} HAVING count() > 0
"""
_COVERED: Final = """
SELECT provider, model, toString(day), min(invoice_id) FROM invoices_latest GROUP BY provider, model, day
"""


class InvoiceLine(NamedTuple):
    """One line of an invoice: the charge of a provider's model on a day. `model_sent` is its name as the invoice has it."""

    line: int
    provider: str
    model: str
    model_sent: str
    day: date
    amount: Decimal
    currency: str
    tokens: int | None


def put(client: Client, invoice: str, digest: str, lines: Sequence[InvoiceLine]) -> bool:
    """Import an invoice, in place of what was imported under its id before; False where that is the same."""
    held = next(iter(rows_of(client, _NEWEST.format(invoice=literal(invoice)))), None)
    if held is not None and held[1] == digest:
        return False
    version = 1 if held is None else int(held[0]) + 1
    now = datetime.now(UTC).timestamp()
    shared: dict[str, Any] = {"invoice_id": invoice, "digest": digest, "imported_at": now, "_version": version}
    given = (
        {**line._asdict(), "day": line.day.isoformat(), "amount": money.text(money.rounded(line.amount))}
        for line in lines
    )
    insert(client, "invoices", [row(one | shared) for one in given])
    return True


def covered(client: Client) -> dict[tuple[str, str, str], str]:
    """By (provider, model, day): the first invoice that has a line for it."""
    return {(provider, model, day): invoice for provider, model, day, invoice in rows_of(client, _COVERED)}
