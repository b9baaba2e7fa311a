"""Runs that accrued tokens in the last hour and report no cost: their states, and what they accrued lately.

Must not live here: prices, what these tokens cost (runtime/signals/running.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from clickhouse_connect.driver.client import Client

from agentrun_stream.model.ledger import TOKENS
from agentrun_stream.model.run import RunState
from agentrun_stream.ports import RunKey
from agentrun_stream.store.reader import load_runs, rows_of
from agentrun_stream.store.sql import literal

RUNS_MAX: Final = 2_000

Accrued = dict[tuple[str, str], tuple[int, ...]]  # by basis and object, in the order of TOKENS

_LAST_HOUR: Final = "minute > toDateTime({now}, 'UTC') - INTERVAL 1 HOUR"
_RUNS: Final = f"""
SELECT workspace, run_id FROM accruals FINAL
WHERE {_LAST_HOUR} AND (workspace, run_id) NOT IN
(
    SELECT workspace, run_id FROM accruals WHERE {_LAST_HOUR} AND basis = 'run' AND cost_reported IS NOT NULL
)
GROUP BY workspace, run_id ORDER BY max(minute) DESC, workspace, run_id LIMIT {RUNS_MAX}
"""
_ACCRUED: Final = f"""
SELECT workspace, run_id, toString(basis), object_id, minute > toDateTime({{now}}, 'UTC') - INTERVAL 5 MINUTE AS lately,
    {", ".join(f"ifNull(sum({name}), 0)" for name in TOKENS)}
FROM accruals FINAL WHERE {_LAST_HOUR} AND (workspace, run_id) IN ({{runs}})
GROUP BY workspace, run_id, basis, object_id, lately
"""


@dataclass(slots=True)
class Unreported:
    """A run without a reported cost, as it stands, and what it accrued in the last five minutes and in the last hour."""

    state: RunState
    five_minutes: Accrued = field(default_factory=dict)
    hour: Accrued = field(default_factory=dict)


def unreported(client: Client, now_s: int) -> list[Unreported]:
    """The last of these runs, at most RUNS_MAX. What expired has nothing to be priced by."""
    keys: list[RunKey] = [(workspace, run_id) for workspace, run_id in rows_of(client, _RUNS.format(now=now_s))]
    if not keys:
        return []
    runs = ", ".join(f"({literal(workspace)}, {literal(run_id)})" for workspace, run_id in keys)
    rows = list(rows_of(client, _ACCRUED.format(now=now_s, runs=runs)))
    # After the ledger, which is written first: what accrued is in the states.
    found = {
        key: Unreported(state)
        for key, state in load_runs(client, keys).items()
        if state.expired is None and (state.snap is None or state.snap.cost_raw is None)
    }
    for workspace, run_id, basis, object_id, lately, *tokens in rows:
        one = found.get((workspace, run_id))
        if one is not None:
            _add(one.hour, (basis, object_id), tokens)
            if lately:
                _add(one.five_minutes, (basis, object_id), tokens)
    return list(found.values())


def _add(accrued: Accrued, key: tuple[str, str], tokens: list[int]) -> None:
    held: Mapping[int, int] = dict(enumerate(accrued.get(key, ())))
    accrued[key] = tuple(held.get(at, 0) + count for at, count in enumerate(tokens))
