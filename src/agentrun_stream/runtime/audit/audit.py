"""The audit's order of work: partition by partition, in slices of runs that fit in memory, then what goes across them.

Must not live here: comparing (compare.py, outside.py), SQL.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from agentrun_stream.ports import Part
from agentrun_stream.runtime.audit.closings import compare_closings, compare_signals
from agentrun_stream.runtime.audit.compare import Comparison
from agentrun_stream.runtime.audit.findings import Findings, Where
from agentrun_stream.runtime.audit.lineages import compare_lineages
from agentrun_stream.runtime.audit.outside import Outside
from agentrun_stream.runtime.audit.refold import Choice, Reach, Refold, Rules
from agentrun_stream.runtime.audit.views import AuditLog, AuditReader
from agentrun_stream.store.audit import Slice

# So many records are folded at a time; a longer log is read once for each slice of its runs.
RECORDS_AT_ONCE: Final = 200_000
RECORDS_AT_ONCE_DEEP: Final = 50_000
# A query takes the snapshots of its tables one after the other: under load a window that is right may differ for a moment.
_WINDOW_TRIES: Final = 8
_WINDOW_STEADY: Final = 2  # so often the same again: it is no moment's
_WINDOW_PAUSE_S: Final = 0.25
_WINDOW_KEY: Final = (
    *("ledger", "minute", "workspace", "agent_id", "model", "provider", "runtime", "trigger", "status", "outcome"),
    "basis",
)


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is audited: with `deep` every column; `at_once` bounds the records that are held folded."""

    deep: bool = False
    at_once: int = 0

    @property
    def records_at_once(self) -> int:
        """How many records are folded at a time."""
        return self.at_once or (RECORDS_AT_ONCE_DEEP if self.deep else RECORDS_AT_ONCE)


class Audit:
    """One audit. Everything is read, nothing written."""

    def __init__(self, reader: AuditReader, log: AuditLog, rules: Rules, scope: Scope | None = None) -> None:
        self._reader = reader
        self._log = log
        self._rules = rules
        self._scope = scope or Scope()
        self.findings = Findings()
        self._outside = Outside(self.findings, reader)

    async def partition(self, reach: Reach) -> None:
        """Compare one partition: its journal, records, objects, ledger and projections."""
        self._coverage(reach)
        keys = await self._news(reach) if reach.news_only else None
        count = reach.committed - (reach.since if reach.news_only else reach.start)
        slices = max(1, math.ceil(count / self._scope.records_at_once))
        refused = {row["offset"]: row for row in self._reader.rows("refused", reach.part, Slice())}
        found: set[int] = set()
        runs = None if keys is None else frozenset(key.decode("utf-8", "replace") for key in keys)
        for number in range(slices):
            found |= await self._slice(reach, Choice(Slice(number, slices, runs, reach.since), keys), refused)
        for offset in sorted(refused.keys() - found):
            if max(reach.start, reach.since) <= offset < reach.committed:
                where = Where(reach.part, offset)
                self.findings.differ("records", "refused", where, "no record there", refused[offset]["reason"])

    async def _news(self, reach: Reach) -> frozenset[bytes]:
        """The keys of the runs that something was said about since."""
        found: set[bytes] = set()
        async for records in self._log.records(reach.part, reach.since, reach.committed):
            found.update(record.key or b"" for record in records)
        return frozenset(found)

    async def _slice(self, reach: Reach, choice: Choice, refused: dict[int, dict[str, Any]]) -> set[int]:
        """Compare some runs; return the offsets of `refused` whose records were among theirs."""
        part, findings, deep = reach.part, self.findings, self._scope.deep
        rejected = frozenset(o for o, row in refused.items() if row["reason"] == "sink_rejected")
        refold = Refold(reach, self._rules, rejected, deep=deep)
        mine: set[int] = set()
        async for records in self._log.records(part, reach.start, reach.committed):
            refold.take(records, choice)
            mine.update(r.offset for r in records if r.offset in refused and choice.takes(r.key))
        findings.records += refold.records
        findings.refused += len(refold.refused)
        comparison = Comparison(reach, refold, self._rules, findings)
        comparison.refused({offset: refused[offset] for offset in mine})
        comparison.objects(self._reader.objects(part, choice.some, deep=deep), deep=deep)
        comparison.accruals(self._reader.rows("accruals", part, choice.some))
        comparison.evidence(self._reader.rows("evidence", part, choice.some))
        runs = self._reader.rows("runs", part, choice.some)
        comparison.projections(runs, self._reader.rows("settlements", part, choice.some))
        compare_closings(self._reader, comparison, choice.some, findings)
        await compare_lineages(self._reader, part, comparison.children, findings)
        if comparison.older:
            findings.note(f"runs that began before what {part.topic} still holds are judged by their checksums alone")
        letters = {(*part, o): ms for o, (_, ms) in refold.refused.items() if o >= reach.since}
        self._outside.expect(comparison.published, letters)
        return mine

    def _coverage(self, reach: Reach) -> None:
        reached = max(reach.start, reach.since)
        for row in self._reader.rows("batches", reach.part, Slice()):
            if row["first"] > reached and reached < reach.committed:
                self._gap(reach.part, reached, min(row["first"], reach.committed))
            reached = max(reached, row["last"])
        if reached < reach.committed:
            self._gap(reach.part, reached, reach.committed)

    def _gap(self, part: Part, first: int, last: int) -> None:
        where = Where(part, first, last=last - 1)
        self.findings.differ("coverage", "batches", where, "covered by the journal", "not covered")

    async def across(self, parts: Sequence[Part]) -> None:
        """Compare windows with the sums of their rows, and signals with the runs; rows of no partition are strays."""
        for row in (await self._windows()).values():
            where = Where(
                run=(row["workspace"], ""), object=f"{row['ledger']} minute {row['minute']} {row['agent_id']}"
            )
            off = {name: by for name, by in row.items() if name not in _WINDOW_KEY and Decimal(by)}
            self.findings.windows.add((row["ledger"], int(row["minute"])))
            self.findings.differ("windows", "cost_windows", where, "the sum of its rows", f"differs by {_amounts(off)}")
        await compare_signals(self._reader, self.findings)
        for table, topic, partition, count in self._reader.strays(parts):
            where = Where(Part(topic, partition))
            self.findings.differ("digests", table, where, "no such partition", f"{count} rows")

    async def _windows(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        """The windows that differ, and go on differing."""
        differing, steady = {_window(row): row for row in self._reader.windows()}, 0
        for _ in range(_WINDOW_TRIES):
            if not differing or steady == _WINDOW_STEADY:
                break
            await asyncio.sleep(_WINDOW_PAUSE_S)
            again = {_window(row): row for row in self._reader.windows()}
            steady = steady + 1 if again == differing else 0
            differing = {key: again[key] for key in differing.keys() & again.keys()}
        return differing

    async def topics(self, runs: Sequence[str], dead_letters: str) -> None:
        """Compare what was published with what must have been."""
        for topic in runs:
            await self._outside.published(topic, self._log.topic(topic), deep=self._scope.deep)
        await self._outside.dead_letters(dead_letters, self._log.topic(dead_letters), self._rules.group)


def _window(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _WINDOW_KEY)


def _amounts(off: dict[str, Any]) -> str:
    return ", ".join(f"{name} {by}" for name, by in off.items())
