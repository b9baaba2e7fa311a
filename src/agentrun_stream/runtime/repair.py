"""The repair: makes rows of `runs` and `settlements`, published records and windows again from what the store holds.

Rows go in under the version of the objects they were made of, so a worker that is further along wins. Must not live here:
finding what differs (runtime/audit/), or anything the objects themselves lack (runtime/replay.py).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from agentrun_stream import limits
from agentrun_stream.model.lineage import Kin
from agentrun_stream.model.opinions import NO_OPINIONS, ORPHAN_AFTER_MS, Opinions
from agentrun_stream.model.projection import COUNTER_BITS, Projection
from agentrun_stream.model.run import RunState
from agentrun_stream.pipeline import announcements, project
from agentrun_stream.ports import Outgoing, Part, Publisher, RunKey
from agentrun_stream.processors.project import child_of
from agentrun_stream.runtime.audit import Findings
from agentrun_stream.runtime.lineage import resolve
from agentrun_stream.store import rows
from agentrun_stream.store.repair import Stored

_MADE_AGAIN: Final = ("projections", "settlements", "published")
_BEYOND: Final = 1 << 16


class RepairStore(Protocol):
    """The store as a repair uses it."""

    def load_runs(self, keys: Sequence[RunKey]) -> dict[RunKey, RunState]:
        """The states of these runs."""
        ...

    def projected(self, keys: Sequence[RunKey]) -> Iterable[Stored]:
        """The current rows of `runs` and `settlements` of these runs."""
        ...

    def kin(self, keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
        """What children look at of these runs."""
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
    told_otherwise: frozenset[RunKey] = frozenset()
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
        told = frozenset(findings.touched["published"])
        return cls(wanted, frozenset(forged), told, frozenset(findings.windows), beyond)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.runs and not self.windows


class Repairer:
    """Does a plan. Without a publisher nothing is published: beside workers only a partition's owner may do that."""

    def __init__(self, store: RepairStore, publisher: Publisher | None, opinions: Opinions = NO_OPINIONS) -> None:
        self._store = store
        self._publisher = publisher
        self._opinions = opinions
        self._told_otherwise: frozenset[RunKey] = frozenset()

    async def repair(self, plan: Plan) -> None:
        """Make rows, records and windows again."""
        self._told_otherwise = plan.told_otherwise
        keys = list(plan.runs)
        announced: dict[Part, dict[str, list[Outgoing]]] = {}
        for start in range(0, len(keys), limits.LOOKUP_IDS_MAX):
            some = {key: plan.runs[key] for key in keys[start : start + limits.LOOKUP_IDS_MAX]}
            for part, topic, record in await self._rows(some, plan.recounted):
                announced.setdefault(part, {}).setdefault(topic, []).append(record)
        for part, records in announced.items():
            await self._publish(part, records)
        if plan.windows or keys:
            self._store.sum_again(plan.windows)

    async def _rows(
        self, runs: Mapping[RunKey, Part], recounted: frozenset[RunKey]
    ) -> list[tuple[Part, str, Outgoing]]:
        """Write the rows of some runs; return the records that tell of them.

        What stands is read before the objects are: a worker writes objects first, so a row that is above them is nobody's.
        """
        stored: dict[RunKey, list[Stored]] = {key: [] for key in runs}
        for row in self._store.projected(list(runs)):
            stored[row.run].append(row)
        states = self._store.load_runs(list(runs))
        opinions = await self._looked_up(states)
        out: dict[str, list[bytes]] = {"runs": [], "settlements": []}
        gone: list[Stored] = []
        records: list[tuple[Part, str, Outgoing]] = []
        for key, part in runs.items():
            state = states.get(key)
            projection = project(state, *part, opinions) if state is not None else None
            gone += _nobodys(stored[key], projection)
            if state is None or projection is None:
                continue
            raised = key in recounted and self._publisher is not None
            told = key in self._told_otherwise
            _count(projection, [row for row in stored[key] if row not in gone], raised=raised, told=told)
            out["runs"].append(rows.row(projection.row | {"projected_at": time.time()}))
            out["settlements"] += [rows.row(settlement) for settlement in projection.settlements]
            if projection.announced:
                records += [(part, *told) for told in announcements(projection, again=True)]
        if gone:
            self._store.remove(gone)
        for table, encoded in out.items():
            if encoded:
                self._store.insert(table, encoded)
        return records

    async def _looked_up(self, states: Mapping[RunKey, RunState]) -> Opinions:
        """The opinions in force, with the lineage of these runs."""
        children = {
            key: child for key, state in states.items() if (child := child_of(state, self._opinions)) is not None
        }

        async def kin(keys: Sequence[RunKey]) -> dict[RunKey, Kin]:
            return self._store.kin(keys)

        found = await resolve(kin, children, round(time.time() * 1000), ORPHAN_AFTER_MS)
        return replace(self._opinions, lineage=found)

    async def _publish(self, part: Part, records: Mapping[str, Sequence[Outgoing]]) -> None:
        """As the partition's owner would: a worker that takes it on meanwhile fences this."""
        if self._publisher is None:
            return
        await self._publisher.fence(part)
        await self._publisher.publish(part, records)
        await self._publisher.release(part)


def _nobodys(stored: Iterable[Stored], projection: Projection | None) -> list[Stored]:
    """Rows that no objects bear out: of another minute, or above the position of the objects."""
    if projection is None:
        return list(stored)
    minutes = {None} | {settlement["minute"] for settlement in projection.settlements}
    return [row for row in stored if row.minute not in minutes or row.version >> COUNTER_BITS > projection.pos]


def _count(projection: Projection, stored: Iterable[Stored], *, raised: bool, told: bool) -> None:
    """Keep the projection counter that stands at this position; raise it where a reader must drop what was told before.

    Where the row itself is gone and something else was told, nobody knows what: the counter goes beyond what it can have been.
    """
    held = list(stored)
    mask = (1 << COUNTER_BITS) - 1
    counters = [row.version & mask for row in held if row.version >> COUNTER_BITS == projection.pos]
    lost = _BEYOND if told and all(row.minute is not None for row in held) else 0
    projection.count(max(counters, default=0) + raised + lost)
