"""What a period cost, by any dimensions: from the windows where these know them, else from the runs; and how final that is.

Only closed runs count, each in the minute it settled in. A sum is its known part, None where nothing is known. Must not live
here: what a person means by a period (cli/period.py), printing.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal, localcontext
from typing import Any, Final

from clickhouse_connect.driver.client import Client

from agentrun_stream.errors import UsageError
from agentrun_stream.store.queries import Row, ask
from agentrun_stream.store.sql import literal

TOKENS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "total_tokens")
AMOUNTS: Final = ("cost_reported", "cost_computed", "cost_effective")
STATUSES: Final = ("completed", "failed", "cancelled", "timeout")
MEASURES: Final = ("runs", *STATUSES, "unpriced", *TOKENS, *AMOUNTS)
TAG: Final = "tag:"

_EXACT: Final = Context(prec=76)  # a sum may have more digits than one amount

# A dimension that is unknown is NULL. Times are cut in the zone that was asked for.
_IN_WINDOWS: Final = {
    "agent": "nullIf(x.agent_id, '')",
    "model": "nullIf(x.model, '')",
    "provider": "nullIf(x.provider, '')",
    "runtime": "nullIf(x.runtime, '')",
    "trigger": "nullIf(x.trigger, '')",
    "status": "nullIf(x.status, '')",
    "outcome": "nullIf(x.outcome, '')",
    "workspace": "x.workspace",
    "hour": "formatDateTime(x.minute, '%Y-%m-%dT%H:00%z', {zone})",
    "day": "formatDateTime(x.minute, '%Y-%m-%d', {zone})",
    "month": "formatDateTime(x.minute, '%Y-%m', {zone})",
}
_IN_RUNS: Final = {"task_id": "nullIf(x.task_id, '')", "git_branch": "nullIf(x.git_branch, '')"}
TIMES: Final = ("hour", "day", "month")
DIMENSIONS: Final = (*_IN_WINDOWS, *_IN_RUNS, f"{TAG}KEY")

_OF_RUNS: Final = (
    *(
        "workspace",
        "agent_id",
        "model",
        "provider",
        "runtime",
        "trigger",
        "status",
        "outcome",
        "task_id",
        "git_branch",
        "tags",
    ),
    *AMOUNTS,
)
_WINDOWS: Final = "SELECT * FROM cost_by_minute WHERE ledger = 'settled' AND {where}"
_HOURS: Final = "SELECT * FROM (SELECT *, hour AS minute FROM cost_by_hour) WHERE ledger = 'settled' AND {where}"
# The amounts are those of the runs' own rows; the ledger says in which minute they count.
_RUNS: Final = f"""
SELECT s.minute AS minute, {", ".join(f"r.{name} AS {name}" for name in _OF_RUNS)},
    toUInt64(1) AS runs, toUInt64(r.cost_effective IS NULL) AS unpriced,
    {", ".join(f"s.{name} AS {name}" for name in TOKENS)}
FROM (SELECT * FROM settlements_latest WHERE runs > 0 AND {{where}}) AS s
INNER JOIN
(
    SELECT workspace, run_id, agent_id, coalesce(nullIf(cost_model, ''), model) AS model, provider, runtime, trigger, status,
        outcome, task_id, git_branch, tags, cost_reported, cost_computed, cost_effective
    FROM runs_latest
    WHERE (workspace, run_id) IN (SELECT workspace, run_id FROM settlements_latest WHERE runs > 0 AND {{where}})
) AS r ON r.workspace = s.workspace AND r.run_id = s.run_id
"""
_STATUS_SUMS: Final = ", ".join(f"sumIf(x.runs, x.status = '{status}') AS {status}" for status in STATUSES)
_SUMS: Final = ", ".join(f"sum(x.{name}) AS {name}" for name in ("runs", "unpriced", *TOKENS, *AMOUNTS))
_FINALITY: Final = """
WITH (SELECT watermark FROM cost_watermark) AS mark, CAST({end} AS Nullable(DateTime64(3, 'UTC'))) AS ended
SELECT s.workspace AS workspace, any(s.lateness_s) AS lateness,
    multiIf(mark IS NULL OR ended IS NULL, 'open', addSeconds(ended, lateness) <= mark, 'final', ended <= mark, 'provisional',
        'open') AS state,
    sumIf(s.runs, s.late) AS late_runs, sumIf(s.unpriced, s.late) AS late_unpriced,
    sumIf(s.cost_effective, s.late) AS late_amount, toUInt64(toUnixTimestamp64Milli(maxIf(s.appended_at, s.late))) AS revision
FROM settlements_latest AS s WHERE {where} GROUP BY workspace ORDER BY workspace
"""
_OPEN: Final = "SELECT count() AS n FROM runs_latest WHERE closed_by IS NULL AND {where}"
_LAST_S: Final = (1 << 32) - 1
_HOUR_S: Final = 3_600
_STATES: Final = ("open", "provisional", "final")


@dataclass(frozen=True, slots=True)
class Asked:
    """Which runs: those that settled from `since` to before `until`, None without bound; of one workspace, of one agent."""

    since: datetime | None = None
    until: datetime | None = None
    workspace: str | None = None
    agent: str | None = None

    def where(self) -> str:
        """The condition on a ledger."""
        rules = [self._names()]
        rules += [] if self.since is None else [f"minute >= {_moment(self.since)}"]
        rules += [] if self.until is None else [f"minute < {_moment(self.until)}"]
        return " AND ".join(rules)

    def open_where(self) -> str:
        """The condition on open runs: those that had begun by then."""
        begun = "1" if self.until is None else f"coalesce(started_at, first_event_at) < {_moment(self.until)}"
        return f"{self._names()} AND {begun}"

    def _names(self) -> str:
        named = {"workspace": self.workspace, "agent_id": self.agent}
        return " AND ".join(f"{column} = {literal(v)}" for column, v in named.items() if v is not None) or "1"


def dimensions(names: Sequence[str]) -> tuple[str, ...]:
    """The dimensions as they are known, each once. Raises UsageError for one that is not."""
    for name in names:
        if name in _IN_WINDOWS or name in _IN_RUNS or (name.startswith(TAG) and name != TAG):
            continue
        near = difflib.get_close_matches(name, DIMENSIONS, n=1)
        meant = f"Did you mean {near[0]}? There are" if near else "There are"
        raise UsageError(f"There is no dimension {name!r}.", f"{meant} {', '.join(DIMENSIONS)}.")
    return tuple(dict.fromkeys(names))


def costs(client: Client, asked: Asked, by: Sequence[str], zone: str = "UTC") -> list[Row]:
    """The measures by these dimensions. With a time among them in its order, else what costs most first."""
    source = _source(asked, by, zone).format(where=asked.where())
    columns = "".join(f"{_expression(name, zone)} AS d{i}, " for i, name in enumerate(by))
    keys = [f"d{i}" for i in range(len(by))]
    order = keys if any(name in TIMES for name in by) else ["cost_effective DESC NULLS LAST", *keys]
    grouped = f"GROUP BY {', '.join(keys)}" if by else ""
    rows = ask(
        client,
        f"SELECT {columns}{_STATUS_SUMS}, {_SUMS} FROM ({source}) AS x {grouped} HAVING runs > 0 ORDER BY {', '.join(order)}",
    )
    return [{name: row[f"d{i}"] for i, name in enumerate(by)} | {name: row[name] for name in MEASURES} for row in rows]


def _source(asked: Asked, by: Sequence[str], zone: str) -> str:
    """The shortest table that knows all of it: hours are enough where nothing is cut within one."""
    if not all(name in _IN_WINDOWS for name in by):
        return _RUNS
    cut = any(at is not None and _seconds(at) % _HOUR_S for at in (asked.since, asked.until))
    return _WINDOWS if cut or (zone != "UTC" and any(name in TIMES for name in by)) else _HOURS


def _expression(name: str, zone: str) -> str:
    if name.startswith(TAG):
        key = name.removeprefix(TAG)
        forms = " OR ".join(f"startsWith(t, {literal(key + mark)})" for mark in "=:")
        return f"nullIf(substringUTF8(arrayFirst(t -> {forms}, x.tags), {len(key) + 2}), '')"
    return (_IN_WINDOWS | _IN_RUNS)[name].format(zone=literal(zone))


def added(rows: Sequence[Row]) -> Row:
    """The sum of all rows; of amounts the known part."""
    total: Row = {}
    for name in MEASURES:
        total[name] = _sum(row[name] for row in rows)
    return total | {name: total[name] or 0 for name in ("runs", *STATUSES, "unpriced")}


def _sum(values: Iterable[Any]) -> Any:
    known = [value for value in values if value is not None]
    with localcontext(_EXACT):
        return sum(known) if known else None


def finality(client: Client, asked: Asked) -> Row:
    """How final the period is: its state is that of the least final workspace in it."""
    end = "NULL" if asked.until is None else str(_seconds(asked.until))
    found = ask(client, _FINALITY.format(end=end, where=asked.where()))
    for row in found:
        row["late_amount"] = None if row["late_amount"] is None else Decimal(row["late_amount"])
    return {
        "state": min((row["state"] for row in found), key=_STATES.index, default=_STATES[0]),
        "watermark": ask(client, "SELECT watermark FROM cost_watermark")[0]["watermark"],
        "late_runs": sum(row["late_runs"] for row in found),
        "late_unpriced": sum(row["late_unpriced"] for row in found),
        "late_amount": _sum(row["late_amount"] for row in found),
        "revision": max((row["revision"] for row in found), default=0),
        "open_runs": ask(client, _OPEN.format(where=asked.open_where()))[0]["n"],
        "workspaces": found,
    }


def _moment(at: datetime) -> str:
    return f"toDateTime({_seconds(at)}, 'UTC')"


def _seconds(at: datetime) -> int:
    """Seconds since 1970, as far as the ledger's minutes can go."""
    return min(max(int(at.timestamp()), 0), _LAST_S)


def compared(rows: Sequence[Row], before: Sequence[Row], by: Sequence[str]) -> list[Row]:
    """The rows beside those of the period before, also groups that are only there.

    What had no run cost nothing; where it is not known what its runs cost, the difference is not known either.
    """
    held = {tuple(row[name] for name in by): row for row in before}
    mine = {tuple(row[name] for name in by): row for row in rows}
    empty = added([])
    return [
        dict(zip(by, key, strict=True)) | beside(mine.get(key, empty), held.get(key, empty)) for key in {**mine, **held}
    ]


def beside(now: Row, before: Row) -> dict[str, Any]:
    """The measures with those of the period before, and the difference of the known parts."""
    mine, theirs = (row["cost_effective"] if row["runs"] else Decimal(0) for row in (now, before))
    known = mine is not None and theirs is not None
    return {name: now[name] for name in MEASURES} | {
        "previous_runs": before["runs"],
        "previous_unpriced": before["unpriced"],
        "previous_effective": before["cost_effective"],
        "difference": _sum((mine, -theirs)) if known else None,
    }
