"""From polls to one batch: pieces are polled, looked up and folded while the checkpoint before is written.

Must not live here: what a record means (batch.py), writes (checkpoint.py).
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from agentrun_stream.errors import LostOffsetError, RefusedShareError, UnavailableError
from agentrun_stream.model.opinions import NO_OPINIONS, ORPHAN_AFTER_MS, Opinions
from agentrun_stream.ports import Clock, Part, Record, Source, Store
from agentrun_stream.runtime.assigned import Assigned, Dropped
from agentrun_stream.runtime.batch import Batch
from agentrun_stream.runtime.folder import PartFolder, Piece
from agentrun_stream.runtime.lookup import Ask, Lookups
from agentrun_stream.runtime.membership import Membership
from agentrun_stream.runtime.report import Report
from agentrun_stream.runtime.retry import Abandoned, insist

# Polled, looked up and folded at a time: enough that look-ups are few, little enough that records die young.
PIECE_RECORDS: Final = 4_096
POLL_AGAIN_S: Final = 1.0
AGAIN_RUNS: Final = 500  # shown again in one batch
_PAUSES_A_WAIT: Final = 4


@dataclass(frozen=True, slots=True)
class GatherRules:
    """How batches are made: how long a poll waits, which opinions count, when a child without a parent is orphaned."""

    wait_ms: int
    opinions: Opinions = NO_OPINIONS
    orphan_after_ms: int = ORPHAN_AFTER_MS


class Gatherer:
    """Makes the batches of one worker."""

    def __init__(self, source: Source, store: Store, members: Membership, report: Report, rules: GatherRules) -> None:
        self._source = source
        self._store = store
        self._clock: Clock = report.clock
        self._members = members
        self._report = report
        self._rules = rules
        self._wait_ms = rules.wait_ms
        self.trickle = True

    async def batch(self, number: int, most: int, busy: Callable[[], bool]) -> Batch | None:
        """Poll and fold until `most` records are there, or no more come and nothing is being written; None for nothing.

        While a checkpoint is written (`busy`), what comes joins this batch and not the one after it. `trickle` says
        afterwards whether the log had little to give.
        """
        batch = Batch(number, self._clock.now_ms())
        folders: dict[Part, PartFolder] = {}
        pieces: deque[Piece] = deque()  # taken, not folded yet
        left = most
        try:
            while left > 0:
                room = min(PIECE_RECORDS, left)
                polled = await self._poll(room)
                before = len(pieces)
                pieces += self._take(batch, folders, polled)
                await self._fold(pieces, before)  # those before: the store answers for these meanwhile
                came = sum(map(len, polled.values()))
                left -= came
                self.trickle = came <= room // 2
                if self.trickle:
                    if not busy():
                        break
                    await self._clock.sleep(self._wait_ms / 1000 / _PAUSES_A_WAIT)
            await self._fold(pieces, len(pieces))
            await self._again(batch, folders)
            for folder in folders.values():
                await folder.finish()
        except (Dropped, Abandoned):
            self._members.reset()  # the rows of the others are in the same batch: all of it is folded again
            return None
        except RefusedShareError as error:
            self._members.reset()
            self._members.stop(pieces[0].folder.assigned.part, error)
            return None
        finally:
            for piece in pieces:
                piece.ahead.cancel()
        return batch if batch.parts else None

    async def _fold(self, pieces: deque[Piece], count: int) -> None:
        for _ in range(count):
            await pieces[0].fold(self._breathe)
            pieces.popleft()

    async def _poll(self, most: int) -> Mapping[Part, Sequence[Record]]:
        try:
            polled = await self._source.poll(self._wait_ms, most)
        except LostOffsetError:
            self._members.reset()  # opening it again says which partition, and stops it
            return {}
        except UnavailableError as error:
            self._report.say("broker's records", POLL_AGAIN_S, error)
            await self._clock.sleep(POLL_AGAIN_S)
            return {}
        self._report.say("broker's records", 0.0, None)
        return polled

    def _take(
        self, batch: Batch, folders: dict[Part, PartFolder], polled: Mapping[Part, Sequence[Record]]
    ) -> list[Piece]:
        """What was polled of our partitions; each slice covers its partition up to an offset, control records included."""
        taken = []
        for part, assigned in self._members.parts.items():
            records = polled.get(part, ())
            folder = folders.get(part)
            if folder is not None and folder.assigned is not assigned:
                raise Dropped
            reached = assigned.folded if folder is None else folder.reached
            end = max(self._source.position(part) or 0, records[-1].offset + 1 if records else 0)
            if end <= reached:
                continue
            if folder is None:
                folder = folders[part] = self._folder(batch, assigned)
            taken.append(folder.take(records, end))
        return taken

    async def _again(self, batch: Batch, folders: dict[Part, PartFolder]) -> None:
        """Show some runs again for which somebody asked. They come after the records, so that they are as new as can be."""
        for part, assigned in self._members.parts.items():
            keys = list(islice(assigned.again, AGAIN_RUNS))
            if not keys:
                continue
            folder = folders.get(part)
            if folder is None:
                folder = folders[part] = self._folder(batch, assigned)
            elif folder.assigned is not assigned:
                raise Dropped
            await folder.again(keys)
            assigned.again_taken += len(keys)
            for key in keys:
                assigned.again.pop(key, None)

    def _folder(self, batch: Batch, assigned: Assigned) -> PartFolder:
        ask = self._asking(assigned)
        lookups = Lookups(self._store, self._clock, ask, self._rules.opinions, self._rules.orphan_after_ms)
        lookups.looked_up = self._report.looked_up
        return PartFolder(batch, assigned, lookups)

    async def _breathe(self) -> None:
        await self._clock.sleep(0)

    def _asking(self, assigned: Assigned) -> Ask:
        async def ask(question: Callable[[], Awaitable[Any]]) -> Any:
            return await insist(
                self._clock,
                question,
                lambda wait, error: self._report.say("store", wait, error),
                lambda: not assigned.lost,
            )

        return ask
