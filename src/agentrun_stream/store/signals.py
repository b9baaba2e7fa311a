"""What the detectors read besides closings, and the table `signals` that keeps what they found.

Every query reads the last minutes, or sums that are kept by minute. Money is `Decimal` from the store's digits.
Must not live here: judging (processors/signals/), when a pass is due (runtime/signals/).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeVar

import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from agentrun_stream.store import closings, running
from agentrun_stream.store.client import StoreAddress, connect, server_of, translated
from agentrun_stream.store.closings import AgentKey, History, News
from agentrun_stream.store.reader import rows_of
from agentrun_stream.store.running import Unreported
from agentrun_stream.store.sql import INSERT_SETTINGS, literal

T = TypeVar("T")

ACTIVE_MINUTES: Final = 10
ACTIVE_RUNS_MAX: Final = 2_000
COHORT_DAYS: Final = 7

# Reported cost is booked with the run, never with a step, so nothing is counted twice.
_SPENT: Final = """
SELECT workspace, ifNull(agent_id, ''), toString(sumIf(cost_reported, minute > toDateTime({now}, 'UTC') - INTERVAL 5 MINUTE)),
    toString(sum(cost_reported)),
    groupUniqArrayIf(100)(run_id, minute > toDateTime({now}, 'UTC') - INTERVAL 5 MINUTE AND cost_reported > 0)
FROM accruals FINAL
WHERE basis = 'run' AND cost_reported IS NOT NULL AND minute > toDateTime({now}, 'UTC') - INTERVAL 1 HOUR
GROUP BY workspace, ifNull(agent_id, '')
"""
_OPEN_COSTS: Final = """
SELECT workspace, run_id, toString(cost_reported) FROM runs FINAL
WHERE (workspace, run_id) IN ({runs}) AND closed_by IS NULL AND cost_reported IS NOT NULL
"""
_COHORT: Final = """
SELECT workspace, ifNull(agent_id, ''), count(),
    toString(quantileExact(0.99)(assumeNotNull(coalesce(s.cost_reported, s.cost_effective))))
FROM settlements AS s FINAL
WHERE (workspace, ifNull(agent_id, '')) IN ({agents}) AND runs > 0 AND coalesce(s.cost_reported, s.cost_effective) IS NOT NULL
    AND minute > toDateTime({now}, 'UTC') - INTERVAL {days} DAY
GROUP BY workspace, ifNull(agent_id, '')
"""
# The same input is known by its preview; where there is none, nothing is known. Stored steps are read by key.
_CALLS: Final = """
WITH active AS
(
    SELECT workspace, run_id FROM run_activity
    WHERE stored_at > toDateTime({now}, 'UTC') - INTERVAL 1 DAY
        AND minute > toDateTime({now}, 'UTC') - INTERVAL {minutes} MINUTE
    GROUP BY workspace, run_id ORDER BY max(minute) DESC, workspace, run_id LIMIT {runs}
)
SELECT workspace, run_id, tool, hex(digest), count() AS times
FROM
(
    SELECT workspace, run_id, object_id, argMax(type, _version) AS kind_of, argMax(tool_name, _version) AS tool,
        argMax(sipHash128(ifNull(input_preview, '')), _version) AS digest, argMax(input_preview IS NOT NULL, _version) AS known
    FROM run_objects WHERE (workspace, run_id) IN (SELECT workspace, run_id FROM active) AND kind = 'step'
    GROUP BY workspace, run_id, object_id
)
WHERE kind_of = 'tool_call' AND tool IS NOT NULL AND known
GROUP BY workspace, run_id, tool, digest
HAVING times >= {least}
"""
_AGENTS: Final = """
SELECT workspace, run_id, ifNull(agent_id, '') FROM runs FINAL WHERE (workspace, run_id) IN ({runs})
"""
# The accrued ledger knows what was reported when. The settled one knows which runs cost something else than they reported, or
# reported nothing and were priced, and how many have no cost.
_PERIODS: Final = """
SELECT workspace, agent_id, toString(sumIf({spent}, {today})), sumIf(unpriced, {today}), toString(sum({spent})), sum(unpriced)
FROM cost_by_minute
WHERE workspace IN ({workspaces}) AND minute >= toDateTime({month}, 'UTC')
GROUP BY workspace, agent_id
"""
_REPORTED_AND_PRICED: Final = """multiIf(ledger = 'settled', ifNull(cost_effective, 0) - ifNull(cost_reported, 0),
    basis = 'run', ifNull(cost_reported, 0), 0)"""
_ENDS: Final = """
SELECT workspace, agent_id, status, {windows}
FROM cost_by_minute
WHERE ledger = 'settled' AND status != 'cancelled' AND minute > toDateTime({now}, 'UTC') - INTERVAL {longest} SECOND
GROUP BY workspace, agent_id, status
"""
_WINDOW: Final = "sumIf(runs, minute > toDateTime({now}, 'UTC') - INTERVAL {seconds} SECOND)"
_HELD: Final = "SELECT workspace, agent_id, toString(signal), value, toString(level), state FROM signals FINAL"


@dataclass(frozen=True, slots=True)
class Signal:
    """One row of `signals`. `level` is ok, warn or over."""

    workspace: str
    agent_id: str
    signal: str
    value: float = 0.0
    level: str = "ok"
    state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What there is one row of."""
        return self.workspace, self.agent_id, self.signal


class Spending(NamedTuple):
    """What an agent spent in USD, and its open runs that spent in the last five minutes with their cost so far.

    `unpriced` are runs that accrued tokens of which not all have a price.
    """

    five_minutes: Decimal
    hour: Decimal
    running: Sequence[tuple[str, Decimal]]
    unpriced: int = 0


class Repeated(NamedTuple):
    """A call that an active run made again and again."""

    workspace: str
    run_id: str
    agent_id: str
    tool: str
    digest: str
    times: int


class Sums(NamedTuple):
    """What an agent spent in USD today and this month, each with how many of its runs have no cost."""

    day: tuple[Decimal, int] = (Decimal(0), 0)
    month: tuple[Decimal, int] = (Decimal(0), 0)


def held(client: Client) -> dict[tuple[str, str, str], Signal]:
    """All signals as they stand."""
    rows = (Signal(w, a, name, value, level, orjson.loads(s)) for w, a, name, value, level, s in rows_of(client, _HELD))
    return {row.key: row for row in rows}


def write(client: Client, signals: Sequence[Signal], now_ms: int, version: int) -> None:
    """Write these rows; of one key the higher version stays, of equal ones the later."""
    lines = []
    for s in signals:
        row = {"workspace": s.workspace, "agent_id": s.agent_id, "signal": s.signal, "value": s.value, "level": s.level}
        state = orjson.dumps(s.state, option=orjson.OPT_SORT_KEYS).decode()
        lines.append(orjson.dumps(row | {"state": state, "refreshed_at": now_ms / 1000, "_version": version}))
    try:
        client.raw_insert("signals", insert_block=b"\n".join(lines), settings=INSERT_SETTINGS, fmt="JSONEachRow")
    except (ClickHouseError, HTTPError, OSError) as error:
        raise translated(error, server_of(client)) from None


def spending(client: Client, now_s: int) -> dict[AgentKey, Spending]:
    """Who spent what in the last hour, by append time."""
    rows = list(rows_of(client, _SPENT.format(now=now_s)))
    active = [(row[0], run_id) for row in rows for run_id in row[4]]
    costs: dict[tuple[str, str], Decimal] = {}
    if active:
        found = rows_of(client, _OPEN_COSTS.format(runs=_pairs(active)))
        costs = {(workspace, run_id): Decimal(cost) for workspace, run_id, cost in found}
    return {
        (w, a): Spending(
            Decimal(five or 0), Decimal(hour or 0), [(r, costs[w, r]) for r in sorted(runs) if (w, r) in costs]
        )
        for w, a, five, hour, runs in rows
    }


def cohorts(client: Client, agents: Iterable[AgentKey], now_s: int) -> dict[AgentKey, tuple[int, Decimal]]:
    """Of each agent's finished runs of the last days: how many have a cost, and its 99th percentile."""
    wanted = sorted(agents)
    if not wanted:
        return {}
    rows = rows_of(client, _COHORT.format(agents=_pairs(wanted), now=now_s, days=COHORT_DAYS))
    return {(w, a): (count, Decimal(p99)) for w, a, count, p99 in rows}


def repeated_calls(client: Client, now_s: int, least: int) -> list[Repeated]:
    """Calls that one of the runs of the last minutes made so often with the same input."""
    given = {"now": now_s, "minutes": ACTIVE_MINUTES, "runs": ACTIVE_RUNS_MAX, "least": least}
    calls = list(rows_of(client, _CALLS.format(**given)))
    if not calls:
        return []
    runs = sorted({(w, r) for w, r, *_ in calls})
    agents = {(w, r): a for w, r, a in rows_of(client, _AGENTS.format(runs=_pairs(runs)))}
    return [Repeated(w, r, agents.get((w, r), ""), tool, digest, times) for w, r, tool, digest, times in calls]


def period_sums(client: Client, workspaces: Iterable[str], day_s: int, month_s: int) -> dict[AgentKey, Sums]:
    """What was spent since the beginnings of this day and this month, in seconds since 1970."""
    given = {"spent": _REPORTED_AND_PRICED, "today": f"minute >= toDateTime({day_s}, 'UTC')"}
    names = ", ".join(map(literal, sorted(workspaces)))
    rows = rows_of(client, _PERIODS.format(**given, month=month_s, workspaces=names))
    return {(w, a): Sums((Decimal(d), d_un), (Decimal(m), m_un)) for w, a, d, d_un, m, m_un in rows}


def ends(client: Client, windows_s: Sequence[int], now_s: int) -> dict[tuple[str, str, str], dict[int, int]]:
    """By (workspace, agent, status): how many runs ended in each of the last so many seconds. Cancelled ones aside."""
    columns = ", ".join(_WINDOW.format(now=now_s, seconds=seconds) for seconds in windows_s)
    rows = rows_of(client, _ENDS.format(windows=columns, now=now_s, longest=max(windows_s)))
    return {(w, a, status): dict(zip(windows_s, counts, strict=True)) for w, a, status, *counts in rows}


def _pairs(keys: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"({literal(a)}, {literal(b)})" for a, b in keys)


class ClickHouseSignals:
    """`runtime.signals.refresher.SignalStore`. Connects at the first use."""

    def __init__(self, address: StoreAddress) -> None:
        self._address = address
        self._client: Client | None = None

    async def held(self) -> dict[tuple[str, str, str], Signal]:
        """All signals as they stand."""
        return await self._do(held)

    async def write(self, signals: Sequence[Signal], now_ms: int, version: int) -> None:
        """Write these rows."""
        if signals:
            await self._do(lambda client: write(client, signals, now_ms, version))

    async def news(self) -> News:
        """Rows new to settlements, not yet in closings."""
        return await self._do(closings.news)

    async def take_in(self, found: News) -> Sequence[AgentKey]:
        """Bring closings up to date; the agents concerned."""
        return await self._do(lambda client: closings.take_in(client, found))

    async def record(self, found: News) -> None:
        """Note that these rows are taken in, and everything made of them is written."""
        await self._do(lambda client: closings.record(client, found))

    async def histories(self, agents: Sequence[AgentKey], stretch: int, learn: int) -> dict[AgentKey, History]:
        """The histories of these agents."""
        return await self._do(lambda client: dict(closings.histories(client, agents, stretch, learn)))

    async def spending(self, now_s: int) -> dict[AgentKey, Spending]:
        """Who spent what in the last hour."""
        return await self._do(lambda client: spending(client, now_s))

    async def unreported(self, now_s: int) -> list[Unreported]:
        """Runs of the last hour that report no cost."""
        return await self._do(lambda client: running.unreported(client, now_s))

    async def cohorts(self, agents: Iterable[AgentKey], now_s: int) -> dict[AgentKey, tuple[int, Decimal]]:
        """The cost of these agents' finished runs: how many have one, and its 99th percentile."""
        return await self._do(lambda client: cohorts(client, agents, now_s))

    async def repeated_calls(self, now_s: int, least: int) -> list[Repeated]:
        """Calls that runs of the last minutes repeated."""
        return await self._do(lambda client: repeated_calls(client, now_s, least))

    async def period_sums(self, workspaces: Iterable[str], day_s: int, month_s: int) -> dict[AgentKey, Sums]:
        """What was spent since these moments."""
        return await self._do(lambda client: period_sums(client, workspaces, day_s, month_s))

    async def ends(self, windows_s: Sequence[int], now_s: int) -> dict[tuple[str, str, str], dict[int, int]]:
        """How many runs ended how, in each of these windows."""
        return await self._do(lambda client: ends(client, windows_s, now_s))

    async def _do(self, ask: Callable[[Client], T]) -> T:
        return await asyncio.to_thread(self._ask, ask)

    def _ask(self, ask: Callable[[Client], T]) -> T:
        if self._client is None:
            self._client = connect(self._address)
        return ask(self._client)
