"""A request to price stored runs again: gives the runs of a partition to the loop, to be projected under the book in force.

Must not live here: prices (pricing/), SQL (store/reprice.py), what changed (repriced.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from agentrun_stream.ports import Clock, Part, RunKey
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.rejudge import AGAIN_RUNS_MAX, PAGE_RUNS, Made
from agentrun_stream.store.reprice import FIRST, Request, Wanted


class BookInForce(NamedTuple):
    """The book that a worker prices by now."""

    ordinal: int
    digest: str


class Reprices(Protocol):
    """The part of the store that keeps requests. Errors are those of `ports.Store`."""

    async def pending(self, part: Part) -> Sequence[Request]:
        """The requests that were not done on a partition, the oldest first."""
        ...

    async def page(self, part: Part, asked: tuple[Wanted, str], after: RunKey, most: int) -> Sequence[RunKey]:
        """The next runs of a partition that are wanted and not priced by this book, in order. Expired ones are left out."""
        ...

    async def note(self, part: Part, request_id: str, runs: int, now_ms: int) -> None:
        """Note that a request was done. MUST NOT return before it is durable."""
        ...


@dataclass(slots=True)
class Walk:
    """How far one walk along the runs of a request is. `at` None: every run of it was given away."""

    request: Request
    begun_ms: int
    before: Made
    at: RunKey | None = FIRST
    given: set[RunKey] = field(default_factory=set)
    runs: int = 0
    after: Made | None = None


class Reprice:
    """Does the requests of one partition, one by one, for one assignment.

    It begins once this worker prices by the book of the request or a later one, and all that it made by an earlier one is
    written. A request is noted as done when the loop has written all that it was given by a walk that began when nothing of
    an owner before us could be on its way to the store any more (`grace_s`). So it may be killed at any point. Whether a run
    gets another row is for the loop to say: one whose figures are the same keeps the row that it has.
    """

    def __init__(
        self, assigned: Assigned, store: Reprices, clock: Clock, book: Callable[[], BookInForce], grace_s: float
    ) -> None:
        self.hear: Callable[[int], None] = lambda _runs: None
        self._assigned = assigned
        self._store = store
        self._clock = clock
        self._book = book
        self._settled_ms = clock.now_ms() + round(grace_s * 1000)
        self._walk: Walk | None = None

    async def turn(self) -> int:
        """A piece of the oldest request; how many runs were given to the loop."""
        if self._walk is None:
            pending = await self._store.pending(self._assigned.part)
            ready = (request for request in pending if request.ordinal <= self._book().ordinal)
            request = next(ready, None)
            self._walk = None if request is None else self._begin(request)
        walk, count = self._walk, 0
        if walk is None or self._assigned.lost or not walk.before.written:
            return 0
        if walk.at is not None:
            count = await self._give(walk)
            self.hear(count)
        if walk.at is None and self._written(walk):
            await self._end(walk)
        return count

    def _begin(self, request: Request) -> Walk:
        return Walk(request, self._clock.now_ms(), Made(self._assigned))

    async def _give(self, walk: Walk) -> int:
        """As many of the next runs as the loop has room for."""
        again, asked, count = self._assigned.again, (walk.request.wanted, self._book().digest), 0
        while walk.at is not None and (room := min(PAGE_RUNS, AGAIN_RUNS_MAX - len(again))) > 0:
            found = await self._store.page(self._assigned.part, asked, walk.at, room)
            again.update(dict.fromkeys(found))
            walk.given.update(found)
            walk.at = found[-1] if len(found) == room else None
            count += len(found)
        walk.runs += count
        return count

    def _written(self, walk: Walk) -> bool:
        """Whether the loop has written all that it was given."""
        walk.given &= self._assigned.again.keys()
        if walk.given:
            return False
        walk.after = walk.after or Made(self._assigned)
        return walk.after.written

    async def _end(self, walk: Walk) -> None:
        now = self._clock.now_ms()
        if walk.begun_ms >= self._settled_ms:
            await self._store.note(self._assigned.part, walk.request.id, walk.runs, now)
            self._walk = None
        elif now >= self._settled_ms:
            self._walk = self._begin(walk.request)
