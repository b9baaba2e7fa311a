"""The terms of a model call: what its metadata says besides counts, and what its price depends on.

Unknown is None. Must not live here: prices, how a convention is decided (pricing/).
"""

from sys import intern
from typing import Any, Final, NamedTuple

from agentrun_stream import limits

# How `input_tokens` is meant: cached tokens inside it, beside it, or there are none.
INCLUSIVE: Final = "inclusive"
EXCLUSIVE: Final = "exclusive"
EITHER: Final = "either"
UNKNOWN: Final = "unknown"
MIXED: Final = "mixed"  # of a run whose calls differ
DECLARED: Final = frozenset({INCLUSIVE, EXCLUSIVE})

ONE_HOUR: Final = "1h"
_STATED_IN: Final = frozenset({"cache_write_1h_tokens", "cache_ttl", "service_tier", "token_convention"})


class Terms(NamedTuple):
    """What the metadata of a call says besides its counts, and what its price depends on."""

    cache_write_1h_tokens: int | None = None
    service_tier: str | None = None
    convention: str | None = None


NO_TERMS: Final = Terms()


def terms(metadata: dict[str, Any] | None, usage: dict[str, Any]) -> Terms:
    """The terms in a step's metadata and its usage, or in a run's cost metadata; members of the usage count first."""
    if metadata is None:
        metadata = usage
    if _STATED_IN.isdisjoint(usage) and _STATED_IN.isdisjoint(metadata):
        return NO_TERMS  # of most steps, and this is hot
    life = _first("cache_write_1h_tokens", usage, metadata)
    if type(life) is not int or not 0 <= life <= limits.TOKENS_MAX:
        life = usage.get("cache_write_tokens") if _first("cache_ttl", usage, metadata) == ONE_HOUR else None
        life = life if type(life) is int and 0 <= life <= limits.TOKENS_MAX else None
    tier = _first("service_tier", usage, metadata)
    meant = _first("token_convention", usage, metadata)
    declared = meant if type(meant) is str and meant in DECLARED else None
    return Terms(life, intern(tier) if type(tier) is str else None, None if declared is None else intern(declared))


def _first(name: str, *places: dict[str, Any]) -> Any:
    return next((place[name] for place in places if place.get(name) is not None), None)
