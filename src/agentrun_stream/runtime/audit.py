"""The audit: folds the log again, up to the committed offsets, and compares everything the store and the topic show.

It reads, and disturbs nothing. Must not live here: repairing, or SQL (store/audit.py).
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from agentrun_stream.codec.cloudevents import Route, decode
from agentrun_stream.model import money
from agentrun_stream.model.event import Event, Refusal
from agentrun_stream.model.run import RunState, position, row_version
from agentrun_stream.pipeline import fold, project
from agentrun_stream.ports import Part, Record, RunKey
from agentrun_stream.processors.fold import Place
from agentrun_stream.processors.project import Projection
from agentrun_stream.processors.publish import run_key
from agentrun_stream.store.rows import ACCRUAL_COLUMNS

CHECKS: Final = ("coverage", "records", "digests", "projections", "settlements", "accruals", "windows", "published")
_ACCRUAL: Final = ACCRUAL_COLUMNS[5:19]  # whose, what kind, the dimensions, the amounts
_NOT_COMPARED: Final = frozenset({"projected_at"})
_SHOWN_CHARS_MAX: Final = 120


class AuditReader(Protocol):
    """The store as the audit reads it."""

    def objects(self, part: Part) -> Iterable[Sequence[Any]]:
        """(workspace, run_id, kind, object_id, version, checksum holds) of the current objects of a partition."""
        ...

    def rows(self, table: str, part: Part) -> Iterable[dict[str, Any]]:
        """The current rows of a table that belong to a partition."""
        ...

    def windows(self) -> Iterable[Sequence[Any]]:
        """The windows that differ from the sums of their rows."""
        ...


class AuditLog(Protocol):
    """The log as the audit reads it."""

    def records(self, part: Part, start: int, end: int) -> AsyncIterator[Sequence[Record]]:
        """The committed records of a partition."""
        ...

    def topic(self, name: str) -> AsyncIterator[Sequence[Record]]:
        """The committed records of a whole topic, in order per partition."""
        ...


@dataclass(frozen=True, slots=True)
class Reach:
    """What of a partition is audited: from the log start up to the group's commit."""

    part: Part
    start: int
    committed: int
    partitions: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it must be."""

    check: str
    table: str
    place: str
    run: str
    expected: str
    found: str


@dataclass(slots=True)
class Findings:
    """What the audit found. `residual` is the number of differences by check; all zero is the promise."""

    records: int = 0
    objects: int = 0
    runs: int = 0
    refused: int = 0
    residual: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0))
    differences: list[Difference] = field(default_factory=list)
    kept_max: int = 1000

    @property
    def total(self) -> int:
        """The sum of all residuals."""
        return sum(self.residual.values())

    def differ(self, check: str, table: str, where: tuple[str, str], expected: object, found: object) -> None:
        """Count a difference; `where` is (place on the log or key, run)."""
        self.residual[check] += 1
        if len(self.differences) < self.kept_max:
            shown = (str(v)[:_SHOWN_CHARS_MAX] for v in (expected, found))
            self.differences.append(Difference(check, table, *where, *shown))


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides how records are read: route of each topic, topic epoch, partitioner."""

    route: Callable[[str], Route]
    epoch: int
    partition_of: Callable[[bytes, int], int]


class _Refold:
    """One partition of the log, folded again."""

    def __init__(self, reach: Reach, rules: Rules, rejected: frozenset[int]) -> None:
        self._reach = reach
        self._rules = rules
        self._rejected = rejected  # set aside by an operator
        self.states: dict[RunKey, RunState] = {}
        self.accruals: dict[tuple[int, str], tuple[Any, ...]] = {}
        self.refused: dict[int, str] = {}
        self.records = 0

    def take(self, records: Sequence[Record]) -> None:
        """Fold records, in order."""
        part, epoch = self._reach.part, self._rules.epoch
        route = self._rules.route(part.topic)
        self.records += len(records)
        for record in records:
            event = decode(record.value, record.key, record.headers, record.timestamp, route)
            if isinstance(event, Refusal):
                self.refused[record.offset] = event.reason
            elif record.offset in self._rejected:
                self.refused[record.offset] = "sink_rejected"
            elif not self._misplaced(record):
                self._fold(record, event, Place(position(epoch, record.offset), record.timestamp))

    def _misplaced(self, record: Record) -> bool:
        reach = self._reach
        return record.key is None or self._rules.partition_of(record.key, reach.partitions) != reach.part.partition

    def _fold(self, record: Record, event: Event, at: Place) -> None:
        key = (event.workspace, event.run_id)
        state = self.states.get(key)
        if state is None:
            state = self.states[key] = RunState(*key)
        folded = fold(state, event, at)
        for accrual in folded.accruals:
            self.accruals[record.offset, accrual.object_id] = (*key, *accrual[1:12], money.text(accrual.cost_reported))
        if folded.refusal is not None:
            self.refused[record.offset] = folded.refusal.reason

    def awaits_removal(self, key: RunKey) -> bool:
        """Whether the run expired, so that its other objects may be there still."""
        state = self.states.get(key)
        return state is not None and state.expired is not None

    def objects(self) -> Iterator[tuple[str, str, str, str, int]]:
        """(workspace, run_id, kind, object_id, version) of every object that must be there."""
        for (workspace, run_id), state in self.states.items():
            if state.snap is not None:
                yield workspace, run_id, "run", "", row_version(state.snap.pos)
            for kind, facts in (("step", state.steps), ("eval", state.evals)):
                for object_id, fact in facts.items():
                    yield workspace, run_id, kind, object_id, row_version(fact.pos)
            if state.expired is not None:
                yield workspace, run_id, "expired", "", row_version(state.pos)


class Audit:
    """Audits partitions one after the other, then what goes across them."""

    def __init__(self, reader: AuditReader, log: AuditLog, rules: Rules) -> None:
        self._reader = reader
        self._log = log
        self._rules = rules
        self._published: dict[bytes, tuple[str, int]] = {}
        self._refused: set[tuple[str, int, int]] = set()
        self.findings = Findings()

    async def partition(self, reach: Reach) -> None:
        """Compare one partition: its journal, records, objects, ledger and projections."""
        part, findings = reach.part, self.findings
        self._coverage(reach)
        stored = {row["offset"]: row for row in self._reader.rows("refused", part)}
        rejected = frozenset(o for o, row in stored.items() if row["reason"] == "sink_rejected")
        refold = _Refold(reach, self._rules, rejected)
        async for records in self._log.records(part, reach.start, reach.committed):
            refold.take(records)
        findings.records += refold.records
        findings.refused += len(refold.refused)
        self._refused |= {(*part, offset) for offset in refold.refused}
        self._records(reach, refold, stored)
        self._objects(reach, refold)
        self._accruals(reach, refold)
        self._projections(reach, refold)

    def _coverage(self, reach: Reach) -> None:
        reached = reach.start
        for row in self._reader.rows("batches", reach.part):
            if row["first"] > reached and reached < reach.committed:
                self._gap(reach.part, reached, min(row["first"], reach.committed))
            reached = max(reached, row["last"])
        if reached < reach.committed:
            self._gap(reach.part, reached, reach.committed)

    def _gap(self, part: Part, first: int, last: int) -> None:
        place = f"{part.topic}:{part.partition}:{first}-{last - 1}"
        self.findings.differ("coverage", "batches", (place, ""), "covered by the journal", "not covered")

    def _records(self, reach: Reach, refold: _Refold, stored: Mapping[int, dict[str, Any]]) -> None:
        part, findings = reach.part, self.findings
        for offset in sorted(refold.refused.keys() | stored.keys()):
            if offset >= reach.committed or offset < reach.start:
                continue
            expected = refold.refused.get(offset)
            found = stored[offset]["reason"] if offset in stored else None
            if expected != found:
                where = (f"{part.topic}:{part.partition}:{offset}", "")
                findings.differ("records", "refused", where, expected or "accepted", found or "no row")

    def _objects(self, reach: Reach, refold: _Refold) -> None:
        findings, part = self.findings, reach.part
        limit = row_version(position(self._rules.epoch, reach.committed))
        stored = {(w, r, k, o): (version, holds) for w, r, k, o, version, holds in self._reader.objects(part)}
        for workspace, run_id, kind, object_id, version in refold.objects():
            findings.objects += 1
            found = stored.pop((workspace, run_id, kind, object_id), None)
            where = (f"{part.topic}:{part.partition} {kind} {object_id}", f"{workspace}/{run_id}")
            if found is None:
                findings.differ("digests", "run_objects", where, f"version {version}", "no row")
            elif found[0] != version and found[0] < limit:
                findings.differ("digests", "run_objects", where, f"version {version}", f"version {found[0]}")
            elif not found[1]:
                findings.differ("digests", "run_objects", where, "a row that adds up to its checksum", "it does not")
        for (workspace, run_id, kind, object_id), (version, _) in stored.items():
            if version < limit and not refold.awaits_removal((workspace, run_id)):
                where = (f"{part.topic}:{part.partition} {kind} {object_id}", f"{workspace}/{run_id}")
                findings.differ("digests", "run_objects", where, "no row", f"version {version}")

    def _accruals(self, reach: Reach, refold: _Refold) -> None:
        part, expected = reach.part, refold.accruals
        seen = set()
        for row in self._reader.rows("accruals", part):
            key = (row["offset"], row["object_id"])
            if not reach.start <= key[0] < reach.committed:
                continue
            seen.add(key)
            found = tuple(row[name] for name in _ACCRUAL)
            wanted = expected.get(key)
            if wanted is None:
                wanted = (*found[:8], *(None,) * 6)  # taken back when an event before it was set aside
            if not _same(found, wanted):
                self._differ_accrual(part, key, wanted, found)
        for key in expected.keys() - seen:
            self._differ_accrual(part, key, expected[key], None)

    def _differ_accrual(self, part: Part, key: tuple[int, str], expected: object, found: object) -> None:
        place = f"{part.topic}:{part.partition}:{key[0]} {key[1]}"
        source = expected or found
        run = f"{source[0]}/{source[1]}" if isinstance(source, tuple) else ""
        self.findings.differ("accruals", "accruals", (place, run), expected or "no row", found or "no row")

    def _projections(self, reach: Reach, refold: _Refold) -> None:
        part = reach.part
        rows = {(r["workspace"], r["run_id"]): r for r in self._reader.rows("runs", part)}
        settled = {(r["workspace"], r["run_id"], r["minute"]): r for r in self._reader.rows("settlements", part)}
        for key, state in refold.states.items():
            row = rows.pop(key, None)
            if row is not None and row["revision"] >= reach.committed:
                continue  # changed since; the next audit looks at it
            projection = project(state, *part)
            if projection is not None:
                self.findings.runs += 1
                self._compare("projections", "runs", key, projection.row, row)
                self._settled(key, projection, settled)
            elif row is not None:
                self._differ_row("projections", "runs", key, "no row", f"revision {row['revision']}")
        for key, row in rows.items():
            if row["revision"] < reach.committed:
                self._differ_row("projections", "runs", key, "no row", f"revision {row['revision']}")
        for (workspace, run_id, minute), row in settled.items():
            if row["revision"] < reach.committed and (workspace, run_id) in refold.states:
                self._differ_row("settlements", "settlements", (workspace, run_id), "no row", f"minute {minute}")

    def _settled(
        self, key: RunKey, projection: Projection, settled: dict[tuple[str, str, int], dict[str, Any]]
    ) -> None:
        for settlement in projection.settlements:
            found = settled.pop((*key, settlement["minute"]), None)
            self._compare("settlements", "settlements", key, settlement, found)
        if projection.settlements:
            self._published[run_key(*key)] = (f"{key[0]}/{key[1]}", projection.row["revision"])

    def _compare(
        self, check: str, table: str, key: RunKey, expected: Mapping[str, Any], found: Mapping[str, Any] | None
    ) -> None:
        if found is None:
            self._differ_row(check, table, key, "a row", "no row")
            return
        for name, value in expected.items():
            if name not in _NOT_COMPARED and not _equal(value, found.get(name)):
                self._differ_row(check, f"{table}.{name}", key, value, found.get(name))

    def _differ_row(self, check: str, table: str, key: RunKey, expected: object, found: object) -> None:
        self.findings.differ(check, table, ("", f"{key[0]}/{key[1]}"), expected, found)

    def windows(self) -> None:
        """Compare every window that is shown with the sums of its rows."""
        for ledger, minute, workspace, agent, *rest in self._reader.windows():
            where = (f"{ledger} minute {minute} {agent}", workspace)
            self.findings.differ("windows", "cost_windows", where, "the sum of its rows", f"differs by {rest}")

    async def published(self, topic: str) -> None:
        """Compare the last record of every key on the compacted topic with the projections."""
        last: dict[bytes, int] = {}
        async for records in self._log.topic(topic):
            for record in records:
                if record.key is not None:
                    said = dict(record.headers).get("revision", b"-1")
                    last[record.key] = max(last.get(record.key, -1), int(said))
        for key, (run, revision) in self._published.items():
            found = last.get(key)
            if found is None or found < revision:
                self.findings.differ("published", topic, ("", run), f"revision {revision}", f"revision {found}")

    async def dead_letters(self, topic: str) -> None:
        """Check that every refused record has its dead letter."""
        found = set()
        async for records in self._log.topic(topic):
            for record in records:
                headers = dict(record.headers)
                place = [headers.get(f"agentrun.dlq.{name}", b"").decode() for name in ("topic", "partition", "offset")]
                if place[1].isdigit() and place[2].isdigit():
                    found.add((place[0], int(place[1]), int(place[2])))
        for where in sorted(self._refused - found):
            place_text = f"{where[0]}:{where[1]}:{where[2]}"
            self.findings.differ("records", topic, (place_text, ""), "a dead letter", "none")


def _same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    return len(found) == len(expected) and all(map(_equal, expected, found))


def _equal(expected: Any, found: Any) -> bool:
    """Equal as the store prints it: times come back as text of seconds, wide integers as text or number."""
    if expected == found:
        return True
    if expected is None or found is None:
        return False
    if isinstance(expected, float | int) and isinstance(found, str):
        return float(expected) == float(found)
    return str(expected) == str(found)
