"""Money: Decimal from the digits as sent to Decimal(38, 12), rounded half-even, never through a binary float.

Must not live here: prices, or anything that adds amounts of different runs.
"""

from decimal import ROUND_HALF_EVEN, Context, Decimal

from agentrun_stream import limits

_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_QUANTUM = Decimal(1).scaleb(-limits.MONEY_SCALE_DIGITS)
_ZERO = Decimal(0).quantize(_QUANTUM)


def amount(raw: str | None) -> Decimal | None:
    """The amount in US dollars for the digits of `cost_usd`, with 12 decimals; None where nothing was sent.

    The sum turns -0.0, which is not below zero, into the 0 that the store makes of it.
    """
    return None if raw is None else _CONTEXT.add(Decimal(raw).quantize(_QUANTUM, context=_CONTEXT), _ZERO)


def difference(new: Decimal | None, old: Decimal | None) -> Decimal | None:
    """`new` minus `old`, where unknown counts as nothing yet; None where both are unknown."""
    if new is None and old is None:
        return None
    return _CONTEXT.subtract(_ZERO if new is None else new, _ZERO if old is None else old)


def text(value: Decimal | None) -> str | None:
    """The amount with its 12 decimals, never in exponent form."""
    return None if value is None else format(value, "f")


def rounded(value: Decimal) -> Decimal:
    """An amount of any precision with 12 decimals, half-even: once, where it is stored."""
    return _CONTEXT.add(value.quantize(_QUANTUM, context=_CONTEXT), _ZERO)
