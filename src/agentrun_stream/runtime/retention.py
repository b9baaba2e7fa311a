"""Retention: asks, on the log, about runs that are past their horizon; and removes the objects of those that expired.

Sums never change: accruals, settlements and the row in `runs` stay. What else goes and stays: see `Removal`.
Must not live here: what an expiry does to a run (processors/fold.py), SQL (store/sweeps.py).
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from agentrun_stream.model.event import EXPIRE
from agentrun_stream.ports import Clock, Outgoing, Part, Publisher, RunKey
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.sweep import Sweeps, question_on
from agentrun_stream.store.sweeps import Expired, Horizons

REMOVED: Final = "removed"
REMOVE_RUNS_MAX: Final = 2_000  # by one statement
WALK_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000


class Retained(Sweeps, Protocol):
    """The part of the store that retention asks."""

    async def past_horizon(
        self, part: Part, after: RunKey, horizons: Horizons, now_ms: int
    ) -> tuple[list[RunKey], RunKey | None]:
        """Of the next runs by key: those closed runs of a partition that are past their horizon, and where to go on.

        None says that this was the last one.
        """
        ...

    async def expired(self, part: Part, span: tuple[int, int], stored_before_ms: int, most: int) -> Sequence[Expired]:
        """What expired at the offsets from `span[0]` to below `span[1]` and was stored before that time, in order."""
        ...

    async def remove(self, runs: Sequence[Expired]) -> None:
        """Remove everything of these runs that is below their expiry. MUST NOT return before it is gone."""
        ...


class Expiry:
    """Asks about the runs of one partition; the whole table is walked once an hour at most."""

    def __init__(self, part: Part, horizons: Horizons, store: Retained, publisher: Publisher, clock: Clock) -> None:
        self.hear: Callable[[int], None] = lambda _asked: None
        self._part = part
        self._horizons = horizons
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._at: RunKey | None = ("", "")
        self._begun_ms = 0
        self._asked: dict[RunKey, int] = {}

    async def turn(self) -> int:
        """Walk a piece of the table on; how many runs were asked about."""
        now = self._clock.now_ms()
        if self._at is None:
            if now - self._begun_ms < WALK_MS:
                return 0
            self._at = ("", "")
        if self._at == ("", ""):
            self._begun_ms = now
            self._asked = {key: at for key, at in self._asked.items() if now - at < _DAY_MS}
        due, following = await self._store.past_horizon(self._part, self._at, self._horizons, now)
        new = [key for key in due if key not in self._asked]
        if new:
            await self._publisher.send(self._part.topic, [self._event(key, now) for key in new])
            self._asked.update(dict.fromkeys(new, now))
            self.hear(len(new))
        self._at = following
        return len(new)

    def _event(self, key: RunKey, now_ms: int) -> Outgoing:
        return question_on(self._part, EXPIRE, key, {"horizon": self._horizons.of(key[0]) or 0}, now_ms)


class Removal:
    """Removes what expired on one partition, in the order of the log.

    What stays of an expired run: its `expired` object (the facts and sums that its rows are made of), its row in `runs` and
    its record on the compacted topic, both without previews, texts, tags and open members; its settlements and accruals, so
    that no sum of any window ever changes; what was refused. What goes: snapshot, steps, evals, evidence, once the journal
    covers the expiry and nothing that was on its way to the store before it can still arrive (`after_s`).
    Removing is idempotent, and how far it came is noted only afterwards, so it may be killed at any point.
    """

    def __init__(self, assigned: Assigned, store: Retained, clock: Clock, after_s: float) -> None:
        self._assigned = assigned
        self._store = store
        self._clock = clock
        self._after_ms = round(after_s * 1000)
        self._next = -1
        self.hear: Callable[[int], None] = lambda _runs: None

    async def turn(self) -> int:
        """Remove the next ones; how many runs those were."""
        part, now = self._assigned.part, self._clock.now_ms()
        if self._next < 0:
            self._next = (await self._store.reached(part)).get(REMOVED, 0)
        span = (self._next, self._assigned.acknowledged)
        runs = await self._store.expired(part, span, now - self._after_ms, REMOVE_RUNS_MAX)
        if not runs or self._assigned.lost:
            return 0
        await self._store.remove(runs)
        self._next = runs[-1].offset + 1
        await self._store.reach(part, REMOVED, self._next, now)
        self.hear(len(runs))
        return len(runs)
