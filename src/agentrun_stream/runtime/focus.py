"""Charges as rows of FOCUS. Must not live here: FOCUS's own rules (pricing/focus.py), what is charged (charges.py), files."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from agentrun_stream.pricing.focus import ADJUSTMENT, COLUMNS, CURRENCY, STATUS, USAGE
from agentrun_stream.pricing.sheet import EXACT
from agentrun_stream.runtime.charges import ADJUSTMENTS, Charges, Key, Sums, cost

# The invoices that cover a provider's model on a day, by (provider, model, day of ISO 8601).
Invoiced = Mapping[tuple[str, str, str], str]

OWN_COLUMNS: Final = (
    *("x_AgentId", "x_Model", "x_RunProvider", "x_RunModel", "x_PriceSource", "x_AboveInputTokens", STATUS, "x_Runs"),
    *("x_UnpricedRuns", "x_UncomputedRuns", "x_Estimated"),
)
HEADER: Final = (*(column.name for column in COLUMNS), *OWN_COLUMNS)

_ACCOUNT: Final = "agentrun"
_DECEMBER: Final = 12
_UNITS: Final = {"request": "Requests"}
_TOKENS: Final = "Tokens"
_DOLLARS: Final = "US Dollars"

Row = dict[str, str | None]


def rows(charges: Charges, every_s: int, invoiced: Invoiced) -> Iterator[Row]:
    """The rows of one period, in an order that does not depend on that of the runs."""
    for key in sorted(charges, key=_order):
        yield _row(key, charges[key], every_s, invoiced)


def _order(key: Key) -> tuple[str, ...]:
    return tuple("" if value is None else str(value) for value in key)


def _row(key: Key, sums: Sums, every_s: int, invoiced: Invoiced) -> Row:
    return {
        **_times(key.start_s, every_s),
        **_names(key, invoiced),
        **_sku(key),
        **_amounts(key, sums),
        **_own(key, sums),
    }


def _times(start_s: int, every_s: int) -> Row:
    start = datetime.fromtimestamp(start_s, UTC)
    month = start.replace(day=1, hour=0, minute=0, second=0)
    after = month.replace(year=month.year + month.month // _DECEMBER, month=month.month % _DECEMBER + 1)
    return {
        "ChargePeriodStart": _time(start),
        "ChargePeriodEnd": _time(datetime.fromtimestamp(start_s + every_s, UTC)),
        "BillingPeriodStart": _time(month),
        "BillingPeriodEnd": _time(after),
    }


def _names(key: Key, invoiced: Invoiced) -> Row:
    day = datetime.fromtimestamp(key.start_s, UTC).date().isoformat()
    invoice = invoiced.get((key.provider, key.model, day))
    provider = key.provider or None
    return {
        "BillingAccountId": _ACCOUNT,
        "BillingAccountName": _ACCOUNT,
        "BillingAccountType": "Store",
        "BillingCurrency": CURRENCY,
        "SubAccountId": key.workspace,
        "SubAccountName": key.workspace,
        "SubAccountType": "Workspace",
        "InvoiceId": invoice,
        "InvoiceIssuerName": provider,
        "ProviderName": provider,
        "PublisherName": provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": "Model inference",
        "Tags": json.dumps({"agent": key.agent_id}) if key.agent_id else None,
        "x_Estimated": "true" if invoice is None else "false",
    }


def _sku(key: Key) -> Row:
    adjusts = key.meter in ADJUSTMENTS
    sku = f"{key.provider}/{key.model}/{key.meter}"
    priced = key.list_price is not None
    tier = {"x_AboveInputTokens": key.above} if key.above is not None else {}
    return {
        "ChargeCategory": ADJUSTMENT if adjusts else USAGE,
        "ChargeClass": None,
        "ChargeDescription": f"{key.meter.replace('_', ' ')}, {key.model or 'model unknown'}",
        "ChargeFrequency": "One-Time" if adjusts else "Usage-Based",
        "PricingCategory": "Standard" if priced or not adjusts else None,
        "SkuId": sku,
        "SkuMeter": key.meter,
        "SkuPriceId": f"{sku}/above-{key.above or 0}" if priced or not adjusts else None,
        "SkuPriceDetails": json.dumps(tier) if tier else None,
        "x_AboveInputTokens": None if key.above is None else str(key.above),
        "x_PriceSource": key.source or None,
    }


def _amounts(key: Key, sums: Sums) -> Row:
    adjusts = key.meter in ADJUSTMENTS
    quantity = sums.quantity if key.counted else None
    unit = None if quantity is None else _DOLLARS if adjusts else _UNITS.get(key.meter, _TOKENS)
    contracted = cost(key, sums, key.unit_price)
    return {
        "PricingQuantity": _digits(quantity),
        "PricingUnit": unit,
        "ConsumedQuantity": None if adjusts else _digits(quantity),
        "ConsumedUnit": None if adjusts else unit,
        "ListUnitPrice": _digits(key.list_price),
        "ListCost": _digits(cost(key, sums, key.list_price)),
        "ContractedUnitPrice": _digits(key.unit_price),
        "ContractedCost": _digits(contracted),
        "BilledCost": _digits(contracted if key.billed else None),
        "EffectiveCost": _digits(sums.effective),
    }


def _own(key: Key, sums: Sums) -> Row:
    return {
        "x_AgentId": key.agent_id or None,
        "x_Model": key.model or None,
        "x_RunProvider": key.run_provider or None,
        "x_RunModel": key.run_model or None,
        STATUS: key.status or None,
        "x_Runs": str(sums.runs),
        "x_UnpricedRuns": str(sums.unpriced),
        "x_UncomputedRuns": str(sums.uncomputed),
    }


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _digits(value: Decimal | None) -> str | None:
    """All digits that count, never in exponent form."""
    return None if value is None else format(EXACT.normalize(value), "f")
