"""One pass of the failure process: take in what closed, judge the agents concerned, write, and only then note it as done.

A crash between any two of these steps costs a repetition and changes nothing: what is written depends on what is stored alone.
Must not live here: the mathematics (processors/signals/failures.py), the order of runs (store/closings.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from agentrun_stream.processors.signals.failures import (
    LEARN_RUNS,
    STRETCH_RUNS,
    FailureRule,
    Process,
    baseline_of,
    evalue,
    level_of,
    wilson,
)
from agentrun_stream.processors.signals.rules import Rules
from agentrun_stream.store.closings import AgentKey, History, News, Version
from agentrun_stream.store.signals import Signal

FAILURES: Final = "failures"


class Closings(Protocol):
    """The part of the store that knows the closed runs."""

    async def news(self) -> News:
        """Rows new to the store."""
        ...

    async def take_in(self, found: News) -> Sequence[AgentKey]:
        """Bring the closed runs up to date; the agents concerned. MUST be safe at any time, also beside another pass."""
        ...

    async def histories(self, agents: Sequence[AgentKey], stretch: int, learn: int) -> Mapping[AgentKey, History]:
        """The closed runs of these agents, in append order."""
        ...

    async def write(self, signals: Sequence[Signal], now_ms: int, version: int) -> None:
        """Write signals; of one key the higher version stays. MUST NOT return before it is durable."""
        ...

    async def record(self, found: News) -> None:
        """Note that all of this is taken in and written."""
        ...


async def refresh_failures(
    store: Closings, rules: Rules, held: Mapping[tuple[str, str, str], Signal], now_ms: int
) -> list[Signal]:
    """What was judged anew."""
    found = await store.news()
    agents = set(await store.take_in(found)) | _under_other_rules(held, rules)
    if agents:
        histories = await store.histories(sorted(agents), STRETCH_RUNS, LEARN_RUNS)
        judged = [judge(key, history, rules.of(key[0]).failures_of(key[1])) for key, history in histories.items()]
        await store.write(judged, now_ms, found.version)
    else:
        judged = []
    if found.blocks:
        await store.record(found)
    return judged


def judge(key: AgentKey, history: History, rule: FailureRule) -> Signal:
    """What stands in `signals` of an agent: the highest e-value among the versions of its last runs.

    While a version takes over from another both are watched, each on its own; after so few runs more only the new one is.
    """
    baseline, basis = baseline_of(rule, history.first)
    versions = [_version(version, rule, baseline) for version in history.versions]
    value = max((v["evalue"] for v in versions), default=0.0)
    state = {"baseline": baseline, "basis": basis, "versions": versions, "cancelled": history.cancelled}
    return Signal(*key, FAILURES, value, level_of(value), state | {"rule": _told(rule)})


def _version(version: Version, rule: FailureRule, baseline: float) -> dict[str, Any]:
    process = Process(stretch=version.complete).after(version.statuses)
    failed = process.failed(rule)
    return {
        "git_commit": version.git_commit,
        "config_hash": version.config_hash,
        **process.state(),
        "failed": failed,
        "evalue": evalue(process, rule, baseline),
        "rate_95": wilson(failed, process.runs),
    }


def _under_other_rules(held: Mapping[tuple[str, str, str], Signal], rules: Rules) -> set[AgentKey]:
    """Agents that were judged by a rule which is no longer theirs."""
    mine = (s for s in held.values() if s.signal == FAILURES)
    return {
        (s.workspace, s.agent_id)
        for s in mine
        if s.state["rule"] != _told(rules.of(s.workspace).failures_of(s.agent_id))
    }


def _told(rule: FailureRule) -> dict[str, Any]:
    return {"baseline": rule.baseline, "counts": sorted(rule.counts)}
