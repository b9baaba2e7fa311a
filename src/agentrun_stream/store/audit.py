"""What the audit reads: current rows of one partition, some runs at a time, and the checks that are one query.

Must not live here: comparing with the log (runtime/audit/).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, NamedTuple

import orjson
from clickhouse_connect.driver.client import Client

from agentrun_stream.model.lineage import Kin
from agentrun_stream.model.projection import COUNTER_BITS
from agentrun_stream.ports import Part, RunKey
from agentrun_stream.store import closings, lineage, reader
from agentrun_stream.store.client import fetch
from agentrun_stream.store.closings import AgentKey, History
from agentrun_stream.store.rows import OBJECT_COLUMNS
from agentrun_stream.store.sql import LOOKUP_SETTINGS, literal

_ROWS: Final = LOOKUP_SETTINGS | {
    "date_time_output_format": "unix_timestamp",
    "output_format_json_quote_decimals": 1,
    "output_format_decimal_trailing_zeros": 1,
    "output_format_json_quote_64bit_integers": 0,
}
_SUM_COLUMNS: Final = ", ".join(name for name in OBJECT_COLUMNS if name != "_ingested_at")
_HOLDS: Final = f"_sum = cityHash64(tuple({_SUM_COLUMNS})) AS holds"
_OBJECTS: Final = """
SELECT {columns}, {holds} FROM run_objects FINAL
WHERE _topic = {topic} AND _partition = {partition} AND {some} ORDER BY workspace, run_id, kind, object_id
"""
_FEW: Final = "workspace, run_id, kind, object_id, _version, _first_appended_at"
_CLOSINGS: Final = """
SELECT workspace, agent_id, run_id, git_commit, config_hash, status, toUnixTimestamp64Milli(appended_at) AS appended_ms,
    topic, partition, offset, _version
FROM closings FINAL
"""
_UNTAKEN_AGENTS: Final = """
SELECT DISTINCT workspace, agent_id FROM closings WHERE (workspace, run_id) IN ({unseen})
UNION DISTINCT
SELECT DISTINCT workspace, JSONExtractString(ifNull(doc, ''), 'agent_id') FROM run_objects
WHERE kind = 'run' AND (workspace, run_id) IN ({unseen})
"""
_TABLES: Final = {
    "runs": """
        SELECT * REPLACE (toString(_version) AS _version) FROM runs FINAL
        WHERE topic = {topic} AND partition = {partition} AND {some}
    """,
    "settlements": """
        SELECT * REPLACE (toString(_version) AS _version, toUnixTimestamp(minute) AS minute) FROM settlements FINAL
        WHERE (workspace, run_id) IN
        (
            SELECT workspace, run_id FROM runs WHERE topic = {topic} AND partition = {partition}
            UNION DISTINCT
            SELECT workspace, run_id FROM run_objects WHERE _topic = {topic} AND _partition = {partition} AND kind = 'run'
        ) AND {some}
    """,
    "accruals": """
        SELECT * REPLACE (toUnixTimestamp(minute) AS minute) FROM accruals FINAL
        WHERE topic = {topic} AND partition = {partition} AND {some}
    """,
    "evidence": """
        SELECT workspace, run_id, version, offset, lower(hex(SHA256(raw))) AS sha256 FROM evidence FINAL
        WHERE topic = {topic} AND partition = {partition} AND {some}
    """,
    "closings": f"{_CLOSINGS} WHERE topic = {{topic}} AND partition = {{partition}} AND {{some}}",
    "refused": "SELECT * FROM refused FINAL WHERE topic = {topic} AND partition = {partition}",
    "batches": """
        SELECT first, last FROM batches FINAL WHERE topic = {topic} AND partition = {partition} ORDER BY first, last
    """,
}
_DIMENSIONS: Final = ("agent_id", "model", "provider", "runtime", "trigger")
_AMOUNTS: Final = (
    *("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "total_tokens", "cost_reported"),
)
_PRICED: Final = ("cost_computed", "cost_effective")
_COUNTS: Final = (
    "runs",
    "unpriced",
    "timeouts",
    "steps",
    "tool_calls",
    "failed_tool_calls",
    "corrections",
    "duration_ms",
)
_STRAYS: Final = """
SELECT '{table}', {prefix}topic AS topic, {prefix}partition AS partition, count() FROM {table} FINAL
WHERE topic IN ({topics}) AND (topic, partition) NOT IN ({parts}) GROUP BY topic, partition
"""
RUNS_ASKED_MAX: Final = 50_000
RUNS_NAMED_MAX: Final = 2_000
_OFFSET: Final = {
    "accruals": "offset",
    "evidence": "offset",
    "runs": "revision",
    "settlements": "revision",
    "closings": "offset",
}
_WITH_PLACE: Final = {"run_objects": "_", "runs": "", "accruals": "", "refused": "", "batches": ""}


@dataclass(frozen=True, slots=True)
class Slice:
    """The runs that are looked at together: those whose id has this CRC-32 modulo `count`.

    With `runs` only these of them, and whatever stands at an offset from `since` on.
    """

    number: int = 0
    count: int = 1
    runs: frozenset[str] | None = None
    since: int = 0

    def sql(self, offset: str) -> str:
        """The condition on a table; `offset` is its column of offsets."""
        rules = [f"CRC32(run_id) % {self.count} = {self.number}"] if self.count > 1 else []
        if self.runs is not None and len(self.runs) <= RUNS_ASKED_MAX:
            named = ", ".join(map(literal, sorted(self.runs))) or "''"
            rules.append(f"(run_id IN ({named}) OR {offset} >= {self.since})")
        return " AND ".join(rules) or "1"


class Judged(NamedTuple):
    """What stands in `signals` of an agent's failures; `state` is the JSON as it was written."""

    value: float
    level: str
    state: str


class AuditStore:
    """`runtime.audit.AuditReader`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def objects(self, part: Part, some: Slice, *, deep: bool) -> Iterator[dict[str, Any]]:
        """See `AuditReader.objects`."""
        columns = _SUM_COLUMNS if deep else _FEW
        sql = _OBJECTS.format(columns=columns, holds=_HOLDS, **_place(part, some, "_offset"))
        yield from self._dicts(sql)

    def rows(self, table: str, part: Part, some: Slice) -> Iterator[dict[str, Any]]:
        """See `AuditReader.rows`."""
        yield from self._dicts(_TABLES[table].format(**_place(part, some, _OFFSET.get(table, ""))))

    def counters(self, keys: Sequence[RunKey]) -> dict[RunKey, int]:
        """See `AuditReader.counters`."""
        found = reader.projected(self._client, keys)
        return {key: stored.version & ((1 << COUNTER_BITS) - 1) for key, stored in found.items()}

    def kin(self, keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        """See `AuditReader.kin`."""
        return lineage.kin(self._client, keys)

    def windows(self) -> Iterator[dict[str, Any]]:
        """See `AuditReader.windows`."""
        yield from self._dicts(windows_sql())

    def closings(self, keys: Sequence[RunKey]) -> Iterator[dict[str, Any]]:
        """See `AuditReader.closings`."""
        for named in _named(keys):
            yield from self._dicts(f"{_CLOSINGS} WHERE (workspace, run_id) IN ({named})")

    def untaken(self, keys: Sequence[RunKey]) -> frozenset[RunKey]:
        """See `AuditReader.untaken`."""
        unseen = closings.unseen(self._client)
        sql = f"SELECT DISTINCT workspace, run_id FROM ({unseen}) WHERE (workspace, run_id) IN "
        found = (row for named in _named(keys) for row in reader.rows_of(self._client, f"{sql} ({named})"))
        return frozenset((workspace, run_id) for workspace, run_id in found)

    def untaken_agents(self) -> frozenset[AgentKey]:
        """See `AuditReader.untaken_agents`."""
        sql = _UNTAKEN_AGENTS.format(unseen=closings.unseen(self._client))
        return frozenset((workspace, agent) for workspace, agent in reader.rows_of(self._client, sql))

    def agents(self) -> frozenset[AgentKey]:
        """See `AuditReader.agents`."""
        found = reader.rows_of(self._client, "SELECT DISTINCT workspace, agent_id FROM closings")
        return frozenset((workspace, agent) for workspace, agent in found)

    def failures(self) -> dict[AgentKey, Judged]:
        """See `AuditReader.failures`."""
        sql = "SELECT workspace, agent_id, value, toString(level), state FROM signals FINAL WHERE signal = 'failures'"
        return {(workspace, agent): Judged(*told) for workspace, agent, *told in reader.rows_of(self._client, sql)}

    def histories(self, agents: Sequence[AgentKey], stretch: int, learn: int) -> Iterator[tuple[AgentKey, History]]:
        """See `AuditReader.histories`."""
        return closings.histories(self._client, agents, stretch, learn)

    def strays(self, parts: Sequence[Part]) -> Iterator[list[Any]]:
        """See `AuditReader.strays`."""
        if not parts:
            return
        topics = ", ".join(literal(name) for name in sorted({part.topic for part in parts}))
        places = ", ".join(f"({literal(part.topic)}, {part.partition})" for part in parts)
        for table, prefix in _WITH_PLACE.items():
            sql = _STRAYS.format(table=table, prefix=prefix, topics=topics, parts=places)
            yield from map(orjson.loads, fetch(self._client, sql, _ROWS).splitlines())

    def _dicts(self, sql: str) -> Iterator[dict[str, Any]]:
        # Whole or an error: half an answer would read as missing rows.
        yield from map(orjson.loads, BytesIO(fetch(self._client, sql, _ROWS, "JSONEachRow")))


def windows_sql() -> str:
    """A window as it is shown, less the same summed straight from its rows, must be nothing; and the other way round."""
    names = (*_AMOUNTS, *_PRICED, *_COUNTS)
    shown = ", ".join(f"ifNull({_number(name)}, 0) AS {name}" for name in names)
    dimensions = ", ".join(f"toString({name}) AS {name}" for name in (*_DIMENSIONS, "status", "outcome", "basis"))
    facts = ", ".join(f"toString(ifNull({name}, '')) AS {name}" for name in _DIMENSIONS)
    amounts = ", ".join(f"-ifNull({_number(name)}, 0)" for name in _AMOUNTS)
    priced = ", ".join(f"-ifNull({name}, 0)" for name in _PRICED)
    no_price = ", ".join("toDecimal128(0, 12)" for _ in _PRICED)
    zeros = ", ".join("toInt128(0)" for _ in _COUNTS)
    counts = {"timeouts": "if(closed_by = 'lease', toInt128(runs), 0)"}
    settled = ", ".join(f"-ifNull({counts.get(name, _number(name))}, 0)" for name in _COUNTS)
    sums = ", ".join(f"sum({name}) AS {name}_by" for name in names)
    off = " OR ".join(f"{name}_by != 0" for name in names)
    renamed = ", ".join(f"{name}_by AS {name}" for name in names)
    keys = f"ledger, minute, workspace, {', '.join(_DIMENSIONS)}, status, outcome, basis"
    return f"""
    SELECT ledger, toUnixTimestamp(minute) AS minute, workspace, {", ".join(_DIMENSIONS)}, status, outcome, basis, {renamed}
    FROM
    (
        SELECT {keys}, {sums} FROM
        (
            SELECT toString(ledger) AS ledger, minute, toString(workspace) AS workspace, {dimensions}, {shown}
            FROM cost_by_minute
            UNION ALL
            SELECT 'accrued', minute, workspace, {facts}, '', '', toString(basis), {amounts}, {no_price}, {zeros}
            FROM accruals FINAL
            UNION ALL
            SELECT 'settled', minute, workspace, {facts}, ifNull(status, ''), ifNull(outcome, ''), '',
                {amounts}, {priced}, {settled}
            FROM settlements FINAL WHERE settlements.runs > 0
        )
        GROUP BY {keys} HAVING {off}
    )
    """


def _number(name: str) -> str:
    return name if name.startswith("cost_") else f"toInt128({name})"


def _place(part: Part, some: Slice, offset: str) -> dict[str, Any]:
    return {"topic": literal(part.topic), "partition": part.partition, "some": some.sql(offset)}


def _named(keys: Sequence[RunKey]) -> Iterator[str]:
    """The keys as literals, as many at a time as a statement takes."""
    for start in range(0, len(keys), RUNS_NAMED_MAX):
        yield ", ".join(f"({literal(w)}, {literal(r)})" for w, r in keys[start : start + RUNS_NAMED_MAX])
