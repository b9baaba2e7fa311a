"""The cast of the demo fleet and the plot of one run: which turns, how long, what fails, what it costs.

Times are durations in milliseconds; `fleet.py` puts them on the clock. Must not live here: bytes, records, a clock.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agentrun_stream.sdk.signing import RunSigner

TURN_MS_MAX: Final = 12_000
TRIGGERS: Final = ("manual", "cron", "webhook", "pipeline", "queue")
USAGE: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


@dataclass(frozen=True, slots=True)
class Model:
    """A model, how its provider counts cached tokens, and its price per million of each of `USAGE`."""

    name: str
    provider: str
    inclusive: bool
    usd_per_million: tuple[str, str, str, str] | None


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent: its tools with their median durations, how often its runs fail, their turns, its share of runs.

    `signs` says whether it signs its runs: it does, or it never does.
    """

    id: str
    name: str
    runtime: str
    model: Model
    tools: tuple[tuple[str, int], ...]
    failure_rate: float
    turns: tuple[int, int]
    weight: int
    signs: bool = True


@dataclass(slots=True)
class Turn:
    """One step to be: `usage` in the order of `USAGE`."""

    kind: str
    gap_ms: int
    duration_ms: int
    tool: str | None = None
    ok: bool = True
    retry: bool = False
    usage: tuple[int, int, int, int] | None = None
    child: "Plan | None" = None


@dataclass(slots=True)
class Plan:
    """One run to be. `reported_usd` is None where the run does not say what it cost.

    `tamper` is what is done to it on its way, `lost` are the steps that never arrive; the rest is filled in as it is told.
    """

    run_id: str
    agent: Agent
    status: str
    outcome: str | None
    turns: list[Turn]
    reported_usd: Decimal | None
    trigger: str
    parent: "Plan | None" = None
    flags: set[str] = field(default_factory=set)
    tamper: str | None = None
    lost: set[int] = field(default_factory=set)
    stated_hash: str | None = None
    hash_word: str = ""
    signer: "RunSigner | None" = None

    def span_ms(self) -> int:
        """Return how long the run takes, its children included."""
        return sum(t.gap_ms + t.duration_ms + (t.child.span_ms() if t.child else 0) for t in self.turns)

    def tokens(self, turns: int | None = None) -> dict[str, int]:
        """Return the usage of the first `turns` turns, or of all."""
        return usage_of(self.turns[:turns])

    def arriving(self) -> list[Turn]:
        """Return the turns whose steps arrive."""
        return [turn for index, turn in enumerate(self.turns) if index not in self.lost]


def usage_of(turns: list[Turn]) -> dict[str, int]:
    """Return the summed usage of turns; empty where none has any."""
    rows = [t.usage for t in turns if t.usage]
    return dict(zip(USAGE, map(sum, zip(*rows, strict=True)), strict=True)) if rows else {}


_OPUS: Final = Model("claude-opus-4-5-20251101", "anthropic", False, ("5", "25", "0.5", "6.25"))
_SONNET: Final = Model("claude-sonnet-4-5-20250929", "anthropic", False, ("3", "15", "0.3", "3.75"))
_HAIKU: Final = Model("claude-haiku-4-5-20251001", "anthropic", False, ("1", "5", "0.1", "1.25"))
_GPT: Final = Model("gpt-4o-2024-08-06", "openai", True, ("2.5", "10", "1.25", "0"))
_MINI: Final = Model("gpt-4o-mini-2024-07-18", "openai", True, ("0.15", "0.6", "0.075", "0"))
_OWN: Final = Model("house-tuned-8b", "on-premises", True, None)

_CODE_TOOLS: Final = (("read_file", 40), ("edit_file", 90), ("run_tests", 9_000))
_DESK_TOOLS: Final = (("find_order", 180), ("refund", 700), ("send_mail", 400))
_WEB_TOOLS: Final = (("web_search", 1_200), ("fetch_page", 2_500))
AGENTS: Final = (
    Agent("coder", "Coder", "workbench", _SONNET, _CODE_TOOLS, 0.08, (4, 12), 25),
    Agent("reviewer", "Reviewer", "workbench", _OPUS, (("read_file", 40), ("search_code", 300)), 0.03, (2, 6), 15),
    Agent("support", "Support desk", "helpdesk", _GPT, _DESK_TOOLS, 0.15, (2, 7), 30),
    Agent("triage", "Triage", "helpdesk", _MINI, (("classify", 60), ("route", 50)), 0.01, (1, 3), 20, signs=False),
    Agent("researcher", "Researcher", "notebook", _HAIKU, _WEB_TOOLS, 0.25, (3, 10), 8),
    Agent("nightly-report", "Nightly report", "scheduler", _OWN, (("query", 4_000), ("render", 800)), 0.10, (2, 5), 2),
)


def draw_plan(rng: Random, run_id: str, agent: Agent, parent: Plan | None = None) -> Plan:
    """Draw the plot of one run."""
    status, outcome = _end(rng, agent)
    turns = _turns(rng, agent, failing=status == "failed")
    trigger = rng.choice(TRIGGERS) if parent is None else "agent"
    return Plan(run_id, agent, status, outcome, turns, _reported(rng, agent.model, turns), trigger, parent)


def _end(rng: Random, agent: Agent) -> tuple[str, str | None]:
    if rng.random() >= agent.failure_rate:
        return "completed", rng.choices(("success", "partial", "failed", None), (85, 6, 4, 5))[0]
    return rng.choices((("failed", "failed"), ("timeout", None), ("cancelled", "abandoned")), (6, 2, 2))[0]


def _turns(rng: Random, agent: Agent, *, failing: bool) -> list[Turn]:
    turns: list[Turn] = []
    context = rng.randint(800, 9_000)
    for _ in range(rng.randint(*agent.turns)):
        if rng.random() < 0.2:
            turns.append(Turn("reasoning", rng.randint(5, 50), rng.randint(200, 3_000)))
        turns.append(_message(rng, agent.model, context))
        context += rng.randint(100, 2_500)
        tool, median = rng.choice(agent.tools)
        ok = rng.random() >= agent.failure_rate / 2
        turns.append(Turn("tool_call", rng.randint(1, 20), _duration(rng, median), tool, ok))
        if not ok and rng.random() < 0.8:
            turns.append(Turn("tool_call", rng.randint(200, 2_000), _duration(rng, median), tool, True, True))
    turns.append(Turn("error", 1, 0, ok=False) if failing else _message(rng, agent.model, context))
    return turns


def _message(rng: Random, model: Model, context: int) -> Turn:
    output = rng.randint(20, 900)
    cached = int(context * rng.random()) if rng.random() < 0.7 else 0
    written = rng.randint(0, 1_500) if cached and not model.inclusive else 0
    shown = context if model.inclusive else context - cached
    return Turn("message", rng.randint(5, 200), 300 + output * 12, usage=(shown, output, cached, written))


def _duration(rng: Random, median_ms: int) -> int:
    return min(TURN_MS_MAX, int(median_ms * rng.lognormvariate(0, 0.7)))


def _reported(rng: Random, model: Model, turns: list[Turn]) -> Decimal | None:
    """Return what the run says that it cost: most do, a few count cached tokens twice, some say nothing."""
    if model.usd_per_million is None or rng.random() < 0.08:
        return None
    rates = [Decimal(r) for r in model.usd_per_million]
    twice = rng.random() < 0.03
    millionths = Decimal(0)
    for fresh, output, cached, written in (t.usage for t in turns if t.usage):
        uncached = fresh - cached if model.inclusive and not twice else fresh
        millionths += rates[0] * uncached + rates[1] * output + rates[2] * cached + rates[3] * written
    return (millionths / 1_000_000).quantize(Decimal(1).scaleb(-rng.choice((6, 8, 10))))
