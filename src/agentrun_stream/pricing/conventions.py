"""How a call's counts are meant: inclusive, exclusive, either or unknown, and by which evidence; then its buckets.

Must not live here: prices.
"""

from typing import Final, NamedTuple

from agentrun_stream.model.terms import EITHER, EXCLUSIVE, INCLUSIVE, UNKNOWN
from agentrun_stream.model.usage import Buckets, Call


class Profile(NamedTuple):
    """How a runtime counts, from one version (inclusive) to another (exclusive); None is open."""

    runtime: str
    convention: str
    since: tuple[int, ...] | None = None
    until: tuple[int, ...] | None = None


PROFILES: Final = (
    Profile("claude-code", EXCLUSIVE),
    Profile("inspect-ai", EXCLUSIVE),
    Profile("inspect", EXCLUSIVE),
    Profile("opentelemetry", INCLUSIVE),
    Profile("openinference", INCLUSIVE),
)

# How a provider's own interface counts. Where Claude is served under its own interface, it counts as Anthropic does.
PROVIDERS: Final = {
    "anthropic": EXCLUSIVE,
    "aws": EXCLUSIVE,
    **dict.fromkeys(
        ("openai", "azure", "google", "deepseek", "groq", "x-ai", "mistral", "moonshotai", "fireworks", "openrouter"),
        INCLUSIVE,
    ),
}
_CLAUDE_AS_ITSELF: Final = frozenset({"google", "azure"})


class Decision(NamedTuple):
    """A convention and why."""

    convention: str
    evidence: str


_DECLARED: Final = {name: Decision(name, "metadata") for name in (INCLUSIVE, EXCLUSIVE)}
_NO_CACHE: Final = Decision(EITHER, "no_cache")
_TOTAL_INSIDE: Final = Decision(INCLUSIVE, "total=input+output")
_TOTAL_BESIDE: Final = Decision(EXCLUSIVE, "total=input+cache+output")
_CACHE_EXCEEDS: Final = Decision(EXCLUSIVE, "cache>input")
_NOTHING: Final = Decision(UNKNOWN, "none")
_DEFAULTS: Final = {name: Decision(convention, f"provider:{name}") for name, convention in PROVIDERS.items()}


def decide(
    call: Call, declared: str | None, profiled: Decision | None, owner: tuple[str | None, str | None]
) -> Decision:
    """How `call` counts, by the first evidence there is.

    What it or its run declares; its producer's profile; its own sums; the default of the `owner` (provider, model) of its
    price.
    """
    cached = call.cache_read_tokens or call.cache_write_tokens
    return evident(declared, profiled, cached) or _by_sums(call) or _by_provider(*owner)


def evident(declared: str | None, profiled: Decision | None, cached: int | None) -> Decision | None:
    """What is clear without a look at sums and names: what is declared or known of the producer, and where nothing is cached."""
    if declared is not None:
        return _DECLARED[declared]
    return profiled or (None if cached else _NO_CACHE)


def _by_sums(call: Call) -> Decision | None:
    cached = (call.cache_read_tokens or 0) + (call.cache_write_tokens or 0)
    given, total = call.input_tokens or 0, call.total_tokens
    if total is not None:
        spoken = given + (call.output_tokens or 0)
        if total == spoken + cached:
            return _TOTAL_BESIDE
        # A total that leaves cached tokens out altogether proves nothing: they would not fit inside.
        if total == spoken and cached <= given:
            return _TOTAL_INSIDE
    return _CACHE_EXCEEDS if cached > given else None


def _by_provider(provider: str | None, model: str | None) -> Decision:
    if provider in _CLAUDE_AS_ITSELF and "claude" in (model or "").lower():
        return Decision(EXCLUSIVE, f"provider:{provider}")
    return _DEFAULTS.get(provider or "", _NOTHING)


def profile(runtime: str | None, version: str | None, profiles: tuple[Profile, ...] = PROFILES) -> Decision | None:
    """What the profile of a producer says; None where there is none for it."""
    for row in profiles:
        if row.runtime != runtime:
            continue
        number = _number(version)
        if (row.since is None or number >= row.since) and (row.until is None or number < row.until):
            return Decision(row.convention, f"profile:{row.runtime}")
    return None


def _number(version: str | None) -> tuple[int, ...]:
    """The leading numbers of a version: 0.3.145.dev15 is (0, 3, 145); what has none is older than all."""
    numbers: list[int] = []
    for part in (version or "").split("."):
        if not (part.isascii() and part.isdigit() and len(part) < 10):  # noqa: PLR2004 - a number, not a commit
            break
        numbers.append(int(part))
    return tuple(numbers)


def buckets(call: Call, convention: str) -> Buckets | None:
    """The exclusive counts of `call`; None where they contradict the convention, or the longer life its cache writes."""
    _, _, given, output, read, write, _, longer, _, _, _ = call
    given, output, read, write, longer = given or 0, output or 0, read or 0, write or 0, longer or 0
    if longer > write:
        return None
    if convention == INCLUSIVE:
        given -= read + write
        if given < 0:
            return None
    return Buckets(given, read, write - longer, longer, output)
