"""What each workspace is held against: `workspaces.toml` as types. Opinions all, so changing them changes no stored fact.

Must not live here: judging (the modules beside), budgets (budgets.py), reading files (config/).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from agentrun_stream.processors.signals.burn import BurnRule
from agentrun_stream.processors.signals.failures import COUNTED, FailureRule
from agentrun_stream.processors.signals.loops import LoopRule
from agentrun_stream.processors.signals.strict import Reader, named, number, read, whole, wrong
from agentrun_stream.processors.signals.velocity import VelocityRule

LEARNED: Final = "learned"
LATENESS_HOURS: Final = 24
_WEEK_M: Final = 7 * 24 * 60
_YEAR_H: Final = 24 * 366


@dataclass(frozen=True, slots=True)
class WorkspaceRules:
    """The rules of one workspace. `agents` holds the baselines of single agents. Lateness in seconds of append time."""

    failures: FailureRule = field(default_factory=FailureRule)
    agents: Mapping[str, FailureRule] = field(default_factory=dict)
    velocity: VelocityRule = field(default_factory=VelocityRule)
    loops: LoopRule = field(default_factory=LoopRule)
    burn: tuple[BurnRule, ...] = ()
    lateness_s: int = LATENESS_HOURS * 3600

    def failures_of(self, agent_id: str) -> FailureRule:
        """What this agent's failures are held against."""
        return self.agents.get(agent_id, self.failures)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of all workspaces."""

    general: WorkspaceRules = field(default_factory=WorkspaceRules)
    by_workspace: Mapping[str, WorkspaceRules] = field(default_factory=dict)

    def of(self, workspace: str) -> WorkspaceRules:
        """The rules of a workspace."""
        return self.by_workspace.get(workspace, self.general)

    def all(self) -> tuple[WorkspaceRules, ...]:
        """Every set of rules that is in force somewhere."""
        return (self.general, *self.by_workspace.values())


def parse_rules(document: Mapping[str, Any], where: str) -> Rules:
    """The content of the file. A workspace takes what it does not say from `defaults`. Raises ConfigError."""
    found = read(document, where, {"defaults": _workspace, "workspaces": named(_workspace, workspaces=True)})
    defaults = found.get("defaults", {})
    own = found.get("workspaces", {})
    return Rules(_rules(defaults), {name: _rules(_over(defaults, said)) for name, said in own.items()})


def _over(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """What a workspace says over the defaults: section by section, key by key; a list counts whole."""
    both = {k: {**low[k], **v} for k, v in high.items() if isinstance(v, dict) and isinstance(low.get(k), dict)}
    return {**low, **high, **both}


def _rules(said: Mapping[str, Any]) -> WorkspaceRules:
    failures = dict(said.get("failures", {}))
    agents = failures.pop("agents", {})
    return WorkspaceRules(
        FailureRule(**failures),
        {name: FailureRule(**failures | own) for name, own in agents.items()},
        VelocityRule(**said.get("velocity", {})),
        LoopRule(**said.get("loops", {})),
        tuple(said.get("burn", ())),
        int(said.get("lateness_hours", LATENESS_HOURS) * 3600),
    )


def _workspace(table: Any, where: str) -> dict[str, Any]:
    return read(table, where, _WORKSPACE)


def _section(known: Mapping[str, Reader]) -> Reader:
    return lambda table, where: read(table, where, known)


def _baseline(value: Any, where: str) -> float | None:
    if value == LEARNED:
        return None
    found = number(0, 1)(value, where)
    if found == 1:
        raise wrong(where, "must be below 1: nothing fails more often than always")
    return float(found)


def _statuses(value: Any, where: str) -> frozenset[str]:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name in COUNTED for name in value):
        raise wrong(where, f"must list one or more of {', '.join(sorted(COUNTED))}; cancelled runs are counted apart")
    return frozenset(value)


def _burn(value: Any, where: str) -> tuple[BurnRule, ...]:
    if not isinstance(value, list):
        raise wrong(where, "must be a list of tables, [[...burn]]")
    return tuple(_burn_rule(one, f"{where}[{i}]") for i, one in enumerate(value))


def _burn_rule(value: Any, where: str) -> BurnRule:
    said = read(value, where, _BURN)
    missing = [name for name in _BURN if name not in said]
    if missing:
        raise wrong(where, f"lacks {', '.join(missing)}")
    rule = BurnRule(said["budget"], said["threshold"], said["short_minutes"] * 60, said["long_minutes"] * 60)
    if rule.short_s >= rule.long_s:
        raise wrong(where, "short_minutes must be below long_minutes")
    if why := rule.unreachable():
        raise wrong(where, why)
    return rule


def _hours(value: Any, where: str) -> Decimal:
    """Hours, also parts of one; none at all is a lateness too."""
    return Decimal(0) if value == 0 and not isinstance(value, bool) else number(0, _YEAR_H)(value, where)


_FAILURES: Final[dict[str, Reader]] = {"baseline": _baseline, "counts": _statuses}
_BURN: Final[dict[str, Reader]] = {
    "budget": number(0, 1),
    "threshold": number(),
    "short_minutes": whole(1, _WEEK_M),
    "long_minutes": whole(1, _WEEK_M),
}
_USD: Final = number(0, float(Decimal(10) ** 12))
_WORKSPACE: Final[dict[str, Reader]] = {
    "failures": _section({**_FAILURES, "agents": named(_section(_FAILURES))}),
    "velocity": _section({"floor": _USD, "factor": number(), "five_minutes": _USD, "hour": _USD}),
    "loops": _section({"times": whole(2, 1000)}),
    "burn": _burn,
    "lateness_hours": _hours,
}
