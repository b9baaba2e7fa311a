"""From polled records to rows: read, look up, fold, encode, each record before the next, so that its objects die young.

Must not live here: what is shown of runs (show.py), polling (gather.py), writes.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agentrun_stream import limits
from agentrun_stream.codec.chained import chained_plainly
from agentrun_stream.codec.cloudevents import DEFAULT_WORKSPACE, workspace_of
from agentrun_stream.codec.fast import PlainStep, plain_step
from agentrun_stream.model import ledger
from agentrun_stream.model.event import EXPIRE, Event, Refusal
from agentrun_stream.model.facts import Facts
from agentrun_stream.model.run import Accrual, RunState, position
from agentrun_stream.pipeline import fold, read, settle
from agentrun_stream.ports import Outgoing, Record, RunKey
from agentrun_stream.processors.fold import FOLDED, Folded, Place, fold_new_step, is_evidence
from agentrun_stream.processors.verify import read_step, settle_all
from agentrun_stream.runtime.assigned import Assigned, Dropped
from agentrun_stream.runtime.batch import ALREADY, REHOMED, Batch, PartBatch
from agentrun_stream.runtime.letters import Refused
from agentrun_stream.runtime.lookup import Lookups
from agentrun_stream.runtime.show import Touched, show
from agentrun_stream.store import rows

CHUNK_RECORDS: Final = 128
SIGNED: Final = b'"arsig1.'
_FUTURE_S: Final = limits.FUTURE_MS_MAX / 1000


class PartFolder:
    """Folds the records of one partition into a batch, piece by piece, in the order in which they are taken."""

    def __init__(self, batch: Batch, assigned: Assigned, lookups: Lookups) -> None:
        self._batch = batch
        self.assigned = assigned
        self._lookups = lookups
        self._origin = rows.Origin(assigned.part.topic, assigned.part.partition, batch.started_ms)
        self._touched: dict[RunKey, Touched] = {}
        self._seen: list[RunState] = []
        self._asked: set[RunKey] = set()
        self._read: dict[int, Event | Refusal] = {}
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
        ahead = asyncio.ensure_future(self._ahead(self._unknown(records), self._signed(records)))
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

    async def again(self, keys: Sequence[RunKey]) -> None:
        """Show these runs again, as opinions on them may have changed; none of their records is read."""
        known = self.assigned.cache.runs
        self._part.again += len(keys)
        await self._look_up([key for key in keys if key not in known])
        for key in keys:
            self._use(known[key])
            self._touch(known[key], asked=True)

    def _signed(self, records: Sequence[Record]) -> list[Facts]:
        """Read the signed runs among these records ahead: their equations are looked at while others are folded."""
        facts = []
        for record in records:
            if record.value is not None and SIGNED in record.value:
                event = self._read[record.offset] = read(record, self.assigned.route)
                if isinstance(event, Event) and event.facts is not None and event.facts.seal is not None:
                    facts.append(event.facts)
        return facts

    async def _ahead(self, unknown: Sequence[RunKey], facts: Sequence[Facts]) -> None:
        if not facts:
            await self._look_up(unknown)
            return
        await asyncio.gather(self._look_up(unknown), asyncio.to_thread(settle_all, facts))

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
        found = await self._lookups.runs(keys)
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
                pos, link = epoch | record.offset, None
                if (metadata := step[6]) is not None and "arsig" in metadata:
                    value = record.value or b""
                    link = chained_plainly(value, step)
                    if link is None:
                        chained = read_step(value)
                        if chained is None:
                            step = None  # the general way knows how to refuse it
                        else:
                            link = chained.link
                if (
                    step is not None
                    and pos > state.pos
                    and (new := fold_new_step(state, step, pos, append_ms, link)) is not None
                ):
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
        event = self._event(record, step)
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
        self._use(state)
        if record.offset in assigned.refused:
            self._refuse_again(record, event, state)
        else:
            self._fold(record, event, state, out)
        return None

    def _use(self, state: RunState) -> None:
        """The run is part of this batch: it stays in the cache until the batch is written."""
        if state.mark != self._batch.number:
            state.mark = self._batch.number
            self._seen.append(state)

    def _event(self, record: Record, step: PlainStep | None) -> Event | Refusal:
        if (event := self._read.get(record.offset)) is not None:
            return event
        if step is not None and (step.metadata is None or "arsig" not in step.metadata):
            return step.event(self.assigned.route.workspace or step.workspace or DEFAULT_WORKSPACE)
        event = read(record, self.assigned.route)
        if isinstance(event, Event) and event.facts is not None:
            settle(event.facts)
        return event

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
        if folded.run or folded.evals or folded.claims or folded.marks or was_closed:
            self._note(state, event, folded, was_closed=was_closed)
        self._keep_evidence(record, event, folded)
        if folded.refusal is not None:
            self._refuse(record, folded.refusal)

    def _keep_evidence(self, record: Record, event: Event, folded: Folded) -> None:
        if is_evidence(event, folded):
            place = (self._origin.topic, self._origin.partition, position(self.assigned.epoch, record.offset))
            self._batch.put("evidence", rows.row(rows.evidence_row(event, record, place)))

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
        touched = self._of(state, was_closed=was_closed)
        touched.changed = True
        if event.kind == EXPIRE:
            self._batch.put("run_objects", rows.expired_row(state, state.pos, self._origin))
        elif folded.run:
            touched.run = True
        touched.evals.update(folded.evals)
        touched.claims.update(folded.claims)
        touched.marks.update(folded.marks)

    def _touch(self, state: RunState, *, asked: bool = False) -> None:
        """The run is shown again: the crash that made us read this again may have come before that, or somebody asked."""
        touched = self._of(state, was_closed=state.closed)
        touched.again = True
        touched.asked = touched.asked or asked
        touched.told = touched.told or not asked

    def _of(self, state: RunState, *, was_closed: bool) -> Touched:
        key = (state.workspace, state.run_id)
        touched = self._touched.get(key)
        if touched is None:
            touched = self._touched[key] = Touched(state, was_closed)
        return touched

    async def finish(self) -> None:
        """Once per run that the batch changed: its own object, its evals and claims, its projection, its record."""
        batch, assigned, part = self._batch, self.assigned, self._part
        for touched in self._touched.values():
            for row in touched.object_rows(self._origin):
                batch.put("run_objects", row)
        await show(batch, part, self._touched, self._lookups)
        assigned.cache.weigh(self._seen)
        assigned.folded, assigned.folding = part.last, False
        batch.parts[assigned.part] = part
        if part.records:
            batch.ages.append((part.first_append_ms, part.last_append_ms, part.records))

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
            was_closed = state.closed
            folded = fold(state, event, Place(pos, record.timestamp))
            self._note(state, event, folded, was_closed=was_closed)
            self._keep_evidence(record, event, folded)
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
