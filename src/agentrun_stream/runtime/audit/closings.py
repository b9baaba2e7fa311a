"""The closed runs of each agent held against the log, and what the failure process made of them against these runs.

Both are brought up to date by passes: a run that no pass took in yet is let be. Must not live here: how agents are judged
(processors/signals/), SQL (store/audit.py).
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from agentrun_stream.model.run import RunState, offset_of, row_version
from agentrun_stream.ports import Part, RunKey
from agentrun_stream.processors.signals.failures import LEARN_RUNS, STRETCH_RUNS, FailureRule
from agentrun_stream.runtime.audit.compare import Comparison
from agentrun_stream.runtime.audit.findings import Findings, Where, equal
from agentrun_stream.runtime.audit.views import AuditReader
from agentrun_stream.runtime.signals.failures import judge
from agentrun_stream.store.audit import Judged, Slice
from agentrun_stream.store.closings import AgentKey

# A pass writes its tables one after the other: what is right may differ for a moment.
_TRIES: Final = 8
_STEADY: Final = 2
_PAUSE_S: Final = 0.25
Row = Mapping[str, Any]


class Wrong(NamedTuple):
    """A difference of a row; without `column` about all of it."""

    column: str
    expected: object
    found: object


def closing_of(state: RunState, part: Part) -> dict[str, Any] | None:
    """What `closings` holds of a run, from its own object; None of one that never closed."""
    snap = state.snap
    if snap is None or not snap.settled:
        return None
    doc = snap.doc
    return {
        "agent_id": doc.get("agent_id") or "",
        "git_commit": doc.get("git_commit") or "",
        "config_hash": (doc.get("provenance") or {}).get("config_hash") or "",
        "status": "" if snap.closed_by is None else snap.status or "",
        "appended_ms": snap.append_ms,
        **part._asdict(),
        "offset": offset_of(snap.pos),
        "_version": row_version(snap.pos),
    }


def compare_closings(reader: AuditReader, comparison: Comparison, some: Slice, findings: Findings) -> None:
    """Every run that closed stands under its agent as its own object says, and nobody else does."""
    part = comparison.part
    stored = _by_run(reader.rows("closings", part, some))
    wanted = {
        key: closing_of(state, part)
        for key, state in comparison.states.items()
        if state.expired is None and key not in comparison.older
    }
    for key, rows in stored.items():
        if key not in comparison.states and comparison.judged(key, int(rows[0]["offset"])):
            wanted[key] = None
    differing = [key for key, row in wanted.items() if _wrong(row, stored.get(key, ()), comparison.limit)]
    if not differing:
        return
    # Taken in before they are looked at again: whoever is differing then is so for good.
    untaken = reader.untaken(differing)
    taken = [key for key in differing if key not in untaken]
    again = _by_run(reader.closings(taken))
    for key in taken:
        row = wanted[key]
        for wrong in _wrong(row, again.get(key, ()), comparison.limit):
            where = Where(part, None if row is None else row["offset"], key, column=wrong.column)
            findings.differ("closings", "closings", where, wrong.expected, wrong.found)


def _by_run(rows: Iterable[Row]) -> dict[RunKey, list[Row]]:
    found: dict[RunKey, list[Row]] = {}
    for row in rows:
        found.setdefault((row["workspace"], row["run_id"]), []).append(row)
    return found


def _wrong(wanted: Row | None, rows: Iterable[Row], limit: int) -> list[Wrong]:
    """What is wrong with the rows of a run. One that says nothing counts for nothing; one beyond the commit is let be."""
    held = list(rows)
    if any(int(row["_version"]) >= limit for row in held):
        return []
    agent = None if wanted is None else wanted["agent_id"]
    found = [Wrong("", "no row", "a row") for row in held if row["agent_id"] != agent and row["status"]]
    if wanted is not None:
        mine = next((row for row in held if row["agent_id"] == agent), None)
        if mine is None:
            return [*found, Wrong("", "a row", "no row")]
        found += [Wrong(name, value, mine[name]) for name, value in wanted.items() if not equal(value, mine[name])]
    return found


async def compare_signals(reader: AuditReader, findings: Findings) -> None:
    """Every agent is judged by its closed runs, under the rule that its row names."""
    differing, steady = _misjudged(reader), 0
    for _ in range(_TRIES):
        if not differing or steady == _STEADY:
            break
        await asyncio.sleep(_PAUSE_S)
        again = _misjudged(reader)
        steady = steady + 1 if again == differing else 0
        differing = {key: again[key] for key in differing.keys() & again.keys()}
    for (workspace, agent), wrong in differing.items():
        where = Where(run=(workspace, ""), object=f"agent {agent}", column=wrong.column)
        findings.differ("signals", "signals", where, wrong.expected, wrong.found)


def _misjudged(reader: AuditReader) -> dict[AgentKey, Wrong]:
    """Agents whose row does not follow from their closed runs; not those that a pass has still to judge."""
    waiting = reader.untaken_agents()
    held, known = reader.failures(), reader.agents()
    agents = sorted((known | held.keys()) - waiting)
    found: dict[AgentKey, Wrong] = {}
    for key, history in reader.histories(agents, STRETCH_RUNS, LEARN_RUNS):
        row = held.get(key)
        if row is None or key not in known:
            found[key] = Wrong("", "a row", "no row") if row is None else Wrong("", "no row", "a row")
            continue
        made = judge(key, history, _rule(row))
        state = orjson.dumps(made.state, option=orjson.OPT_SORT_KEYS).decode()
        for name, value, stored in zip(row._fields, (made.value, made.level, state), row, strict=True):
            if value != stored:
                found[key] = Wrong(name, value, stored)
    return found


def _rule(row: Judged) -> FailureRule:
    """The rule that a row says it was judged by; the usual one where it says none."""
    try:
        said = orjson.loads(row.state)["rule"]
        return FailureRule(said["baseline"], frozenset(said["counts"]))
    except (ValueError, KeyError, TypeError):
        return FailureRule()
