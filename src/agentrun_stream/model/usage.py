"""What a model call is billed by: its counts as stated, how they are meant, and the exclusive buckets they fall into.

Unknown is None, never zero. Must not live here: how a convention is decided, prices (pricing/).
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from agentrun_stream import limits
from agentrun_stream.model import ledger

# How `input_tokens` is meant: cached tokens inside it, beside it, or there are none.
INCLUSIVE: Final = "inclusive"
EXCLUSIVE: Final = "exclusive"
EITHER: Final = "either"
UNKNOWN: Final = "unknown"
MIXED: Final = "mixed"  # of a run whose calls differ
DECLARED: Final = frozenset({INCLUSIVE, EXCLUSIVE})

ONE_HOUR: Final = "1h"


class Terms(NamedTuple):
    """What the metadata of a call says besides its counts, and what its price depends on."""

    cache_write_1h_tokens: int | None = None
    service_tier: str | None = None
    convention: str | None = None


class Call(NamedTuple):
    """One model call, or a run's total taken as one. The first seven members are those of `model.run.Usage`, in its order.

    `at_s` is the event's own time: what the call is priced at. `convention` is the declared one, where there is one.
    """

    provider: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    total_tokens: int | None
    cache_write_1h_tokens: int | None
    service_tier: str | None
    convention: str | None
    at_s: float

    @property
    def stated(self) -> bool:
        """Whether any count is stated that a price could apply to; a bare total is none."""
        return not (self[2] is None and self[3] is None and self[4] is None and self[5] is None)


class Buckets(NamedTuple):
    """Exclusive counts: each token is in one of them. Reasoning tokens are inside output."""

    input_uncached: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    output: int


class Bill(NamedTuple):
    """All that a run's price depends on, prices aside: its total, its steps' calls, the reported amount, its producer."""

    run: Call
    steps: Sequence[Call] = ()
    reported: Decimal | None = None
    runtime: str | None = None
    runtime_version: str | None = None


def terms(metadata: dict[str, Any] | None, usage: dict[str, Any]) -> Terms:
    """The terms in a step's metadata and its usage, or in a run's cost metadata; members of the usage count first."""
    if metadata is None:
        metadata = usage
    life = _first("cache_write_1h_tokens", usage, metadata)
    if type(life) is not int or not 0 <= life <= limits.TOKENS_MAX:
        life = usage.get("cache_write_tokens") if _first("cache_ttl", usage, metadata) == ONE_HOUR else None
        life = life if type(life) is int and 0 <= life <= limits.TOKENS_MAX else None
    tier = _first("service_tier", usage, metadata)
    meant = _first("token_convention", usage, metadata)
    return Terms(life, tier if type(tier) is str else None, meant if type(meant) is str and meant in DECLARED else None)


def _first(name: str, *places: dict[str, Any]) -> Any:
    return next((place[name] for place in places if place.get(name) is not None), None)


def step_call(metadata: dict[str, Any] | None, tokens_used: Any, at_s: float) -> Call | None:
    """The call that a step states in `metadata.usage`; None where it states none."""
    said = ledger.step_usage(metadata, tokens_used)
    if said is None or metadata is None or type(usage := metadata.get("usage")) is not dict:
        return None
    return Call(*said, *terms(metadata, usage), at_s)


def run_call(doc: dict[str, Any], at_s: float) -> Call:
    """The total that a snapshot states, as if it were one call. What `cost.metadata` says counts before the run's own."""
    cost = doc.get("cost") or {}
    said = terms(cost.get("metadata"), cost)
    if None in said and type(doc.get("metadata")) is dict:
        own = terms(doc["metadata"], {})
        said = Terms(said[0], said[1] or own[1], said[2] or own[2])
    given, output, read, write, total = ledger.run_tokens(doc)
    provider, model = doc.get("provider"), cost.get("model") or doc.get("model")
    life, tier, meant = said
    return Call(provider, model, given, output, read, write, total, life, tier, meant, at_s)


def bill_of(doc: dict[str, Any], steps: Sequence[Call], at_s: float, reported: Decimal | None = None) -> Bill:
    """The bill of a run, from its snapshot and its steps' calls."""
    return Bill(run_call(doc, at_s), steps, reported, doc.get("runtime"), doc.get("runtime_version"))
