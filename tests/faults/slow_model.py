"""The log of a bed folded by the slow oracle, beside the tables of its store. Must not live here: how either is made."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from agentrun_stream import topics
from agentrun_stream.broker.scan import read_topic
from agentrun_stream.codec.cloudevents import NO_ROUTE, decode
from agentrun_stream.model.event import Refusal
from agentrun_stream.ports import Part, Record
from agentrun_stream.store.audit import AuditStore, Slice
from agentrun_stream.store.client import connect, fetch
from agentrun_stream.store.queries import ask
from agentrun_stream.store.rows import OBJECT_COLUMNS
from agentrun_stream.store.sql import LOOKUP_SETTINGS
from agentrun_stream.testing.chaos.bed import Bed
from property.oracle import Json, Logged, Oracle
from property.tables import differences

_TIMES = {
    *("_event_time", "_first_appended_at", "_appended_at", "started_at", "ended_at"),
    *("first_event_at", "last_event_at", "judged_at"),
}


class StoredRows:
    """The current rows of a real store's tables, in the shape in which the twin in memory gives them."""

    def __init__(self, bed: Bed, parts: Sequence[Part]) -> None:
        self._client = connect(bed.store)
        self._audit = AuditStore(self._client)
        self._parts = parts

    def rows(self, table: str) -> list[Json]:
        found = {"run_objects": self._objects, "evidence": self._evidence}.get(table, lambda: self._others(table))()
        return [{k: _number(k, v) for k, v in row.items()} for row in found]

    def _objects(self) -> list[Json]:
        parts = ", ".join(f"('{p.topic}', {p.partition})" for p in self._parts)
        sql = f"SELECT {', '.join(OBJECT_COLUMNS)} FROM run_objects FINAL WHERE (_topic, _partition) IN ({parts})"
        settings = LOOKUP_SETTINGS | {"date_time_output_format": "unix_timestamp"}
        rows = fetch(self._client, sql, settings).splitlines()
        return [dict(zip(OBJECT_COLUMNS, orjson.loads(row), strict=True)) for row in rows]

    def _evidence(self) -> list[Json]:
        parts = ", ".join(f"('{p.topic}', {p.partition})" for p in self._parts)
        return ask(self._client, f"SELECT * FROM evidence FINAL WHERE (topic, partition) IN ({parts})")

    def _others(self, table: str) -> list[Json]:
        return [row for part in self._parts for row in self._audit.rows(table, part, Slice())]


def _number(name: str, value: Any) -> Any:
    """The store's JSON has instants as text."""
    if not isinstance(value, str):
        return value
    return float(value) if name in _TIMES else int(value) if name == "minute" else value


async def _log(bed: Bed) -> dict[Part, list[Record]]:
    found: dict[Part, list[Record]] = {}
    async for part, records in read_topic(bed.kafka, topics.EVENTS):
        found.setdefault(part, []).extend(records)
    return found


def _folded(records: Sequence[Record]) -> Oracle:
    """The events of one partition; what is no event at all is refused for the reason that the decoder's own tests hold."""
    oracle = Oracle()
    events = []
    for record in records:
        read = decode(record.value, record.key, record.headers, record.timestamp, NO_ROUTE)
        if isinstance(read, Refusal):
            oracle.refused[record.offset] = read.reason
            continue
        said = orjson.loads(record.value or b"")
        kind = said["type"].removeprefix("agentrun.").removesuffix(".v1")
        place = (record.offset, record.timestamp, said.get("workspaceid") or "default", kind, said["subject"])
        events.append(Logged(*place, said["source"], said.get("time"), said["data"]))
    return oracle.fold(events)


def model_differences(bed: Bed, without: Part | None = None) -> list[str]:
    """Line by line what the tables hold otherwise than the oracle.

    `without` leaves one partition out, and with it the verdicts: parents of runs elsewhere may be told by its log alone.
    """
    log = asyncio.run(_log(bed))
    parts = [part for part in sorted(log) if part != without]
    assert parts
    found = differences(StoredRows(bed, parts), *(_folded(log[part]) for part in parts), parts=parts)
    return found if without is None else [line for line in found if not line.startswith("verdicts ")]
