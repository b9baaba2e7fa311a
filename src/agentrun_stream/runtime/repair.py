"""The repair: makes rows of `runs` and `settlements`, published records and windows again from what the store holds.

Rows go in under the version of the objects they were made of, so a worker that is further along wins. Must not live here:
finding what differs (runtime/audit/), or anything the objects themselves lack (runtime/replay.py).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from agentrun_stream import limits, topics
from agentrun_stream.model.run import RunState, projection_version
from agentrun_stream.pipeline import announcement, project
from agentrun_stream.ports import Outgoing, Part, Publisher, RunKey
from agentrun_stream.processors.project import Projection
from agentrun_stream.runtime.audit import Findings
from agentrun_stream.store import rows
from agentrun_stream.store.repair import Stored

_MADE_AGAIN: Final = ("projections", "settlements", "published")
_COUNTER_BITS: Final = 64


class RepairStore(Protocol):
    """The store as a repair uses it."""

    def load_runs(self, keys: Sequence[RunKey]) -> dict[RunKey, RunState]:
        """The states of these runs."""
        ...

    def projected(self, keys: Sequence[RunKey]) -> Iterable[Stored]:
        """The current rows of `runs` and `settlements` of these runs."""
        ...

    def insert(self, table: str, encoded: Sequence[bytes]) -> None:
        """Insert encoded rows."""
        ...

    def remove(self, gone: Sequence[Stored]) -> None:
        """Remove exactly these rows, by their versions."""
        ...

    def sum_again(self, windows: Iterable[tuple[str, int]]) -> None:
        """Sum every window anew; of these, (ledger, minute), nothing may stay that no row bears out."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a repair does, and what is `beyond` it: differences by check."""

    runs: Mapping[RunKey, Part] = field(default_factory=dict)
    recounted: frozenset[RunKey] = frozenset()
    windows: frozenset[tuple[str, int]] = frozenset()
    beyond: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, findings: Findings) -> "Plan":
        """The plan for what an audit found. A run whose objects differ is let be: it would be made of wrong ones."""
        broken = findings.touched["digests"]
        wanted: dict[RunKey, Part] = {}
        for check in _MADE_AGAIN:
            wanted |= {run: part for run, part in findings.touched[check].items() if run not in broken}
        forged = {(d.workspace, d.run) for d in findings.differences if d.check == "published" and d.column == "value"}
        beyond = {
            check: count
            for check, count in findings.residual.items()
            if count and check not in _MADE_AGAIN and check != "windows"
        }
        return cls(wanted, frozenset(forged), frozenset(findings.windows), beyond)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.runs and not self.windows


class Repairer:
    """Does a plan. Without a publisher nothing is published: beside workers only a partition's owner may do that."""

    def __init__(self, store: RepairStore, publisher: Publisher | None) -> None:
        self._store = store
        self._publisher = publisher

    async def repair(self, plan: Plan) -> None:
        """Make rows, records and windows again."""
        keys = list(plan.runs)
        announced: dict[Part, list[Outgoing]] = {}
        for start in range(0, len(keys), limits.LOOKUP_IDS_MAX):
            some = {key: plan.runs[key] for key in keys[start : start + limits.LOOKUP_IDS_MAX]}
            for part, records in self._rows(some, plan.recounted).items():
                announced.setdefault(part, []).extend(records)
        for part, records in announced.items():
            await self._publish(part, records)
        if plan.windows or keys:
            self._store.sum_again(plan.windows)

    def _rows(self, runs: Mapping[RunKey, Part], recounted: frozenset[RunKey]) -> dict[Part, list[Outgoing]]:
        """Write the rows of some runs; return the records that tell of them.

        What stands is read before the objects are: a worker writes objects first, so a row that is above them is nobody's.
        """
        stored: dict[RunKey, list[Stored]] = {key: [] for key in runs}
        for row in self._store.projected(list(runs)):
            stored[row.run].append(row)
        states = self._store.load_runs(list(runs))
        out: dict[str, list[bytes]] = {"runs": [], "settlements": []}
        gone: list[Stored] = []
        records: dict[Part, list[Outgoing]] = {}
        for key, part in runs.items():
            state = states.get(key)
            projection = project(state, *part) if state is not None else None
            gone += _nobodys(stored[key], projection)
            if state is None or projection is None:
                continue
            raised = key in recounted and self._publisher is not None
            _count(projection, [row for row in stored[key] if row not in gone], raised=raised)
            out["runs"].append(rows.row(projection.row | {"projected_at": time.time()}))
            out["settlements"] += [rows.row(settlement) for settlement in projection.settlements]
            if projection.settlements:
                records.setdefault(part, []).append(announcement(state, projection.row))
        if gone:
            self._store.remove(gone)
        for table, encoded in out.items():
            if encoded:
                self._store.insert(table, encoded)
        return records

    async def _publish(self, part: Part, records: Sequence[Outgoing]) -> None:
        """As the partition's owner would: a worker that takes it on meanwhile fences this."""
        if self._publisher is None:
            return
        await self._publisher.fence(part)
        await self._publisher.publish(part, topics.RUNS, records)
        await self._publisher.release(part)


def _nobodys(stored: Iterable[Stored], projection: Projection | None) -> list[Stored]:
    """Rows that no objects bear out: of another minute, or above the position of the objects."""
    if projection is None:
        return list(stored)
    minutes = {None} | {settlement["minute"] for settlement in projection.settlements}
    return [row for row in stored if row.minute not in minutes or row.version >> _COUNTER_BITS > projection.pos]


def _count(projection: Projection, stored: Iterable[Stored], *, raised: bool) -> None:
    """Keep the projection counter that stands at this position; raise it where a reader must drop what was told before."""
    mask = (1 << _COUNTER_BITS) - 1
    counters = [row.version & mask for row in stored if row.version >> _COUNTER_BITS == projection.pos]
    counter = max(counters, default=0) + raised
    version = str(projection_version(projection.pos, counter))
    projection.row.update(projection=counter, _version=version)
    for settlement in projection.settlements:
        settlement["_version"] = version
