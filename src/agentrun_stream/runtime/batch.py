"""From polled records to a batch that can be written: decode, look up, fold, encode, project.

Each record is decoded, folded and encoded before the next, so that its objects die young. Must not live here: writes.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentrun_stream import limits
from agentrun_stream.codec import json_codec
from agentrun_stream.codec.cloudevents import (
    DEFAULT_WORKSPACE,
    workspace_of,
)
from agentrun_stream.codec.fast import PlainStep, plain_step
from agentrun_stream.model import ledger
from agentrun_stream.model.event import EXPIRE, Event, Refusal
from agentrun_stream.model.run import Accrual, RunState, position
from agentrun_stream.pipeline import announcement, decode, fold, project
from agentrun_stream.ports import Outgoing, Part, Record, RunKey
from agentrun_stream.processors.fold import FOLDED, Folded, Place, fold_new_step
from agentrun_stream.runtime.assigned import Assigned, Dropped
from agentrun_stream.runtime.letters import Refused
from agentrun_stream.store import rows

CHUNK_RECORDS: Final = 128
ALREADY: Final = "already_folded"
REHOMED: Final = "rehomed"
_FUTURE_S: Final = limits.FUTURE_MS_MAX / 1000

Loader = Callable[[Sequence[RunKey]], Awaitable[dict[RunKey, RunState]]]


@dataclass(slots=True)
class PartBatch:
    """What one partition brings to a batch: the offsets it covers (`last` exclusive) and what is to be published.

    `last_offset` is that of its last record: control records may be covered beyond it.
    """

    assigned: Assigned
    first: int
    last: int
    first_append_ms: int
    last_append_ms: int
    records: int = 0
    last_offset: int = -1
    runs: list[Outgoing] = field(default_factory=list)
    dead: list[Outgoing] = field(default_factory=list)
    misplaced: list[Outgoing] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """One batch of one or more partitions, folded and encoded, ready for its checkpoint."""

    number: int
    started_ms: int
    parts: dict[Part, PartBatch] = field(default_factory=dict)
    rows: dict[str, list[bytes]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    ended: dict[tuple[str, str], int] = field(default_factory=dict)
    misplaced_by: dict[str, int] = field(default_factory=dict)
    ages: list[tuple[int, int, int]] = field(default_factory=list)
    detected_ms: list[int] = field(default_factory=list)
    hits: int = 0
    looked_up: int = 0

    @property
    def records(self) -> int:
        """Records in the batch."""
        return sum(p.records for p in self.parts.values())

    def count(self, outcome: str, times: int = 1) -> None:
        """Count the outcome of an event, or of several."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + times

    def put(self, table: str, row: bytes) -> None:
        """Add one encoded row."""
        self.rows.setdefault(table, []).append(json_codec.fitted(row))
        self.counts[table] = self.counts.get(table, 0) + 1

    def put_all(self, table: str, encoded: list[bytes]) -> None:
        """Add many rows as one element: thousands of small buffers that live until the checkpoint tear the heap apart."""
        if encoded:
            self.rows.setdefault(table, []).append(b"\n".join(encoded))
            self.counts[table] = self.counts.get(table, 0) + len(encoded)


class PartFolder:
    """Folds the records of one partition into a batch, piece by piece, in the order in which they are taken."""

    def __init__(self, batch: Batch, assigned: Assigned, load: Loader) -> None:
        self._batch = batch
        self.assigned = assigned
        self._load = load
        self._origin = rows.Origin(assigned.part.topic, assigned.part.partition, batch.started_ms)
        self._touched: dict[RunKey, RunState] = {}
        self._seen: list[RunState] = []
        self._snapshots: set[RunKey] = set()
        self._evals: dict[RunKey, set[str]] = {}
        self._was_closed: dict[RunKey, bool] = {}
        self._asked: set[RunKey] = set()
        self._part = PartBatch(
            assigned, assigned.folded, assigned.folded, assigned.acknowledged_ms, assigned.acknowledged_ms
        )
        assigned.folding = True

    @property
    def reached(self) -> int:
        """The offset up to which pieces were taken."""
        return self._part.last

    def take(self, records: Sequence[Record], end_offset: int) -> "Piece":
        """Take the next records; they cover everything up to `end_offset`. What is not known of them is asked for."""
        part = self._part
        part.last = end_offset
        if records:
            if not part.records:
                part.first_append_ms = records[0].timestamp
            part.last_append_ms, part.last_offset = records[-1].timestamp, records[-1].offset
            part.records += len(records)
        ahead = asyncio.ensure_future(self._look_up(self._unknown(records)))
        ahead.add_done_callback(lambda task: task.cancelled() or task.exception())  # heard of where the piece is folded
        return Piece(self, records, ahead)

    async def fold(self, records: Sequence[Record], breathe: Callable[[], Awaitable[None]]) -> None:
        """Fold every record of a piece, in order. Raises Dropped once the partition is not ours."""
        at, end = 0, len(records)
        while at < end:
            if self.assigned.lost:
                raise Dropped
            at, missing = self._chunk(records, at, min(at + CHUNK_RECORDS, end))
            if missing is not None:
                await self._look_up([missing])
            await breathe()

    def _unknown(self, records: Sequence[Record]) -> list[RunKey]:
        """The run keys of the batch that are not in the cache, from the record keys alone."""
        assigned, known = self.assigned, self.assigned.cache.runs
        first = {r.key: r for r in reversed(records) if r.key is not None}
        wanted = []
        for key, record in first.items():
            try:
                run = (workspace_of(record.value, record.headers, assigned.route), key.decode())
            except UnicodeDecodeError:
                continue
            if run in known:
                self._batch.hits += 1
            elif run not in self._asked and assigned.home_of(key) == assigned.part.partition:
                wanted.append(run)
        self._asked.update(wanted)
        return wanted

    async def _look_up(self, keys: Sequence[RunKey]) -> None:
        if not keys:
            return
        self._batch.looked_up += len(keys)
        found = await self._load(keys)
        if self.assigned.lost:
            raise Dropped
        cache = self.assigned.cache
        for key in keys:
            if key not in cache.runs:  # else it came meanwhile, and may be folded on since
                cache.add(found.get(key) or RunState(*key))

    def _chunk(self, records: Sequence[Record], at: int, end: int) -> tuple[int, RunKey | None]:
        """Fold records from `at` up to `end`; stop early, with its key, at a run that is neither cached nor looked up.

        The hot loop: everything it needs is a local name, and a new step of an open run leaves nothing behind but its
        fact and its rows. Whatever is not that goes through `_one`.
        """
        batch, assigned, origin = self._batch, self.assigned, self._origin
        runs, route, refused, epoch = assigned.cache.runs, assigned.route, assigned.refused, position(assigned.epoch, 0)
        mapped, number, seen = route.workspace, batch.number, self._seen
        fast = not route.refuse_unmapped and not refused and records[at].offset >= assigned.caution_below
        version = len(assigned.set_aside)
        objects: list[bytes] = []
        accruals: list[bytes] = []
        step_row, accrual_row, folded = rows.plain_step_row, rows.accrual_row, 0
        missing: RunKey | None = None
        for i in range(at, end):
            record = records[i]
            append_ms = record.timestamp
            step = (
                plain_step(record.value, record.key, append_ms / 1000 + _FUTURE_S)
                if fast and not record.headers
                else None
            )
            if step is not None and (state := runs.get((mapped or step[1] or DEFAULT_WORKSPACE, step[0]))) is not None:
                pos = epoch | record.offset
                if pos > state.pos and (new := fold_new_step(state, step, pos, append_ms)) is not None:
                    folded += 1
                    if state.mark != number:
                        state.mark = number
                        seen.append(state)
                    fact, accrual = new
                    objects.append(step_row(state, step[4], (step[5], step[7], None), fact, origin))
                    if accrual is not None:
                        accruals.append(accrual_row(state, accrual, (record.offset, append_ms, version), origin))
                    continue
            missing = self._one(record, step, (objects, accruals))
            if missing is not None:
                end = i
                break
        batch.put_all("run_objects", objects)
        batch.put_all("accruals", accruals)
        batch.count(FOLDED, folded)
        return end, missing

    def _one(self, record: Record, step: PlainStep | None, out: tuple[list[bytes], list[bytes]]) -> RunKey | None:
        """One record in the general way. Returns the run's key, with nothing done, where the run has to be looked up."""
        assigned = self.assigned
        if step is not None:
            event: Event | Refusal = step.event(assigned.route.workspace or step.workspace or DEFAULT_WORKSPACE)
        else:
            event = decode(record.value, record.key, record.headers, record.timestamp, assigned.route)
        if isinstance(event, Refusal):
            self._refuse(record, event)
            return None
        state = assigned.cache.runs.get((event.workspace, event.run_id))
        home = record.key is not None and (state is not None or assigned.home_of(record.key) == assigned.part.partition)
        if not home:
            self._rehome(record, event)
            return None
        if state is None:
            return event.workspace, event.run_id
        if state.mark != self._batch.number:
            state.mark = self._batch.number
            self._seen.append(state)
        if record.offset in assigned.refused:
            self._refuse_again(record, event, state)
        else:
            self._fold(record, event, state, out)
        return None

    def _fold(self, record: Record, event: Event, state: RunState, out: tuple[list[bytes], list[bytes]]) -> None:
        pos, origin = position(self.assigned.epoch, record.offset), self._origin
        if pos <= state.pos:
            self._batch.count(ALREADY)
            self._touch(state)
            return
        was_closed = state.closed
        folded = fold(state, event, Place(pos, record.timestamp))
        self._batch.count(folded.outcome)
        out[0].extend(rows.step_row(state, s, origin) for s in folded.steps)
        self._book(record, event, state, out[1], folded.accruals)
        if folded.run or folded.evals or was_closed:
            self._note(state, event, folded, was_closed=was_closed)
        if folded.refusal is not None:
            self._refuse(record, folded.refusal)

    def _book(
        self, record: Record, event: Event, state: RunState, out: list[bytes], accruals: Sequence[Accrual]
    ) -> None:
        assigned, origin = self.assigned, self._origin
        if record.offset < assigned.caution_below:
            accruals = ledger.with_nothing(event, accruals)
        place = (record.offset, record.timestamp, bisect_left(assigned.set_aside, record.offset))
        out.extend(rows.accrual_row(state, accrual, place, origin) for accrual in accruals)

    def _note(self, state: RunState, event: Event, folded: Folded, *, was_closed: bool) -> None:
        if not folded.changed:
            return
        key = (state.workspace, state.run_id)
        self._was_closed.setdefault(key, was_closed)
        if event.kind == EXPIRE:
            self._batch.put("run_objects", rows.expired_row(state, state.pos, self._origin))
        elif folded.run:
            self._snapshots.add(key)
        if folded.evals:
            self._evals.setdefault(key, set()).update(folded.evals)
        self._touched[key] = state

    def _touch(self, state: RunState) -> None:
        """The run is projected and announced again: the crash that made us read this again may have come before that."""
        key = (state.workspace, state.run_id)
        self._touched[key] = state
        self._was_closed.setdefault(key, state.closed)

    def finish(self) -> None:
        """Once per run that the batch changed: its own object, its evals, its projection, its record."""
        batch, origin, assigned, part = self._batch, self._origin, self.assigned, self._part
        for key in self._snapshots:
            if self._touched[key].snap is not None:  # else it expired in this same batch, and has no object besides
                batch.put("run_objects", rows.snapshot_row(self._touched[key], origin))
        for key, ids in self._evals.items():
            for eval_id in sorted(ids & self._touched[key].evals.keys()):
                batch.put("run_objects", rows.eval_row(self._touched[key], eval_id, origin))
        for key, state in self._touched.items():
            self._announce(key, state)
        assigned.cache.weigh(self._seen)
        assigned.folded, assigned.folding = part.last, False
        batch.parts[assigned.part] = part
        if part.records:
            batch.ages.append((part.first_append_ms, part.last_append_ms, part.records))

    def _announce(self, key: RunKey, state: RunState) -> None:
        batch, origin = self._batch, self._origin
        projection = project(state, origin.topic, origin.partition)
        if projection is None:
            return
        row = projection.row
        row["projected_at"] = origin.ingested_s
        batch.put("runs", rows.row(row))
        for settlement in projection.settlements:
            batch.put("settlements", rows.row(settlement))
        if projection.settlements:  # closed now, or once: later revisions are told too
            self._part.runs.append(announcement(state, row))
        if projection.closed and not self._was_closed.get(key, False):
            end = (row["status"], row["outcome"] or "none")
            batch.ended[end] = batch.ended.get(end, 0) + 1
            if row["detected_after_ms"] is not None:
                batch.detected_ms.append(row["detected_after_ms"])

    # ---- what is not folded here

    def _rehome(self, record: Record, event: Event) -> None:
        self._batch.count(REHOMED)
        sources = self._batch.misplaced_by
        sources[event.source] = sources.get(event.source, 0) + 1
        key = event.run_id.encode()
        self._part.misplaced.append(Outgoing(key, record.value, tuple(record.headers), self.assigned.home_of(key)))

    def _refuse_again(self, record: Record, event: Event, state: RunState) -> None:
        """What stands in `refused` is refused again, and its dead letter sent again: the crash may have come before it."""
        reason, pointer, keyword = self.assigned.refused[record.offset]
        pos = position(self.assigned.epoch, record.offset)
        if reason == "run_too_large" and pos > state.pos:
            self._note(state, event, fold(state, event, Place(pos, record.timestamp)), was_closed=state.closed)
        elif pos <= state.pos:
            self._touch(state)  # its count of refused steps may not be projected yet
        self._refuse(record, Refusal(reason, pointer, keyword, event.workspace))

    def _refuse(self, record: Record, refusal: Refusal) -> None:
        assigned, batch = self.assigned, self._batch
        assigned.judge_refusal(record.offset)
        batch.count("refused")
        batch.reasons[refusal.reason] = batch.reasons.get(refusal.reason, 0) + 1
        refused = Refused(record, refusal, assigned.part, assigned.group)
        batch.put("refused", rows.row(refused.row(self._origin.ingested_s)))
        self._part.dead.append(refused.letter())


@dataclass(slots=True)
class Piece:
    """Some records of one partition, and the look-up of the runs that they name. The store answers while others are folded."""

    folder: PartFolder
    records: Sequence[Record]
    ahead: asyncio.Future[None]

    async def fold(self, breathe: Callable[[], Awaitable[None]]) -> None:
        """Fold it once its runs are known."""
        await self.ahead
        await self.folder.fold(self.records, breathe)
