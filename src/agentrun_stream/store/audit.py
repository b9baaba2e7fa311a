"""What the audit reads: whole tables of one partition, and the checks that are one query.

Must not live here: comparing with the log (runtime/audit.py).
"""

from collections.abc import Iterator
from typing import Any, Final

import orjson
from clickhouse_connect.driver.client import Client

from agentrun_stream.ports import Part
from agentrun_stream.store.client import fetch
from agentrun_stream.store.sql import LOOKUP_SETTINGS, literal

_ROWS: Final = LOOKUP_SETTINGS | {
    "date_time_output_format": "unix_timestamp",
    "output_format_json_quote_decimals": 1,
    "output_format_decimal_trailing_zeros": 1,
    "output_format_json_quote_64bit_integers": 0,
}
_SUM_COLUMNS: Final = (
    "workspace, run_id, kind, object_id, type, tool_name, mcp_server, input_preview, output_preview, success, error, "
    "started_at, ended_at, duration_ms, tokens_used, metadata, extra, doc, _source, _event_time, _topic, _partition, "
    "_offset, _version, _first_appended_at, _appended_at"
)
_OBJECTS: Final = """
SELECT workspace, run_id, kind, object_id, _version, _sum = cityHash64(tuple({columns}))
FROM run_objects FINAL WHERE _topic = {topic} AND _partition = {partition}
"""
_TABLES: Final = {
    "runs": "SELECT * REPLACE (toString(_version) AS _version) FROM runs FINAL WHERE topic = {topic} AND partition = {partition}",
    "settlements": """
        SELECT * REPLACE (toString(_version) AS _version, toUnixTimestamp(minute) AS minute) FROM settlements FINAL
        WHERE (workspace, run_id) IN (SELECT workspace, run_id FROM runs WHERE topic = {topic} AND partition = {partition})
    """,
    "accruals": "SELECT * FROM accruals FINAL WHERE topic = {topic} AND partition = {partition}",
    "refused": "SELECT * FROM refused FINAL WHERE topic = {topic} AND partition = {partition}",
    "batches": """
        SELECT first, last FROM batches FINAL WHERE topic = {topic} AND partition = {partition} ORDER BY first, last
    """,
}
# A window as it is shown, less the same summed straight from its rows, must be nothing; and the other way round.
_MEASURES: Final = (
    "sum(tokens_in), sum(tokens_out), sum(tokens_read), sum(tokens_write), sum(tokens_total), "
    "sum(cost), sum(n), sum(unknown)"
)
_WINDOWS: Final = f"""
SELECT ledger, toUnixTimestamp(minute), workspace, agent, {_MEASURES}
FROM
(
    SELECT toString(ledger) AS ledger, minute, workspace, agent_id AS agent, toInt128(input_tokens) AS tokens_in,
        toInt128(output_tokens) AS tokens_out, toInt128(cache_read_tokens) AS tokens_read,
        toInt128(cache_write_tokens) AS tokens_write, toInt128(total_tokens) AS tokens_total, cost_reported AS cost,
        toInt64(runs) AS n, toInt64(unpriced) AS unknown
    FROM cost_by_minute
    UNION ALL
    SELECT 'accrued', minute, workspace, ifNull(agent_id, ''), -toInt128(input_tokens), -toInt128(output_tokens),
        -toInt128(cache_read_tokens), -toInt128(cache_write_tokens), -toInt128(total_tokens), -cost_reported, 0, 0
    FROM accruals FINAL
    UNION ALL
    SELECT 'settled', minute, workspace, ifNull(agent_id, ''), -toInt128(input_tokens), -toInt128(output_tokens),
        -toInt128(cache_read_tokens), -toInt128(cache_write_tokens), -toInt128(total_tokens), -cost_reported,
        -toInt64(runs), -toInt64(unpriced)
    FROM settlements FINAL
)
GROUP BY ledger, minute, workspace, agent
HAVING ifNull(sum(tokens_in), 0) != 0 OR ifNull(sum(tokens_out), 0) != 0 OR ifNull(sum(tokens_read), 0) != 0
    OR ifNull(sum(tokens_write), 0) != 0 OR ifNull(sum(tokens_total), 0) != 0 OR ifNull(sum(cost), 0) != 0
    OR sum(n) != 0 OR sum(unknown) != 0
"""


class AuditStore:
    """The store as the audit reads it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def objects(self, part: Part) -> Iterator[list[Any]]:
        """(workspace, run_id, kind, object_id, version, checksum holds) of every current object of a partition."""
        yield from self._lists(_OBJECTS, part)

    def rows(self, table: str, part: Part) -> Iterator[dict[str, Any]]:
        """The current rows of a table that belong to a partition. Times as seconds, money as text."""
        for line in fetch(self._client, self._sql(_TABLES[table], part), _ROWS, "JSONEachRow").splitlines():
            yield orjson.loads(line)

    def windows(self) -> Iterator[list[Any]]:
        """The windows that differ from the sums of their rows: ledger, minute, workspace, agent, then the differences."""
        for line in fetch(self._client, _WINDOWS, _ROWS).splitlines():
            yield orjson.loads(line)

    def _lists(self, sql: str, part: Part) -> Iterator[list[Any]]:
        for line in fetch(self._client, self._sql(sql, part), _ROWS).splitlines():
            yield orjson.loads(line)

    def _sql(self, sql: str, part: Part) -> str:
        return sql.format(topic=literal(part.topic), partition=part.partition, columns=_SUM_COLUMNS)
