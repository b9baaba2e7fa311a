"""The dashboard benchmark: what questions of a dashboard take over the windows of many runs, and whether the answers are right.

Must not live here: how results are printed (bench.py), the windows themselves.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentrun_stream.store import windows
from agentrun_stream.store.client import StoreAddress, connect, execute
from agentrun_stream.store.embedded import EmbeddedStore
from agentrun_stream.store.migrate import migrate
from agentrun_stream.store.queries import Connection
from agentrun_stream.store.reader import rows_of

PIECE_RUNS: Final = 1_000_000
LOOKS: Final = 7
BELIEVED_AFTER_S: Final = 11.0  # readers count on sums that are older than ten seconds

Say = Callable[[str], None]

# Fifty agents over thirty days. A thirtieth of the runs has no known cost; the others cost 1 to 997 millionths of a dollar each.
_FILL: Final = """
INSERT INTO settlements (minute, workspace, run_id, agent_id, model, provider, runtime, trigger, status, outcome, closed_by,
    time_basis, runs, unpriced, steps, tool_calls, failed_tool_calls, corrections, duration_ms, input_tokens, output_tokens,
    total_tokens, cost_reported, cost_computed, cost_effective, revision, _version)
WITH cityHash64(number) AS chance, number % 30 = 0 AS unknown,
    if(unknown, NULL, toDecimal128(number % 997 + 1, 12) / 1000000) AS cost
SELECT toDateTime('2026-10-01 00:00:00', 'UTC') + intDiv(number * 43200, {runs}) * 60, 'default',
    concat('run-', toString(number)), concat('agent-', toString(chance % 50)), concat('model-', toString(chance % 50 % 7)),
    'anthropic', 'python', 'api',
    ['completed', 'completed', 'completed', 'failed', 'timeout'][bitShiftRight(chance, 20) % 5 + 1],
    if(bitShiftRight(chance, 20) % 5 < 3, 'success', 'failure'), 'runtime', 'ended_at', 1, unknown, 20, 8, 1, 0,
    1000, 100, 200, 300,
    cost, cost, cost, number, number
FROM numbers({at}, {piece})
"""
_QUESTIONS: Final = {
    "days_by_agent": "SELECT day, agent_id, sum(runs), sum(unpriced), sum(cost_effective) FROM cost_by_day "
    "WHERE ledger = 'settled' GROUP BY day, agent_id",
    "days_by_status": "SELECT day, status, sum(runs) FROM cost_by_day WHERE ledger = 'settled' GROUP BY day, status",
    "month_by_model": "SELECT model, sum(runs), sum(unpriced), sum(cost_effective), sum(total_tokens) FROM cost_by_day "
    "WHERE ledger = 'settled' GROUP BY model",
    "last_day_by_hour": "SELECT hour, agent_id, sum(runs), sum(cost_effective) FROM cost_by_hour "
    "WHERE ledger = 'settled' AND hour >= toDateTime('2026-10-30 00:00:00', 'UTC') GROUP BY hour, agent_id",
}
_SUMS: Final = "SELECT sum(runs), sum(unpriced), toString(sum(cost_effective)) FROM %s WHERE ledger = 'settled'"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Over how many runs to ask, all of them in thirty days."""

    runs: int = 10_000_000


def dashboard(options: Dashboard, folder: Path, say: Say) -> dict[str, Any]:
    """Fill a store of its own in `folder`, bring its windows up to date, ask; returns the figures by name."""
    with EmbeddedStore(folder / "clickhouse") as store:
        address = StoreAddress(store.url)
        migrate(address)
        client = connect(address)
        for at in range(0, options.runs, PIECE_RUNS):
            piece = min(PIECE_RUNS, options.runs - at)
            execute(client, _FILL.format(runs=options.runs, at=at, piece=piece))
            say(f"{at + piece:,} of {options.runs:,} runs.")
        say("Bringing the windows up to date.")
        started = time.perf_counter()
        windows.refresh_all(client)
        refreshed = time.perf_counter() - started
        time.sleep(BELIEVED_AFTER_S)
        say("Asking.")
        return {
            "runs": options.runs,
            "minute_windows": _one(client, "SELECT count() FROM cost_windows FINAL WHERE rows > 0")[0],
            "hour_windows": _one(client, "SELECT count() FROM cost_hours FINAL WHERE rows > 0")[0],
            "refresh_seconds": round(refreshed, 1),
            **{f"{name}_ms": _median_ms(client, sql) for name, sql in _QUESTIONS.items()},
            "windows_differ": _differ(client, options.runs),
        }


def _median_ms(client: Connection, sql: str) -> int:
    took = []
    for _ in range(LOOKS):
        started = time.perf_counter()
        list(rows_of(client, sql))
        took.append(time.perf_counter() - started)
    return round(statistics.median(took) * 1000)


def _differ(client: Connection, runs: int) -> int:
    """How many of the views do not hold exactly what was generated: counted and added up here, not there."""
    costs = sum(number % 997 + 1 for number in range(runs) if number % 30)
    expected = [runs, len(range(0, runs, 30)), costs]
    found = [_one(client, _SUMS % view) for view in ("cost_by_day", "cost_by_hour", "cost_by_minute")]
    return sum([row[0], row[1], _millionths(row[2])] != expected for row in found)


def _millionths(amount: str) -> int:
    whole, _, digits = amount.partition(".")
    return int(whole) * 1_000_000 + int(digits.ljust(6, "0"))


def _one(client: Connection, sql: str) -> list[Any]:
    return list(next(iter(rows_of(client, sql))))
