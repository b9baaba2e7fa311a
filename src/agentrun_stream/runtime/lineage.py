"""Lineage beside the loop: which children are to be looked at again; and the look-ups that their judgement needs.

Must not live here: what a lineage is worth (processors/lineage.py), SQL (store/lineage.py), writing rows (the loop does).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from agentrun_stream import limits
from agentrun_stream.model.lineage import Child, Kin, Lineage
from agentrun_stream.ports import Clock, Part, RunKey
from agentrun_stream.processors.lineage import judge_lineage, wanted
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.sweep import Sweeps
from agentrun_stream.store.lineage import FIRST, Edge, Page

LINEAGE: Final = "lineage"
AGAIN_MAX: Final = 4_000
PAGE_EDGES: Final = 2_000
PAGES_MAX: Final = 10  # of each walk in one turn
WAITS_EVERY_MS: Final = 3_600_000
WAITS_A_TIME: Final = 24  # walks within orphan_after, where that is short
OVERLAP_S: Final = 180  # above the longest time from the store's own minute of an insert to its end
_DAY_MS: Final = 86_400_000

LoadKin = Callable[[Sequence[RunKey]], Awaitable[dict[RunKey, Kin]]]


class Lineages(Sweeps, Protocol):
    """The part of the store that knows who descends from whom. Pages hold at most `most` edges, in order, after one.

    With a page goes where to go on, None at the end.
    """

    async def waiting(self, part: Part, after: Edge, before_ms: int, most: int) -> Page:
        """Children on a partition whose lineage is pending, and was so before that time."""
        ...

    async def outdated(self, part: Part, after: Edge, most: int) -> Page:
        """Other children on a partition that looked at another version of their parent's row than there is now."""
        ...

    async def changes(self) -> tuple[int, int]:
        """The minutes of the oldest and the newest change in the log; 0 where there is none."""
        ...

    async def changed(self, part: Part, after: Edge, most: int) -> Page:
        """Such children, pending or not, among those whose parent's row was written lately, by the minute of that."""
        ...


class Kinship:
    """Puts children whose parents may say something else by now into `again` of their partition, never too many at once.

    Three walks. Along those that wait: all of them after an assignment, later those that waited for too long. Along what was
    written lately, from the minute before which nothing is left to do. And, where that minute is too long ago to be in the
    log of changes, along all edges until nothing is left. An edge is done when the child's row names the parent's version of
    now, so whatever is lost on the way to the loop, or dropped by it, is found again.
    """

    def __init__(self, assigned: Assigned, store: Lineages, clock: Clock, orphan_after_s: float) -> None:
        self.hear: Callable[[int], None] = lambda _found: None
        self._assigned = assigned
        self._store = store
        self._clock = clock
        self._orphan_after_ms = round(orphan_after_s * 1000)
        self._walks_every_ms = min(WAITS_EVERY_MS, self._orphan_after_ms // WAITS_A_TIME)
        self._noted = -1
        self._waiting: Edge | None = FIRST
        self._before_ms = 0
        self._begun_ms = 0
        self._missed: Edge | None = None  # None: nothing can have been missed
        self._missed_found = 0
        self._at: Edge | None = None
        self._safe = 0
        self._lowest = 0

    async def turn(self) -> int:
        """Find some; how many."""
        if self._noted < 0:
            await self._begin()
        found = await self._wait() + await self._catch_up() + await self._follow()
        if self._missed is None and self._safe > self._noted:
            await self._store.reach(self._assigned.part, LINEAGE, self._safe, self._clock.now_ms())
            self._noted = self._safe
        self.hear(found)
        return found

    async def _begin(self) -> None:
        """Go on where the owner before us was; who waits may have been put into its `again` alone."""
        now = self._clock.now_ms()
        noted = (await self._store.reached(self._assigned.part)).get(LINEAGE, 0)
        self._safe = noted
        oldest, newest = await self._store.changes()
        if not 0 < oldest <= noted:
            self._missed = FIRST
            self._safe = max(0, newest - OVERLAP_S)
        self._begun_ms, self._before_ms = now, now + _DAY_MS
        self._noted = noted

    async def _wait(self) -> int:
        now, found = self._clock.now_ms(), 0
        if self._waiting is None and now - self._begun_ms >= self._walks_every_ms:
            self._waiting, self._begun_ms, self._before_ms = FIRST, now, now - self._orphan_after_ms
        for _ in range(PAGES_MAX):
            if self._waiting is None or self._full():
                break
            page = await self._store.waiting(self._assigned.part, self._waiting, self._before_ms, PAGE_EDGES)
            found += self._put(page[0])
            self._waiting = page[1]
        return found

    async def _catch_up(self) -> int:
        found = 0
        for _ in range(PAGES_MAX):
            if self._missed is None or self._full():
                break
            page = await self._store.outdated(self._assigned.part, self._missed, PAGE_EDGES)
            found += self._put(page[0])
            self._missed_found += len(page[0])
            self._missed = page[1]
            if self._missed is None and self._missed_found:
                self._missed, self._missed_found = FIRST, 0  # until they are done
                break
        return found

    async def _follow(self) -> int:
        found = 0
        if self._at is None:
            self._at = FIRST._replace(minute=self._safe)
            self._lowest = max(self._safe, (await self._store.changes())[1] - OVERLAP_S)
        for _ in range(PAGES_MAX):
            if self._full():
                break
            page = await self._store.changed(self._assigned.part, self._at, PAGE_EDGES)
            found += self._put(page[0])
            self._lowest = min([self._lowest, *(edge.minute for edge in page[0])])
            self._at = page[1]
            if self._at is None:
                self._safe = self._lowest
                break
        return found

    def _full(self) -> bool:
        return len(self._assigned.again) > AGAIN_MAX - PAGE_EDGES

    def _put(self, edges: Iterable[Edge]) -> int:
        keys = dict.fromkeys(edge.key for edge in edges)
        self._assigned.again.update(keys)
        return len(keys)


async def resolve(
    load_kin: LoadKin, children: Mapping[RunKey, Child], now_ms: int, orphan_after_ms: int
) -> dict[RunKey, Lineage]:
    """The lineage of these children: the rows of all their ancestors are looked up level by level, each once."""
    rows: dict[str, dict[str, Kin | None]] = {}
    named_by: dict[str, list[Child | Kin]] = {}
    for (workspace, _), child in children.items():
        rows.setdefault(workspace, {})
        named_by.setdefault(workspace, []).append(child)
    for _ in range(limits.ANCESTORS_MAX):
        keys = [(workspace, i) for workspace, some in named_by.items() for i in sorted(wanted(some, rows[workspace]))]
        if not keys:
            break
        found, named_by = await load_kin(keys), {}
        for workspace, run_id in keys:
            kin = rows[workspace][run_id] = found.get((workspace, run_id))
            if kin is not None:
                named_by.setdefault(workspace, []).append(kin)
    return {key: judge_lineage(child, rows[key[0]], now_ms, orphan_after_ms) for key, child in children.items()}
