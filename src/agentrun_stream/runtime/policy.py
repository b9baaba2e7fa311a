"""A changed policy: gives the closed runs that are flagged otherwise to the loop, to be projected again under it.

Must not live here: what a policy says (model/opinions.py), SQL (store/policy.py), projecting.
"""

from collections.abc import Callable
from typing import Final, Protocol

from agentrun_stream.model.opinions import Policy
from agentrun_stream.ports import Clock, Part, RunKey
from agentrun_stream.runtime.assigned import Assigned
from agentrun_stream.runtime.rejudge import AGAIN_RUNS_MAX, Made
from agentrun_stream.store.policy import FIRST, FlaggedPage, InForce

PAGE_ROWS: Final = 50_000
PAGES_MAX: Final = 10  # in one turn


class Policies(Protocol):
    """The part of the store that knows how runs are flagged, and which policies were followed."""

    async def flagged(self, part: Part, after: RunKey, most: int) -> FlaggedPage:
        """The closed runs of a partition among the `most` runs that come after one, in order."""
        ...

    async def followed(self, part: Part) -> frozenset[InForce]:
        """The policies that were followed on a partition."""
        ...

    async def note(self, part: Part, policy: InForce, now_ms: int) -> None:
        """Note that one is followed."""
        ...


class Flags:
    """Follows the policy in force on one partition, for one assignment.

    It walks along all runs and gives those to the loop whose flag is not what the policy gives, until a walk finds none that
    began when nothing of an owner before us could be on its way to the store any more (`grace_s`). Then the policy is noted
    as followed, under the number of its settings, so it may be killed at any point, and one that comes back is followed again.
    """

    def __init__(
        self,
        assigned: Assigned,
        store: Policies,
        clock: Clock,
        policy: tuple[InForce, Callable[[str], Policy]],
        grace_s: float,
    ) -> None:
        self.hear: Callable[[int], None] = lambda _runs: None
        self._assigned = assigned
        self._store = store
        self._clock = clock
        self._in_force, self._policy = policy
        self._settled_ms = clock.now_ms() + round(grace_s * 1000)
        self._done: bool | None = None
        self._at: RunKey | None = FIRST
        self._begun_ms = clock.now_ms()
        self._found = 0
        self._given: set[RunKey] = set()
        self._made: Made | None = None

    async def turn(self) -> int:
        """A piece of the walk; how many runs were given to the loop."""
        if self._done is None:
            self._done = self._in_force in await self._store.followed(self._assigned.part)
        if self._done or self._assigned.lost:
            return 0
        found = await self._walk() if self._at is not None else 0
        self._found += found
        self.hear(found)
        if self._at is None and self._written():
            await self._end()
        return found

    async def _walk(self) -> int:
        """As many of the next runs as the loop has room for."""
        again, count = self._assigned.again, 0
        for _ in range(PAGES_MAX):
            room = AGAIN_RUNS_MAX - len(again)
            if self._at is None or room <= 0:
                break
            page, following = await self._store.flagged(self._assigned.part, self._at, PAGE_ROWS)
            wrong = [run.key for run in page if self._policy(run.key[0]).flag(run.headline) != run.flag]
            self._at = following if len(wrong) <= room else wrong[room - 1]
            again.update(dict.fromkeys(wrong[:room]))
            self._given.update(wrong[:room])
            count += len(wrong[:room])
        return count

    def _written(self) -> bool:
        """Whether the loop has written all that it was given."""
        self._given &= self._assigned.again.keys()
        if self._given:
            return False
        self._made = self._made or Made(self._assigned)
        return self._made.written

    async def _end(self) -> None:
        """What a walk found is looked at again by the next one, which begins when it can be the last."""
        now = self._clock.now_ms()
        if self._found == 0 and self._begun_ms >= self._settled_ms:
            await self._store.note(self._assigned.part, self._in_force, now)
            self._done = True
        elif now >= self._settled_ms:
            self._at, self._begun_ms, self._found, self._made = FIRST, now, 0, None
