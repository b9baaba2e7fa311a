"""Whether everything is as it must be: the audit, and the compacted topic read to its end beside `runs_latest`.

Must not live here: faults.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from agentrun_stream import topics
from agentrun_stream.broker.kafka import KafkaAddress
from agentrun_stream.broker.scan import read_topic
from agentrun_stream.config import Settings
from agentrun_stream.proof import run_audit
from agentrun_stream.store.client import connect
from agentrun_stream.store.queries import Connection, ask
from agentrun_stream.wiring import kafka_address, store_address

_COUNTS: Final = ("steps", "tool_calls", "failed_tool_calls", "failed_steps", "evals", "evals_passed", "steps_refused")
_MEMBERS: Final = ("status", "closed_by", "revision", "projection", "agent_id", "model", "outcome")
_STORED: Final = f"""
SELECT workspace, run_id, {", ".join((*_MEMBERS, *_COUNTS))}, verdict AS headline, cost_reported_raw
FROM runs_latest WHERE (workspace, run_id) IN (SELECT workspace, run_id FROM settlements)
"""  # noqa: S608 - our own column names


class Held(NamedTuple):
    """What a reader of the compacted topic holds of a run: the order pair, and the record of the highest one."""

    order: tuple[int, int]
    value: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`residual` is the audit's; `published` lists the runs whose record on the topic is not what the store shows."""

    records: int
    runs: int
    residual: int
    differences: tuple[str, ...]
    published: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether there is nothing to say."""
        return not self.residual and not self.published


async def published_runs(address: KafkaAddress) -> dict[str, Held]:
    """The topic read as its readers must: committed records only, and none whose order pair is not above the one held."""
    held: dict[str, Held] = {}
    async for _, records in read_topic(address, topics.RUNS):
        for record in records:
            if record.key is None or record.value is None:
                continue
            headers = dict(record.headers)
            order = (int(headers["revision"]), int(headers["projection"]))
            key = record.key.decode()
            if key not in held or order > held[key].order:
                held[key] = Held(order, orjson.loads(record.value))
    return held


def published_differences(client: Connection, held: Mapping[str, Held], *, went_back: bool = False) -> list[str]:
    """Key by key: what the topic says of each run that ever closed, and what the store shows; a line where they differ.

    A store that `went_back` in time counts projections of a revision anew: of the same facts the topic may have the higher one.
    """
    stored = {f"{row['workspace']}/{row['run_id']}": row for row in ask(client, _STORED)}
    found = [
        f"{key}: {'not on the topic' if key in stored else 'not in the store'}" for key in stored.keys() ^ held.keys()
    ]
    for key in stored.keys() & held.keys():
        row, said = _shown(stored[key]), _said(held[key])
        if went_back and row["order"] < said["order"] and row["revision"] == said["revision"]:
            row |= {"order": said["order"], "projection": said["projection"]}
        found += [f"{key}: {name} is {said[name]!r}, stored {row[name]!r}" for name in row if row[name] != said[name]]
    return sorted(found)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in (*_MEMBERS, *_COUNTS, "headline", "cost_reported_raw")}
    return shown | {"order": (row["revision"], row["projection"])}


def _said(held: Held) -> dict[str, Any]:
    value = held.value
    said = {name: value.get(name) for name in _MEMBERS} | {name: value["counts"][name] for name in _COUNTS}
    said |= {"headline": value["verdict"]["headline"], "cost_reported_raw": value["costs"]["reported_raw"]}
    return said | {"order": held.order}


def judge(settings: Settings, *, went_back: bool = False) -> Verdict:
    """Audit everything, and compare the topic with the store. For a system that has caught up; see `published_differences`."""
    findings = asyncio.run(run_audit(settings))
    held = asyncio.run(published_runs(kafka_address(settings)))
    published = published_differences(connect(store_address(settings)), held, went_back=went_back)
    differences = tuple(
        f"{d.check}: {d.table} {d.place} {d.run}: expected {d.expected}, found {d.found}" for d in findings.differences
    )
    return Verdict(findings.records, len(held), findings.total, differences, tuple(published))
