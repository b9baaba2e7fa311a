"""What people ask of the tables, over the views: runs, steps, refused records, sums, freshness.

An unknown amount is None, never 0. Must not live here: how answers are printed, or anything the loop reads (reader.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from agentrun_stream.errors import StoreRejectedError, UsageError
from agentrun_stream.ports import Part
from agentrun_stream.store.client import fetch, translated
from agentrun_stream.store.sql import literal

Connection = Client
Row = dict[str, Any]

# Amounts stay exact and times carry their zone, whoever reads the JSON.
_ANSWER: Final = {
    "output_format_json_quote_decimals": 1,
    "output_format_json_quote_64bit_integers": 0,
    "date_time_output_format": "iso",
    "max_query_size": 16 * 1024 * 1024,
}
# The amount is a string on the wire, so that its digits survive.
_MONEY: Final = frozenset(
    {"cost_reported", "cost_computed", "cost_lo", "cost_hi", "cost_effective", "diff_abs", "diff_rel", "cost"}
    | {"inclusive_cost_computed", "inclusive_cost_effective", "children_cost_effective", "amount"}
)
_SERVER_WORDS: Final = re.compile(r"(Code: \d+\..*?)(?:\s*\(for url [^)]*\))?\Z", re.DOTALL)
_WORDS_MAX: Final = 1_000
_RUN_COLUMNS: Final = """
    id, workspace, agent_id, agent_name, model, status, outcome, started_at, ended_at, duration_ms, steps, tool_calls,
    failed_tool_calls, input_tokens, output_tokens, total_tokens, cost_reported, verdict, closed_by, parent_run_id,
    first_event_at, last_event_at
"""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs; None means any. `since` is about when a run began."""

    agent: str | None = None
    status: str | None = None
    workspace: str | None = None
    since: datetime | None = None
    limit: int = 50


def ask(client: Client, sql: str, parameters: dict[str, Any] | None = None) -> list[Row]:
    """The rows of a query of ours, as dicts."""
    lines = fetch(client, sql, _ANSWER, "JSONEachRow", parameters=parameters).splitlines()
    rows = [orjson.loads(line) for line in lines]
    for row in rows:
        for name in _MONEY & row.keys():
            row[name] = None if row[name] is None else Decimal(row[name])
    return rows


def list_runs(client: Client, wanted: RunFilter) -> list[Row]:
    """The newest runs first; an open run's steps are counted as they stand."""
    rules = [
        f"{column} = {literal(value)}"
        for column, value in (("agent_id", wanted.agent), ("status", wanted.status), ("workspace", wanted.workspace))
        if value is not None
    ]
    if wanted.since is not None:
        rules.append(f"coalesce(started_at, first_event_at) >= {_moment(wanted.since)}")
    where = f"WHERE {' AND '.join(rules)}" if rules else ""
    order = f"ORDER BY coalesce(started_at, first_event_at) DESC, id LIMIT {int(wanted.limit)}"
    rows = ask(client, f"SELECT {_RUN_COLUMNS} FROM runs_latest {where} {order}")
    _count_open(client, rows)
    return rows


def find_runs(client: Client, run_id: str, workspace: str | None = None) -> list[Row]:
    """The runs of this id, whole, one per workspace."""
    more = f"AND workspace = {literal(workspace)}" if workspace is not None else ""
    rows = ask(
        client,
        f"SELECT * EXCEPT (_version) FROM runs_latest WHERE run_id = {literal(run_id)} {more} ORDER BY workspace",
    )
    _count_open(client, rows)
    return rows


def steps_of(client: Client, workspace: str, run_id: str) -> list[Row]:
    """The steps of a run in the order in which they began."""
    return ask(
        client,
        f"""SELECT id, type, tool_name, mcp_server, success, error, started_at, ended_at, duration_ms, tokens_used,
            input_tokens, output_tokens, usage_model, input_preview, output_preview, appended_at
        FROM steps_latest WHERE workspace = {literal(workspace)} AND run_id = {literal(run_id)}
        ORDER BY coalesce(started_at, event_time), offset, id""",
    )


def evals_of(client: Client, workspace: str, run_id: str) -> list[Row]:
    """The evals of a run."""
    return ask(
        client,
        f"""SELECT id, task_type, eval_layer, benchmark_id, scorer, pass, score, detail FROM evals_latest
        WHERE workspace = {literal(workspace)} AND run_id = {literal(run_id)} ORDER BY id""",
    )


def runs_by_status(client: Client) -> list[Row]:
    """How many runs there are by status; a run of which only patches came has none."""
    return ask(client, "SELECT status, count() AS runs FROM runs_latest GROUP BY status ORDER BY runs DESC, status")


def runs_by_verdict(client: Client) -> list[Row]:
    """How many runs there are by the headline of their verdict."""
    return ask(client, "SELECT verdict, count() AS runs FROM runs_latest GROUP BY verdict ORDER BY runs DESC, verdict")


def cost_by_agent(client: Client) -> list[Row]:
    """The known part of the cost by agent, and how many of its runs have none."""
    return ask(
        client,
        """SELECT agent_id, count() AS runs, sum(cost_effective) AS cost, countIf(cost_effective IS NULL) AS unpriced,
            sum(r.cost_reported) AS cost_reported,
            sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
        FROM runs_latest AS r GROUP BY agent_id ORDER BY cost DESC NULLS LAST, agent_id""",
    )


def refused_by_reason(client: Client) -> list[Row]:
    """How many records were refused, by reason."""
    return ask(
        client,
        """SELECT reason, count() AS records, max(refused_at) AS last_at
        FROM refused FINAL GROUP BY reason ORDER BY records DESC, reason""",
    )


def slowest_tools(client: Client, limit: int = 8) -> list[Row]:
    """The tools that take longest, by their 95th percentile."""
    return ask(
        client,
        f"""SELECT tool_name AS tool, count() AS calls, countIf(success = false) AS failed,
            quantileIf(0.5)(duration_ms, duration_ms IS NOT NULL) AS p50_ms,
            quantileIf(0.95)(duration_ms, duration_ms IS NOT NULL) AS p95_ms, max(duration_ms) AS max_ms
        FROM steps_latest WHERE type = 'tool_call' GROUP BY tool_name HAVING p95_ms IS NOT NULL
        ORDER BY p95_ms DESC, tool LIMIT {int(limit)}""",
    )


def totals(client: Client) -> Row:
    """How much there is: runs, open runs, steps, evals, refused records, offsets covered by the journal."""
    return ask(
        client,
        """SELECT (SELECT count() FROM runs_latest) AS runs,
            (SELECT count() FROM runs_latest WHERE closed_by IS NULL) AS open_runs,
            (SELECT count() FROM steps_latest) AS steps, (SELECT count() FROM evals_latest) AS evals,
            (SELECT count() FROM refused FINAL) AS refused""",
    )[0]


def freshness(client: Client, minutes: int = 15) -> Row:
    """From acknowledged to stored, in seconds, for what was stored in the last minutes; None where nothing was.

    Of a batch only its first and last append time are kept: half of its records count as old as each.
    """
    return ask(
        client,
        f"""SELECT if(count() = 0, NULL, quantileExactWeighted(0.5)(age, records)) AS p50_s,
            if(count() = 0, NULL, quantileExactWeighted(0.99)(age, records)) AS p99_s,
            toNullable(max(written_at)) AS last_at
        FROM
        (
            SELECT written_at, toUInt64(last - first) AS records,
                arrayJoin([first_appended_at, last_appended_at]) AS appended_at,
                greatest(0, dateDiff('millisecond', appended_at, written_at)) / 1000 AS age
            FROM batches FINAL
            WHERE written_at > now64(3) - INTERVAL {int(minutes)} MINUTE
                AND toUnixTimestamp64Milli(last_appended_at) > 0
        )""",
    )[0] | {"minutes": minutes}


def accruals_at(client: Client, part: Part, offset: int) -> list[Row]:
    """What stands in the ledger for one record."""
    return ask(
        client,
        f"""SELECT toUInt32(minute) AS minute_s, object_id, workspace, run_id, basis, _version FROM accruals FINAL
        WHERE topic = {literal(part.topic)} AND partition = {int(part.partition)} AND offset = {int(offset)}""",
    )


def refused_at(client: Client, part: Part, offset: int) -> Row | None:
    """What stands in `refused` for one record."""
    found = ask(
        client,
        f"""SELECT reason, pointer, keyword, _version FROM refused FINAL
        WHERE topic = {literal(part.topic)} AND partition = {int(part.partition)} AND offset = {int(offset)}""",
    )
    return found[0] if found else None


def objects_at(
    client: Client, keys: Sequence[tuple[str, str, str, str]]
) -> dict[tuple[str, str, str, str], tuple[int, float]]:
    """(append time in ms, event time in s) of those of these objects that are stored; an expired run is as new as can be.

    Keys are (workspace, run id, kind, object id), at most as many as one statement holds.
    """
    runs = ", ".join(sorted({f"({literal(k[0])}, {literal(k[1])})" for k in keys}))
    if not keys:
        return {}
    rows = ask(
        client,
        f"""SELECT workspace, run_id, toString(kind) AS kind, object_id,
            toUnixTimestamp64Milli(_appended_at) AS appended, toUnixTimestamp64Micro(_event_time) / 1000000 AS time
        FROM run_objects FINAL WHERE (workspace, run_id) IN ({runs})
            AND (kind != 'step' OR object_id IN ({", ".join(sorted({literal(k[3]) for k in keys}))}))""",
    )
    found = {(r["workspace"], r["run_id"], r["kind"], r["object_id"]): (r["appended"], r["time"]) for r in rows}
    gone = {(r["workspace"], r["run_id"]) for r in rows if r["kind"] == "expired"}
    newest = (1 << 62, float("inf"))
    return {k: newest if k[:2] in gone else found[k] for k in keys if k in found or k[:2] in gone}


def about(client: Client) -> Row:
    """What the store says of itself: version, clock (ms since 1970), zone, free bytes of its disks."""
    return ask(
        client,
        """SELECT version() AS version, toUnixTimestamp64Milli(now64(3)) AS now_ms, timezone() AS zone,
            (SELECT min(free_space) FROM system.disks) AS free_bytes""",
    )[0]


def _count_open(client: Client, rows: Sequence[Row]) -> None:
    """The sums of an open run are not in its row: they are counted from its steps."""
    still_open = [row for row in rows if row["closed_by"] is None]
    if not still_open:
        return
    keys = ", ".join(f"({literal(row['workspace'])}, {literal(row['id'])})" for row in still_open)
    counted = ask(
        client,
        f"""SELECT workspace, run_id, count() AS steps, countIf(type = 'tool_call') AS tool_calls,
            countIf(type = 'tool_call' AND success = false) AS failed_tool_calls
        FROM steps_latest WHERE (workspace, run_id) IN ({keys}) GROUP BY workspace, run_id""",
    )
    found = {(row["workspace"], row["run_id"]): row for row in counted}
    for row in still_open:
        sums = found.get((row["workspace"], row["id"]), {})
        row.update({name: sums.get(name, 0) for name in ("steps", "tool_calls", "failed_tool_calls")})


def _moment(at: datetime) -> str:
    return f"toDateTime64({literal(at.astimezone(UTC).strftime('%Y-%m-%d %H:%M:%S.%f'))}, 6, 'UTC')"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a statement of the user's own: columns with their types, and rows."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def passthrough(client: Client, sql: str) -> Answer:
    """Run one statement as it stands. Raises UsageError with the store's own words where it is wrong."""
    statement = sql.strip().rstrip(";").strip()
    if not statement:
        raise UsageError("There is no statement.", 'Write one, such as "SELECT count() FROM runs_latest".')
    try:
        if statement.split(None, 1)[0].upper() == "INSERT":
            client.command(statement)
            return Answer((), (), ())
        raw = client.raw_query(statement, fmt="JSONCompact", settings=dict(_ANSWER))
    except (ClickHouseError, HTTPError, OSError) as error:
        known = translated(error, str(getattr(client, "url", "")))
        if isinstance(known, StoreRejectedError):
            raise UsageError(f"The store refuses: {_own_words(str(error))}", "Tables and views: SHOW TABLES.") from None
        raise known from None
    if not raw.strip():
        return Answer((), (), ())
    found = orjson.loads(raw)
    names = tuple(column["name"] for column in found["meta"])
    return Answer(names, tuple(column["type"] for column in found["meta"]), tuple(tuple(row) for row in found["data"]))


def _own_words(text: str) -> str:
    """The store's message without the driver's around it. The statement is the user's own, so it may be quoted."""
    found = _SERVER_WORDS.search(text)
    return (found.group(1) if found else text).strip()[:_WORDS_MAX]
